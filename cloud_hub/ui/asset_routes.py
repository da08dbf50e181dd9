"""/ui/assets: the files that pages load. They need no session."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from cloud_hub.errors import HubError
from cloud_hub.ui.assets import load
from cloud_hub.ui.page_route import PageRoute

router = APIRouter(prefix="/ui/assets", route_class=PageRoute, include_in_schema=False)
SMALL = 1024
"""Bytes of a file that is not worth compressing."""


@router.get("/{name:path}")
async def asset(name: str, request: Request) -> Response:
    """A file of the pages."""
    found = load().get(name)
    if found is None:
        raise HubError(404, "No such file", "the pages load only files of their own")
    headers = {"Cache-Control": "public, max-age=31536000, immutable" if "v" in request.query_params else "no-cache"}
    headers |= {"Vary": "Accept-Encoding"}
    if len(found.content) > SMALL and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.packed, headers=headers | {"Content-Encoding": "gzip"}, media_type=found.media_type)
    return Response(found.content, headers=headers, media_type=found.media_type)
