"""Closes the cases of resolved incidents, and finds those that are like an incident.

A case is closed when its alarms have had time to return. It holds all that a replay needs, so it outlives the incident.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import defer
from sqlmodel import Session, col
from sqlmodel import select as select_rows

from cloud_hub.database import scopes
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Action, AlarmRow, Case, Command, Device, Incident, IncidentEvidence
from cloud_hub.errors import HubError
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents.core import grouping, outcomes, similarity
from cloud_hub.incidents.core.outcomes import RETURN_S, ActionSpan
from cloud_hub.incidents.core.similarity import Distance, Features
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import WorkResult
from cloud_hub.twins.core.reported_values import mapping, text
from shared.durations import SECOND_US

_INCIDENTS: Any = Incident.__table__  # type: ignore[attr-defined]
_CASES: Any = Case.__table__  # type: ignore[attr-defined]
BATCH_SIZE = 100
"""Cases of one run."""
MAX_CASES = 20_000
"""Cases that are kept, the newest."""
CANDIDATES = 40
"""Cases that are compared for each feature, the newest."""
METRICS, ACTIONS = 32, 32
"""What one case holds at most."""
READ_ONLY = "read-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarCase:
    """A past case and how far away it is."""

    case: Case
    distance: Distance


# -- closing -----------------------------------------------------------------------------------------


def run_once(db: Database, now_us: int) -> WorkResult:
    """Close the cases of incidents that were resolved long enough ago, the oldest first; delete the oldest cases."""
    items = WorkItems(db, "cases", now_us)
    mine = _INCIDENTS.c
    query = select(mine.id).where(
        mine.case_us.is_(None), mine.resolved_us <= now_us - int(RETURN_S * SECOND_US), mine.state == "resolved",
        items.ready("incident", Incident.id),
    )  # fmt: skip
    with db.read() as session:
        due = session.connection().execute(query.order_by(mine.resolved_us).limit(BATCH_SIZE)).scalars().all()
    for incident_id in due:
        items.run("incident", incident_id, partial(_close, db, incident_id, now_us))
    if due:
        items.run("cases", "oldest", partial(_delete_oldest, db))
    return items.result(again=len(due) == BATCH_SIZE)


def _close(db: Database, incident_id: str, now_us: int) -> None:
    with db.write() as session:
        incident = session.get(Incident, incident_id)
        if incident is None or incident.state != "resolved" or incident.case_us is not None:
            return
        session.merge(close(session, incident))
        incident.case_us = now_us
        session.add(incident)


def close(session: Session, incident: Incident) -> Case:
    """The case of a resolved incident, as it stands now."""
    device = session.get(Device, incident.device)
    metrics, cleared_us = _alarms(session, incident.id)
    resolved_us = incident.resolved_us or incident.opened_us
    returned_us = _returned_us(session, incident.device, metrics, resolved_us)
    actions = [(action, _span(session, action)) for action in incidents.actions(session, incident.id)[:ACTIONS]]
    evidence = session.get(IncidentEvidence, incident.id)
    return Case(
        id=incident.id, page=incident.page, device=incident.device, subject=incident.subject,
        site=grouping.site_of(device.assigned_path if device else ""), profile=device.profile if device else "",
        service=incident.service, cause=text(mapping(incident.diagnosis).get("cause")), metrics=metrics,
        opened_us=incident.opened_us, resolved_us=resolved_us, returned_us=returned_us,
        outcome=outcomes.outcome([span for _, span in actions], cleared_us, returned_us, incident.resolved_by),
        resolution=incident.resolution, diagnosis=incident.diagnosis,
        actions=[described(action) | {"helped": outcomes.helped(span, cleared_us, returned_us)}
                 for action, span in actions],
        evidence=evidence.evidence if evidence else None,
    )  # fmt: skip


def _alarms(session: Session, incident_id: str) -> tuple[list[str], int | None]:
    """The metrics of an incident's alarms, and when the last one cleared (None while one has not)."""
    mine = AlarmRow.incident == incident_id
    metrics = session.exec(select_rows(AlarmRow.metric).where(mine).distinct().order_by(AlarmRow.metric).limit(METRICS))
    cleared_us, raised = session.exec(
        select_rows(func.max(AlarmRow.cleared_us), func.count(col(AlarmRow.id)) - func.count(col(AlarmRow.cleared_us)))
        .where(mine)
    ).one()  # fmt: skip
    return list(metrics), None if raised else cleared_us


