"""/api/v1/devices/{id}/twin: documents, desired changes, and the progress of desired state on the device."""

from __future__ import annotations

import math
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, field_validator

from cloud_hub.api.dependencies import Hub, Operator, Reader, TheHub
from cloud_hub.api.etag import IfMatch, check_if_match, etag
from cloud_hub.api.request_guard import Limit, declare
from cloud_hub.clock import now_us
from cloud_hub.database.tables import AppliedRow, TwinChange
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.twins import history
from cloud_hub.twins import service as twins
from cloud_hub.twins.rows import TwinRows
from shared import twin
from shared.codec import MAX_PAYLOAD, encode
from shared.ids import SHADOW_NAME
from shared.twin import Document, State
from shared.twin_merge import patch

Number = Annotated[int | None, Query(ge=0, lt=1 << 62)]

router = APIRouter(prefix="/api/v1/devices/{device}/twin", tags=["twins"])

_LIMIT = Limit(size=MAX_PAYLOAD, values=20_000)
for _method in ("PATCH", "PUT"):
    declare(_method, router.prefix, _LIMIT)
    declare(_method, f"{router.prefix}/name/{{name}}", _LIMIT)


class TwinView(BaseModel):
    """A twin document: state and metadata with the delta, as AWS device shadows show it."""

    state: dict[str, Any]
    metadata: dict[str, Any]
    version: int
    timestamp: int


class DesiredChange(BaseModel):
    """Desired state: a merge patch where null deletes (PATCH), or all of it (PUT). `version` makes it
    conditional, as does If-Match.
    """

    model_config = ConfigDict(extra="forbid")
    desired: dict[str, Any]
    version: int | None = None

    @field_validator("desired")
    @classmethod
    def _finite(cls, desired: dict[str, Any]) -> dict[str, Any]:
        """NaN would be written as null, and null deletes."""
        layer: list[Any] = [desired]
        while layer:  # a loop: the nesting is not judged yet
            if any(isinstance(value, float) and not math.isfinite(value) for value in layer):
                raise ValueError("numbers must be finite")
            layer = [
                inner
                for value in layer
                if isinstance(value, (dict, list))
                for inner in (value.values() if isinstance(value, dict) else value)
            ]
        return desired


