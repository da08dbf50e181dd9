"""A token bucket: how often something may happen. Pure; the caller gives the time, in the unit of one clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """A bucket that refills at `rate` tokens a unit of time, up to `capacity`.

    A clock that steps back gives nothing and takes nothing.
    """

    rate: float
    capacity: float
    tokens: float
    updated_at: float

    @classmethod
    def full(cls, rate: float, capacity: float, now: float = 0.0) -> TokenBucket:
        """A new bucket."""
        return cls(rate, capacity, capacity, now)

    def allow(self, now: float) -> bool:
        """Take one token if there is one."""
        self._refill(now)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def charge(self, cost: float, most_debt: float) -> None:
        """Take tokens for work that is already done; the bucket owes at most `most_debt` of them."""
        self.tokens = max(self.tokens - cost, -most_debt)

    def is_full(self, now: float) -> bool:
        """Whether the bucket is full, and so equal to a new one."""
        self._refill(now)
        return self.tokens >= self.capacity

    def _refill(self, now: float) -> None:
        self.tokens = min(self.capacity, self.tokens + max(0.0, now - self.updated_at) * self.rate)
        self.updated_at = now
