"""Renders errors as RFC 9457 `application/problem+json`: type, title, status, and a detail with place and fix."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException

from cloud_hub.api import openai_errors
from cloud_hub.errors import HubError
from shared.errors import NotReady

log = logging.getLogger(__name__)


def _problem(status: int, title: str, detail: str, **more: str) -> JSONResponse:
    body = {**more, "type": "about:blank", "title": title, "status": status, "detail": detail}
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(status)
    if wait := more.get("retry_after_s"):
        headers = {"Retry-After": wait}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def problem_response(error: HubError) -> JSONResponse:
    """The response for an error."""
    return _problem(error.status, error.title, error.detail, **error.extensions)


def enrolment_problem(error: HubError) -> JSONResponse:
    """The response below /.well-known/est, where devices authenticate with HTTP Basic."""
    answer = problem_response(error)
    if error.status == 401:
        answer.headers["WWW-Authenticate"] = 'Basic realm="enrolment"'
    return answer


async def _hub_error(request: Request, error: Any) -> JSONResponse:
    if request.url.path.startswith(openai_errors.PREFIXES):
        return openai_errors.openai_problem(error)
    return enrolment_problem(error) if request.url.path.startswith("/.well-known/est/") else problem_response(error)


async def _invalid(request: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    detail = f"{place}: {first['msg']}"[:1000]
    if place == "body" and "json" not in request.headers.get("content-type", ""):
        detail += ". Send JSON with the header `Content-Type: application/json`"  # curl -d sends a form without it
    return _problem(422, "Invalid request", detail)


async def _no_text(_request: Request, _error: Any) -> JSONResponse:
    return _problem(422, "Invalid request", "a text holds half of a surrogate pair, which no UTF-8 can carry")


async def _unstorable(_request: Request, _error: Any) -> JSONResponse:
    return _problem(
        422, "Invalid request", "the database cannot hold it: a text with NUL, or a number beyond its range"
    )


async def _not_ready(_request: Request, error: Any) -> JSONResponse:
    log.error("database.not_ready", extra={"fields": {"reason": error.reason}})
    return _problem(503, "Not ready", "the hub's database does not answer; try again, and see the hub's log")


async def _http(_request: Request, error: Any) -> JSONResponse:
    return _problem(error.status_code, str(error.detail), "see /openapi.json for what there is")


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("rest.failed", exc_info=error, extra={"fields": {"path": request.url.path}})
    return _problem(500, "Internal error", "the hub's log has the trace; please report it")


def install(app: FastAPI) -> None:
    """Register handlers that render every kind of error."""
    app.add_exception_handler(HubError, _hub_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(UnicodeEncodeError, _no_text)
    app.add_exception_handler(DataError, _unstorable)
    app.add_exception_handler(NotReady, _not_ready)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
