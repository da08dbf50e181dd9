"""Counts messages of the last minute. Pure; `now` is monotonic seconds."""

from __future__ import annotations

WINDOW_S = 60


class RateMeter:
    """A count for each second of the last minute. One thread counts, others read."""

    def __init__(self) -> None:
        self._counts = [0] * WINDOW_S
        self._seconds = [-1] * WINDOW_S

    def count(self, now: float) -> None:
        """Count one message."""
        second = int(now)
        slot = second % WINDOW_S
        if self._seconds[slot] != second:
            self._counts[slot], self._seconds[slot] = 0, second
        self._counts[slot] += 1

    def per_second(self, now: float) -> float:
        """The mean over the last complete minute, without the current second."""
        oldest, current = int(now) - WINDOW_S, int(now)
        slots = zip(self._seconds, self._counts, strict=True)
        return sum(count for second, count in slots if oldest < second < current) / (WINDOW_S - 1)
