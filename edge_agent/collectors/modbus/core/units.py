"""Units that do not answer: on a line shared by many, each one costs a time limit. They are asked less often."""

from __future__ import annotations

from dataclasses import dataclass

SILENT_REQUESTS = 2
"""A unit that left so many requests in a row unanswered is suspended."""
FIRST_S, LIMIT_S = 2.0, 60.0


@dataclass(slots=True)
class _Unit:
    unanswered: int = 0
    wait_s: float = 0.0
    until_s: float = 0.0


class Units:
    """Which units answer. Times are monotonic seconds."""

    def __init__(self, unit_ids: set[int]) -> None:
        self._units = {unit_id: _Unit() for unit_id in unit_ids}

    def is_suspended(self, unit_id: int, now_s: float) -> bool:
        """Whether this unit must not be asked now."""
        return now_s < self._units[unit_id].until_s

    def unanswered(self, unit_id: int, now_s: float) -> bool:
        """A request had no answer; True if the unit was suspended by this for the first time."""
        unit = self._units[unit_id]
        unit.unanswered += 1
        if unit.unanswered < SILENT_REQUESTS:
            return False
        first = not unit.wait_s
        unit.wait_s = min(LIMIT_S, 2 * unit.wait_s) if unit.wait_s else FIRST_S
        unit.until_s = now_s + unit.wait_s
        return first

    def answered(self, unit_id: int) -> bool:
        """The unit answered; True if it was suspended before."""
        unit = self._units[unit_id]
        was = unit.wait_s > 0
        unit.unanswered, unit.wait_s, unit.until_s = 0, 0.0, 0.0
        return was

    @property
    def all_silent(self) -> bool:
        """Whether no unit answers: then the connection is at fault."""
        return all(unit.wait_s for unit in self._units.values())
