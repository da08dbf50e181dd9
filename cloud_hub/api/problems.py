"""Every error leaves as RFC 9457 `application/problem+json`: type, title, status, detail that names place and cure."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cloud_hub.errors import HubError

log = logging.getLogger(__name__)


def _problem(status: int, title: str, detail: str, **more: str) -> JSONResponse:
    body = {**more, "type": "about:blank", "title": title, "status": status, "detail": detail}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(body, status, headers, media_type="application/problem+json")


async def _hub_error(_request: Request, error: Any) -> JSONResponse:
    return _problem(error.status, error.title, error.detail, **error.more)


async def _invalid(_request: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return _problem(422, "Invalid request", f"{place}: {first['msg']}"[:1000])


async def _no_text(_request: Request, _error: Any) -> JSONResponse:
    return _problem(422, "Invalid request", "a text holds half of a surrogate pair, which no UTF-8 can carry")


async def _http(_request: Request, error: Any) -> JSONResponse:
    return _problem(error.status_code, str(error.detail), "see /openapi.json for what there is")


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("rest.failed", exc_info=error, extra={"fields": {"path": request.url.path}})
    return _problem(500, "Internal error", "the hub's log has the trace; please report it")


def install(app: FastAPI) -> None:
    """Answer every kind of error in the one form."""
    app.add_exception_handler(HubError, _hub_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(UnicodeEncodeError, _no_text)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
