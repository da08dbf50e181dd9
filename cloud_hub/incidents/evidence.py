"""Gathers the evidence of an incident: what the hub knows about it, as numbered items that a claim can cite.

Each kind of item has a maximum, and each query reads the newest rows of one index: an incident does not cost more as
history grows. Texts come from devices and people; whoever renders them treats them as data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import select, union_all
from sqlmodel import Session, col
from sqlmodel import select as select_rows

from cloud_hub.database import scopes
from cloud_hub.database.tables import (
    Action,
    AlarmRow,
    AppliedRow,
    AuditRow,
    Command,
    Device,
    Incident,
    IncidentEvidence,
    LearnedSeries,
    TwinChange,
)
from cloud_hub.devices import notes
from cloud_hub.errors import HubError
from cloud_hub.incidents import cases, groups, regrouping
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents.core import grouping, similarity
from cloud_hub.incidents.core.evidence import AlarmFact, Evidence, EvidenceItem, ItemKind
from cloud_hub.telemetry import samples
from cloud_hub.thresholds.limits import standing
from cloud_hub.twins import batch as twin_batch
from cloud_hub.twins import service as twins
from cloud_hub.twins.core import reported_values
from cloud_hub.twins.core.reported_values import mapping, text
from shared.durations import DAY_US, MINUTE_US, SECOND_US
from shared.thresholds import Limits
from shared.twin.merge import format_path, leaves

ALARMS, METRICS, VALUES, TWIN, CHANGES, EVENTS, PEERS, CASES, NOTES = 16, 8, 60, 12, 12, 20, 8, 3, 5
"""The maximum number of items of each kind, and of values of a metric."""
LOOK_BACK = 50
"""Rows of history that are searched for changes; a device's own reports are among them."""
TEXT, SUMMARY = 300, 800
"""Characters of a text in an item, and of its summary."""
EVENTS_US = 10 * MINUTE_US
"""Log events from so long before the incident count."""
AUDITED = (
    "twin.desired", "twin.deleted", "tags.changed", "tags.replaced", "command.sent", "command.queued",
    "device.assigned", "device.restored", "learning.corrected", "gate.calibrated",
)  # fmt: skip
"""Changes in the audit trail that may be the cause of an incident."""

_AUDIT: Any = AuditRow.__table__  # type: ignore[attr-defined]
_DEVICES: Any = Device.__table__  # type: ignore[attr-defined]


class Fact(NamedTuple):
    """An item before it has an id."""

    kind: ItemKind
    device: str
    t_us: int
    summary: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """The incident, its device (None: removed, or it raised an alarm before its first birth) and its alarms."""

    incident: Incident
    device: Device | None
    alarms: Sequence[AlarmRow]

    @property
    def path(self) -> str:
        """The asset path of its device."""
        return self.device.assigned_path if self.device is not None else ""

    @property
    def metrics(self) -> list[str]:
        """The metrics of its alarms, those of the newest alarm first."""
        return list(dict.fromkeys(alarm.metric for alarm in reversed(self.alarms)))[:METRICS]


def gather(session: Session, incident: Incident) -> Evidence:
    """Collect what the hub knows about an incident."""
    subject = _Subject(
        incident=incident, device=session.get(Device, incident.device),
        alarms=incidents.newest_alarms(session, incident.id, ALARMS),
    )  # fmt: skip
    windows = {name: samples.series(session, incident.device, name, limit=VALUES) for name in subject.metrics}
    events = samples.events(session, incident.device, since_us=incident.opened_us - EVENTS_US, limit=EVENTS)[::-1]
    output = _diagnose_output(session, incident)
    facts = [
        *map(_alarm, subject.alarms), *_topology(session, incident), *_metrics(session, incident.device, windows),
        *_twin(session, incident.device), *_changes(session, incident), *map(_event, events),
        *_commands(incident, output), *_peers(session, subject), *_cases(session, subject), *_notes(session, incident),
    ]  # fmt: skip
    return Evidence(
        incident=incident.id,
        device=incident.device,
        profile=subject.device.profile if subject.device is not None else "",
        alarms=[_alarm_fact(alarm) for alarm in subject.alarms],
        metrics={name: tuple(_finite(row.value for row in rows)) for name, rows in windows.items()},
        events=[f"{row.level}: {row.text}" for row in events],
        reported=twins.reported(session, incident.device),
        command_output=output,
        items=[_item(f"E{n}", fact) for n, fact in enumerate(facts, 1)],
    )


