"""/ui/live: one stream of server-sent events for each open page, at most one event of a kind a second.

An event names topics that changed; the page then asks for its parts again, so what it shows is subject to the same
checks as the page itself. The audit trail tells what changed: nothing changes without a row there. Samples of one
series travel in the stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlmodel import Session

from cloud_hub.api.http_server import ENDS_AT_SHUTDOWN
from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.database import scopes
from cloud_hub.database.tables import AuditRow
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.telemetry import samples
from cloud_hub.ui import fleet
from cloud_hub.ui.page_route import PageRoute
from cloud_hub.ui.session import Viewer, viewer_of
from shared.durations import MINUTE_US
from shared.errors import NotReady

router = APIRouter(prefix="/ui", route_class=PageRoute, include_in_schema=False)
PERIOD_S = 1.0
STATES_S = 5.0
"""How often the states of devices are counted: they change without a row in the trail."""
TICK_S = 15.0
"""How often the overview is asked for again in any case, and a silent stream says that it lives."""
LIFE_S = 600.0
"""A stream ends after this time, and the browser opens it again: a session that ended is noticed then."""
ROWS, NEWEST = 500, 500
TOPICS = {
    "alarm": {"alarms", "overview", "incidents", "device"}, "alarms": {"alarms", "overview", "incidents", "device"},
    "incident": {"incidents", "overview"}, "action": {"incidents", "overview"}, "command": {"incidents"},
    "playbook": {"incidents"}, "device": {"devices", "device", "overview"}, "twin": {"device"},
    "tags": {"devices", "device"}, "note": {"device"},
}  # fmt: skip
"""Topics by the first part of the kind of a row in the audit trail."""

_AUDIT: Any = AuditRow.__table__  # type: ignore[attr-defined]


@dataclass(slots=True, kw_only=True)
class Watch:
    """What one stream has told: the last row of the trail, the states of devices, and the last sample of a series."""

    topics: frozenset[str]
    device: str = ""
    metric: str = ""
    seq: int = 0
    states: fleet.FleetHealth | None = None
    sample_us: int = 0
    counted_s: float = field(default=-STATES_S)

    def begin(self, session: Session) -> None:
        """Start at the present."""
        self.seq, self.sample_us = trail.head(session)[0], now_us() - MINUTE_US
        if self.device:
            device_registry.require_device(session, self.device)

    def changed(self, session: Session, now_s: float) -> set[str]:
        """Topics of this page that changed since the last call."""
        head = trail.head(session)[0]
        found: set[str] = set()
        if head != self.seq:
            found = self._rows(session, head)
            self.seq = head
        if self.topics & {"devices", "overview"} and now_s - self.counted_s >= STATES_S:
            self.counted_s, before, self.states = now_s, self.states, fleet.health(session)
            if before not in {None, self.states}:
                found |= {"devices", "overview"}
        return found & self.topics

    def _rows(self, session: Session, head: int) -> set[str]:
        if not 0 <= head - self.seq <= ROWS:
            return set(self.topics)
        query = select(_AUDIT.c.kind).where(_AUDIT.c.seq > self.seq, _AUDIT.c.seq <= head).distinct()
        if self.device:
            query = query.where(_AUDIT.c.device == self.device)
        kinds = session.connection().execute(scopes.restrict(session, query, _AUDIT.c.device)).scalars()
        return set().union(*(TOPICS.get(kind.partition(".")[0], set()) for kind in kinds))

    def samples(self, session: Session) -> dict[str, list[float]]:
        """The samples of the series that came since the last call, as columns."""
        if not self.metric:
            return {}
        rows = samples.series(session, self.device, self.metric, self.sample_us + 1, None, NEWEST)
        numbers = [(row.t_us, row.value) for row in rows if row.value is not None]
        self.sample_us = max([self.sample_us, *(row.t_us for row in rows)])
        return {"t": [t_us / 1e6 for t_us, _ in numbers], "v": [value for _, value in numbers]} if numbers else {}


async def _viewer(request: Request) -> Viewer:
    """A stream does not keep the session alive: an open page is no click."""
    return await run_in_threadpool(_watching, request)


def _watching(request: Request) -> Viewer:
    return viewer_of(request, "read", use=False)


@router.get("/live")
async def live(
    viewer: Annotated[Viewer, Depends(_viewer)], topics: str = "", device: str = "", metric: str = ""
) -> Response:
    """The stream of a page. HubError 503 if too many are open; the page then asks again at times."""
    watch = Watch(topics=frozenset(topics.split(",")[:8]), device=device[:200], metric=metric[:200] if device else "")
    with viewer.hub.sessions.stream(viewer.session):  # an answer that has begun can refuse no more
        await run_in_threadpool(_begin, viewer, watch)
    viewer.request.scope[ENDS_AT_SHUTDOWN] = True
    headers = {"X-Accel-Buffering": "no"}
    return StreamingResponse(_events(viewer, watch), media_type="text/event-stream", headers=headers)


def _begin(viewer: Viewer, watch: Watch) -> None:
    with viewer.hub.db.read(scope=viewer.caller.scope) as session:
        watch.begin(session)


async def _events(viewer: Viewer, watch: Watch) -> AsyncIterator[bytes]:
    began = ticked = time.monotonic()
    with viewer.hub.sessions.stream(viewer.session):
        yield b"retry: 5000\n\n"
        while (now := time.monotonic()) - began < LIFE_S:
            await asyncio.sleep(PERIOD_S)
            try:
                changed, new = await run_in_threadpool(_look, viewer, watch, now)
            except NotReady:
                continue
            except HubError:
                return  # the browser asks again, and is told why
            if now - ticked >= TICK_S:
                ticked = now
                changed |= watch.topics & {"overview"}
                yield b": alive\n\n"
            if changed:
                yield _event("changed", sorted(changed))
            if new:
                yield _event("samples", new)


def _look(viewer: Viewer, watch: Watch, now_s: float) -> tuple[set[str], dict[str, list[float]]]:
    caller = viewer_of(viewer.request, "read", use=False).caller  # the token may have ended, or its scope
    with viewer.hub.db.read(scope=caller.scope) as session:
        return watch.changed(session, now_s), watch.samples(session)


def _event(name: str, data: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"
