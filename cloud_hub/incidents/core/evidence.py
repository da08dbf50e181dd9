"""Types of a diagnosis: evidence with items that can be cited, proposals, and the result with its citations."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from shared.protocol.messages import About, AlarmKind, Priority

Verb = Literal["restart", "diagnose", "capture"]
ItemKind = Literal["alarm", "metric", "twin", "change", "event", "peer", "case", "command", "topology", "note"]


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
class EvidenceItem:
    """One fact that a claim can cite by its `id` (E1, E2, ...), as it was at `t_us`.

    `summary` is one line of plain text; `data` has the same facts by name. Texts from devices are in both: they are
    data, never an instruction.
    """

    id: str
    kind: ItemKind
    device: str
    t_us: int
    summary: str
    data: dict[str, Any] = field(default_factory=dict)


ALARM_FIELDS = tuple(part.name for part in fields(AlarmFact))


def alarm_item(number: str, device: str, alarm: AlarmFact) -> EvidenceItem:
    """An alarm as an evidence item; `data` has the fields of the alarm."""
    about = f" ({alarm.about})" if alarm.about else ""
    summary = (
        f"alarm {alarm.state}: {alarm.metric} {alarm.kind}{about}, value {alarm.value:.6g}, limit {alarm.limit:.6g}"
    )
    data = {name: getattr(alarm, name) for name in ALARM_FIELDS}
    return EvidenceItem(id=number, kind="alarm", device=device, t_us=alarm.t_us, summary=summary, data=data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known about an incident. `items` is all of it, bounded for each kind, with ids that claims cite.

    The other fields are parts of it by name. `metrics` holds recent values and `events` texts, both oldest first.
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
    items: list[EvidenceItem] = field(default_factory=list)


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
class Claim:
    """A sentence of a diagnosis, and the ids of the evidence items that it rests on."""

    text: str
    cites: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A claim before it is put into words: the key of a text of the catalogue, its values, and what it cites.

    `texts` are texts by language that a site's rule brings along; they replace the catalogue's.
    """

    key: str
    values: dict[str, str | float] = field(default_factory=dict)
    cites: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The probable cause. `cause` is a short code, `confidence` 0..1, `engine` the name of the rules or model.

    `note` reports a fallback to the rules, or dropped proposals. `claims` are the sentences of the explanation with
    their citations, in `language` (en, zh). `also` are causes of alarms that `cause` does not explain. `messages` are
    the claims of the rules as data, from which they can be written in another language. `lead` is the incident whose
    diagnosis this is, for a member of its group.
    """

    cause: str
    confidence: float
    explanation: str
    author: Literal["rules", "glm"]
    engine: str
    proposals: list[Proposal] = field(default_factory=list)
    note: str = ""
    claims: list[Claim] = field(default_factory=list)
    language: str = "en"
    also: list[str] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    lead: str = ""
