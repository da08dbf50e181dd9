"""Escalations that wait for the expert's answer, up to a deadline. No clock: the time is a parameter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shared.models.gate import Result

MAX_WAITING = 256
"""Maximum number of escalations that wait; the oldest one is given up for a new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingInput:
    """An escalated input: its number and time, and what the edge model said of it."""

    id: str
    number: int
    t_us: int
    result: Result | None
    until_s: float


class AnswerTable:
    """Escalations by id, in the order in which they were sent, which is that of their deadlines."""

    def __init__(self) -> None:
        self._waiting: dict[str, WaitingInput] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiting: WaitingInput) -> WaitingInput | None:
        """Wait for an answer; returns the oldest one if there were too many."""
        self._waiting[waiting.id] = waiting
        return self._waiting.pop(next(iter(self._waiting))) if len(self._waiting) > MAX_WAITING else None

    def answered(self, escalation_id: str) -> WaitingInput | None:
        """The escalation that was answered; None if it is unknown, or was given up."""
        return self._waiting.pop(escalation_id, None)

    def expired(self, now_s: float) -> Iterator[WaitingInput]:
        """Take out the escalations whose deadline has passed."""
        while self._waiting:
            first = next(iter(self._waiting.values()))
            if first.until_s > now_s:
                return
            yield self._waiting.pop(first.id)
