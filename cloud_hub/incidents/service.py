"""Opens, acknowledges and resolves incidents: the alarms of one device and subject, with their actions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import func, or_
from sqlmodel import Session, col, select

from cloud_hub.actions.states import UNDER_WAY, abort
from cloud_hub.alarms import service as alarm_service
from cloud_hub.alarms import suppression
from cloud_hub.audit import trail
from cloud_hub.certificates import registry as certificates
from cloud_hub.clock import new_id, new_trace
from cloud_hub.database import scopes
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Action, AlarmRow, Device, Incident, PlaybookRun, RemovedDevice
from cloud_hub.errors import HubError
from cloud_hub.incidents.core import grouping
from cloud_hub.incidents.core.grouping import OpenedIncident
from cloud_hub.playbooks import service as playbook_runs
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.runtime.worker import NOTHING, WorkResult
from shared.ids import trace_id
from shared.protocol.messages import Alarm

_INCIDENTS: Any = Incident.__table__  # type: ignore[attr-defined]
_DEVICES: Any = Device.__table__  # type: ignore[attr-defined]
HUB, STORM = "hub", "actions/storm"
"""The device and metric of the hub's own alarm of an action storm."""
UNRESOLVED = ("open", "acknowledged")
REMOVED = "the device was removed"
"""The reason for clearing an alarm or resolving an incident when its device is removed."""
MAX_SUBJECTS = 50
"""Open incidents of one device. Alarms of more subjects share the incident OTHER: a device chooses the names."""
OTHER = "other"
IDS = 500
"""Ids in one query."""


def subject_of(metric: str) -> str:
    """The subject of a metric, the first part of its name; alarms of one device and subject share an incident."""
    return re.split(r"[./]", metric, maxsplit=1)[0]


def handle_alarm(
    session: Session, device: str, alarm: Alarm, now_us: int, trace: str, service: str = ""
) -> None:  # fmt: skip
    """Store an alarm that a device raised or cleared, and open or settle its incident.

    A suppressed alarm is stored but opens no incident. `service` is the device's service if the alarm comes from peer
    comparison.
    """
    handle_alarms(session, device, [alarm], now_us, trace, service)


def handle_alarms(
    session: Session, device: str, changed: Sequence[Alarm], now_us: int, trace: str, service: str = ""
) -> int:  # fmt: skip
    """Handle many alarms of a device in order, like `handle_alarm`, with few queries.

    Returns how many subjects were looked up for an incident.
    """
    if certificates.removed(session, device):  # a worker read it before the removal
        return 0
    query = select(AlarmRow).where(col(AlarmRow.id).in_({alarm.id for alarm in changed}))
    rows: dict[str, AlarmRow] = {row.id: row for row in session.exec(query)}
    earliest_us = min([now_us, *(alarm.t_us for alarm in changed)])
    covers = suppression.suppression_lookup(session, device, earliest_us, now_us)
    raised = {subject_of(alarm.metric) for alarm in changed if alarm.state == "raised" and alarm.id not in rows}
    unresolved = _open_incidents(session, device) if raised else {}
    cleared: set[str] = set()
    for alarm in changed:
        row = rows.get(alarm.id)
        if row is None and alarm.state == "raised":
            cleared = _settle_all(session, cleared, now_us)  # a resolved incident accepts no new alarm
            # The time of the alarm counts, too: an alarm from a maintenance window that arrives later stays suppressed.
            method = covers(alarm.metric, [min(alarm.t_us, now_us), now_us])
            rows[alarm.id] = _raise(session, device, alarm, now_us, trace, service, method, unresolved)
        elif row is not None and row.device == device and alarm.state == "cleared" and row.cleared_us is None:
            row.state, row.cleared_us = "cleared", alarm.t_us  # only the device of an alarm clears it
            trail.add(session, now_us, device, "alarm.cleared", alarm.metric, device=device, trace=trace,
                      incident=row.incident)  # fmt: skip
            cleared.add(row.incident)
    _settle_all(session, cleared, now_us)
    return len(raised)


def _settle_all(session: Session, incident_ids: set[str], now_us: int) -> set[str]:
    for incident_id in sorted(incident_ids):
        settle(session, incident_id, now_us)
    return set()


