"""/api/v1/devices: devices, telemetry, events and stream progress."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict
from sqlmodel import col, select

from cloud_hub import query
from cloud_hub.api.dependencies import Administrator, Hub, Operator, Reader, TheHub
from cloud_hub.certificates import registry as certificates
from cloud_hub.certificates.files import CaFolder
from cloud_hub.clock import now_us
from cloud_hub.database.tables import Device, HighWater, LostRange, StalledStream
from cloud_hub.decommissioning import service as decommissioning
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.telemetry import samples as telemetry
from shared.ids import device_of_thing

router = APIRouter(prefix="/api/v1/devices", tags=["devices"])
removed_router = APIRouter(prefix="/api/v1/removed-devices", tags=["devices"])


class RemovedDeviceView(BaseModel):
    """A removed device; `heard_us` is when the hub last received a message of it, 0 for not since its start."""

    device: str
    removed_us: int
    removed_by: str
    reason: str
    assigned_path: str
    heard_us: int


class Point(BaseModel):
    """One sample: time, value (text for state metrics), quality."""

    t_us: int
    value: float | str | None
    quality: str
    seq: int

    @classmethod
    def of(cls, row: telemetry.StoredSample) -> Point:
        """Build the view of a row."""
        value = row.text if row.text is not None else row.value
        return cls(t_us=row.t_us, value=value, quality=row.quality, seq=row.seq)


class Stall(BaseModel):
    """A stream whose batches cannot be stored, since when and why."""

    since_us: int
    reason: str


class StreamCount(BaseModel):
    """One stream of one epoch: durable up to `upto`; with `count`, telemetry also has its rows.

    `stalled` is set at the newest epoch of a stream; a stream that never started has epoch ''.
    """

    epoch: str
    stream: str
    upto: int
    rows: int | None = None
    distinct: int | None = None
    lost: list[tuple[int, int, str]] = []
    stalled: Stall | None = None


class EventView(BaseModel):
    """An event of `device`; `source` is the component that reports it, such as agent or clock."""

    device: str
    source: str
    seq: int
    t_us: int
    level: str
    text: str
    fields: dict[str, Any]
    trace_id: str


class DeviceView(BaseModel):
    """A device as of its last birth. `reachable`: it is online, and the hub is connected to its broker."""

    id: str
    profile: str
    version: str
    protocol: int
    asset_path: str
    state: str
    session: str
    epoch: str
    clock: str
    metrics: list[dict[str, Any]]
    limits_without_source: list[str]
    conflict: str
    tags: dict[str, Any]
    tags_version: int
    born_us: int
    seen_us: int
    assigned_path: str
    reachable: bool


@router.get("")
def devices(hub: TheHub, caller: Reader, where: str | None = None) -> list[Device]:
    """List all devices, or those that match a condition such as `tags.site = 'a'`."""
    with hub.db.read(scope=caller.scope) as session:
        if where is None:
            rows = device_registry.list_devices(session)
        else:
            chosen = col(Device.id).in_(query.matching(session, where))
            rows = list(session.exec(select(Device).where(chosen).order_by(Device.id)))
    return [_seen(row, hub) for row in rows]


@router.get("/{device}")
def device(device: str, hub: TheHub, caller: Reader) -> DeviceView:
    """Get a device as of its last birth; every message updates `seen_us`."""
    with hub.db.read(scope=caller.scope) as session:
        row = _seen(device_registry.get_device(session, device), hub)
    return DeviceView(**row.model_dump(), reachable=row.state == "online" and hub.connected())


def _seen(row: Device, hub: Hub) -> Device:
    row.seen_us = max(row.seen_us, hub.heard_us(row.id))
    return row


@router.put("/{device}", status_code=201, responses={200: {"description": "It was known already"}})
def register(device: str, hub: TheHub, caller: Operator, response: Response) -> Device:
    """Register a device before its first birth, or for a client that uses only the twin.

    The name of an AWS thing is accepted too; the answer contains the device id.
    """
    device = device_of_thing(device) or device
    with hub.db.write(scope=caller.scope) as session:
        if not device_registry.register(session, device, now_us(), actor=caller.actor, trace=caller.trace):
            response.status_code = 200
        row = device_registry.get_device(session, device)
    hub.changed([device])
    return row


class Place(BaseModel):
    """The asset path of a device: `enterprise/site/area/line/cell` or a prefix of it; '' for none."""

    model_config = ConfigDict(extra="forbid")
    asset_path: str


@router.put("/{device}/asset-path")
def assign(device: str, body: Place, hub: TheHub, caller: Administrator) -> Device:
    """Assign the asset path of a device, which decides which tokens see it."""
    with hub.db.write(scope=caller.scope) as session:
        return device_registry.assign_asset_path(
            session, device, body.asset_path, now_us(), within=caller.scope, actor=caller.actor, trace=caller.trace
        )


@router.delete("/{device}", status_code=204)
def remove(
    device: str, hub: TheHub, caller: Administrator, reason: Annotated[str, Query(max_length=1000)] = ""
) -> None:  # fmt: skip
    """Remove a device: its alarms, incidents, commands and actions end, its certificates and claim too.

    What it still sends is refused until it is restored. What it measured stays.
    """
    folder, now = CaFolder(hub.settings.state_dir), now_us()
    with hub.db.write(scope=caller.scope) as session:
        messages = decommissioning.remove(session, device, now, actor=caller.actor, reason=reason, trace=caller.trace)
        revoked = certificates.revocations(session, now)
    hub.publish(messages)
    hub.changed([device])
    for worker in ("diagnosis", "actions", "rollouts", "jobs"):
        hub.notify(worker)
    if folder.exists:
        folder.write_crl(revoked, now)


@removed_router.get("")
def removed(hub: TheHub, caller: Reader) -> list[RemovedDeviceView]:
    """List removed devices, with the time of their last message."""
    with hub.db.read(scope=caller.scope) as session:
        rows = decommissioning.list_removed(session)
    return [RemovedDeviceView(**row.model_dump(), heard_us=hub.heard_us(row.device)) for row in rows]


@removed_router.post("/{name}/restore")
def restore(name: str, hub: TheHub, caller: Administrator) -> Device:
    """Restore a removed device with its asset path and tags; it is listed again after its next birth."""
    with hub.db.write(scope=caller.scope) as session:
        row = decommissioning.restore(session, name, now_us(), actor=caller.actor, trace=caller.trace)
    hub.changed([name])
    return row


@router.get("/{device}/telemetry/{metric:path}")
def samples(
    device: str,
    metric: str,
    hub: TheHub,
    caller: Reader,
    start_us: int = 0,
    end_us: int | None = None,
    limit: int = 1000,
) -> list[Point]:
    """Samples of a metric by time: the newest `limit` (at most 100,000) of start_us..end_us."""
    with hub.db.read(scope=caller.scope) as session:
        device_registry.get_device(session, device)
        start_us, end_us = instant("start_us", start_us), None if end_us is None else instant("end_us", end_us)
        rows = telemetry.series(session, device, metric, start_us, end_us, min(max(limit, 1), 100_000))
    return [Point.of(row) for row in rows]


def instant(name: str, t_us: int) -> int:
    """Validate a time of a query; raises HubError 422."""
    if not 0 <= t_us < 1 << 62:
        raise HubError(422, "Invalid request", f"query.{name}: is no time in microseconds")
    return t_us


@router.get("/{device}/events")
def events(device: str, hub: TheHub, caller: Reader, since_us: int = 0, limit: int = 100) -> list[EventView]:
    """List events, the newest first."""
    with hub.db.read(scope=caller.scope) as session:
        device_registry.get_device(session, device)
        rows = telemetry.events(session, device, instant("since_us", since_us), min(max(limit, 1), 1000))
    return [EventView(source=row.origin, **row.model_dump(exclude={"source", "origin"})) for row in rows]


@router.get("/{device}/streams")
def streams(device: str, hub: TheHub, caller: Reader, count: bool = False, limit: int = 1000) -> list[StreamCount]:
    """Up to which item each stream is stored, and what was lost and why; `count` also counts the stored rows.

    Of the newest `limit` (at most 10,000) streams: each epoch of the device has its own.
    """
    with hub.db.read(scope=caller.scope) as session:
        device_registry.get_device(session, device)
        found = []
        newest_first = select(HighWater).where(HighWater.device == device).order_by(col(HighWater.id).desc())
        marks = session.exec(newest_first.limit(min(max(limit, 1), 10_000))).all()[::-1]
        lost: dict[int, list[tuple[int, int, str]]] = {}
        mine = select(LostRange).join(HighWater, col(HighWater.id) == LostRange.source)
        mine = mine.where(HighWater.device == device, col(HighWater.id) >= (marks[0].id if marks else 0))
        for r in session.exec(mine.order_by(col(LostRange.first))):
            lost.setdefault(r.source, []).append((r.first, r.last, r.reason))
        for mark in marks:
            row = StreamCount(epoch=mark.epoch, stream=mark.stream, upto=mark.upto, lost=lost.get(mark.id or 0, []))
            if count and mark.stream == "telemetry":
                row.rows, row.distinct, _ = telemetry.stream_counts(session, mark.id or 0)
            found.append(row)
        for stalled in session.exec(select(StalledStream).where(StalledStream.device == device)):
            newest = next((row for row in reversed(found) if row.stream == stalled.stream), None)
            if newest is None:
                newest = StreamCount(epoch="", stream=stalled.stream, upto=0)
                found.append(newest)
            newest.stalled = Stall(since_us=stalled.since_us, reason=stalled.reason)
    return found
