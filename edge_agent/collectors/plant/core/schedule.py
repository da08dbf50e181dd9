"""When each polling group is due. Periods are kept on a fixed grid; what could not be read in time is left out."""

from __future__ import annotations

from collections.abc import Mapping


class Schedule:
    """Polling groups and their periods in seconds. All are due at `now_s`. The time is monotonic."""

    def __init__(self, periods: Mapping[str, float], now_s: float) -> None:
        self._periods = dict(periods)
        self._next = dict.fromkeys(periods, now_s)
        self.late = 0
        """Readings that were left out because the source was too slow for the period."""

    def due(self, now_s: float) -> list[str]:
        """Groups that are due, the most overdue first; each is planned for its next time after `now_s`."""
        found = sorted((at, name) for name, at in self._next.items() if at <= now_s)
        for at, name in found:
            missed = int((now_s - at) / self._periods[name])
            self._next[name] = at + (missed + 1) * self._periods[name]
            self.late += missed
        return [name for _at, name in found]

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next group is due, 0 if one is."""
        return max(0.0, min(self._next.values(), default=now_s + 1.0) - now_s)