def _raise(
    session: Session, device: str, alarm: Alarm, now_us: int, trace: str, service: str, method: str | None,
    unresolved: dict[str, Incident],
) -> AlarmRow:  # fmt: skip
    """Create an alarm. `unresolved` caches the incidents of the device by subject."""
    row = AlarmRow(
        id=alarm.id, device=device, metric=alarm.metric, kind=alarm.kind, priority=alarm.priority, state="raised",
        value=alarm.value, limit=alarm.limit, raised_us=alarm.t_us, received_us=now_us, about=alarm.about,
        trace_id=trace_id(trace), suppressed=method or "",
    )  # fmt: skip
    session.add(row)
    if method is None:
        subject = subject_of(alarm.metric)
        found = unresolved.get(subject)
        if found is None or found.state not in UNRESOLVED:
            found = _open_for(session, device, alarm.metric, now_us, trace or new_trace(), unresolved, service)
        row.incident = found.id
        if not found.silent and grouping.is_silence(alarm.metric, alarm.kind, alarm.about):
            found.silent, found.grouped_us = True, None  # the topology may explain it now
    trail.add(session, now_us, device, "alarm.raised", alarm.metric, device=device, trace=trace, value=alarm.value,
              limit=alarm.limit, incident=row.incident, suppressed=row.suppressed)  # fmt: skip
    return row


def apply_suppression(session: Session, alarm_id: str, now_us: int) -> AlarmRow | None:
    """Apply the start or end of a suppression to a raised alarm; returns the alarm if it changed.

    An alarm whose suppression has ended opens an incident.
    """
    row = session.get(AlarmRow, alarm_id)
    if row is None or row.state != "raised":
        return None
    method = suppression.suppression_lookup(session, row.device, now_us, now_us)(row.metric, [now_us]) or ""
    if row.suppressed == method:
        return None
    row.suppressed = method
    if not method and not row.incident:
        unresolved = _open_incidents(session, row.device)
        found = unresolved.get(subject_of(row.metric))
        row.incident = (found or _open_for(session, row.device, row.metric, now_us, new_trace(), unresolved)).id
    session.add(row)
    trail.add(session, now_us, "hub", "alarm.suppressed" if method else "alarm.resumed", row.metric,
              device=row.device, alarm=row.id, method=method, incident=row.incident)  # fmt: skip
    return row


def _open_incidents(session: Session, device: str) -> dict[str, Incident]:
    """The unresolved incidents of a device by subject, at most those that one may have."""
    query = select(Incident).where(Incident.device == device, col(Incident.state).in_(UNRESOLVED))
    rows = session.exec(query.order_by(col(Incident.id).desc()).limit(2 * MAX_SUBJECTS))
    return {row.subject: row for row in rows}


def _open_for(
    session: Session, device: str, metric: str, now_us: int, trace: str, unresolved: dict[str, Incident],
    service: str = "",
) -> Incident:  # fmt: skip
    """Open an incident for an alarm of a subject without one, and add it to `unresolved`."""
    subject = subject_of(metric)
    if sum(row.state in UNRESOLVED for row in unresolved.values()) >= MAX_SUBJECTS:
        subject = OTHER
        if (found := unresolved.get(OTHER)) is not None and found.state in UNRESOLVED:
            return found
    incident = Incident(
        id=new_id(), device=device, subject=subject, opened_us=now_us, traceparent=trace, service=service
    )  # fmt: skip
    joined = _joining(session, device, now_us, service)
    incident.page = incident.id if joined is None else joined.page
    incident.leads, incident.joined_because = joined is None, "" if joined is None else joined.because
    session.add(incident)
    trail.add(session, now_us, "hub", "incident.opened", incident.id, device=device, trace=trace, about=subject,
              page=incident.page, because=incident.joined_because)  # fmt: skip
    unresolved[subject] = incident
    return incident


def _joining(session: Session, device: str, now_us: int, service: str) -> grouping.Joining | None:
    """The page of an earlier incident that an incident of this device, opened now, belongs to."""
    session.flush()
    path = session.exec(select(Device.assigned_path).where(Device.id == device)).first() or ""
    site, limits = grouping.site_of(path), grouping.STANDARD
    mine, flood_us = _INCIDENTS.c, now_us - int(limits.flood_s * 1e6)
    same_site = _of_site(site) if site else col(AlarmRow.device) == device
    alarms = _recent(session, same_site, flood_us, limits.flood_alarms + 1)
    near = or_(mine.device == device, _of_site(site)) if site else mine.device == device
    opened = _opened(session, near, now_us - int(limits.page_s * 1e6))
    if service:
        kin = (mine.service == service) & _of_site(site)
        opened += _opened(session, kin, now_us - int(limits.service_s * 1e6))
    return grouping.joining(device, site, now_us, opened, alarms, limits, service)


