"""/api/v1/alarms: alarm states (ISA-18.2), suppression, and the performance report."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from cloud_hub.alarms import service as alarm_service
from cloud_hub.alarms import suppression
from cloud_hub.alarms.core.performance import Report
from cloud_hub.alarms.core.state import SuppressionMethod, Verdict, isa_state
from cloud_hub.api.dependencies import Caller, Hub, Operator, Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.database.tables import AlarmRow, Suppression
from cloud_hub.errors import HubError
from cloud_hub.incidents import service as incidents
from shared.messages import Life, Priority

router = APIRouter(prefix="/api/v1/alarms", tags=["alarms"])

MAX_US = 1 << 62


class AlarmView(BaseModel):
    """An alarm with its ISA-18.2 state; see `AlarmRow`."""

    model_config = ConfigDict(from_attributes=True)
    id: str
    device: str
    metric: str
    about: str
    kind: str
    priority: str
    state: str
    life: Life
    value: float
    limit: float
    raised_us: int
    cleared_us: int | None
    received_us: int
    incident: str
    trace_id: str
    acked_us: int | None
    acked_by: str
    comment: str
    verdict: str
    verdict_us: int | None
    verdict_by: str
    suppressed: str
    cleared_by: str
    cleared_reason: str


class AcknowledgeBody(BaseModel):
    """An acknowledgement."""

    model_config = ConfigDict(extra="forbid")
    comment: str = Field(default="", max_length=1000)


class VerdictBody(AcknowledgeBody):
    """Whether the alarm was real; learning of thresholds uses it."""

    verdict: Verdict


class ShelveBody(BaseModel):
    """Shelve the metric of the alarm's device for some time, with a reason."""

    model_config = ConfigDict(extra="forbid")
    for_s: float = Field(ge=60, le=suppression.SHELVED_S)
    reason: str = Field(min_length=1, max_length=1000)


