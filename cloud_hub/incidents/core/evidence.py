"""Types of a diagnosis: evidence, proposals, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from shared.protocol.messages import About, AlarmKind, Priority

Verb = Literal["restart", "diagnose", "capture"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmFact:
    """An alarm of the incident. `value` and `limit` are in the metric's unit, or belong to what it is `about`."""

    metric: str
    kind: AlarmKind
    priority: Priority
    value: float
    limit: float
    state: Literal["raised", "cleared"]
    t_us: int
    about: About = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known about an incident. `metrics` holds recent values and `events` texts, both oldest first.

    `reported` is the reported state of the twin, `command_output` the output of the last diagnose command: load by
    process name.
    """

    incident: str
    device: str
    profile: str = ""
    alarms: list[AlarmFact] = field(default_factory=list)
    metrics: dict[str, tuple[float, ...]] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    reported: dict[str, Any] = field(default_factory=dict)
    command_output: dict[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A proposed action for one device: an action type of the catalogue, its parameters, and the reason.

    `action` is `command` with the parameters `verb` and `target`, or `playbook` with `name` and what that asks for.
    """

    action: str
    device: str
    parameters: dict[str, Any]
    reason: str


def command_proposal(verb: Verb, device: str, target: str, reason: str) -> Proposal:
    """Propose a command of a device."""
    return Proposal(action="command", device=device, parameters={"verb": verb, "target": target}, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The probable cause. `cause` is a short code, `confidence` 0..1, `engine` the name of the rules or model.

    `note` reports a fallback to the rules, or dropped proposals.
    """

    cause: str
    confidence: float
    explanation: str
    author: Literal["rules", "glm"]
    engine: str
    proposals: list[Proposal] = field(default_factory=list)
    note: str = ""