def _opened(session: Session, which: Any, since_us: int) -> list[OpenedIncident]:
    """The newest incidents that were opened since `since_us`."""
    mine, first = _INCIDENTS.c, _INCIDENTS.alias()
    columns = [mine.page, mine.device, _DEVICES.c.assigned_path, mine.opened_us, first.c.opened_us, mine.service]
    query: Any = select(*columns).join(first, first.c.id == mine.page)
    query = query.join(_DEVICES, _DEVICES.c.id == mine.device, isouter=True)
    query = query.where(mine.device.not_in(select(RemovedDevice.device)))  # nothing joins the page of a removed device
    newest = query.where(which, mine.opened_us >= since_us).order_by(mine.opened_us.desc(), mine.id.desc())
    return [
        OpenedIncident(
            page=page, device=device, site=grouping.site_of(path or ""), t_us=t_us, page_us=page_us, service=service
        )
        for page, device, path, t_us, page_us, service in session.connection().execute(newest.limit(grouping.NEARBY))
    ]


def _recent(session: Session, which: Any, since_us: int, enough: int) -> int:
    """The number of unsuppressed alarms of some devices since a time; counts up to `enough`."""
    query = select(AlarmRow.id).join(Device, col(Device.id) == AlarmRow.device, isouter=True)
    query = query.where(col(AlarmRow.received_us) > since_us, AlarmRow.suppressed == "", which)
    return len(session.exec(query.order_by(col(AlarmRow.received_us).desc()).limit(enough)).all())


def _of_site(site: str) -> Any:
    """The condition for devices of this site (`grouping.site_of`); '' for those without an asset path."""
    return scopes.scope_condition([site]) if "/" in site else func.coalesce(col(Device.assigned_path), "") == site


def settle(session: Session, incident_id: str, now_us: int) -> None:
    """Resolve the incident when all its alarms are cleared and no action or playbook is under way."""
    session.flush()
    incident = session.get(Incident, incident_id) if incident_id else None
    if incident is None or incident.state == "resolved":
        return
    under_way = select(Action.id).where(Action.incident == incident_id, col(Action.state).in_(UNDER_WAY)).limit(1)
    runs = select(PlaybookRun.id).where(PlaybookRun.incident == incident_id,
                                        col(PlaybookRun.state).in_(playbook_runs.OPEN)).limit(1)  # fmt: skip
    if _has_raised_alarm(session, incident_id) or session.exec(under_way).first() or session.exec(runs).first():
        return
    incident.state, incident.resolved_us = "resolved", now_us
    trail.add(session, now_us, "hub", "incident.resolved", incident.id, device=incident.device,
              trace=incident.traceparent)  # fmt: skip


def _has_raised_alarm(session: Session, incident_id: str) -> bool:
    raised = select(AlarmRow.id).where(AlarmRow.incident == incident_id, AlarmRow.state == "raised").limit(1)
    return session.exec(raised).first() is not None


def acknowledge(session: Session, incident_id: str, now_us: int, actor: str) -> Incident:
    """Acknowledge an incident and its alarms."""
    incident = get(session, incident_id)
    acknowledge_all(session, [incident], now_us, actor)
    return incident


def acknowledge_all(session: Session, rows: Sequence[Incident], now_us: int, actor: str) -> list[AlarmRow]:
    """Acknowledge incidents and their alarms, with few queries; returns the alarms that were not acknowledged yet."""
    traces = {row.id: row.traceparent for row in rows}
    new: list[AlarmRow] = []
    for start in range(0, len(rows), IDS):
        some = [row.id for row in rows[start : start + IDS]]
        query = select(AlarmRow).where(col(AlarmRow.incident).in_(some), col(AlarmRow.acked_us).is_(None))
        new += session.exec(query.order_by(AlarmRow.incident, col(AlarmRow.raised_us), AlarmRow.id))
    for alarm in new:
        alarm_service.acknowledge(session, alarm, now_us, actor=actor, trace=traces[alarm.incident])
    for incident in rows:
        if incident.state == "open":
            incident.state = "acknowledged"
            session.add(incident)
            trail.add(session, now_us, actor, "incident.acknowledged", incident.id, device=incident.device,
                      trace=incident.traceparent)  # fmt: skip
    return new


def resolve(session: Session, incident_id: str, now_us: int, *, actor: str, reason: str) -> Incident:
    """Resolve an incident by hand: clear its alarms and abort its actions. HubError 404, 409 or 422."""
    incident = get(session, incident_id)
    if not reason.strip():
        raise HubError(422, "Invalid request", "give a reason: who looks for it later wants to know why")
    if incident.state == "resolved":
        raise HubError(409, "Nothing to resolve", "the incident is already resolved")
    for row in alarms(session, incident_id):
        if row.state == "raised":
            clear(session, row, now_us, actor=actor, reason=reason)
    _resolve(session, incident, now_us, actor=actor, reason=reason)
    return incident