class ReasonBody(BaseModel):
    """The reason for clearing the alarm."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field(min_length=1, max_length=1000)


class SuppressionBody(BaseModel):
    """Suppress alarms of a device or of all devices below an asset path, for one metric or all metrics."""

    model_config = ConfigDict(extra="forbid")
    method: SuppressionMethod = "suppressed"
    device: str = ""
    path: str = ""
    metric: str = ""
    reason: str = Field(min_length=1, max_length=1000)
    from_us: int = Field(default=0, ge=0, lt=MAX_US)
    until_us: int | None = Field(default=None, ge=0, lt=MAX_US)


def _view(row: AlarmRow) -> AlarmView:
    return AlarmView(**row.model_dump(), life=isa_state(row))


@router.get("")
def alarms(
    hub: TheHub, caller: Reader, device: str = "", metric: str = "", state: Literal["", "raised", "cleared"] = "",
    life: Life | None = None, priority: Priority | None = None, verdict: Literal["", "real", "false-alarm"] = "",
    since_us: int | None = None, limit: int = 200,
) -> list[AlarmView]:  # fmt: skip
    """The newest alarms first; `isa_state` is the ISA-18.2 state, `state` what the device reports."""
    with hub.db.read(scope=caller.scope) as session:
        rows = alarm_service.list_alarms(
            session, device=device, metric=metric, state=state, life=life, priority=priority or "", verdict=verdict,
            since_us=None if since_us is None else min(max(since_us, 0), MAX_US), limit=min(max(limit, 1), 1000),
        )  # fmt: skip
        return [_view(row) for row in rows]


@router.get("/report")
def report(hub: TheHub, caller: Reader, days: float = 7.0, device: str = "") -> Report:
    """The performance of the alarm system over the last `days` (at most 92), after ISA-18.2."""
    if not 0 < days <= 92:
        raise HubError(422, "Invalid request", "query.days: give more than 0 and at most 92")
    with hub.db.read(scope=caller.scope) as session:
        now = now_us()
        return alarm_service.performance(session, now - int(days * 86_400e6), now, device=device)


@router.get("/suppressions")
def suppressions(hub: TheHub, caller: Reader, active: bool = True, limit: int = 200) -> list[Suppression]:
    """List suppressions, the newest first; with `active=false` also those that have ended."""
    with hub.db.read(scope=caller.scope) as session:
        return suppression.list_suppressions(session, now_us(), active=active, limit=min(max(limit, 1), 1000))


@router.post("/suppressions", status_code=201)
def suppress(body: SuppressionBody, hub: TheHub, caller: Operator) -> Suppression:
    """Shelve, suppress by design (a maintenance window) or take out of service."""
    return _suppress(hub, caller, Suppression(id="", actor=caller.actor, created_us=0, **body.model_dump()))


@router.delete("/suppressions/{suppression_id}", status_code=204)
def unsuppress(suppression_id: str, hub: TheHub, caller: Operator) -> None:
    """End a suppression early; alarms that are still raised open incidents."""
    with hub.db.write(scope=caller.scope) as session:
        suppression.end(
            session, suppression.get(session, suppression_id), now_us(), actor=caller.actor, trace=caller.trace
        )
    hub.notify("alarms")


@router.get("/{alarm_id}")
def alarm(alarm_id: str, hub: TheHub, caller: Reader) -> AlarmView:
    """Get an alarm."""
    with hub.db.read(scope=caller.scope) as session:
        return _view(alarm_service.get(session, alarm_id))


@router.post("/{alarm_id}/acknowledge")
def acknowledge(alarm_id: str, body: AcknowledgeBody, hub: TheHub, caller: Operator) -> AlarmView:
    """Acknowledge an alarm. The first acknowledgement counts; a later comment replaces an earlier one."""
    with hub.db.write(scope=caller.scope) as session:
        row = alarm_service.get(session, alarm_id)
        alarm_service.acknowledge(session, row, now_us(), actor=caller.actor, comment=body.comment, trace=caller.trace)
    return _told(hub, row, caller)


@router.post("/{alarm_id}/verdict")
def verdict(alarm_id: str, body: VerdictBody, hub: TheHub, caller: Operator) -> AlarmView:
    """Record whether an alarm was real or false; the last verdict counts. It also acknowledges the alarm."""
    with hub.db.write(scope=caller.scope) as session:
        row = alarm_service.get(session, alarm_id)
        alarm_service.set_verdict(
            session, row, body.verdict, now_us(), actor=caller.actor, comment=body.comment, trace=caller.trace
        )
    return _told(hub, row, caller)


@router.post("/{alarm_id}/resolve")
def resolve(alarm_id: str, body: ReasonBody, hub: TheHub, caller: Operator) -> AlarmView:
    """Clear an alarm whose device is no longer known; 409 while the device exists."""
    with hub.db.write(scope=caller.scope) as session:
        row = incidents.resolve_alarm(session, alarm_id, now_us(), actor=caller.actor, reason=body.reason)
    return _view(row)


@router.post("/{alarm_id}/shelve")
def shelve(alarm_id: str, body: ShelveBody, hub: TheHub, caller: Operator) -> AlarmView:
    """Shelve this alarm, and others of the same device and metric, for a while."""
    with hub.db.read(scope=caller.scope) as session:
        row = alarm_service.get(session, alarm_id)
    wanted = Suppression(
        id="",
        method="shelved",
        device=row.device,
        metric=row.metric,
        reason=body.reason,
        actor=caller.actor,
        created_us=0,
        from_us=0,
        until_us=now_us() + int(body.for_s * 1e6),
    )
    _suppress(hub, caller, wanted)
    with hub.db.read(scope=caller.scope) as session:
        row = alarm_service.get(session, alarm_id)
    return _told(hub, row, caller)


@router.post("/{alarm_id}/unshelve")
def unshelve(alarm_id: str, hub: TheHub, caller: Operator) -> AlarmView:
    """End the shelving of the alarm's device and metric; if it is still raised, it opens an incident."""
    with hub.db.write(scope=caller.scope) as session:
        row = alarm_service.get(session, alarm_id)
        if not suppression.unshelve(session, row, now_us(), actor=caller.actor, trace=caller.trace):
            raise HubError(409, "Not shelved", f"{row.metric} of {row.device} is not shelved")
    hub.notify("alarms")
    return _view(row)


def _suppress(hub: Hub, caller: Caller, wanted: Suppression) -> Suppression:
    with hub.db.write(scope=caller.scope) as session:
        return suppression.create(session, wanted, now_us(), caller.trace)


def _told(hub: Hub, row: AlarmRow, caller: Caller) -> AlarmView:
    """Publish the alarm's state for local displays and third parties, and return the view."""
    hub.publish([alarm_service.state_message(row, now_us(), actor=caller.actor)])
    return _view(row)
