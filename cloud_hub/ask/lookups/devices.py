"""Look-ups of devices, twins and telemetry."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlmodel import Session

from cloud_hub import query
from cloud_hub.ask.core.facts import Finding
from cloud_hub.ask.lookups.arguments import MOST, Highest, OneDevice, Period, Series, Twin, Values, Where
from cloud_hub.devices import registry
from cloud_hub.incidents.core.messages import sanitize
from cloud_hub.telemetry import samples
from cloud_hub.telemetry.rollups.last_values import device_last_values, devices_of
from cloud_hub.telemetry.rollups.ranges import query_range
from cloud_hub.telemetry.rollups.top_k import top_devices
from cloud_hub.twins import service as twins
from shared.durations import SECOND_US
from shared.twin import shadow

FLEET = 2000
"""Devices that `highest` ranks at most."""
POINTS = 500


def find_devices(session: Session, asked: Where, _: int) -> list[Finding]:
    """Devices that meet a condition, in order."""
    found = query.devices(session, asked.where or "*", limit=MOST + 1)
    rows = [registry.get_device(session, device) for device in found]
    return [Finding(kind="device", data=_device_data(row)) for row in rows]


def count_devices(session: Session, asked: Where, _: int) -> list[Finding]:
    """How many devices meet a condition."""
    return [Finding(kind="count", data={"count": query.count(session, asked.where or "*")})]


def device(session: Session, asked: OneDevice, _: int) -> list[Finding]:
    """One device, with its tags and asset path; HubError 404."""
    row = registry.get_device(session, asked.device)
    return [Finding(kind="device", data=_device_data(row) | {"tags": row.tags, "asset_path": row.assigned_path})]


def _device_data(row: Any) -> dict[str, Any]:
    names = {"state": row.state, "profile": row.profile or "-", "version": row.version or "-", "seen_us": row.seen_us}
    return {"device": row.id, **names}


def twin(session: Session, asked: Twin, _: int) -> list[Finding]:
    """Each leaf that differs, or that nothing does; and what the device reports on desired paths. HubError 404."""
    registry.require_device(session, asked.device)
    document = twins.load(session, asked.device, asked.name).state
    desired, reported = document.get("desired", {}), document.get("reported", {})
    differing = shadow.difference(desired, reported)
    key = {"device": asked.device, "name": asked.name or "-"}
    found = [
        Finding(kind="difference", data=key | {"path": path, "desired": _short(value), "reported": _at(reported, path)})
        for path, value in _leaves(differing)
    ]
    found = found or [Finding(kind="in sync", data=key)]
    refused = [row for row in twins.progress(session, asked.device) if row.shadow == asked.name]
    return found + [
        Finding(kind="progress", data={"device": row.device, "path": row.path, "state": row.state, "reason": row.reason,
                                       "t_us": row.t_us}) for row in refused
    ]  # fmt: skip


def _leaves(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, dict) or not tree:
        return [(path, tree)] if path else []
    return [leaf for name, value in tree.items() for leaf in _leaves(value, f"{path}.{name}" if path else str(name))]


def _at(tree: Any, path: str) -> str:
    for name in path.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return _short(tree)


def _short(value: Any) -> str:
    return sanitize(msgspec.json.encode(value).decode(), 120)


def last_values(session: Session, asked: Values, now_us: int) -> list[Finding]:
    """The newest samples of a device; HubError 404."""
    registry.require_device(session, asked.device)
    only = [asked.metric] if asked.metric else None
    return [
        Finding(kind="value", data={"device": row.device, "metric": row.metric, "value": row.value, "t_us": row.t_us,
                                    "quality": row.quality})
        for row in device_last_values(session, asked.device, only, now_us)[: MOST + 1]
    ]  # fmt: skip


def series(session: Session, asked: Series, now_us: int) -> list[Finding]:
    """The summary of a metric over a period; HubError 404 or 422."""
    registry.require_device(session, asked.device)
    start_us = now_us - int(asked.since_s * SECOND_US)
    found = query_range(session, asked.device, asked.metric, start_us, now_us, points=POINTS, resolution=None)
    points = [(row.t_us, row.value) for row in found.samples if row.value is not None]
    if found.resolution == "raw":
        values = [value for _, value in points]
        low, high, count, total = (min(values), max(values), len(values), sum(values)) if values else (0, 0, 0, 0.0)
        last = values[-1] if values else 0.0
    else:
        made = found.buckets
        count = int(made.count.sum())
        low, high = (float(made.low.min()), float(made.high.max())) if count else (0.0, 0.0)
        total = float((made.mean * made.count).sum())
        last = float(made.mean[-1]) if count else 0.0
    if not count:
        return []
    return [Finding(kind="series", data={
        "device": asked.device, "metric": asked.metric, "start_us": start_us, "end_us": now_us, "mean": total / count,
        "low": low, "high": high, "last": last, "count": count,
    })]  # fmt: skip


def highest(session: Session, asked: Highest, now_us: int) -> list[Finding]:
    """The devices with the highest 95th percentile of a metric; the first `FLEET` devices are ranked."""
    devices = devices_of(session, asked.where or None)[:FLEET]
    start_us = now_us - int(asked.since_s * SECOND_US)
    found = top_devices(session, devices, asked.metric, start_us, now_us, share=0.95, k=10)
    return [Finding(kind="rank", data={"device": rank.device, "value": rank.value, "count": rank.count})
            for rank in found.ranks]  # fmt: skip


def events(session: Session, asked: Period, now_us: int) -> list[Finding]:
    """The newest events of a device; nothing without a device."""
    if not asked.device:
        return []
    registry.require_device(session, asked.device)
    rows = samples.events(session, asked.device, now_us - int(asked.since_s * SECOND_US), MOST + 1)
    return [Finding(kind="event", data={"device": row.device, "t_us": row.t_us, "level": row.level, "text": row.text})
            for row in rows]  # fmt: skip
