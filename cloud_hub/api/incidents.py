"""/api/v1/alarms, /incidents, /actions and /audit: from what crossed a limit to what was done about it."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from sqlmodel import col, select

from cloud_hub import audit, incidents
from cloud_hub.actions import desk
from cloud_hub.api.hub import Auditor, Operator, Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.tables import Action, AlarmRow, AuditRow, Incident

router = APIRouter(prefix="/api/v1", tags=["incidents"])


class IncidentView(BaseModel):
    """An incident with its alarms and actions."""

    incident: Incident
    alarms: list[AlarmRow]
    actions: list[Action]


class AuditView(BaseModel):
    """The newest rows first. `broken_at` is the first row whose hash does not fit, None when the chain holds;
    the chain is only walked when `verify` is asked for.
    """

    verified: bool
    broken_at: int | None
    rows: list[AuditRow]


class DecisionBody(BaseModel):
    """A person's word on a proposed action."""

    model_config = ConfigDict(extra="forbid")
    approve: bool


@router.get("/alarms")
def alarms(
    hub: TheHub, _caller: Reader, device: str = "", state: Literal["", "raised", "cleared"] = "", limit: int = 200
) -> list[AlarmRow]:
    """The newest alarms first."""
    query = (
        select(AlarmRow)
        .order_by(col(AlarmRow.received_us).desc(), col(AlarmRow.id).desc())
        .limit(min(max(limit, 1), 1000))
    )
    if device:
        query = query.where(AlarmRow.device == device)
    if state:
        query = query.where(AlarmRow.state == state)
    with hub.db.read() as session:
        return list(session.exec(query))


@router.get("/incidents")
def all_incidents(hub: TheHub, _caller: Reader, device: str = "", limit: int = 100) -> list[Incident]:
    """The newest incidents first."""
    query = select(Incident).order_by(col(Incident.id).desc()).limit(min(max(limit, 1), 1000))
    if device:
        query = query.where(Incident.device == device)
    with hub.db.read() as session:
        return list(session.exec(query))


@router.get("/incidents/{incident_id}")
def incident(incident_id: str, hub: TheHub, _caller: Reader) -> IncidentView:
    """One incident, whole."""
    with hub.db.read() as session:
        return IncidentView(
            incident=incidents.get(session, incident_id),
            alarms=incidents.alarms(session, incident_id),
            actions=incidents.actions(session, incident_id),
        )


@router.post("/incidents/{incident_id}/acknowledge")
def acknowledge(incident_id: str, hub: TheHub, caller: Operator) -> Incident:
    """A person has seen it."""
    with hub.db.write() as session:
        return incidents.acknowledge(session, incident_id, now_us(), caller.who)


@router.post("/actions/{action_id}/decision")
def decide(action_id: str, body: DecisionBody, hub: TheHub, caller: Operator) -> Action:
    """Approve or refuse a proposed action."""
    with hub.db.write() as session:
        action = desk.decide(session, action_id, body.approve, caller.who, now_us())
    hub.ring("actions")
    return action


@router.get("/audit")
def trail(
    hub: TheHub, _caller: Auditor, device: str = "", kind: str = "", trace: str = "", limit: int = 200,
    verify: bool = False,
) -> AuditView:  # fmt: skip
    """The audit trail; with `verify` also whether its whole chain of hashes holds."""
    with hub.db.read() as session:
        rows = audit.rows(session, device=device, kind=kind, trace=trace, limit=min(max(limit, 1), 10_000))
        broken = audit.verify(session) if verify else None
    return AuditView(verified=verify, broken_at=broken, rows=rows)
