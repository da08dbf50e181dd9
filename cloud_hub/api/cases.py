"""/api/v1/cases and /api/v1/incidents/report: what became of past incidents, and what a shift saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict
from sqlmodel import Session

from cloud_hub.api.alarms import MAX_US
from cloud_hub.api.dependencies import Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.database import scopes
from cloud_hub.database.tables import Case
from cloud_hub.errors import HubError
from cloud_hub.incidents import cases, evidence, reports
from cloud_hub.incidents.core import shift_report
from cloud_hub.twins.core.reported_values import text
from shared.durations import DAY_US, HOUR_US

router = APIRouter(prefix="/api/v1", tags=["cases"])

SHIFT_US = 8 * HOUR_US
MOST_US = 31 * DAY_US
Time = Annotated[int | None, Query(ge=0, lt=MAX_US)]


class ListedCase(BaseModel):
    """What became of an incident."""

    model_config = ConfigDict(from_attributes=True)
    id: str
    page: str
    device: str
    site: str
    subject: str
    cause: str
    metrics: list[str]
    opened_us: int
    resolved_us: int
    returned_us: int | None
    outcome: str
    resolution: str
    actions: list[dict[str, Any]]


@router.get("/cases")
def list_cases(
    hub: TheHub, caller: Reader, cause: str = "", device: str = "", since_us: Time = None, limit: int = 100
) -> list[ListedCase]:  # fmt: skip
    """List cases, the newest first."""
    with hub.db.read(scope=caller.scope) as session:
        found = cases.newest(session, cause=cause, device=device, since_us=since_us, limit=min(max(limit, 1), 1000))
        return _listed(session, found)


class CaseView(BaseModel):
    """A case with the diagnosis, and the items of evidence that it rested on."""

    case: ListedCase
    diagnosis: dict[str, Any] | None
    items: list[dict[str, Any]]


@router.get("/cases/{case_id}")
def case(case_id: str, hub: TheHub, caller: Reader) -> CaseView:
    """Get a case with its diagnosis and evidence."""
    with hub.db.read(scope=caller.scope) as session:
        row = cases.get(session, case_id)
        items = evidence.from_plain(row.evidence).items if row.evidence else []
        return CaseView(
            case=_listed(session, [row])[0], diagnosis=row.diagnosis,
            items=[msgspec.to_builtins(item) for item in evidence.visible(session, items)],
        )  # fmt: skip


def _listed(session: Session, rows: Sequence[Case]) -> list[ListedCase]:
    """The cases, without actions on devices that the session does not see."""
    seen = scopes.visible(session, {text(action.get("device")) for row in rows for action in row.actions})
    listed = [ListedCase.model_validate(row) for row in rows]
    for one in listed:
        one.actions = [action for action in one.actions if text(action.get("device")) in seen]
    return listed


@router.get("/shift-report")
def report(
    hub: TheHub, caller: Reader, from_us: Time = None, to_us: Time = None,
    format: Literal["json", "text", "svg"] = "json",  # noqa: A002 - the name that callers know
) -> Response:  # fmt: skip
    """Get what happened, what was done and what stands: of the last eight hours, at most 31 days."""
    now = now_us()
    until_us = now if to_us is None else min(to_us, now)
    since_us = max(until_us - SHIFT_US, 0) if from_us is None else from_us
    if not 0 < until_us - since_us <= MOST_US:
        raise HubError(422, "Invalid request", "from_us must be before to_us, by 31 days at most")
    with hub.db.read(scope=caller.scope) as session:
        found = reports.collect(session, since_us, until_us)
    if format == "json":
        return Response(shift_report.encode(found), media_type="application/json")
    if format == "svg":
        return Response(shift_report.plot(found), media_type="image/svg+xml")
    return Response(shift_report.render_text(found), media_type="text/plain; charset=utf-8")
