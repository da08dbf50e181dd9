"""/ui/devices/{id}: one device: what it is, what it measures, what it should be, and what happened on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse
from sqlmodel import Session

from cloud_hub.alarms import service as alarm_service
from cloud_hub.api import notes as rest_notes
from cloud_hub.api import telemetry as rest_telemetry
from cloud_hub.clock import now_us
from cloud_hub.database.tables import AlarmRow, Device
from cloud_hub.devices import notes
from cloud_hub.devices import registry as device_registry
from cloud_hub.telemetry import samples
from cloud_hub.telemetry.rollups.aggregate import metrics as stored_metrics
from cloud_hub.telemetry.rollups.last_values import device_last_values
from cloud_hub.thresholds.limits import standing
from cloud_hub.twins import service as twins
from cloud_hub.twins.rows import TwinRows
from cloud_hub.ui import fleet, rendering
from cloud_hub.ui.devices import packed
from cloud_hub.ui.forms import validated
from cloud_hub.ui.page_route import PageRoute
from cloud_hub.ui.session import OperateView, ReadView
from shared.durations import DAY_US, HOUR_US
from shared.thresholds import Limits
from shared.twin.merge import Path, format_path, leaves

router = APIRouter(prefix="/ui", route_class=PageRoute, include_in_schema=False)
METRICS, EVENTS, ALARMS, LEAVES, DOCUMENTS, NOTES = 200, 50, 50, 300, 20, 5
"""The maximum number of rows of each table of the page."""
POINTS = 3000
SPANS = {"15m": HOUR_US // 4, "1h": HOUR_US, "6h": 6 * HOUR_US, "1d": DAY_US, "7d": 7 * DAY_US, "30d": 30 * DAY_US,
         "365d": 365 * DAY_US}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One leaf of a twin document. `progress` is the device's last report on it: received, applied, verified, refused.

    `differs` is whether the device reports another value than the desired one.
    """

    path: str
    desired: Any
    reported: Any
    has_desired: bool
    has_reported: bool
    owner: str
    progress: str
    reason: str

    @property
    def differs(self) -> bool:
        """Whether the device has not taken over what is desired."""
        return self.has_desired and (not self.has_reported or self.desired != self.reported)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A twin document as a table; `left_out` leaves are not shown."""

    name: str
    version: int
    leaves: list[Leaf]
    left_out: int


@router.get("/devices/{device}")
def device(device: str, viewer: ReadView, metric: str = "", span: str = "1h") -> Response:
    """The page of a device; its parts alone for htmx."""
    now, hub = now_us(), viewer.hub
    with hub.db.read(scope=viewer.caller.scope) as session:
        row = device_registry.get_device(session, device)
        names = stored_metrics(session, device, METRICS)
        alarms = alarm_service.list_alarms(session, device=device, limit=ALARMS)
        raised = [one for one in alarms if one.state == "raised" and not one.suppressed]
        context: dict[str, Any] = {
            "device": row, "units": _units(row), "alarms": alarms, "raised": raised,
            "documents": _documents(session, device), "most": LEAVES,
            "values": device_last_values(session, device, names, now), "notes": notes.newest(session, device, NOTES),
            "events": samples.events(session, device, 0, EVENTS), "names": names,
        }  # fmt: skip
    row.seen_us = max(row.seen_us, hub.heard_us(device))
    chosen = metric if metric in names else next((one.metric for one in raised if one.metric in names), "")
    template = "device_parts.html" if viewer.wants_fragment else "device.html"
    return rendering.page(
        viewer, template, section="devices", metric=chosen or (names[0] if names else ""), spans=list(SPANS),
        span=span if span in SPANS else "1h", most_metrics=METRICS, connected=hub.connected(),
        stream="live?topics=device", **context,
    )  # fmt: skip


def _units(row: Device) -> dict[str, str]:
    """Units by metric from the birth; '1' is none."""
    given = ((str(one.get("name", "")), str(one.get("unit", ""))) for one in row.metrics if isinstance(one, dict))
    return {name: unit for name, unit in given if unit not in {"", "1"}}


@router.post("/devices/{device}/notes")
def add_note(device: str, viewer: OperateView) -> Response:
    """Leave a note for whoever works on the device next."""
    rest_notes.add_note(device, validated(rest_notes.NoteBody, text=viewer.form.get("text", "")), viewer.hub,
                        viewer.caller)  # fmt: skip
    return RedirectResponse(f"../{device}", 303)


# -- twins -------------------------------------------------------------------------------------------


def _documents(session: Session, device: str) -> list[Document]:
    reports = {(row.shadow, row.path): (row.state, row.reason) for row in twins.progress(session, device)}
    rows = TwinRows(session)
    found = []
    for name, version in list(twins.versions(session, device).items())[:DOCUMENTS]:
        document, owners = rows.get(device, name)
        state = document.state
        every = list(_leaves(name, _tree(state, "desired"), _tree(state, "reported"), owners, reports))
        every.sort(key=lambda leaf: (not leaf.differs, leaf.path))
        found.append(Document(name=name, version=version, leaves=every[:LEAVES], left_out=max(0, len(every) - LEAVES)))
    return found


def _tree(state: dict[str, Any], part: str) -> dict[str, Any]:
    value = state.get(part)
    return value if isinstance(value, dict) else {}


def _leaves(
    name: str, desired: dict[str, Any], reported: dict[str, Any], owners: dict[str, Any],
    reports: dict[tuple[str, str], tuple[str, str]],
) -> Iterator[Leaf]:  # fmt: skip
    wanted, told = dict(leaves(desired)), dict(leaves(reported))
    whose = dict(leaves(owners))
    for path in dict.fromkeys([*wanted, *told]):
        progress, reason = _nearest(reports, name, path)
        yield Leaf(
            path=format_path(path), desired=wanted.get(path), reported=told.get(path), has_desired=path in wanted,
            has_reported=path in told, owner=str(whose.get(path, "")), progress=progress if path in wanted else "",
            reason=reason if path in wanted else "",
        )  # fmt: skip


def _nearest(reports: dict[tuple[str, str], tuple[str, str]], name: str, path: Path) -> tuple[str, str]:
    """The report on this path, or on the nearest one above it."""
    for length in range(len(path), 0, -1):
        found = reports.get((name, format_path(path[:length])))
        if found is not None:
            return found
    return "", ""


# -- series ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmSpan:
    """An alarm of the series from when it was raised; `end_s` is None while it stands."""

    id: str
    start_s: float
    end_s: float | None
    priority: str
    about: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesColumns:
    """A series as columns: seconds since 1970, and the mean, lowest and highest value of each step.

    `limit_low` and `limit_high` are the limits in force at each time. `limits_by` is fixed or learned.
    """

    resolution: str
    t: list[float]
    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]
    limit_low: list[float | None]
    limit_high: list[float | None]
    limits_by: str
    alarms: list[AlarmSpan]
    start_s: float
    end_s: float
    waiting: int


@router.get("/devices/{device}/series.json")
def series(
    device: str, viewer: ReadView, metric: str, span: str = "1h", start_us: int | None = None,
    end_us: int | None = None,
) -> Response:  # fmt: skip
    """A series over the last span, or from start_us to end_us, at the finest resolution that fits the page."""
    end = now_us() if end_us is None else end_us
    start = end - SPANS.get(span, HOUR_US) if start_us is None else start_us
    found = rest_telemetry.time_range(
        device, metric, viewer.hub, viewer.caller, start_us=start, end_us=end, points=POINTS
    )  # fmt: skip
    with viewer.hub.db.read(scope=viewer.caller.scope) as session:
        limits = standing.present(session, [device]).get((device, metric))
        alarms = alarm_service.list_alarms(session, device=device, metric=metric, limit=200)
    t_us, mean, low, high = _columns(found)
    pairs = [limits.at(t) for t in t_us] if limits else [(None, None)] * len(t_us)
    made = SeriesColumns(
        resolution=found.resolution, t=[t / 1e6 for t in t_us], mean=mean, low=low, high=high,
        limit_low=[pair[0] for pair in pairs], limit_high=[pair[1] for pair in pairs], limits_by=_source(limits),
        alarms=[_alarm(row) for row in alarms if (row.cleared_us or end) >= start and row.raised_us <= end],
        start_s=start / 1e6, end_s=end / 1e6, waiting=found.waiting,
    )  # fmt: skip
    return packed(viewer.request, msgspec.json.encode(made))


def _columns(
    found: rest_telemetry.SpanView,
) -> tuple[list[int], list[float | None], list[float | None], list[float | None]]:
    if found.resolution == "raw":
        numbers = [(one.t_us, one.value) for one in found.samples if isinstance(one.value, (int, float))]
        values: list[float | None] = [value for _, value in numbers]
        return [t_us for t_us, _ in numbers], values, values, values
    buckets = found.buckets
    return ([one.t_us for one in buckets], [one.mean for one in buckets], [one.low for one in buckets],
            [one.high for one in buckets])  # fmt: skip


def _alarm(row: AlarmRow) -> AlarmSpan:
    return AlarmSpan(
        id=row.id, start_s=row.raised_us / 1e6, end_s=row.cleared_us / 1e6 if row.cleared_us else None,
        priority=row.priority if row.priority in fleet.PRIORITIES else "low", about=row.about,
    )  # fmt: skip


def _source(limits: Limits | None) -> str:
    return limits.source if limits else ""