def resolve_alarm(session: Session, number: str, now_us: int, *, actor: str, reason: str) -> AlarmRow:
    """Clear an alarm whose device is not known. HubError 404, 409 or 422.

    Its incident is resolved with its last alarm, and actions under way are aborted: no device could verify them.
    """
    row = alarm_service.get(session, number)
    if not reason.strip():
        raise HubError(422, "Invalid request", "give a reason: who looks for it later wants to know why")
    if row.state != "raised":
        raise HubError(409, "Nothing to resolve", "the alarm has cleared")
    if session.get(Device, row.device) is not None:
        cure = "its device clears it: shelve it, or resolve its incident"
        raise HubError(409, "The device is there", f"'{row.device}' is known: {cure}")
    clear(session, row, now_us, actor=actor, reason=reason)
    session.flush()
    incident = session.get(Incident, row.incident) if row.incident else None
    if incident is not None and incident.state != "resolved" and not _has_raised_alarm(session, incident.id):
        _resolve(session, incident, now_us, actor=actor, reason=reason)
    return row


def clear(session: Session, row: AlarmRow, now_us: int, *, actor: str, reason: str) -> None:
    """Clear an alarm on behalf of its device."""
    row.state, row.cleared_us, row.cleared_by, row.cleared_reason = "cleared", now_us, actor, reason
    session.add(row)
    trail.add(session, now_us, actor, "alarm.cleared", row.metric, device=row.device, alarm=row.id, reason=reason,
              incident=row.incident)  # fmt: skip


def clear_all(session: Session, device: str, now_us: int, *, actor: str, reason: str) -> int:
    """Clear all raised alarms of a device; returns how many."""
    rows = session.exec(select(AlarmRow).where(AlarmRow.device == device, AlarmRow.state == "raised")).all()
    for row in rows:
        clear(session, row, now_us, actor=actor, reason=reason)
    return len(rows)


def resolve_all(session: Session, device: str, now_us: int, *, actor: str, reason: str) -> int:
    """Resolve all open incidents of a device and abort its actions; returns how many incidents."""
    rows = session.exec(select(Incident).where(Incident.device == device, Incident.state != "resolved")).all()
    for row in rows:
        _resolve(session, row, now_us, actor=actor, reason=reason)
    left = select(Action).where(Action.device == device, col(Action.state).in_(UNDER_WAY))
    for action in session.exec(left).all():
        abort(session, action, now_us, actor=actor, reason=reason)
    return len(rows)


def _resolve(session: Session, incident: Incident, now_us: int, *, actor: str, reason: str) -> None:
    playbook_runs.end_of_incident(session, incident.id, now_us, actor=actor, reason=reason)
    for action in actions(session, incident.id):
        if action.state in UNDER_WAY:
            abort(session, action, now_us, actor=actor, reason=reason)
    incident.state, incident.resolved_us, incident.resolved_by, incident.resolution = "resolved", now_us, actor, reason
    session.add(incident)
    trail.add(session, now_us, actor, "incident.resolved", incident.id, device=incident.device,
              trace=incident.traceparent, reason=reason)  # fmt: skip


def record_diagnosis(session: Session, incident_id: str, diagnosis: dict[str, Any], now_us: int) -> Incident:
    """Store a diagnosis."""
    incident = get(session, incident_id)
    incident.diagnosis, incident.diagnosed_us = diagnosis, now_us
    trail.add(session, now_us, str(diagnosis["author"]), "incident.diagnosed", incident.id, device=incident.device,
              trace=incident.traceparent, cause=diagnosis["cause"], confidence=diagnosis["confidence"])  # fmt: skip
    return incident


def get(session: Session, incident_id: str) -> Incident:
    """The incident; raises HubError 404."""
    incident = session.get(Incident, incident_id)
    if incident is None or not scopes.sees(session, [incident.device]):
        raise HubError(404, "No such incident", f"'{incident_id}' is not known")
    return incident


def list_for_page(session: Session, page: str) -> list[Incident]:
    """The unresolved incidents of a page that the session sees."""
    query = select(Incident).where(Incident.page == page, Incident.state != "resolved").order_by(Incident.id)
    return list(session.exec(scopes.restrict(session, query, col(Incident.device))))


