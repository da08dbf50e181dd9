"""The circuit breaker of one address.

It opens when at least half of the last results within the window are failures, refuses requests for a while, and then
lets one probe through: a good one closes it, a bad one opens it for twice as long.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

WINDOW_S = 30.0
RESULTS = 10
"""How many of the last results count."""
LEAST = 3
"""Fewer results decide nothing."""
SHARE = 0.5
FIRST_OPEN_S, LONGEST_OPEN_S = 2.0, 60.0

State = Literal["closed", "half-open", "open"]
Outcome = Literal["ok", "failed", "abandoned"]


class CircuitBreaker:
    """Call `begin` before a request and, if it returned True, `end` after it."""

    def __init__(self) -> None:
        self._results: deque[tuple[float, bool]] = deque(maxlen=RESULTS)
        self._open_until: float | None = None
        self._open_s = FIRST_OPEN_S
        self._paused_until = 0.0
        self._probing = False

    def state(self, now: float) -> State:
        """The state at `now`."""
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half-open"

    def usable(self, now: float) -> bool:
        """Whether `begin` would let a request through."""
        if now < self._paused_until:
            return False
        state = self.state(now)
        return state == "closed" or (state == "half-open" and not self._probing)

    def begin(self, now: float) -> bool:
        """Let a request through, or refuse it."""
        if not self.usable(now):
            return False
        self._probing = self.state(now) == "half-open"
        return True

    def end(self, outcome: Outcome, now: float) -> None:
        """Record how the request ended; an abandoned one says nothing about the address."""
        probe = self._open_until is not None
        if probe:
            self._probing = False
        if outcome == "abandoned":
            return
        if probe:
            self._end_probe(outcome == "ok", now)
            return
        self._results.append((now, outcome == "ok"))
        if self._failing(now):
            self._open(now)

    def pause(self, now: float, seconds: float) -> None:
        """Send nothing for a while: the server asked for it (429). It is no failure."""
        self._paused_until = max(self._paused_until, now + seconds)

    def usable_at(self, now: float) -> float:
        """When the next request may be let through."""
        return max(now, self._paused_until, self._open_until or 0.0)

    def _end_probe(self, good: bool, now: float) -> None:
        if good:
            self._open_until, self._open_s = None, FIRST_OPEN_S
            self._results.clear()
        elif self.state(now) == "half-open":
            self._open_s = min(2 * self._open_s, LONGEST_OPEN_S)
            self._open(now)

    def _open(self, now: float) -> None:
        self._open_until = now + self._open_s
        self._results.clear()

    def _failing(self, now: float) -> bool:
        recent = [good for at, good in self._results if now - at <= WINDOW_S]
        return len(recent) >= LEAST and recent.count(False) >= SHARE * len(recent)
