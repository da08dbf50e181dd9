"""Who may come in: each device has a budget of messages, so that one that floods costs the others nothing.

A core without I/O. What is refused here is neither read nor stored nor acknowledged by the hub: an agent keeps it in
its outbox and sends it again. `now` is monotonic seconds.
"""

from __future__ import annotations

BURST_S = 2.0
"""A budget holds what comes in this time at the full rate: a device that was away may begin at once."""
TELL_S = 60.0


class Door:
    """`rate` messages a second for each device; 0 is no limit."""

    def __init__(self, rate: float) -> None:
        self._rate, self._full = rate, max(1.0, rate * BURST_S)
        self._left: dict[str, tuple[float, float]] = {}
        self._refused: dict[str, int] = {}
        self._told_at = 0.0
        self.refused = 0

    def enters(self, device: str, now: float) -> bool:
        """Whether one more message of `device` is within its budget; counts it."""
        if not self._rate:
            return True
        left, at = self._left.get(device, (self._full, now))
        left = min(self._full, left + (now - at) * self._rate)
        if left < 1:
            self._left[device] = (left, now)
            self._refused[device] = self._refused.get(device, 0) + 1
            self.refused += 1
            return False
        self._left[device] = (left - 1, now)
        return True

    def told(self, now: float) -> dict[str, int]:
        """What was refused since the last word about it, by device; at most once in `TELL_S`. Forgets who is idle."""
        if now - self._told_at < TELL_S:
            return {}
        self._told_at, refused, self._refused = now, self._refused, {}
        self._left = {device: (left, at) for device, (left, at) in self._left.items() if now - at < BURST_S}
        return refused
