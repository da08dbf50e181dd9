"""Rate limits of devices: a token bucket each, so that a flooding device does not affect the others.

Pure. A message over the limit is not parsed, stored or acknowledged by the hub: an agent keeps it in its outbox and
sends it again. `now` is monotonic seconds.
"""

from __future__ import annotations

from shared.token_bucket import TokenBucket

BURST_S = 2.0
"""The capacity of a bucket, in seconds at the full rate: a device that was offline may send at once."""
DEBT_S = 10.0
"""The maximum debt, in seconds at the full rate: a message may cost more than a bucket holds."""
REPORT_S = 60.0


class RateLimiter:
    """A token bucket for each device, with `rate` tokens a second; 0 for no limit."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._buckets: dict[str, TokenBucket] = {}
        self._refused: dict[str, int] = {}
        self._reported_at = 0.0
        self.refused = 0

    def allow(self, device: str, now: float) -> bool:
        """Whether one more message of `device` is within its limit; takes one token if so."""
        if not self._rate or self._bucket(device, now).allow(now):
            return True
        self._refused[device] = self._refused.get(device, 0) + 1
        self.refused += 1
        return False

    def charge(self, device: str, cost: float, now: float) -> None:
        """Charge the cost of a message beyond its first token."""
        if self._rate and cost > 0:
            self._bucket(device, now).charge(cost, self._rate * DEBT_S)

    def report(self, now: float) -> dict[str, int]:
        """Refused messages by device since the last report, at most every `REPORT_S`. Drops full buckets."""
        if now - self._reported_at < REPORT_S:
            return {}
        self._reported_at, refused, self._refused = now, self._refused, {}
        self._buckets = {device: bucket for device, bucket in self._buckets.items() if not bucket.is_full(now)}
        return refused

    def _bucket(self, device: str, now: float) -> TokenBucket:
        bucket = self._buckets.get(device)
        if bucket is None:
            bucket = self._buckets[device] = TokenBucket.full(self._rate, max(1.0, self._rate * BURST_S), now)
        return bucket
