"""What the desk is given and what it gives back. Types only; each is checked by who makes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from shared.messages import About, AlarmKind, Priority

Verb = Literal["restart", "diagnose", "capture"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmFact:
    """One alarm of the incident; `value` and `limit` in the metric's unit, or of what it is `about`."""

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
    """All that is known of one incident. `metrics` holds recent values, oldest first; `events` texts, oldest first.

    `reported` is the twin's reported state; `command_output` what the last diagnose brought, load by process name.
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
    """A proposed action: a command's verb and target for one device, and why."""

    verb: Verb
    device: str
    target: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What is probably wrong. `cause` is a short code, `confidence` 0..1, `engine` the name of what answered.

    `note` says what a reader must know about how it came about: a fallback, dropped proposals.
    """

    cause: str
    confidence: float
    explanation: str
    author: Literal["rules", "glm"]
    engine: str
    proposals: list[Proposal] = field(default_factory=list)
    note: str = ""
