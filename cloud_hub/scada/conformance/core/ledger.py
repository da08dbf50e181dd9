"""Counts how often each rule was kept, and keeps the first violations with their evidence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from cloud_hub.scada.conformance.core.rules import Role, Rule

MAX_EVIDENCE = 5
"""Violations of a rule that are kept; more are only counted."""
MAX_TEXT = 300
"""Characters of a topic or of a text that are kept."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One violation: when, where (a topic or a client), and what was wrong."""

    at_ms: int
    where: str
    what: str


@dataclass(slots=True)
class Tally:
    """How often a rule was kept and violated."""

    kept: int = 0
    violated: int = 0
    evidence: list[Evidence] = field(default_factory=list)


class Ledger:
    """The tallies of the rules of one role. What is judged by other rules is not counted."""

    def __init__(self, rules: Iterable[Rule], role: Role) -> None:
        self.rules: Final = {rule.name: rule for rule in rules if role in rule.roles}
        self.tallies: Final = {name: Tally() for name in self.rules}
        self.excuses: Final[dict[str, str]] = {}
        """Rules that are not applicable, and why."""

    def judge(self, name: str, kept: bool, at_ms: int, where: str, what: str = "") -> None:
        """Count that the rule was kept, or violated as `what` says."""
        tally = self.tallies.get(name)
        if tally is None:
            return
        if kept:
            tally.kept += 1
            return
        tally.violated += 1
        if len(tally.evidence) < MAX_EVIDENCE:
            tally.evidence.append(Evidence(at_ms, where[:MAX_TEXT], what[:MAX_TEXT]))

    def case(self, at_ms: int, where: str) -> Case:
        """The findings of one message, each rule counted once."""
        return Case(self, at_ms, where)


class Case:
    """Findings of one message. A rule that is checked for each of its metrics counts once, as kept only if all keep it.

    Use it in a `with` block: the findings are counted at its end.
    """

    def __init__(self, ledger: Ledger, at_ms: int, where: str) -> None:
        self._ledger = ledger
        self.at_ms, self.where = at_ms, where
        self._kept: set[str] = set()
        self._faults: dict[str, list[str]] = {}

    def check(self, name: str, kept: object, what: str = "") -> None:
        """Note whether the rule is kept here, and what is wrong if it is not."""
        if kept:
            self._kept.add(name)
        else:
            self._faults.setdefault(name, []).append(what)

    def __enter__(self) -> Case:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name in self._kept - self._faults.keys():
            self._ledger.judge(name, True, self.at_ms, self.where)
        for name, faults in self._faults.items():
            more = f"; and {len(faults) - 2} more" if len(faults) > 2 else ""
            self._ledger.judge(name, False, self.at_ms, self.where, "; ".join(faults[:2]) + more)
