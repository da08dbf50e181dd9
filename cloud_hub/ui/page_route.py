"""The route class of all pages: checks forms before they are read, answers errors as pages, and sets the headers.

It is the class of every router in this package, so that no page can leave the checks out.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute

from cloud_hub.errors import HubError
from cloud_hub.ui import rendering
from cloud_hub.ui.session import LOGIN_COOKIE, session_of
from shared.errors import NotReady

log = logging.getLogger(__name__)

MAX_FIELDS = 40
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
_PUBLIC = ("/ui/login", "/ui/preferences")
"""Forms that are sent without a session; their CSRF token is in a cookie of its own."""

Handler = Callable[[Request], Awaitable[Response]]


class PageRoute(APIRoute):
    """A route that answers with a page."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Wrap the handler of FastAPI."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                response = await _handle(handle, request)
            except RequestValidationError as error:
                first = error.errors()[0]
                place = ".".join(map(str, first["loc"]))
                response = error_page(request, HubError(422, "Invalid request", f"{place}: {first['msg']}"[:500]))
            except NotReady:
                response = error_page(request, HubError(503, "Not ready", "the hub's database does not answer"))
            except HubError as error:
                response = error_page(request, error)
            return with_headers(response)

        return guarded


async def _handle(handle: Handler, request: Request) -> Response:
    if request.method not in {"GET", "HEAD"}:
        request.state.form = await _checked_form(request)
    return await handle(request)


def with_headers(response: Response) -> Response:
    """Add the security headers that the response does not set itself."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


# -- forms -------------------------------------------------------------------------------------------


async def _checked_form(request: Request) -> Mapping[str, str]:
    """The fields of a form that a page of this hub sent; HubError 403 or 422 for others."""
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise HubError(403, "Not allowed", "the form was sent by a page of another site")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HubError(422, "Invalid request", "send a form (application/x-www-form-urlencoded)")
    try:
        pairs = parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise HubError(422, "Invalid request", "the form is no UTF-8, or has too many fields") from error
    form = dict(pairs)
    wanted = _csrf(request)
    if not wanted or not hmac.compare_digest(form.pop("csrf", "").encode(), wanted.encode()):
        raise HubError(403, "Form expired", "load the page again and repeat what you did")
    return form


def _csrf(request: Request) -> str:
    try:
        return session_of(request).csrf
    except HubError:
        if request.url.path not in _PUBLIC:
            raise
        return request.cookies.get(LOGIN_COOKIE, "")


# -- errors ------------------------------------------------------------------------------------------


def error_page(request: Request, error: HubError) -> Response:
    """The page of an error; without a session the way to the login."""
    is_page = "text/html" in request.headers.get("accept", "")
    if error.status == 401 and not request.url.path.startswith("/ui/login"):
        return _to_login(request, error, is_page)
    headers = {"Retry-After": wait} if (wait := error.extensions.get("retry_after_s")) else {}
    if request.headers.get("hx-request") == "true":
        headers |= {"HX-Retarget": "#problems", "HX-Reswap": "innerHTML"}
    html = rendering.error(request, error)
    return Response(html, error.status, headers, media_type="text/html")


def _to_login(request: Request, error: HubError, is_page: bool) -> Response:
    target = f"{rendering.base(request)}login"
    if request.headers.get("hx-request") == "true":
        return Response(status_code=204, headers={"HX-Redirect": target})
    if request.method == "GET" and is_page:
        return RedirectResponse(f"{target}?ended=1" if error.title == "Session ended" else target, 303)
    return Response(rendering.error(request, error), 401, media_type="text/html")
