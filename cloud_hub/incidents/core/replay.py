"""Compares what past incidents were diagnosed with and what something changed would conclude. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloud_hub.incidents.core.evidence import Diagnosis, EvidenceItem, Proposal


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """A cause, proposals, and the policy's verdict on each (allow, ask, refuse), by the proposal's text."""

    cause: str
    author: str
    verdicts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One past incident: the opinion before and after. `gone` are alarms that changed limits would not have raised."""

    id: str
    device: str
    outcome: str
    before: Opinion
    after: Opinion
    gone: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether anything would be otherwise."""
        return bool(self.gone) or (self.before.cause, self.before.verdicts) != (self.after.cause, self.after.verdicts)

    def lines(self) -> list[str]:
        """What would differ, for people."""
        lines = [f"alarm of {metric}: not raised" for metric in self.gone]
        if self.before.cause != self.after.cause:
            lines.append(f"cause: {self.before.cause or '-'} ({self.before.author}) -> {self.after.cause} "
                         f"({self.after.author})")  # fmt: skip
        for name in sorted(self.before.verdicts.keys() | self.after.verdicts.keys()):
            old, new = self.before.verdicts.get(name, "not proposed"), self.after.verdicts.get(name, "not proposed")
            if old != new:
                lines.append(f"{name}: {old} -> {new}")
        return lines


def proposal_name(action: str, parameters: Mapping[str, Any]) -> str:
    """A proposal in a line, in any order of its parameters: `command target=line-camera verb=restart`."""
    return " ".join([action, *(f"{name}={parameters[name]}" for name in sorted(parameters))])[:300]


def opinion(diagnosis: Diagnosis, verdicts: Sequence[tuple[Proposal, str]]) -> Opinion:
    """The opinion of a diagnosis, with the policy's verdicts."""
    named = {proposal_name(proposal.action, proposal.parameters): verdict for proposal, verdict in verdicts}
    return Opinion(cause=diagnosis.cause, author=diagnosis.engine, verdicts=named)


def not_raised(
    items: Sequence[EvidenceItem], limits: Mapping[tuple[str, str], tuple[float | None, float | None]]
) -> list[str]:
    """The metrics whose alarms of a limit these limits, (low, high) by device and metric, would not have raised.

    It compares the value at which the alarm was raised; delays are not replayed.
    """
    gone = []
    for item in items:
        bounds = limits.get((item.device, str(item.data.get("metric")))) if item.kind == "alarm" else None
        if bounds is None or item.data.get("about"):
            continue
        value, (low, high) = float(item.data.get("value", 0.0)), bounds
        beyond = (
            (high is not None and value > high) if item.data.get("kind") == "high" else low is not None and value < low
        )
        if not beyond:
            gone.append(str(item.data["metric"]))
    return list(dict.fromkeys(gone))