def alarms(session: Session, incident_id: str) -> list[AlarmRow]:
    """The incident's alarms, oldest first."""
    return list(
        session.exec(
            select(AlarmRow).where(AlarmRow.incident == incident_id).order_by(col(AlarmRow.raised_us), AlarmRow.id)
        )
    )


def newest_alarms(session: Session, incident_id: str, limit: int) -> list[AlarmRow]:
    """The newest of the incident's alarms, oldest first."""
    query = select(AlarmRow).where(AlarmRow.incident == incident_id)
    newest = query.order_by(col(AlarmRow.raised_us).desc(), col(AlarmRow.id).desc()).limit(limit)
    return list(session.exec(newest))[::-1]


def actions(session: Session, incident_id: str) -> list[Action]:
    """The incident's actions, oldest first."""
    return list(session.exec(select(Action).where(Action.incident == incident_id).order_by(Action.id)))


def visible_actions(session: Session, incident_id: str) -> list[Action]:
    """Those of the incident's actions whose device the session sees: a playbook may act on other sites, too."""
    query = select(Action).where(Action.incident == incident_id).order_by(Action.id)
    return list(session.exec(scopes.restrict(session, query, col(Action.device))))


def action_ended(session: Session, action: Action, now_us: int) -> None:
    """Settle the incident of an action that has ended.

    The output of the first diagnose command is new evidence: the incident is diagnosed again. Only after the first one,
    or a diagnosis that always asks for another would never end.
    """
    session.flush()
    if action.state == "verified" and _is_diagnose(action):
        done = [one for one in actions(session, action.incident) if one.state == "verified" and _is_diagnose(one)]
        incident = session.get(Incident, action.incident)
        if incident is not None and incident.state != "resolved" and len(done) == 1:
            incident.diagnosed_us = None
    settle(session, action.incident, now_us)


def action_storm(session: Session, text: str, now_us: int) -> None:
    """Raise the hub's alarm of an action storm, or clear it if `text` is ''."""
    query = select(AlarmRow).where(AlarmRow.device == HUB, AlarmRow.metric == STORM, AlarmRow.state == "raised")
    row = session.exec(query.limit(1)).first()
    if row is not None and not text:
        clear(session, row, now_us, actor="hub", reason="the storm is over")
        session.flush()
        settle(session, row.incident, now_us)
    elif row is None and text:
        alarm = Alarm(id=new_id(), metric=STORM, kind="high", state="raised", priority="high", t_us=now_us, value=1.0,
                      limit=0.0)  # fmt: skip
        handle_alarm(session, HUB, alarm, now_us, "")
        session.flush()
        incident = _open_incidents(session, HUB).get(subject_of(STORM))
        if incident is not None:  # its cause is known: no diagnosis must propose more actions
            diagnosis = {"cause": "action-storm", "confidence": 1.0, "explanation": text, "author": "rules",
                         "engine": "policy", "proposals": [], "note": ""}  # fmt: skip
            record_diagnosis(session, incident.id, diagnosis, now_us)


def _is_diagnose(action: Action) -> bool:
    return (action.type, action.operation) == ("command", "diagnose")


def run_ended(session: Session, run: PlaybookRun, now_us: int) -> None:
    """Settle the incident of a playbook run that has ended."""
    settle(session, run.incident, now_us)


def list_undiagnosed(session: Session, where: Any, limit: int) -> list[str]:
    """Ids of unresolved incidents without a diagnosis that meet a condition: leads of groups first, then by age."""
    query = select(Incident.id).where(Incident.state != "resolved", col(Incident.diagnosed_us).is_(None), where)
    return list(session.exec(query.order_by(col(Incident.leads).desc(), Incident.id).limit(limit)))


# -- the worker --------------------------------------------------------------------------------------


def apply_suppression_changes(db: Database, now_us: int) -> WorkResult:
    """Apply suppressions that started or ended, and publish the states of the changed alarms."""
    with db.read() as session:
        changed = [row.id for row, _ in suppression.suppression_changes(session, now_us)]
    if not changed:
        return NOTHING
    items = WorkItems(db, "alarms", now_us)
    messages = [items.run("alarm", incident_id, partial(_resume, db, incident_id, now_us)) for incident_id in changed]
    return items.result(messages=[message for message in messages if message is not None], wake=["diagnosis"])


def _resume(db: Database, alarm_id: str, now_us: int) -> OutgoingMessage | None:
    with db.write() as session:
        row = apply_suppression(session, alarm_id, now_us)
        return None if row is None else alarm_service.state_message(row, now_us, actor="hub")