def _item(number: str, fact: Fact) -> EvidenceItem:
    kind, device, t_us, summary, data = fact
    return EvidenceItem(id=number, kind=kind, device=device, t_us=t_us, summary=_cut(summary, SUMMARY), data=data)


def save(session: Session, evidence: Evidence, now_us: int) -> None:
    """Keep the evidence that an incident is diagnosed by, so that its citations can be read later."""
    plain = msgspec.to_builtins(replace(evidence, reported={}))  # of any size; the items hold what matters of it
    session.merge(IncidentEvidence(incident=evidence.incident, device=evidence.device, t_us=now_us, evidence=plain))


def stored(session: Session, incident_id: str) -> Evidence | None:
    """The evidence that an incident was last diagnosed by."""
    row = session.get(IncidentEvidence, incident_id)
    return None if row is None else from_plain(row.evidence)


def from_plain(plain: dict[str, Any]) -> Evidence:
    """Evidence as it was stored; HubError 409 if an older version of the hub wrote it in another form."""
    try:
        return msgspec.convert(plain, Evidence)
    except msgspec.ValidationError as error:
        raise HubError(409, "Evidence of another version", str(error)) from error


# -- alarms and topology -----------------------------------------------------------------------------


def _alarm_fact(row: AlarmRow) -> AlarmFact:
    return AlarmFact(
        metric=row.metric, kind=row.kind, priority=row.priority, value=row.value, limit=row.limit,  # type: ignore[arg-type]
        state=row.state, t_us=row.raised_us, about=row.about,  # type: ignore[arg-type]
    )  # fmt: skip


def _alarm(row: AlarmRow) -> Fact:
    about = f" ({row.about})" if row.about else ""
    summary = (
        f"{row.priority} alarm {row.state}: {_cut(row.metric)} {row.kind}{about}, value {row.value:.6g}, "
        f"limit {row.limit:.6g}"
    )
    data = msgspec.to_builtins(_alarm_fact(row)) | {"cleared_us": row.cleared_us}
    return Fact("alarm", row.device, row.raised_us, summary, data)


def _topology(session: Session, incident: Incident) -> Iterator[Fact]:
    """The failed device that explains the silence of this one."""
    explained = regrouping.explaining_device(session, incident.device) if incident.silent else None
    if explained is not None:
        device, how = explained
        data = {"relation": "explained-by", "upstream": device, "state": how}
        yield Fact("topology", incident.device, incident.opened_us, f"depends on {device}, which is {how}", data)


# -- metrics -----------------------------------------------------------------------------------------


def _metrics(session: Session, device: str, windows: dict[str, list[samples.StoredSample]]) -> Iterator[Fact]:
    limits = standing.present(session, [device]) if windows else {}
    learned = {name: _learned(session, device, name) for name in windows}
    for name, rows in windows.items():
        numbers = _finite(row.value for row in rows)
        if numbers:
            yield _window(device, name, rows[-1].t_us, rows[0].t_us, numbers, limits.get((device, name)), learned[name])


def _window(
    device: str, name: str, last_us: int, first_us: int, values: list[float], limits: Limits | None,
    learned: dict[str, Any],
) -> Fact:  # fmt: skip
    lowest, mean, highest, last = min(values), math.fsum(values) / len(values), max(values), values[-1]
    low, high = (limits.low, limits.high) if limits else (None, None)
    data = {
        "metric": name, "count": len(values), "lowest": lowest, "mean": mean, "highest": highest, "last": last,
        "low": low, "high": high, "learned_low": learned.get("low"), "learned_high": learned.get("high"),
        "first_us": first_us, "last_us": last_us, "values": values[-20:],
    }  # fmt: skip
    state = "above" if high is not None and last > high else "below" if low is not None and last < low else "within"
    band = f"; {state} its band {_band(low, high)}" if low is not None or high is not None else ""
    summary = (
        f"{_cut(name)}: last {last:.6g}, mean {mean:.6g}, {lowest:.6g} to {highest:.6g} in {len(values)} samples of "
        f"{_span(last_us - first_us)}{band}"
    )
    return Fact("metric", device, last_us, summary, data)


