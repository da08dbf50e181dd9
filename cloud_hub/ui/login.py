"""/ui/login: a token is exchanged for a session cookie. /ui/preferences: language and colours."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from cloud_hub.access import tokens
from cloud_hub.api.dependencies import Hub, TheHub, record_wrong_token, require_unlocked
from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.errors import HubError, WrongToken
from cloud_hub.incidents.core.messages import LANGUAGES
from cloud_hub.security.core import roles
from cloud_hub.ui import rendering
from cloud_hub.ui.page_route import PageRoute
from cloud_hub.ui.session import COOKIE, LOGIN_COOKIE, ReadView, session_of

router = APIRouter(prefix="/ui", route_class=PageRoute, include_in_schema=False)
YEAR_S = 365 * 86_400
_LONGEST_TOKEN = 200


@router.get("/login")
def form(request: Request, hub: TheHub, ended: int = 0) -> Response:
    """The form; who is signed in is led to the overview."""
    try:
        session_of(request)
    except HubError:
        return _form(request, hub, "ended" if ended else "")
    return RedirectResponse("./", 303)


def _form(request: Request, hub: Hub, problem: str, status: int = 200) -> Response:
    csrf = request.cookies.get(LOGIN_COOKIE) or secrets.token_urlsafe(32)
    page = rendering.public(
        request, "login.html", status, csrf=csrf, problem=problem, hub_name=hub.settings.name,
        idle_minutes=round(hub.settings.ui.idle_s / 60),
    )  # fmt: skip
    _set(request, page, LOGIN_COOKIE, csrf)
    return page


@router.post("/login")
def sign_in(request: Request, hub: TheHub) -> Response:
    """Begin a session. A wrong token counts as at REST, and locks the address out after some."""
    now = now_us()
    try:
        require_unlocked(hub, request)
        text = request.state.form.get("token", "").strip()[:_LONGEST_TOKEN]
        identity = tokens.authenticate(hub.db, text, now)
        roles.require(identity.roles, "read")
    except WrongToken:
        record_wrong_token(hub, request)
        return _form(request, hub, "wrong", 401)
    except HubError as error:
        return _form(request, hub, {429: "locked", 403: "role"}.get(error.status, "dead"), error.status)
    with hub.db.write() as session:
        trail.add(session, now, identity.actor, "session.started", identity.actor)
    # Without a path a cookie is sent below the folder of this page, whatever a proxy has put before it.
    answer = RedirectResponse("./", 303)
    _set(request, answer, COOKIE, hub.sessions.begin(tokens.digest(text), now))
    answer.delete_cookie(LOGIN_COOKIE, path=None)  # type: ignore[arg-type]
    return answer


@router.post("/logout")
def sign_out(viewer: ReadView) -> Response:
    """End the session."""
    viewer.hub.sessions.end(viewer.request.cookies.get(COOKIE, ""))
    with viewer.hub.db.write() as session:
        trail.add(session, now_us(), viewer.caller.actor, "session.ended", viewer.caller.actor)
    answer = RedirectResponse("login", 303)
    answer.delete_cookie(COOKIE, path=None)  # type: ignore[arg-type]
    answer.headers["Clear-Site-Data"] = '"cache"'
    return answer


@router.post("/preferences")
def prefer(request: Request) -> Response:
    """Keep the language and the colours in cookies. Needs no session: the login page has them, too."""
    chosen = request.state.form
    answer = RedirectResponse(_back(chosen.get("back", "")), 303)
    for name, value, known in (
        (rendering.LANGUAGE_COOKIE, chosen.get("language"), LANGUAGES),
        (rendering.THEME_COOKIE, chosen.get("theme"), rendering.THEMES),
    ):
        if value in known:
            _set(request, answer, name, value, max_age=YEAR_S)
    return answer


def _back(page: str) -> str:
    """A page below /ui/, relative to it; anything else is the overview."""
    plain = page and len(page) < 300 and all(part.isprintable() for part in page)
    return page if plain and "\\" not in page and ":" not in page and not page.startswith(("/", ".")) else "./"


def _set(request: Request, answer: Response, name: str, value: str, max_age: int | None = None) -> None:
    answer.set_cookie(
        name, value, max_age=max_age, path=None, httponly=True, samesite="strict",
        secure=request.url.scheme == "https",
    )  # fmt: skip
