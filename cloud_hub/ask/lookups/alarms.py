"""Look-ups of alarms, incidents, actions and the audit trail."""

from __future__ import annotations

from typing import Any

import sqlalchemy
from sqlalchemy import case, func
from sqlmodel import Session, col, select

from cloud_hub.alarms import service as alarm_service
from cloud_hub.ask.core.facts import Finding
from cloud_hub.ask.lookups.arguments import MOST, Alarms, IncidentId, Incidents, Period
from cloud_hub.audit import trail
from cloud_hub.database import scopes
from cloud_hub.database.tables import Action, AlarmRow, Incident
from cloud_hub.devices import registry
from cloud_hub.incidents import service as incident_service
from cloud_hub.incidents.diagnosis import localized
from shared.durations import SECOND_US

_ALARMS: Any = AlarmRow.__table__.c  # type: ignore[attr-defined]
_INCIDENTS: Any = Incident.__table__.c  # type: ignore[attr-defined]


def alarms(session: Session, asked: Alarms, now_us: int) -> list[Finding]:
    """The newest alarms."""
    _require(session, asked.device)
    since_us = None if asked.since_s is None else now_us - int(asked.since_s * SECOND_US)
    rows = alarm_service.list_alarms(session, device=asked.device, state=asked.state, since_us=since_us, limit=MOST + 1)
    return [_alarm_finding(row) for row in rows]


def _alarm_finding(row: AlarmRow) -> Finding:
    return Finding(kind="alarm", data={
        "device": row.device, "metric": row.metric, "value": row.value, "limit": row.limit, "priority": row.priority,
        "state": row.state, "raised_us": row.raised_us, "kind": row.kind, "about": row.about, "incident": row.incident,
    })  # fmt: skip


def frequent_alarms(session: Session, asked: Period, now_us: int) -> list[Finding]:
    """Counted by the database: the whole performance report would read every alarm of the period."""
    _require(session, asked.device)
    since_us = now_us - int(asked.since_s * SECOND_US)
    # Summed, not filtered, and grouped by an expression: for either plain column SQLite would walk the index of all
    # alarms that there are, and not that of the period.
    times = func.sum(case((_ALARMS.suppressed == "", 1), else_=0))
    each = sqlalchemy.select(_ALARMS.device, _ALARMS.metric, times).where(_ALARMS.received_us >= since_us)
    opened = sqlalchemy.select(func.count()).where(_INCIDENTS.opened_us >= since_us, _INCIDENTS.page == _INCIDENTS.id)
    if asked.device:
        each, opened = each.where(_ALARMS.device == asked.device), opened.where(_INCIDENTS.device == asked.device)
    connection = session.connection()
    grouped = scopes.restrict(session, each, _ALARMS.device).group_by(_ALARMS.device + "", _ALARMS.metric)
    rows = [tuple(row) for row in connection.execute(grouped.order_by(times.desc(), _ALARMS.device)) if row[2]]
    pages = connection.execute(scopes.restrict(session, opened, _INCIDENTS.device)).scalar_one()
    total = Finding(kind="total", data={"count": sum(row[2] for row in rows), "pages": pages})
    most = [
        Finding(kind="frequent", data=dict(zip(("device", "metric", "count"), row, strict=True))) for row in rows[:10]
    ]
    return [total, *most] if rows else []


def incidents(session: Session, asked: Incidents, now_us: int) -> list[Finding]:
    """The newest incidents, each with its diagnosis."""
    _require(session, asked.device)
    rows = select(Incident).order_by(col(Incident.opened_us).desc(), col(Incident.id).desc()).limit(MOST + 1)
    if asked.device:
        rows = rows.where(Incident.device == asked.device)
    if asked.state == "unresolved":
        rows = rows.where(col(Incident.state).in_(incident_service.UNRESOLVED))
    elif asked.state:
        rows = rows.where(Incident.state == asked.state)
    if asked.since_s is not None:
        rows = rows.where(col(Incident.opened_us) >= now_us - int(asked.since_s * SECOND_US))
    found = list(session.exec(scopes.restrict(session, rows, col(Incident.device))))
    return [part for row in found for part in _incident_findings(row)]


def _incident_findings(row: Incident) -> list[Finding]:
    diagnosis = row.diagnosis or {}
    cause = str(diagnosis.get("cause", "not diagnosed yet"))
    found = [Finding(kind="incident", data={
        "id": row.id, "device": row.device, "subject": row.subject, "state": row.state, "opened_us": row.opened_us,
        "resolved_us": row.resolved_us, "cause": cause,
    })]  # fmt: skip
    if diagnosis.get("explanation"):
        found.append(Finding(kind="explanation", data={
            "id": row.id, "engine": diagnosis.get("engine", "?"),
            **{language: localized(diagnosis, language)["explanation"] for language in ("en", "zh")},
        }))  # fmt: skip
    return found


def incident(session: Session, asked: IncidentId, _: int) -> list[Finding]:
    """One incident with its diagnosis, alarms and actions; HubError 404."""
    row = incident_service.get(session, asked.id)
    alarms = [_alarm_finding(alarm) for alarm in incident_service.alarms(session, row.id)[:10]]
    return [
        *_incident_findings(row),
        *alarms,
        *(_action_finding(one) for one in incident_service.visible_actions(session, row.id)),
    ]


def actions(session: Session, asked: Period, now_us: int) -> list[Finding]:
    """The newest actions."""
    _require(session, asked.device)
    since_us = now_us - int(asked.since_s * SECOND_US)
    rows = select(Action).where(col(Action.changed_us) >= since_us).order_by(col(Action.changed_us).desc())
    if asked.device:
        rows = rows.where(Action.device == asked.device)
    found = session.exec(scopes.restrict(session, rows.limit(MOST + 1), col(Action.device)))
    return [_action_finding(row) for row in found]


def _action_finding(row: Action) -> Finding:
    return Finding(kind="action", data={
        "id": row.id, "device": row.device, "action": f"{row.type} {row.detail}".strip(), "state": row.state,
        "outcome": row.outcome or row.policy, "changed_us": row.changed_us,
    })  # fmt: skip


def changes(session: Session, asked: Period, now_us: int) -> list[Finding]:
    """The newest rows of the audit trail that are neither of alarms nor of incidents."""
    _require(session, asked.device)
    rows = trail.rows(session, since_us=now_us - int(asked.since_s * SECOND_US), device=asked.device, limit=10 * MOST)
    kept = [row for row in rows if not row.kind.startswith(("alarm.", "incident."))]
    return [Finding(kind="change", data={
        "t_us": row.t_us, "actor": row.actor, "kind": row.kind, "device": row.device or "-", "subject": row.subject,
    }) for row in kept[: MOST + 1]]  # fmt: skip


def _require(session: Session, device: str) -> None:
    if device:
        registry.require_device(session, device)
