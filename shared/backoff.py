"""Exponential backoff with jitter, so that the devices of a fleet do not all reconnect at the same moment."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Waits of `first_s`, doubling up to `limit_s`, each multiplied by a draw from 0.5..1.

    `random` returns a uniform number in 0..1; tests pass their own.
    """

    def __init__(self, first_s: float, limit_s: float, random: Callable[[], float]) -> None:
        self._first, self._limit, self._random = first_s, limit_s, random
        self._next = first_s

    def wait(self) -> float:
        """Seconds to wait before the next attempt."""
        ceiling, self._next = self._next, min(self._next * 2, self._limit)
        return ceiling * (0.5 + self._random() / 2)

    def reset(self) -> None:
        """Start again with the first wait, after an attempt that succeeded."""
        self._next = self._first
