"""ASGI middleware that checks a request before its body is processed: token, size and transfer rate.

FastAPI reads and parses a body before it checks the token. The order here is: token, declared length, then the body,
counted and timed while it arrives, then the number of its values. Only then is the application called.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud_hub.errors import HubError
from shared.errors import NotReady

GRACE_S = 10.0
MIN_RATE = 16 << 10
"""A body must arrive within GRACE_S plus one second for each MIN_RATE bytes (like Apache's mod_reqtimeout)."""
BODIES_BYTES = 64 << 20
"""The maximum size of all request bodies in memory."""
LINGER_BYTES, LINGER_S = 1 << 20, 2.0
"""How much of a refused body is read and discarded, so that the client can read the response."""
_STRUCTURE = (b",", b"[", b"{")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The largest body of a request in bytes and, where it is JSON, in values."""

    size: int = 2 << 20
    values: int | None = 50_000


DEFAULT = Limit()

_declared: list[tuple[str, re.Pattern[str], Limit]] = []


def declare(method: str, path: str, limit: Limit) -> None:
    """Declare the limit of a route; call it next to the route."""
    _declared.append((method, compile_path(path)[0], limit))


def limit_of(method: str, path: str) -> Limit:
    """The limit of the route that serves this request."""
    limits = (limit for verb, pattern, limit in _declared if verb == method and pattern.match(path))
    return next(limits, DEFAULT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Routes below a prefix: authentication (raises HubError), the response of a refusal, and the body limit."""

    prefix: str
    authenticate: Callable[[Scope], Awaitable[None]]
    refusal: Callable[[HubError], Response]
    limit: Limit | None = None


def too_large(size: int) -> HubError:
    """The error 413 for a body of more than `size` bytes."""
    return HubError(413, "Too large", f"the body of this request has at most {size} bytes: send less at a time")


class RequestGuard:
    """The middleware. The first family with a matching prefix handles a request; the last one matches all."""

    def __init__(self, app: ASGIApp, families: Sequence[Family]) -> None:
        self._app, self._families = app, families
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        family = next(
            family_of_path for family_of_path in self._families if scope["path"].startswith(family_of_path.prefix)
        )
        body = _Body(receive, family.limit or limit_of(scope["method"], scope["path"]), self)
        try:
            try:
                await family.authenticate(scope)
                await body.read(_length(scope))
            except NotReady as error:
                raise HubError(503, "Not ready", f"{error.reason}; try again") from error
        except HubError as error:
            await _refuse(family.refusal(error), scope, body, send)
        else:
            await self._app(scope, body.replay, send)
        finally:
            self._held -= body.queued

    def hold(self, count: int) -> None:
        """Count bytes in memory; raises HubError 503 over the limit."""
        if self._held + count > BODIES_BYTES:
            raise HubError(503, "Busy", "too many bodies are being received; try again")
        self._held += count


def _header(scope: Scope, name: bytes) -> bytes | None:
    value_of_header: bytes | None = next((value for key, value in scope["headers"] if key == name), None)
    return value_of_header


def _has_body(scope: Scope) -> bool:
    length = _header(scope, b"content-length")
    return _header(scope, b"transfer-encoding") is not None or (length is not None and length != b"0")


def _length(scope: Scope) -> int:
    """The declared length, or 0 if there is none. The server has checked that it is a number."""
    declared = _header(scope, b"content-length") or b""
    return int(declared) if declared.isdigit() else 0


class _Body:
    """The body of one request."""

    def __init__(self, receive: Receive, limit: Limit, guard: RequestGuard) -> None:
        self._receive, self._limit, self._guard = receive, limit, guard
        self._content = bytearray()
        self._replayed = False
        self.queued = 0
        self.complete = False

    async def read(self, declared: int) -> None:
        """Read all of it; raises HubError 413, 408 or 503."""
        if declared > self._limit.size:
            raise too_large(self._limit.size)
        start = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(GRACE_S) as timer:
                while not self.complete:
                    self._add(await self._receive())
                    timer.reschedule(start + GRACE_S + len(self._content) / MIN_RATE)
        except TimeoutError:
            cure = f"send it within {GRACE_S:g} s and at no less than {MIN_RATE} bytes a second"
            raise HubError(408, "Too slow", f"the body did not arrive in time: {cure}") from None
        self._check_values()

    def _add(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            raise HubError(400, "Invalid request", "the connection ended before the body did")
        part = message.get("body", b"")
        if len(self._content) + len(part) > self._limit.size:
            raise too_large(self._limit.size)
        self._guard.hold(len(part))
        self.queued += len(part)
        self._content += part
        self.complete = not message.get("more_body", False)

    def _check_values(self) -> None:
        most = self._limit.values
        if most is not None and sum(map(self._content.count, _STRUCTURE)) > most:
            raise HubError(
                413, "Too large", f"the body of this request holds at most {most} values: send less at a time"
            )

    async def replay(self) -> Message:
        """The `receive` that the application is given."""
        if self._replayed:
            return await self._receive()
        self._replayed = True
        content, self._content = bytes(self._content), bytearray()
        return {"type": "http.request", "body": content, "more_body": False}

    async def discard(self) -> None:
        """Discard what still arrives, for a while."""
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_S):
                while left > 0 and not self.complete:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    self.complete = not message.get("more_body", False)
        except TimeoutError:
            return


async def _refuse(response: Response, scope: Scope, body: _Body, send: Send) -> None:
    """Send a refusal, and close the connection if the body was not read completely."""
    if body.complete:
        await response(scope, body.replay, send)
        return
    headers = [*response.raw_headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
    await body.discard()
    await send({"type": "http.response.body", "body": b"", "more_body": False})
