"""/ui/devices: the list of devices, filtered at the server; its rows travel as columns of JSON."""

from __future__ import annotations

import gzip

import msgspec
from fastapi import APIRouter, Request, Response

from cloud_hub.ui import fleet, rendering
from cloud_hub.ui.page_route import PageRoute
from cloud_hub.ui.session import ReadView

router = APIRouter(prefix="/ui", route_class=PageRoute, include_in_schema=False)
ROWS = 20_000
"""The maximum number of rows in the list; the number of others is shown."""
LONGEST = 1000


@router.get("/devices")
def devices(viewer: ReadView, where: str = "", text: str = "") -> Response:
    """The page; its rows are asked for by the page itself, with the same parameters."""
    return rendering.page(viewer, "devices.html", section="devices", where=where[:LONGEST], text=text[:LONGEST],
                          stream="live?topics=devices")  # fmt: skip


@router.get("/devices.json")
def columns(viewer: ReadView, where: str = "", text: str = "") -> Response:
    """The rows as columns."""
    with viewer.hub.db.read(scope=viewer.caller.scope) as session:
        found = fleet.columns(session, where[:LONGEST].strip(), text[:LONGEST], ROWS)
    heard = viewer.hub.heard_us
    found.seen_us = [max(seen, heard(device)) for device, seen in zip(found.id, found.seen_us, strict=True)]
    return packed(viewer.request, msgspec.json.encode(found))


def packed(request: Request, content: bytes) -> Response:
    """JSON, compressed if the browser takes it and it is long."""
    headers = {"Vary": "Accept-Encoding"}
    if len(content) > 4096 and "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["Content-Encoding"] = gzip.compress(content, 1), "gzip"
    return Response(content, headers=headers, media_type="application/json")
