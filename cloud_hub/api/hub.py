"""What every route stands on: the database, the settings, the way to publish, and who asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from cloud_hub import tokens
from cloud_hub.api.bells import Bells
from cloud_hub.clock import new_trace
from cloud_hub.db import Database
from cloud_hub.errors import HubError
from cloud_hub.settings import Settings
from cloud_hub.tables import Token
from cloud_hub.twins import Outgoing
from shared.ids import TRACEPARENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """The parts that routes need; `connected` tells whether the broker is there, `heard_us` when a device last spoke.

    `changed` is told devices whose tags or twins changed, so that configurations follow at once.
    """

    settings: Settings
    db: Database
    publish: Callable[[Iterable[Outgoing]], None]
    ring: Callable[[str], None]
    connected: Callable[[], bool]
    changed: Callable[[Iterable[str]], None] = lambda devices: None
    bells: Bells = field(default_factory=Bells)
    heard_us: Callable[[str], int] = lambda device: 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: a token's name; `trace` continues the caller's traceparent, or begins one."""

    who: str
    trace: str


async def hub_of(request: Request) -> Hub:
    """The running hub. A coroutine, so that FastAPI needs no thread for it."""
    hub: Hub = request.app.state.hub
    return hub


def _caller(power: str) -> Callable[[Request], Awaitable[Caller]]:
    async def check(request: Request) -> Caller:
        hub: Hub = request.app.state.hub
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text:
            raise HubError(401, "Not signed in", "send a token as 'Authorization: Bearer tg_...'")
        # A file is read faster than a thread is found; a server over the network must not hold up the event loop.
        token = _token(hub, text) if hub.db.is_file else await run_in_threadpool(_token, hub, text)
        tokens.require(token, power)
        sent = request.headers.get("traceparent", "")
        return Caller(who=token.name, trace=sent if TRACEPARENT.match(sent) else new_trace())

    return check


def _token(hub: Hub, text: str) -> Token:
    with hub.db.read() as session:
        return tokens.find(session, text.strip())


TheHub = Annotated[Hub, Depends(hub_of)]
Reader = Annotated[Caller, Depends(_caller("read"))]
Operator = Annotated[Caller, Depends(_caller("operate"))]
Auditor = Annotated[Caller, Depends(_caller("audit"))]
Administrator = Annotated[Caller, Depends(_caller("administer"))]
