"""/api/v1/incidents: incidents with their alarms and actions."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import col, select

from cloud_hub.alarms import service as alarms
from cloud_hub.api.alarms import ReasonBody
from cloud_hub.api.dependencies import Operator, Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.database import scopes
from cloud_hub.database.tables import Action, AlarmRow, Incident, IncidentEvidence
from cloud_hub.incidents import evidence, groups
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents.core.messages import preferred_language
from cloud_hub.incidents.diagnosis import localized

router = APIRouter(prefix="/api/v1", tags=["incidents"])

AcceptLanguage = Annotated[str, Header(max_length=500)]
ALARMS = 1000
"""The maximum number of alarms of an incident in an answer."""


class GroupCounts(BaseModel):
    """A group in numbers; `state` is open or acknowledged while a member is, else resolved."""

    members: int
    unresolved: int
    devices: int
    state: str


class ListedIncident(BaseModel):
    """An incident. For the one that leads a group, `group` is about all members."""

    model_config = ConfigDict(from_attributes=True)
    id: str
    device: str
    subject: str
    state: str
    opened_us: int
    resolved_us: int | None
    diagnosis: dict[str, Any] | None
    diagnosed_us: int | None
    traceparent: str
    page: str
    service: str
    resolved_by: str
    resolution: str
    leads: bool
    joined_because: str
    placed_by: str
    silent: bool
    group: GroupCounts | None = None


class Member(BaseModel):
    """A member of a group, and why it is one."""

    model_config = ConfigDict(from_attributes=True)
    id: str
    device: str
    subject: str
    state: str
    opened_us: int
    leads: bool
    joined_because: str
    placed_by: str


class IncidentView(BaseModel):
    """An incident with its alarms and actions, the group that it belongs to, and the group's first members."""

    incident: Incident
    alarms: list[AlarmRow]
    actions: list[Action]
    group: GroupCounts
    members: list[Member]


class RegroupBody(BaseModel):
    """Incidents to merge into a group, or to take out of it."""

    model_config = ConfigDict(extra="forbid")
    incidents: list[str] = Field(default=[], max_length=groups.MAX_NAMED)
    reason: str = Field(max_length=500)


@router.get("/incidents")
def all_incidents(
    hub: TheHub, caller: Reader, device: str = "", page: str = "", limit: int = 100, members: bool = False,
    accept_language: AcceptLanguage = "",
) -> list[ListedIncident]:  # fmt: skip
    """List groups of incidents by the incident that leads each, the newest first.

    With `members`, and for a `device` or a `page`, list all incidents. `page` selects those of a group.
    """
    most, language = min(max(limit, 1), 1000), preferred_language(accept_language)
    with hub.db.read(scope=caller.scope) as session:
        if not (device or page or members):
            rows = groups.list_leads(session, most)
            counts = groups.summaries(session, {row.page for row in rows})
            return [_listed(row, counts.get(row.page), language) for row in rows]
        query = select(Incident).order_by(col(Incident.id).desc()).limit(most)
        if device:
            query = query.where(Incident.device == device)
        if page:
            query = query.where(Incident.page == page)
        return [
            _listed(row, None, language) for row in session.exec(scopes.restrict(session, query, col(Incident.device)))
        ]


def _listed(row: Incident, counts: groups.GroupSummary | None = None, language: str = "") -> ListedIncident:
    update = {"group": counts and _counts(counts), "diagnosis": _written(row, language)}
    return ListedIncident.model_validate(row).model_copy(update=update)


def _written(row: Incident, language: str) -> dict[str, Any] | None:
    """The diagnosis of an incident in the caller's language, where the rules wrote it."""
    return localized(row.diagnosis, language) if row.diagnosis and language else row.diagnosis


def _counts(counts: groups.GroupSummary) -> GroupCounts:
    return GroupCounts(
        members=counts.members, unresolved=counts.unresolved, devices=counts.devices, state=counts.state
    )  # fmt: skip


