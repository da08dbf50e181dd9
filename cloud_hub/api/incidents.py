"""/api/v1/incidents: incidents with their alarms and actions."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel
from sqlmodel import col, select

from cloud_hub.alarms import service as alarms
from cloud_hub.api.alarms import ReasonBody
from cloud_hub.api.dependencies import Operator, Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.database import scopes
from cloud_hub.database.tables import Action, AlarmRow, Incident
from cloud_hub.incidents import service as incidents

router = APIRouter(prefix="/api/v1", tags=["incidents"])


class IncidentView(BaseModel):
    """An incident with its alarms and actions."""

    incident: Incident
    alarms: list[AlarmRow]
    actions: list[Action]


@router.get("/incidents")
def all_incidents(
    hub: TheHub, caller: Reader, device: str = "", page: str = "", limit: int = 100
) -> list[Incident]:  # fmt: skip
    """List incidents, the newest first; `page` selects those that were notified together."""
    query = select(Incident).order_by(col(Incident.id).desc()).limit(min(max(limit, 1), 1000))
    if device:
        query = query.where(Incident.device == device)
    if page:
        query = query.where(Incident.page == page)
    with hub.db.read(scope=caller.scope) as session:
        return list(session.exec(scopes.restrict(session, query, col(Incident.device))))


@router.get("/incidents/{incident_id}")
def incident(incident_id: str, hub: TheHub, caller: Reader) -> IncidentView:
    """Get an incident with its alarms and actions."""
    with hub.db.read(scope=caller.scope) as session:
        return IncidentView(
            incident=incidents.get(session, incident_id),
            alarms=incidents.alarms(session, incident_id),
            actions=incidents.actions(session, incident_id),
        )


@router.post("/incidents/{incident_id}/acknowledge")
def acknowledge(incident_id: str, hub: TheHub, caller: Operator) -> Incident:
    """Acknowledge an incident and its alarms; for the first incident of a page, all open ones of the page."""
    now = now_us()
    with hub.db.write(scope=caller.scope) as session:
        row = incidents.acknowledge(session, incident_id, now, caller.actor)
        also = [other for other in incidents.list_for_page(session, incident_id) if other.id != incident_id]
        for other in also:
            incidents.acknowledge(session, other.id, now, caller.actor)
        numbers = [incident_id, *(other.id for other in also)]
        seen = [alarm for number in numbers for alarm in incidents.alarms(session, number) if alarm.acked_us == now]
    hub.publish([alarms.state_message(alarm, now, actor=caller.actor) for alarm in seen])
    return row


@router.post("/incidents/{incident_id}/resolve")
def resolve(incident_id: str, body: ReasonBody, hub: TheHub, caller: Operator) -> Incident:
    """Resolve an incident that no device will clear: its alarms are cleared and its actions aborted."""
    now = now_us()
    with hub.db.write(scope=caller.scope) as session:
        row = incidents.resolve(session, incident_id, now, actor=caller.actor, reason=body.reason)
        ended = [alarm for alarm in incidents.alarms(session, incident_id) if alarm.cleared_us == now]
    hub.publish([alarms.state_message(alarm, now, actor=caller.actor) for alarm in ended])
    return row
