"""/ui/incidents: groups of incidents, and one incident with its evidence, diagnosis and actions."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from cloud_hub.api import actions as rest_actions
from cloud_hub.api import incidents as rest
from cloud_hub.api.alarms import ReasonBody
from cloud_hub.incidents import desk
from cloud_hub.ui import rendering
from cloud_hub.ui.forms import validated
from cloud_hub.ui.page_route import PageRoute
from cloud_hub.ui.session import OperateView, ReadView

router = APIRouter(prefix="/ui/incidents", route_class=PageRoute, include_in_schema=False)
ROWS = 200
Show = Literal["open", "all"]
NO_DIAGNOSIS: dict[str, Any] = {
    "cause": "",
    "confidence": 0.0,
    "explanation": "",
    "engine": "",
    "claims": [],
    "also": [],
    "note": "",
}
"""What a page reads of a diagnosis; one of an older version may lack some of it."""


@router.get("")
def incidents(viewer: ReadView, show: Show = "open", device: str = "") -> Response:
    """The newest groups by the incident that leads each; all incidents of a device."""
    language = rendering.language(viewer.request)
    found = rest.all_incidents(
        viewer.hub, viewer.caller, device=device[:200], limit=1000 if show == "open" else ROWS,
        accept_language=language,
    )  # fmt: skip
    rows = [row for row in found if show == "all" or (row.group.state if row.group else row.state) != "resolved"]
    template = "incidents_table.html" if viewer.wants_fragment else "incidents.html"
    return rendering.page(
        viewer, template, section="incidents", rows=rows[:ROWS], show=show, shows=("open", "all"), device=device[:200],
        most=ROWS, stream="live?topics=incidents",
    )  # fmt: skip


@router.get("/{incident_id}")
def incident(incident_id: str, viewer: ReadView) -> Response:
    """One incident."""
    language = rendering.language(viewer.request)
    found = rest.incident(incident_id, viewer.hub, viewer.caller, accept_language=language)
    evidence = rest.incident_evidence(incident_id, viewer.hub, viewer.caller)
    items = sorted(evidence.items, key=lambda item: item["t_us"])
    diagnosis = NO_DIAGNOSIS | (found.incident.diagnosis or {})
    if diagnosis.get("author") == "rules":
        diagnosis["engine"] = desk.catalogue(language).text("engine.rules")
    template = "incident_parts.html" if viewer.wants_fragment else "incident.html"
    return rendering.page(
        viewer, template, section="incidents", view=found, incident=found.incident,
        diagnosis=diagnosis, evidence=evidence, items=items,
        proposed=[one for one in found.actions if one.state == "proposed"],
        others=[one for one in found.actions if one.state != "proposed"],
        stream="live?topics=incidents",
    )  # fmt: skip


@router.post("/{incident_id}/acknowledge")
def acknowledge(incident_id: str, viewer: OperateView) -> Response:
    """Acknowledge the incident; the leading one of a group, all of it."""
    rest.acknowledge(incident_id, viewer.hub, viewer.caller)
    return _done(incident_id)


@router.post("/{incident_id}/resolve")
def resolve(incident_id: str, viewer: OperateView) -> Response:
    """Resolve the incident by hand."""
    rest.resolve(incident_id, validated(ReasonBody, reason=viewer.form.get("reason", "")), viewer.hub, viewer.caller)
    return _done(incident_id)


@router.post("/{incident_id}/actions/{action_id}")
def decide(incident_id: str, action_id: str, viewer: OperateView) -> Response:
    """Approve or refuse a proposed action."""
    decision = viewer.form.get("decision", "")
    body = validated(rest_actions.DecisionBody, approve={"approve": True, "refuse": False}.get(decision),
                     reason=viewer.form.get("reason", ""))  # fmt: skip
    rest_actions.decide(action_id, body, viewer.hub, viewer.caller)
    return RedirectResponse(f"../../{incident_id}", 303)


def _done(incident_id: str) -> Response:
    return RedirectResponse(f"../{incident_id}", 303)
