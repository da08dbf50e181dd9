"""The whole web application: REST and the operator pages."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse
from starlette.responses import Response
from starlette.types import Scope

from cloud_hub.api.dependencies import Hub, require_unlocked
from cloud_hub.api.problems import problem_response
from cloud_hub.api.request_guard import Family, Limit
from cloud_hub.api.routes import create_rest_app
from cloud_hub.errors import HubError
from cloud_hub.ui import alarms, asset_routes, device, devices, incidents, live, login, overview
from cloud_hub.ui.page_route import with_headers
from cloud_hub.ui.session import viewer_of

FORM = Limit(size=16 << 10, values=None)
ROUTERS = (
    asset_routes.router, login.router, live.router, devices.router, device.router, alarms.router, incidents.router,
    overview.router,
)  # fmt: skip
"""In the order in which they are matched; the overview has the page for what there is not."""
_PUBLIC = ("/ui/login", "/ui/preferences")


async def _before_the_body(scope: Scope) -> None:
    """Who sends a form is signed in before its body is read; at the login, not locked out."""
    request = Request(scope)
    hub: Hub = request.app.state.hub
    if request.url.path in _PUBLIC:
        require_unlocked(hub, request)
    else:
        await run_in_threadpool(viewer_of, request, "read")


def _refusal(error: HubError) -> Response:
    return with_headers(problem_response(error))


FAMILIES = (Family(prefix="/ui/", authenticate=_before_the_body, refusal=_refusal, limit=FORM),)


def create_web_app(lifespan: Any = None) -> FastAPI:
    """REST and the pages; `/` leads to the pages."""
    app = create_rest_app(lifespan, FAMILIES)
    for router in ROUTERS:
        app.include_router(router)
    for path, target in (("/", "ui/"), ("/ui", "ui/")):
        app.add_api_route(path, _redirection(target), methods=["GET"], include_in_schema=False)
    return app


def _redirection(target: str) -> Any:
    async def lead() -> RedirectResponse:
        return RedirectResponse(target, 303)

    return lead