def _learned(session: Session, device: str, metric: str) -> dict[str, Any]:
    """The learned limits of a series."""
    query = select_rows(LearnedSeries.limits).where(LearnedSeries.device == device, LearnedSeries.metric == metric)
    return dict(mapping(session.exec(query.limit(1)).first()))


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _band(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return f"up to {high:.6g}" if low is None else f"from {low:.6g}"
    return f"{low:.6g} to {high:.6g}"


def _span(span_us: int) -> str:
    return f"{span_us / MINUTE_US:.0f} minutes" if span_us >= 2 * MINUTE_US else f"{span_us / SECOND_US:.0f} s"


# -- twin and changes --------------------------------------------------------------------------------


def _twin(session: Session, device: str) -> Iterator[Fact]:
    """Leaves of desired state that the device does not report, and those that it refused."""
    found = 0
    for (_, name), (document, _) in twin_batch.read_documents(session, [device]).items():
        desired, reported = (dict(leaves(dict(mapping(document.state.get(part))))) for part in ("desired", "reported"))
        for path, value in desired.items():
            if reported.get(path) != value and found < TWIN:
                found += 1
                yield _difference(device, document.timestamp, name, format_path(path), value, reported.get(path))
    refused = select_rows(AppliedRow).where(AppliedRow.device == device, AppliedRow.state == "refused")
    for row in session.exec(refused.order_by(AppliedRow.shadow, AppliedRow.path).limit(TWIN)):
        data = {"document": row.shadow, "path": row.path, "reason": _cut(row.reason)}
        yield Fact("twin", device, row.t_us, f"the device refused {_cut(row.path)}: {_cut(row.reason)}", data)


def _difference(device: str, t_s: int, document: str, path: str, desired: Any, reported: Any) -> Fact:
    data = {"document": document, "path": path, "desired": _cut(desired), "reported": _cut(reported)}
    summary = f"desired {_cut(path)} is {_cut(desired)}, reported {_cut(reported)}"
    return Fact("twin", device, t_s * 1_000_000, summary, data)


def _changes(session: Session, incident: Incident) -> list[Fact]:
    """What was changed on the device within a day before the incident, or since, and by whom; the newest."""
    since_us = incident.opened_us - DAY_US
    found = [fact for fact in (*_audited(session, incident.device), *_twin_changes(session, incident.device))
             if fact.t_us >= since_us]  # fmt: skip
    distinct = {(fact.t_us, fact.data["actor"], fact.data["change"]): fact for fact in found}
    newest = sorted(distinct.values(), key=lambda fact: (-fact.t_us, fact.summary))[:CHANGES]
    return sorted(newest, key=lambda fact: (fact.t_us, fact.summary))


def _audited(session: Session, device: str) -> Iterator[Fact]:
    """The newest changes of each kind in the audit trail, by an index: a flood of alarms hides none of them."""
    columns = [_AUDIT.c[name] for name in ("t_us", "actor", "kind", "subject")]
    newest = [
        select(*columns).where(_AUDIT.c.device == device, _AUDIT.c.kind == kind).order_by(_AUDIT.c.seq.desc())
        .limit(CHANGES // 2).subquery().select()
        for kind in AUDITED
    ]  # fmt: skip
    for t_us, actor, kind, subject in session.connection().execute(union_all(*newest)):
        if actor != device and not subject.startswith("diagnose "):  # which only looks
            data = {"change": kind, "subject": _cut(subject), "actor": _cut(actor)}
            yield Fact("change", device, t_us, f"{kind} {_cut(subject)} by {_cut(actor)}", data)


def _twin_changes(session: Session, device: str) -> Iterator[Fact]:
    """Newest changes of desired state by jobs, configurations, rollouts and people, with what they set."""
    for name in list(twins.versions(session, device))[:4]:
        query = select_rows(TwinChange).where(TwinChange.device == device, TwinChange.name == name)
        for row in session.exec(query.order_by(col(TwinChange.version).desc()).limit(LOOK_BACK)):
            desired = mapping(row.patch).get("desired") if row.actor != device else None
            if desired is not None:
                paths = [format_path(path) for path, _ in list(leaves(dict(mapping(desired))))[:5]]
                data = {"change": "twin.desired", "subject": name, "actor": _cut(row.actor), "version": row.version,
                        "paths": paths}  # fmt: skip
                summary = f"twin.desired {_cut(', '.join(paths))} by {_cut(row.actor)}"
                yield Fact("change", device, row.t_us, summary, data)


# -- events, commands, peers, cases, notes -----------------------------------------------------------


def _event(row: Any) -> Fact:
    data = {"level": row.level, "origin": _cut(row.origin), "text": _cut(row.text)}
    return Fact("event", row.device, row.t_us, f"{row.level}: {_cut(row.text)}", data)


def _diagnose_output(session: Session, incident: Incident) -> dict[str, str | float]:
    """The output of the incident's last diagnose command."""
    query = (
        select_rows(Command)
        .join(Action, col(Action.command) == col(Command.id))
        .where(
            Action.incident == incident.id,
            Action.type == "command",
            Action.operation == "diagnose",
            Command.state == "succeeded",
        )
    )
    row = session.exec(query.order_by(col(Command.id).desc())).first()
    return dict(reported_values.mapping(row.output)) if row is not None else {}


def _commands(incident: Incident, output: dict[str, str | float]) -> Iterator[Fact]:
    if output:
        shown = ", ".join(f"{_cut(name)} {_cut(value)}" for name, value in list(output.items())[:5])
        data = {_cut(name): value if isinstance(value, float) else _cut(value) for name, value in output.items()}
        yield Fact("command", incident.device, incident.opened_us, f"output of diagnose: {shown}",
                   dict(list(data.items())[:20]))  # fmt: skip


def _peers(session: Session, subject: _Subject) -> Iterator[Fact]:
    """The other incidents of the group, and how the devices of the same area do."""
    incident = subject.incident
    others = [row for row in groups.members(session, incident.page, limit=PEERS + 1) if row.id != incident.id]
    near = _of_site(session, {row.device for row in others}, grouping.site_of(subject.path))
    for row in [row for row in others if row.device in near][:PEERS]:
        reason = row.joined_because or "began the group"
        data = {"incident": row.id, "subject": _cut(row.subject), "state": row.state, "because": _cut(reason)}
        summary = f"same group: {row.device} {_cut(row.subject)}, {row.state} ({_cut(reason)})"
        yield Fact("peer", row.device, row.opened_us, summary, data)
    area = subject.path.rpartition("/")[0]
    if area:
        query = select(_DEVICES.c.state).where(scopes.scope_condition([area]), _DEVICES.c.id != incident.device)
        states = session.connection().execute(query.limit(500)).scalars().all()
        online = sum(state == "online" for state in states)
        summary = f"{online} of {len(states)} other devices of {_cut(area)} are online"
        yield Fact("peer", incident.device, incident.opened_us, summary,
                   {"area": area, "online": online, "devices": len(states)})  # fmt: skip


def _of_site(session: Session, devices: set[str], site: str) -> set[str]:
    """Those of these devices that are of a site: who works on the incident may see no other."""
    query = select(_DEVICES.c.id, _DEVICES.c.assigned_path).where(_DEVICES.c.id.in_(devices))
    paths = {row.id: row.assigned_path for row in session.connection().execute(query)}
    return {device for device in devices if grouping.site_of(paths.get(device, "")) == site}


def visible(session: Session, items: Sequence[EvidenceItem]) -> list[EvidenceItem]:
    """Those of the items that are about devices that the session sees."""
    seen = scopes.visible(session, {_about(item) for item in items})
    return [item for item in items if _about(item) in seen]


def _about(item: EvidenceItem) -> str:
    return str(item.data.get("upstream") or item.device)


def _cases(session: Session, subject: _Subject) -> Iterator[Fact]:
    """The nearest past cases, with what helped."""
    incident, device = subject.incident, subject.device
    features = similarity.Features(
        metrics=similarity.metric_names(subject.metrics), cause=text(mapping(incident.diagnosis).get("cause")),
        profile=device.profile if device else "", service=incident.service, device=incident.device,
    )  # fmt: skip
    site = grouping.site_of(subject.path)
    for near in cases.similar(session, features, site, incident.subject, incident.id, CASES):
        case = near.case
        helpful = [_cut(cases.action_name(action)) for action in case.actions if action.get("helped")]
        ended = f"{', '.join(helpful)} helped" if helpful else {"by-person": f"{_cut(case.resolution)} (a person)"}.get(
            case.outcome, "its alarm came back" if case.outcome == "returned" else "ended by itself"
        )  # fmt: skip
        data = {"case": case.id, "distance": round(near.distance.value, 3), "cause": case.cause,
                "outcome": case.outcome, "helped": helpful, "alike": list(near.distance.alike)}  # fmt: skip
        summary = f"past case of {case.device}, {_cut(case.cause) or 'no cause'}: {ended}; distance {near.distance}"
        yield Fact("case", case.device, case.resolved_us, summary, data)


def _notes(session: Session, incident: Incident) -> list[Fact]:
    return [
        Fact("note", row.device, row.t_us, f"note by {_cut(row.actor)}: {_cut(row.text)}",
             {"actor": _cut(row.actor), "text": row.text})
        for row in reversed(notes.newest(session, incident.device, NOTES))
    ]  # fmt: skip


def _cut(value: Any, most: int = TEXT) -> str:
    """A value as one line of bounded text."""
    line = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    line = "".join(sign if sign.isprintable() else " " for sign in line[: most + 1])
    return line if len(line) <= most else f"{line[: most - 1]}…"
