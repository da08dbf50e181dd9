"""/ui/alarms: the list of alarms, and one alarm with what an operator does about it."""

from __future__ import annotations

from typing import Annotated, Literal, get_args
from urllib.parse import quote

from fastapi import APIRouter, Query, Response
from fastapi.responses import RedirectResponse
from sqlmodel import Session

from cloud_hub.alarms import service as alarm_service
from cloud_hub.alarms import suppression
from cloud_hub.alarms.core.state import isa_state
from cloud_hub.api import alarms as rest
from cloud_hub.clock import now_us
from cloud_hub.database.tables import AlarmRow
from cloud_hub.ui import fleet, rendering
from cloud_hub.ui.forms import validated
from cloud_hub.ui.page_route import PageRoute
from cloud_hub.ui.session import OperateView, ReadView, Viewer
from shared.protocol.messages import Life

router = APIRouter(prefix="/ui", route_class=PageRoute, include_in_schema=False)
ROWS = 200
"""The maximum number of alarms in the list."""
Show = Literal["standing", "unacknowledged", "returned", "suppressed", "all"]
AlarmId = Annotated[str, Query(alias="id", max_length=200)]
"""A device chooses the ids of its alarms: they may hold anything, so they are no part of a path."""
LIVES: dict[str, tuple[Life, ...]] = {
    "unacknowledged": ("unacknowledged",), "returned": ("returned-unacknowledged",),
    "suppressed": ("shelved", "suppressed", "out-of-service"),
}  # fmt: skip
SHELVE_HOURS = (1, 4, 8, 24, 72, 168)


@router.get("/alarms")
def alarms(viewer: ReadView, show: Show = "standing", device: str = "", priority: str = "") -> Response:
    """The list; its table alone for htmx."""
    priority = priority if priority in fleet.PRIORITIES else ""
    with viewer.hub.db.read(scope=viewer.caller.scope) as session:
        rows = _rows(session, show, device=device[:200], priority=priority)
        counts = fleet.standing_counts(session)
    template = "alarms_table.html" if viewer.wants_fragment else "alarms.html"
    return rendering.page(
        viewer, template, section="alarms", rows=[(row, isa_state(row)) for row in rows], show=show,
        shows=get_args(Show), device=device[:200], priority=priority, priorities=fleet.PRIORITIES, most=ROWS,
        total=sum(count for count, _ in counts.values()), unseen=sum(new for _, new in counts.values()),
        stream="live?topics=alarms",
    )  # fmt: skip


def _rows(session: Session, show: Show, device: str, priority: str) -> list[AlarmRow]:
    if show == "standing":
        return fleet.standing_alarms(session, ROWS, device=device, priority=priority)
    lives: tuple[Life | None, ...] = LIVES.get(show, (None,))
    rows = [
        row for life in lives
        for row in alarm_service.list_alarms(session, life=life, device=device, priority=priority, limit=ROWS)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row.received_us)[:ROWS]


@router.get("/alarm")
def alarm(viewer: ReadView, alarm_id: AlarmId) -> Response:
    """One alarm."""
    with viewer.hub.db.read(scope=viewer.caller.scope) as session:
        row = alarm_service.get(session, alarm_id)
        held = [one for one in suppression.list_suppressions(session, now_us(), active=True, limit=200)
                if row.suppressed and one.device == row.device and one.metric in {"", row.metric}]  # fmt: skip
    template = "alarm_parts.html" if viewer.wants_fragment else "alarm.html"
    return rendering.page(
        viewer, template, section="alarms", alarm=row, life=isa_state(row), held=held, hours=SHELVE_HOURS,
        stream="live?topics=alarms",
    )  # fmt: skip


# -- what an operator does ---------------------------------------------------------------------------


@router.post("/alarm/acknowledge")
def acknowledge(viewer: OperateView, alarm_id: AlarmId) -> Response:
    """Acknowledge the alarm."""
    body = validated(rest.AcknowledgeBody, comment=viewer.form.get("comment", ""))
    rest.acknowledge(alarm_id, body, viewer.hub, viewer.caller)
    return _done(viewer, alarm_id)


@router.post("/alarm/verdict")
def verdict(viewer: OperateView, alarm_id: AlarmId) -> Response:
    """Record whether the alarm was real."""
    form = viewer.form
    body = validated(rest.VerdictBody, verdict=form.get("verdict", ""), comment=form.get("comment", ""))
    rest.verdict(alarm_id, body, viewer.hub, viewer.caller)
    return _done(viewer, alarm_id)


@router.post("/alarm/shelve")
def shelve(viewer: OperateView, alarm_id: AlarmId) -> Response:
    """Shelve the metric of the alarm's device for some hours."""
    hours = viewer.form.get("hours", "")
    seconds = int(hours) * 3600 if hours.isascii() and hours.isdecimal() and len(hours) < 5 else 0
    body = validated(rest.ShelveBody, for_s=seconds, reason=viewer.form.get("reason", ""))
    rest.shelve(alarm_id, body, viewer.hub, viewer.caller)
    return _done(viewer, alarm_id)


@router.post("/alarm/unshelve")
def unshelve(viewer: OperateView, alarm_id: AlarmId) -> Response:
    """End the shelving."""
    rest.unshelve(alarm_id, viewer.hub, viewer.caller)
    return _done(viewer, alarm_id)


def _done(viewer: Viewer, alarm_id: str) -> Response:
    """The changed row of the list for htmx; else the page of the alarm."""
    if not viewer.wants_fragment:
        return RedirectResponse(f"../alarm?id={quote(alarm_id, safe='')}", 303)
    with viewer.hub.db.read(scope=viewer.caller.scope) as session:
        row = alarm_service.get(session, alarm_id)
    # The row stands in a page one folder above the address of this form.
    return rendering.page(viewer, "alarm_row.html", alarm=row, life=isa_state(row), base="")