def _body(document: Document, device: str, name: str) -> State:
    (reply,) = twin.get(document, name or device, b"", now_us() // 1_000_000)
    if reply.verb == "get/rejected":
        raise HubError(reply.body["code"], "No such twin document", reply.body["message"])
    return reply.body


def _answer(body: State) -> Response:
    return Response(encode(body), media_type="application/json", headers={"ETag": etag(body["version"])})


async def _read(hub: Hub, device: str, name: str, request: Request) -> Response:
    """The caller's scope was held against the device when the caller was admitted."""
    if name and not SHADOW_NAME.match(name):
        raise HubError(400, "No such twin document", f"Invalid shadow name: '{name[:80]}'")
    if hub.db.is_file:  # read faster than a thread is found
        document = twins.read(hub.db, device, name)
    else:
        document = await run_in_threadpool(twins.read, hub.db, device, name)
    if document is None:
        with hub.db.read() as session:
            raise device_registry.unknown(session, device)
    body = _body(document, device, name)
    if request.headers.get("if-none-match") == etag(body["version"]):
        return Response(status_code=304, headers={"ETag": etag(body["version"])})
    return _answer(body)


def _change(
    hub: Hub, device: str, name: str, change: DesiredChange, caller: Operator, condition: str | None, *, whole: bool
) -> Response:
    limit, now = hub.settings.twins.max_bytes, now_us()
    with hub.db.write(device, scope=caller.scope) as session:
        device_registry.require_device(session, device)
        wanted, rows = change.desired, TwinRows(session)
        if whole or condition is not None:
            document = rows.get(device, name)[0]
            check_if_match(condition, 0 if document.deleted else document.version)
            wanted = patch(document.state.get("desired", {}), wanted) if whole else wanted
        messages = twins.update_desired(
            session, device, name, wanted, now, actor=caller.actor, max_bytes=limit, trace=caller.trace,
            version=change.version, rows=rows,
        )  # fmt: skip
        rows.save()
        body = _body(rows.get(device, name)[0], device, name)
    hub.publish(messages)
    hub.changed([device])
    return _answer(body)


def _delete(hub: Hub, device: str, name: str, caller: Operator, condition: str | None) -> None:
    with hub.db.write(device, scope=caller.scope) as session:
        device_registry.require_device(session, device)
        document = twins.load(session, device, name)
        check_if_match(condition, 0 if document.deleted else document.version)
        messages = twins.remove(session, device, name, now_us(), actor=caller.actor, trace=caller.trace)
    hub.publish(messages)
    hub.changed([device])


@router.get("", response_model=TwinView)
async def classic(device: str, hub: TheHub, caller: Reader, request: Request) -> Response:
    """The classic document: the device itself and its settings. The ETag is its version."""
    return await _read(hub, device, "", request)


@router.patch("", response_model=TwinView)
def change_classic(
    device: str, change: DesiredChange, hub: TheHub, caller: Operator, if_match: IfMatch = None
) -> Response:
    """Change desired state of the classic document."""
    return _change(hub, device, "", change, caller, if_match, whole=False)


@router.put("", response_model=TwinView)
def replace_classic(
    device: str, change: DesiredChange, hub: TheHub, caller: Operator, if_match: IfMatch = None
) -> Response:
    """Replace all of desired state of the classic document."""
    return _change(hub, device, "", change, caller, if_match, whole=True)


@router.get("/documents")
def documents(device: str, hub: TheHub, caller: Reader) -> dict[str, int]:
    """Names and versions of the device's documents; '' is the classic one."""
    with hub.db.read(scope=caller.scope) as session:
        device_registry.require_device(session, device)
        return twins.versions(session, device)


@router.get("/progress")
def progress(device: str, hub: TheHub, caller: Reader, removed: bool = False) -> list[AppliedRow]:
    """The device's last progress report on each desired path: received, applied, verified or refused.

    With `removed` also on paths that are desired no longer.
    """
    with hub.db.read(scope=caller.scope) as session:
        device_registry.require_device(session, device)
        return twins.progress(session, device, removed=removed)


@router.get("/history")
def changes(
    device: str, hub: TheHub, caller: Reader, name: str = "", before: Number = None, limit: int = 50
) -> list[TwinChange]:
    """Who changed a document, when and how: the newest versions first, below `before` when it is given."""
    with hub.db.read(scope=caller.scope) as session:
        return list(history.changes(session, device, name, before=before, limit=min(max(limit, 1), 1000)))


@router.get("/at")
def at(
    device: str, hub: TheHub, caller: Reader, name: str = "", version: Number = None, t_us: Number = None
) -> history.TwinVersion:
    """A document at one of its versions, or as it stood at a time; the newest version without either."""
    with hub.db.read(scope=caller.scope) as session:
        return history.at(session, device, name, version=version, t_us=t_us)


@router.get("/diff")
def diff(
    device: str, hub: TheHub, caller: Reader, name: str = "", old: Number = None, new: Number = None
) -> list[history.Difference]:
    """Every leaf that differs between two versions: `new` is the newest and `old` the one before unless given."""
    with hub.db.read(scope=caller.scope) as session:
        now = history.at(session, device, name, version=new)
        before = history.at(session, device, name, version=now.version - 1 if old is None else old)
        return history.difference(before, now)


@router.get("/name/{name}", response_model=TwinView)
async def named(device: str, name: str, hub: TheHub, caller: Reader, request: Request) -> Response:
    """A named document, such as 'thresholds' or 'gates'. The ETag is its version."""
    return await _read(hub, device, name, request)


@router.patch("/name/{name}", response_model=TwinView)
def change_named(
    device: str, name: str, change: DesiredChange, hub: TheHub, caller: Operator, if_match: IfMatch = None
) -> Response:
    """Change desired state of a named document."""
    return _change(hub, device, name, change, caller, if_match, whole=False)


@router.put("/name/{name}", response_model=TwinView)
def replace_named(
    device: str, name: str, change: DesiredChange, hub: TheHub, caller: Operator, if_match: IfMatch = None
) -> Response:
    """Replace all of desired state of a named document."""
    return _change(hub, device, name, change, caller, if_match, whole=True)


@router.delete("", status_code=204)
def delete_classic(device: str, hub: TheHub, caller: Operator, if_match: IfMatch = None) -> None:
    """Delete the classic document; its version counts on when it is made again."""
    _delete(hub, device, "", caller, if_match)


@router.delete("/name/{name}", status_code=204)
def delete_named(device: str, name: str, hub: TheHub, caller: Operator, if_match: IfMatch = None) -> None:
    """Delete a named document; its version counts on when it is made again."""
    _delete(hub, device, name, caller, if_match)
