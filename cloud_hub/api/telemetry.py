"""/api/v1/telemetry and telemetry of a device: last values, series over a time span, top devices, export."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from cloud_hub.api.dependencies import Reader, TheHub
from cloud_hub.api.devices import Point, instant
from cloud_hub.clock import now_us
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.telemetry.rollups.core.buckets import Buckets
from cloud_hub.telemetry.rollups.export import parquet
from cloud_hub.telemetry.rollups.last_values import LastValue, device_last_values, devices_of, fleet_last_values
from cloud_hub.telemetry.rollups.ranges import POINTS, RESOLUTIONS, query_range
from cloud_hub.telemetry.rollups.top_k import RankedDevice, top_devices
from shared.durations import DAY_US

router = APIRouter(prefix="/api/v1", tags=["telemetry"])


class LastPage(BaseModel):
    """Last values of whole devices. If `next` is set, there are more: send it as `after`."""

    rows: list[LastValue]
    next: str


class Bucket(BaseModel):
    """The samples of `resolution` from `t_us` on."""

    t_us: int
    count: int
    low: float
    high: float
    mean: float


class SpanView(BaseModel):
    """A series over a span: `samples` where `resolution` is raw, else `buckets`.

    `waiting` hours of it came late, and are not yet in it.
    """

    device: str
    metric: str
    resolution: str
    start_us: int
    end_us: int
    waiting: int
    samples: list[Point]
    buckets: list[Bucket]


class TopView(BaseModel):
    """The highest first; `exact` if computed from samples, not from sketches."""

    metric: str
    quantile: float
    start_us: int
    end_us: int
    exact: bool
    rows: list[RankedDevice]


@router.get("/devices/{device}/telemetry")
def last_values(device: str, hub: TheHub, caller: Reader) -> list[LastValue]:
    """The newest sample of each metric of a device."""
    with hub.db.read(scope=caller.scope) as session:
        device_registry.get_device(session, device)
        return device_last_values(session, device, None, now_us())


@router.get("/devices/{device}/range/{metric:path}")
def time_range(
    device: str,
    metric: str,
    hub: TheHub,
    caller: Reader,
    start_us: int | None = None,
    end_us: int | None = None,
    points: int = 1000,
    resolution: str | None = None,
) -> SpanView:
    """A metric over a span (the last day unless given) in at most `points` points, or at the resolution given."""
    start_us, end_us = _span(start_us, end_us)
    with hub.db.read(scope=caller.scope) as session:
        device_registry.get_device(session, device)
        found = query_range(session, device, metric, start_us, end_us, points=points, resolution=resolution)
    return SpanView(
        device=device, metric=metric, resolution=found.resolution, start_us=found.start_us, end_us=found.end_us,
        waiting=found.waiting, samples=[Point.of(row) for row in found.samples],
        buckets=_views(found.buckets, RESOLUTIONS[found.resolution]),
    )  # fmt: skip


@router.get("/telemetry/last")
def fleet_last(
    hub: TheHub,
    caller: Reader,
    metric: str | None = None,
    where: str | None = None,
    limit: Annotated[int, Query(ge=1, le=POINTS)] = 1000,
    after: str = "",
) -> LastPage:
    """The newest samples of all devices, or of those that match a condition such as `tags.site = 'a'`."""
    with hub.db.read(scope=caller.scope) as session:
        rows, following = fleet_last_values(session, now_us(), metric=metric, where=where, limit=limit, after=after)
    return LastPage(rows=rows, next=following)


@router.get("/telemetry/top")
def highest(
    metric: str,
    hub: TheHub,
    caller: Reader,
    quantile: Annotated[float, Query(ge=0, le=1)] = 0.95,
    k: Annotated[int, Query(ge=1, le=1000)] = 10,
    start_us: int | None = None,
    end_us: int | None = None,
    where: str | None = None,
) -> TopView:
    """The devices with the highest quantile of a metric over a span (the last day unless given)."""
    start_us, end_us = _span(start_us, end_us)
    with hub.db.read(scope=caller.scope) as session:
        found = top_devices(session, devices_of(session, where), metric, start_us, end_us, share=quantile, k=k)
    return TopView(
        metric=metric, quantile=quantile, start_us=found.start_us, end_us=found.end_us, exact=found.exact,
        rows=found.ranks,
    )  # fmt: skip


PARQUET = "application/vnd.apache.parquet"
_FILE = {"description": "a Parquet file", "content": {PARQUET: {"schema": {"type": "string", "format": "binary"}}}}


@router.get("/telemetry/export", response_class=StreamingResponse, responses={200: _FILE})
def export(
    hub: TheHub,
    caller: Reader,
    start_us: int | None = None,
    end_us: int | None = None,
    resolution: str = "raw",
    metric: str | None = None,
    device: Annotated[list[str] | None, Query(max_length=1000)] = None,
    where: str | None = None,
) -> StreamingResponse:
    """Samples or rollups over a span (the last day unless given) as a Parquet file: of all devices, of those named, or
    of those that meet a condition."""
    start_us, end_us = _span(start_us, end_us)
    if resolution not in RESOLUTIONS:
        raise HubError(422, "Invalid request", f"query.resolution: must be one of {', '.join(RESOLUTIONS)}")
    with hub.db.read(scope=caller.scope) as session:
        devices = devices_of(session, where)
        for unknown in sorted(set(device or ()) - set(devices)):
            device_registry.require_device(session, unknown)
    if device is not None:
        devices = [one for one in devices if one in set(device)]
    pieces = parquet(hub.db, devices, metric, start_us, end_us, RESOLUTIONS[resolution])
    return StreamingResponse(pieces, media_type=PARQUET)


def _span(start_us: int | None, end_us: int | None) -> tuple[int, int]:
    """The time span of a query; the last day by default."""
    end = now_us() if end_us is None else instant("end_us", end_us)
    start = max(0, end - DAY_US) if start_us is None else instant("start_us", start_us)
    if end <= start:
        raise HubError(422, "Invalid request", "query.end_us: must be after start_us")
    return start, end


def _views(buckets: Buckets, step_s: int) -> list[Bucket]:
    columns = (buckets.slot * step_s * 1_000_000, buckets.count, buckets.low, buckets.high, buckets.mean)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [Bucket(t_us=t, count=count, low=low, high=high, mean=mean) for t, count, low, high, mean in rows]