def _returned_us(session: Session, device: str, metrics: Sequence[str], resolved_us: int) -> int | None:
    """When an alarm of the same metrics was raised again soon after the end."""
    query = select_rows(func.min(AlarmRow.raised_us)).where(
        AlarmRow.device == device, col(AlarmRow.metric).in_(metrics), col(AlarmRow.raised_us) > resolved_us,
        col(AlarmRow.raised_us) <= resolved_us + int(RETURN_S * SECOND_US),
    )  # fmt: skip
    return session.exec(query).one()


def _span(session: Session, action: Action) -> ActionSpan:
    command = session.get(Command, action.command) if action.command else None
    started_us = command.created_us if command else action.started_us or action.changed_us
    return ActionSpan(
        state=action.state, started_us=started_us, ended_us=action.changed_us, changing=action.risk != READ_ONLY
    )


def described(action: Action) -> dict[str, Any]:
    """An action as a case keeps it."""
    return {
        "id": action.id, "action": action.type, "parameters": action.parameters,
        "device": action.device, "state": action.state, "reason": action.reason, "policy": action.policy,
        "outcome": action.outcome, "changed_us": action.changed_us, "automatic": action.automatic,
        "approvals_needed": action.approvals_needed,
    }  # fmt: skip


def _delete_oldest(db: Database) -> None:
    with db.write() as session:
        oldest = select(_CASES.c.id).order_by(_CASES.c.id.desc()).offset(MAX_CASES).limit(1)
        last = session.connection().execute(oldest).scalar()
        if last is not None:
            session.connection().execute(delete(_CASES).where(_CASES.c.id <= last))


# -- reading -----------------------------------------------------------------------------------------


def get(session: Session, case_id: str) -> Case:
    """The case; raises HubError 404."""
    row = session.get(Case, case_id)
    if row is None or not scopes.sees(session, [row.device]):
        raise HubError(404, "No such case", f"'{case_id[:80]}' is not known, or its case is not closed yet")
    return row


def newest(
    session: Session, *, cause: str = "", device: str = "", since_us: int | None = None, limit: int = 100
) -> list[Case]:  # fmt: skip
    """The newest cases first, of a cause or a device, or resolved since a time."""
    query = scopes.restrict(session, select_rows(Case), col(Case.device))
    for column, value in ((Case.cause, cause), (Case.device, device)):
        query = query.where(column == value) if value else query
    if since_us is not None:
        query = query.where(col(Case.resolved_us) >= since_us)
    return list(session.exec(query.order_by(col(Case.id).desc()).limit(limit)))


def _column(name: str) -> Any:
    return getattr(Case, name)


def action_name(action: dict[str, Any]) -> str:
    """What an action of a case did, for people: `restart line-camera`."""
    parameters = mapping(action.get("parameters"))
    named = [text(parameters.get(name)) for name in ("verb", "name", "target")]
    return " ".join(part for part in named if part)[:200] or text(action.get("action"))


def features_of(case: Case) -> Features:
    """What a case is compared by."""
    return Features(
        metrics=similarity.metric_names(case.metrics), cause=case.cause, profile=case.profile, service=case.service,
        device=case.device,
    )  # fmt: skip


def similar(
    session: Session, features: Features, site: str, subject: str, without: str, limit: int = 3
) -> list[SimilarCase]:  # fmt: skip
    """The nearest past cases of a site: who works on the incident may see no other site.

    Compares at most `CANDIDATES` of each feature, however many cases there are.
    """
    wanted = {"cause": features.cause, "subject": subject, "device": features.device, "service": features.service}
    found: dict[str, Case] = {}
    for name, value in wanted.items():
        if value:
            query = scopes.restrict(session, select_rows(Case), col(Case.device))
            query = query.where(_CASES.c.site == site, _CASES.c[name] == value)
            light = query.options(defer(_column("evidence")), defer(_column("diagnosis")))
            rows = session.exec(light.order_by(col(Case.id).desc()).limit(CANDIDATES))
            found |= {row.id: row for row in rows if row.id != without}
    near = [SimilarCase(case=row, distance=similarity.distance(features, features_of(row))) for row in found.values()]
    near = [one for one in near if one.distance.value < similarity.FAR]
    return sorted(near, key=lambda one: (one.distance.value, -one.case.resolved_us, one.case.id))[:limit]
