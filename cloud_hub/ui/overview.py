"""/ui/: what is wrong now, and how the fleet and the hub are."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from cloud_hub.alarms import service as alarm_service
from cloud_hub.api.health import failing
from cloud_hub.clock import now_us
from cloud_hub.errors import HubError
from cloud_hub.incidents import groups
from cloud_hub.runtime import items
from cloud_hub.ui import fleet, rendering
from cloud_hub.ui.page_route import PageRoute
from cloud_hub.ui.session import ReadView, Viewer

router = APIRouter(prefix="/ui", route_class=PageRoute, include_in_schema=False)
LOST, ALARMS, GROUPS = 8, 8, 8
"""Lines of each list."""


@router.get("/")
def overview(viewer: ReadView) -> Response:
    """The overview; its parts alone for htmx."""
    template = "overview_parts.html" if viewer.wants_fragment else "overview.html"
    return rendering.page(viewer, template, section="overview", stream="live?topics=overview", **_context(viewer))


def _context(viewer: Viewer) -> dict[str, Any]:
    hub, now = viewer.hub, now_us()
    shift_us = int(hub.settings.ui.shift_s * 1e6)
    with hub.db.read(scope=viewer.caller.scope) as session:
        leads = [row for row in groups.list_leads(session, 50) if row.state != "resolved"][:GROUPS]
        standing = fleet.standing_counts(session)
        everything, new = fleet.open_groups(session)
        seen = fleet.lost(session, LOST)
        found: dict[str, Any] = {
            "health": fleet.health(session), "lost": seen, "alarms": fleet.standing_alarms(session, ALARMS),
            "by_priority": [(name, *standing.get(name, (0, 0))) for name in fleet.PRIORITIES],
            "leads": leads, "summaries": groups.summaries(session, {row.page for row in leads}),
            "open_groups": everything, "new_groups": new, "proposed": fleet.proposed_actions(session),
            "calls": alarm_service.count_pages(session, now - shift_us, now),
        }  # fmt: skip
    for row in seen:
        row.seen_us = max(row.seen_us, hub.heard_us(row.id))
    return found | {"budget": hub.settings.ui.calls_per_shift, "shift_hours": hub.settings.ui.shift_s / 3600,
                    "own": _hub(viewer)}  # fmt: skip


def _hub(viewer: Viewer) -> dict[str, Any] | None:
    """The hub itself, for those who see all of it."""
    if viewer.caller.scope is not None:
        return None
    hub = viewer.hub
    with hub.db.read() as session:
        counts = items.counts(session)
    parked = {worker: number for worker, (number, _) in sorted(counts.items()) if number}
    return {"broker": hub.connected(), "failing": failing(hub.workers()), "parked": parked,
            "workers": len(hub.workers()), "rate": hub.ingest_rate()}  # fmt: skip


@router.get("/{path:path}")
def nowhere(path: str, viewer: ReadView) -> Response:
    """What there is not."""
    raise HubError(404, "No such page", "the address is wrong, or the page is of another version of the hub")
