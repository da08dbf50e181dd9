"""The session and the caller behind a request of a page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from cloud_hub.access import tokens
from cloud_hub.access.sessions import BrowserSession
from cloud_hub.api.dependencies import Caller, Hub, authorize
from cloud_hub.clock import now_us
from cloud_hub.security.core import roles

COOKIE, LOGIN_COOKIE = "tidegate_session", "tidegate_login"


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Who looks at a page: the request, the hub, the caller as REST knows it, and the session."""

    request: Request
    hub: Hub
    caller: Caller
    session: BrowserSession

    @property
    def form(self) -> Mapping[str, str]:
        """The checked fields of the form that was sent."""
        fields: Mapping[str, str] = self.request.state.form
        return fields

    @property
    def wants_fragment(self) -> bool:
        """Whether htmx asks, which replaces a part of the page."""
        return self.request.headers.get("hx-request") == "true"

    def may(self, power: str) -> bool:
        """Whether one of the caller's roles has the power."""
        return any(power in roles.MAY.get(role, frozenset()) for role in self.caller.roles.split())


def session_of(request: Request, *, use: bool = True) -> BrowserSession:
    """The session of the cookie; HubError 401. Requests that a page makes by itself do not keep it alive."""
    hub: Hub = request.app.state.hub
    by_itself = request.headers.get("x-live") == "1"
    session_id = request.cookies.get(COOKIE, "")
    return hub.sessions.get(session_id, now_us(), hub.settings.ui.idle_s, use=use and not by_itself)


def _viewer(power: str) -> Callable[[Request], Awaitable[Viewer]]:
    async def check(request: Request) -> Viewer:
        return await run_in_threadpool(viewer_of, request, power)

    return check


def viewer_of(request: Request, power: str, *, use: bool = True) -> Viewer:
    """The viewer of a request; HubError 401 without a session or a living token, 403 without the power."""
    hub: Hub = request.app.state.hub
    session = session_of(request, use=use)
    identity = tokens.authenticate_digest(hub.db, session.token_digest, now_us())
    caller = authorize(hub, request, identity, power)
    return Viewer(request=request, hub=hub, caller=caller, session=session)


ReadView = Annotated[Viewer, Depends(_viewer("read"))]
OperateView = Annotated[Viewer, Depends(_viewer("operate"))]