@router.get("/incidents/{incident_id}")
def incident(
    incident_id: str, hub: TheHub, caller: Reader, accept_language: AcceptLanguage = ""
) -> IncidentView:  # fmt: skip
    """Get an incident with its alarms (the newest 1000) and actions, and the first 100 members of its group.

    Accept-Language (en, zh) chooses the language of a diagnosis that rules wrote.
    """
    language = preferred_language(accept_language)
    with hub.db.read(scope=caller.scope) as session:
        row = incidents.get(session, incident_id)
        return IncidentView(
            incident=Incident.model_validate(row, update={"diagnosis": _written(row, language)}),
            alarms=incidents.newest_alarms(session, incident_id, ALARMS),
            actions=incidents.visible_actions(session, incident_id),
            group=_counts(groups.summaries(session, [row.page])[row.page]),
            members=[Member.model_validate(one) for one in groups.members(session, row.page)],
        )


@router.get("/incidents/{incident_id}/members")
def members(incident_id: str, hub: TheHub, caller: Reader, after: str = "", limit: int = 100) -> list[Member]:
    """List the members of an incident's group, the oldest first, after one of them."""
    with hub.db.read(scope=caller.scope) as session:
        row = incidents.get(session, incident_id)
        found = groups.members(session, row.page, after, min(max(limit, 1), 1000))
        return [Member.model_validate(one) for one in found]


class EvidenceView(BaseModel):
    """Evidence of an incident: numbered items that a diagnosis cites. `gathered_us` is None for what is known now."""

    incident: str
    device: str
    profile: str
    gathered_us: int | None
    items: list[dict[str, Any]]


@router.get("/incidents/{incident_id}/evidence")
def incident_evidence(incident_id: str, hub: TheHub, caller: Reader, fresh: bool = False) -> EvidenceView:
    """Get the evidence that the incident was diagnosed by; with `fresh`, or before a diagnosis, what is known now."""
    with hub.db.read(scope=caller.scope) as session:
        row = incidents.get(session, incident_id)
        kept = None if fresh else session.get(IncidentEvidence, incident_id)
        found = evidence.gather(session, row) if kept is None else evidence.from_plain(kept.evidence)
        return EvidenceView(
            incident=row.id, device=row.device, profile=found.profile, gathered_us=kept.t_us if kept else None,
            items=[msgspec.to_builtins(item) for item in evidence.visible(session, found.items)],
        )  # fmt: skip


@router.post("/incidents/{incident_id}/merge")
def merge(incident_id: str, body: RegroupBody, hub: TheHub, caller: Operator) -> Incident:
    """Merge the groups of other incidents into this one's; returns the incident that leads it."""
    with hub.db.write(scope=caller.scope) as session:
        return groups.merge(
            session, incident_id, body.incidents, now_us(), actor=caller.actor, reason=body.reason
        )  # fmt: skip


@router.post("/incidents/{incident_id}/split")
def split(incident_id: str, body: RegroupBody, hub: TheHub, caller: Operator) -> Incident:
    """Take incidents (this one, if none is named) out of the group; returns the one that leads the new group."""
    with hub.db.write(scope=caller.scope) as session:
        return groups.split(
            session, incident_id, body.incidents, now_us(), actor=caller.actor, reason=body.reason
        )  # fmt: skip


@router.post("/incidents/{incident_id}/acknowledge")
def acknowledge(incident_id: str, hub: TheHub, caller: Operator) -> Incident:
    """Acknowledge an incident and its alarms; for the leading one of a group, or its first, all open ones."""
    now = now_us()
    with hub.db.write(scope=caller.scope) as session:
        row = incidents.get(session, incident_id)
        group = row.page if row.leads or row.id == row.page else ""
        others = [other for other in incidents.list_for_page(session, group) if other.id != row.id] if group else []
        seen = incidents.acknowledge_all(session, [row, *others], now, caller.actor)
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
