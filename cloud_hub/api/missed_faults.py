"""/api/v1/missed-faults: faults that people report because no alarm was raised."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import col, select

from cloud_hub.api.dependencies import Operator, Reader, TheHub
from cloud_hub.audit import trail
from cloud_hub.clock import new_id, now_us
from cloud_hub.database import scopes
from cloud_hub.database.tables import MissedFault
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError

router = APIRouter(prefix="/api/v1", tags=["missed_faults"])

Instant = Annotated[int, Field(ge=0, lt=1 << 62)]


class MissedFaultBody(BaseModel):
    """A fault from start_us to end_us that should have raised an alarm."""

    model_config = ConfigDict(extra="forbid")
    device: str
    metric: str = Field(min_length=1, max_length=100)
    start_us: Instant
    end_us: Instant
    note: str = Field(default="", max_length=1000)


@router.post("/missed-faults", status_code=201)
def report(body: MissedFaultBody, hub: TheHub, caller: Operator) -> MissedFault:
    """Report a fault on which no alarm was raised."""
    if body.end_us < body.start_us:
        raise HubError(422, "Invalid request", "body.end_us: lies before start_us")
    row = MissedFault(id=new_id(), actor=caller.actor, t_us=now_us(), **body.model_dump())
    with hub.db.write(scope=caller.scope) as session:
        device_registry.require_device(session, body.device)
        session.add(row)
        trail.add(session, row.t_us, caller.actor, "missed_fault.reported", body.metric, device=body.device,
                  trace=caller.trace, start_us=body.start_us, end_us=body.end_us)  # fmt: skip
    return row


@router.get("/missed-faults")
def list_newest(hub: TheHub, caller: Reader, device: str = "", metric: str = "", limit: int = 100) -> list[MissedFault]:
    """Missed faults, the newest first."""
    query = (
        select(MissedFault).order_by(col(MissedFault.start_us).desc(), MissedFault.id).limit(min(max(limit, 1), 1000))
    )
    query = query.where(MissedFault.device == device) if device else query
    query = query.where(MissedFault.metric == metric) if metric else query
    with hub.db.read(scope=caller.scope) as session:
        return list(session.exec(scopes.restrict(session, query, col(MissedFault.device))))
