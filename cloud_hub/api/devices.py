"""/api/v1/devices: the fleet, telemetry, events, commands and what became of every accepted item."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import col, select

from cloud_hub import commands, fleet, telemetry
from cloud_hub.api.hub import Operator, Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.errors import HubError
from cloud_hub.tables import Command, Device, EventRow, HighWater, LostRange

router = APIRouter(prefix="/api/v1/devices", tags=["devices"])


class Point(BaseModel):
    """One sample: time, value (text for state metrics), quality."""

    t_us: int
    value: float | str | None
    quality: str
    seq: int


class StreamCount(BaseModel):
    """One stream of one epoch: durable up to `upto`; telemetry that was counted also tells its rows."""

    epoch: str
    stream: str
    upto: int
    rows: int | None = None
    distinct: int | None = None
    lost: list[tuple[int, int, str]] = []


class CommandBody(BaseModel):
    """A command: `restart` or `diagnose` a target of the device."""

    model_config = ConfigDict(extra="forbid")
    verb: Literal["restart", "diagnose", "capture"]
    target: str = Field(min_length=1, max_length=128)
    life_s: float = Field(default=30.0, gt=0, le=86400)


@router.get("")
def devices(hub: TheHub, _caller: Reader) -> list[Device]:
    """All devices."""
    with hub.db.read() as session:
        return fleet.devices(session)


@router.get("/{device}")
def device(device: str, hub: TheHub, _caller: Reader) -> Device:
    """One device as its last birth told."""
    with hub.db.read() as session:
        return fleet.device(session, device)


@router.get("/{device}/telemetry/{metric:path}")
def samples(
    device: str,
    metric: str,
    hub: TheHub,
    _caller: Reader,
    start_us: int = 0,
    end_us: int | None = None,
    limit: int = 1000,
) -> list[Point]:
    """Samples of one metric in order of time: the newest `limit` (at most 100,000) of start_us..end_us."""
    with hub.db.read() as session:
        fleet.device(session, device)
        start_us, end_us = _instant("start_us", start_us), None if end_us is None else _instant("end_us", end_us)
        rows = telemetry.series(session, device, metric, start_us, end_us, min(max(limit, 1), 100_000))
    return [
        Point(t_us=r.t_us, value=r.text if r.text is not None else r.value, quality=r.quality, seq=r.seq) for r in rows
    ]


def _instant(name: str, t_us: int) -> int:
    if not 0 <= t_us < 1 << 62:
        raise HubError(422, "Invalid request", f"query.{name}: is no time in microseconds")
    return t_us


@router.get("/{device}/events")
def events(device: str, hub: TheHub, _caller: Reader, since_us: int = 0, limit: int = 100) -> list[EventRow]:
    """The newest events first."""
    with hub.db.read() as session:
        fleet.device(session, device)
        return telemetry.events(session, device, _instant("since_us", since_us), min(max(limit, 1), 1000))


@router.get("/{device}/streams")
def streams(device: str, hub: TheHub, _caller: Reader, count: bool = False) -> list[StreamCount]:
    """Up to where each stream is durable, what was lost and why; with `count` also what is really stored."""
    with hub.db.read() as session:
        fleet.device(session, device)
        found = []
        for mark in session.exec(select(HighWater).where(HighWater.device == device).order_by(col(HighWater.id))):
            lost = session.exec(select(LostRange).where(LostRange.source == mark.id).order_by(col(LostRange.first)))
            row = StreamCount(
                epoch=mark.epoch, stream=mark.stream, upto=mark.upto, lost=[(r.first, r.last, r.reason) for r in lost]
            )
            if count and mark.stream == "telemetry":
                row.rows, row.distinct, _ = telemetry.counted(session, mark.id or 0)
            found.append(row)
    return found


@router.post("/{device}/commands", status_code=202)
def command(device: str, body: CommandBody, hub: TheHub, caller: Operator) -> Command:
    """Send a command; ask /api/v1/commands/{id} what became of it."""
    with hub.db.write(device) as session:
        row = fleet.device(session, device)
        if row.state != "online":
            raise HubError(404, "Device is offline", f"'{device}' is not connected; try again when it is")
        stored, message = commands.create(
            session, device, body.verb, body.target, now_us(), who=caller.who, life_s=body.life_s, trace=caller.trace
        )
    hub.publish([message])
    return stored


commands_router = APIRouter(prefix="/api/v1/commands", tags=["devices"])


@commands_router.get("/{command_id}")
def command_state(command_id: str, hub: TheHub, _caller: Reader) -> Command:
    """What became of a command."""
    with hub.db.read() as session:
        return commands.get(session, command_id)
