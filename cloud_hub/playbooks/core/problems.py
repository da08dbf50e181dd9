"""What is wrong with a playbook, with line and cure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.errors import TidegateError

SHOWN = 20
"""Problems that an error's text lists."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: `line` counts from 1, 0 if it is about no line; `place` is such as `steps.restart.needs`."""

    line: int
    place: str
    reason: str
    cure: str

    def __str__(self) -> str:
        at = f"line {self.line}: " if self.line else ""
        return f"{at}{self.place}: {self.reason}. {self.cure}"


class PlaybookError(TidegateError):
    """A playbook is invalid. `problems` are in the order of the lines; `name` is the playbook's name or file."""

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.name, self.problems = name, tuple(sorted(problems, key=lambda problem: problem.line))
        more = len(problems) - SHOWN
        lines = [str(problem) for problem in self.problems[:SHOWN]] + ([f"and {more} more"] if more > 0 else [])
        super().__init__(f"playbook '{name[:80]}': " + "\n".join(lines))
