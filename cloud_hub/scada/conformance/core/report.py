"""Verdicts by statement, from the tallies of rules; their table and their JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Any

from cloud_hub.scada.conformance.core.ledger import Evidence, Ledger
from cloud_hub.scada.conformance.core.rules import Level, Need, Rule, Scenario

PREFIX = "tck-id-"


class Status(str, Enum):
    """The verdict on a statement."""

    HOLDS = "holds"
    VIOLATED = "violated"
    ADVICE = "advice"
    """A SHOULD that was not followed."""
    NOT_SEEN = "not seen"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict on one statement: how often it was kept, the violations, or why there is nothing to say."""

    id: str
    scenario: Scenario
    status: Status
    kept: int
    violated: int
    text: str
    why: str = ""
    evidence: tuple[Evidence, ...] = ()


def verdicts(ledger: Ledger) -> list[Verdict]:
    """One verdict for each statement about the ledger's role, ordered by scenario and id."""
    rules: dict[str, list[Rule]] = {}
    for rule in ledger.rules.values():
        for one in rule.ids:
            rules.setdefault(one, []).append(rule)
    order = list(Scenario)
    found = [_verdict(ledger, one, group) for one, group in rules.items()]
    return sorted(found, key=lambda one: (order.index(one.scenario), one.id))


def _verdict(ledger: Ledger, statement: str, rules: list[Rule]) -> Verdict:
    tallies = {rule.name: ledger.tallies[rule.name] for rule in rules}
    broken = [rule for rule in rules if tallies[rule.name].violated]
    open_rules = [rule for rule in rules if not tallies[rule.name].kept and not tallies[rule.name].violated]
    unseen = [rule for rule in open_rules if rule.name not in ledger.excuses]
    status, why, shown = Status.HOLDS, "", rules[0]
    if broken:
        status, shown = Status.VIOLATED, broken[0]
        if all(rule.level is not Level.MUST for rule in broken):
            status = Status.ADVICE
    elif unseen:
        status, shown = Status.NOT_SEEN, unseen[0]
        why = "no such message was seen" if shown.need is Need.PUBLISHES else f"needs {shown.need.value}"
    elif len(open_rules) == len(rules):
        status, why = Status.NOT_APPLICABLE, ledger.excuses[rules[0].name]
    return Verdict(
        id=statement,
        scenario=shown.scenario,
        status=status,
        kept=sum(one.kept for one in tallies.values()),
        violated=sum(one.violated for one in tallies.values()),
        text=shown.text,
        why=why,
        evidence=tuple(one for rule in broken for one in tallies[rule.name].evidence),
    )


def counts(found: Iterable[Verdict]) -> dict[Status, int]:
    """How many statements have each status."""
    result = dict.fromkeys(Status, 0)
    for one in found:
        result[one.status] += 1
    return result


def as_text(found: list[Verdict], *, details: bool = False) -> list[str]:
    """The table by scenario, then the violations with their evidence; with `details` every statement."""
    lines = [f"{'scenario':24}{'holds':>7}{'violated':>10}{'advice':>8}{'not seen':>10}{'n/a':>6}"]
    for scenario in Scenario:
        inside = [one for one in found if one.scenario is scenario]
        if inside:
            lines.append(_row(scenario.value, counts(inside)))
    lines.append(_row("all", counts(found)))
    for one in found:
        if one.status in (Status.VIOLATED, Status.ADVICE):
            lines += ["", f"{one.status.value}: {PREFIX}{one.id}, {one.violated} times", f"  expected: {one.text}"]
            lines += [f"  {_clock(item.at_ms)} {item.where}: {item.what}" for item in one.evidence]
    if details:
        lines += ["", *(f"{one.status.value:15}{PREFIX}{one.id}{_reason(one)}" for one in found)]
    return lines


def _row(label: str, numbers: dict[Status, int]) -> str:
    return f"{label:24}{numbers[Status.HOLDS]:7}{numbers[Status.VIOLATED]:10}{numbers[Status.ADVICE]:8}" + (
        f"{numbers[Status.NOT_SEEN]:10}{numbers[Status.NOT_APPLICABLE]:6}"
    )


def _reason(one: Verdict) -> str:
    return f"  ({one.why})" if one.why else f"  ({one.kept} times)" if one.status is Status.HOLDS else ""


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, timezone.utc).strftime("%H:%M:%S.%f")[:-3]


def as_document(found: list[Verdict]) -> dict[str, Any]:
    """The verdicts for JSON."""
    return {
        "counts": {status.value: number for status, number in counts(found).items()},
        "statements": [
            {
                "id": PREFIX + one.id, "scenario": one.scenario.value, "status": one.status.value, "kept": one.kept,
                "violated": one.violated, "expected": one.text, "why": one.why,
                "evidence": [{"at_ms": item.at_ms, "where": item.where, "what": item.what} for item in one.evidence],
            }
            for one in found
        ],
    }  # fmt: skip
