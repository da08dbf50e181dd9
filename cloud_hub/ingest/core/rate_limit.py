"""Rate limits of devices: a token bucket each, so that a device that floods takes nothing from the others.

A core without I/O. A message over the limit is neither read nor stored nor acknowledged by the hub: an agent keeps it
in its outbox and sends it again. `now` is monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

BURST_S = 2.0
"""A bucket holds what comes in this time at the full rate: a device that was away may begin at once."""
DEBT_S = 10.0
"""One message may cost more than a bucket holds; its device then waits, at most so long."""
REPORT_S = 60.0


@dataclass(slots=True)
class TokenBucket:
    """Tokens come in at `rate` a second, up to `capacity`. What is charged afterwards may leave a debt."""

    rate: float
    capacity: float
    tokens: float
    updated_at: float

    def allow(self, now: float) -> bool:
        """Take one token, if one is there."""
        self._refill(now)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def charge(self, cost: float) -> None:
        """Take tokens for work that is done already."""
        self.tokens = max(self.tokens - cost, -self.rate * DEBT_S)

    def is_full(self, now: float) -> bool:
        """Whether nothing is known here that a new bucket would not say."""
        self._refill(now)
        return self.tokens >= self.capacity

    def _refill(self, now: float) -> None:
        self.tokens = min(self.capacity, self.tokens + (now - self.updated_at) * self.rate)
        self.updated_at = now


class RateLimiter:
    """A bucket for each device, `rate` tokens a second; 0 is no limit."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._buckets: dict[str, TokenBucket] = {}
        self._refused: dict[str, int] = {}
        self._reported_at = 0.0
        self.refused = 0

    def allow(self, device: str, now: float) -> bool:
        """Whether one more message of `device` is within its limit; takes one token for it."""
        if not self._rate or self._bucket(device, now).allow(now):
            return True
        self._refused[device] = self._refused.get(device, 0) + 1
        self.refused += 1
        return False

    def charge(self, device: str, cost: float, now: float) -> None:
        """Take what a message cost beyond its first token, once that is known."""
        if self._rate and cost > 0:
            self._bucket(device, now).charge(cost)

    def report(self, now: float) -> dict[str, int]:
        """Refused messages by device since the last report; at most once in `REPORT_S`. Forgets full buckets."""
        if now - self._reported_at < REPORT_S:
            return {}
        self._reported_at, refused, self._refused = now, self._refused, {}
        self._buckets = {device: bucket for device, bucket in self._buckets.items() if not bucket.is_full(now)}
        return refused

    def _bucket(self, device: str, now: float) -> TokenBucket:
        bucket = self._buckets.get(device)
        if bucket is None:
            capacity = max(1.0, self._rate * BURST_S)
            bucket = self._buckets[device] = TokenBucket(self._rate, capacity, capacity, now)
        return bucket
