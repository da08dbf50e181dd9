"""Range queries: reads one series over a time range at a chosen resolution, up to date.

Hours that are not rolled up yet (the current one, and those with late samples) are computed from their samples during
the query, in the same way as the rollup worker does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlmodel import Session, col, select

from cloud_hub.database.tables import RetentionStart, RollupDue
from cloud_hub.errors import HubError
from cloud_hub.telemetry.rollups.aggregate import Hour, hour
from cloud_hub.telemetry.rollups.core.buckets import Buckets, concat, empty
from cloud_hub.telemetry.rollups.matrices import source_of
from cloud_hub.telemetry.rollups.store import DAY, HOUR, MINUTE, SPAN_US, DeviceRollups
from cloud_hub.telemetry.samples import StoredSample, series
from shared.durations import DAY_US, HOUR_US

RESOLUTIONS = {"raw": 0, "1m": 60, "5m": 300, "15m": 900, "1h": 3600, "6h": 21600, "1d": 86400}
"""Seconds of a bucket by its name; 0 are the samples themselves."""
POINTS = 10_000
"""Maximum points of one response."""
HOURS = 100
"""Maximum hours computed during one query; the number of others is returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeResult:
    """A series over start_us..end_us at a resolution: samples where it is raw, else buckets, slot * step_s since 1970.

    `waiting` is the number of hours with late samples that are not included, because they are not rolled up yet.
    """

    resolution: str
    start_us: int
    end_us: int
    samples: list[StoredSample]
    buckets: Buckets
    waiting: int = 0


def query_range(
    session: Session, device: str, metric: str, start_us: int, end_us: int, *, points: int, resolution: str | None
) -> RangeResult:
    """Read at the given resolution, or the finest that is stored from `start_us` on and needs at most `points`.

    Raises HubError 422 for an invalid range, or for too many points, with a resolution that would be accepted.
    """
    if end_us <= start_us:
        raise HubError(422, "Invalid request", "query.end_us: must be after start_us")
    if not 1 <= points <= POINTS:
        raise HubError(422, "Invalid request", f"query.points: must be 1 to {POINTS}")
    kept = session.get(RetentionStart, (device, metric)) or RetentionStart(device=device, metric=metric)
    if resolution is None:
        since = {"raw": kept.raw_us, "1m": kept.minute_us, "5m": kept.minute_us, "15m": kept.minute_us,
                 "1h": kept.hour_us, "6h": kept.hour_us, "1d": 0}  # fmt: skip
        names = [name for name in RESOLUTIONS if since[name] <= start_us]
    elif resolution in RESOLUTIONS:
        names, points = [resolution], POINTS
    else:
        raise HubError(422, "Invalid request", f"query.resolution: is none of {', '.join(RESOLUTIONS)}")
    for name in names:
        if name == "raw":
            samples = series(session, device, metric, start_us, end_us, points + 1)
            if len(samples) <= points:
                return RangeResult(resolution=name, start_us=start_us, end_us=end_us, samples=samples, buckets=empty())
        elif -(-end_us // _us(name)) - start_us // _us(name) <= points:
            return _rolled(session, kept, name, start_us, end_us)
    raise HubError(422, "Invalid request", _too_many(start_us, end_us, points))


def _us(name: str) -> int:
    return RESOLUTIONS[name] * 1_000_000


def _too_many(start_us: int, end_us: int, points: int) -> str:
    fits = [name for name in RESOLUTIONS if name != "raw" and (end_us - start_us) // _us(name) + 2 <= points]
    cure = f"ask for resolution {fits[0]}, or a shorter span" if fits else "ask for a shorter span"
    return f"query: more than {points} points: {cure}"


def _rolled(session: Session, kept: RetentionStart, name: str, start_us: int, end_us: int) -> RangeResult:
    """Buckets of whole steps around the span."""
    step_us = _us(name)
    start_us, end_us = start_us // step_us * step_us, -(-end_us // step_us) * step_us
    stored = source_of(RESOLUTIONS[name])
    rows = DeviceRollups(session, kept.device)
    due, waiting = _due(session, kept.device, start_us, end_us)
    late = _Late(session, kept, due)
    found = _days(rows, late, start_us, end_us) if stored == DAY else _within_days(rows, late, stored, start_us, end_us)
    whole = found.coarsen(RESOLUTIONS[name] // stored)
    inside = (whole.slot >= start_us // step_us) & (whole.slot < end_us // step_us)
    return RangeResult(
        resolution=name, start_us=start_us, end_us=end_us, samples=[], buckets=whole.part(inside), waiting=waiting
    )


def _due(session: Session, device: str, start_us: int, end_us: int) -> tuple[list[int], int]:
    """(hours of whole days around the span that are due, the newest `HOURS` of them; how many more there are)."""
    first_us, last_us = start_us // DAY_US * DAY_US, -(-end_us // DAY_US) * DAY_US
    due = select(RollupDue.t_us).where(
        RollupDue.device == device, col(RollupDue.t_us) >= first_us, col(RollupDue.t_us) < last_us
    )
    hours = list(session.exec(due.order_by(col(RollupDue.t_us).desc())))
    return hours[:HOURS], max(0, len(hours) - HOURS)


class _Late:
    """Due hours of a series, computed from their samples on demand."""

    def __init__(self, session: Session, kept: RetentionStart, due: list[int]) -> None:
        self._session, self.kept, self._due = session, kept, due
        self.days = sorted({t_us // DAY_US * DAY_US for t_us in due})

    def made(self, start_us: int, end_us: int) -> Iterator[tuple[int, Hour]]:
        """(start, hour) of those within start_us..end_us that have samples."""
        for t_us in self._due:
            if start_us - HOUR_US < t_us < end_us:
                found, _ = hour(self._session, self.kept.device, t_us, [self.kept.metric])
                if found:
                    yield t_us, found[self.kept.metric]


def _within_days(rows: DeviceRollups, late: _Late, stored: int, start_us: int, end_us: int) -> Buckets:
    """Minutes or hours by their slot since 1970, including due ones."""
    kept, step_us = late.kept, stored * 1_000_000
    first_us = start_us // SPAN_US[stored] * SPAN_US[stored]
    found = rows.buckets(stored, [kept.metric], first_us, end_us)
    whole = concat([empty(), *(one.shifted(t_us // step_us) for (_, t_us), one in found.items())])
    for t_us, one in late.made(start_us, end_us):
        if t_us < kept.raw_us:  # its samples were deleted: late ones are added
            since_us = kept.minute_us if stored == MINUTE else kept.hour_us
            before = whole if t_us >= since_us else None
        else:
            before = whole.part(whole.slot * step_us // HOUR_US != t_us // HOUR_US)
        if before is not None:
            part = one.minutes if stored == MINUTE else one.total
            whole = concat([before, part.shifted(t_us // step_us)])
    return whole


def _days(rows: DeviceRollups, late: _Late, start_us: int, end_us: int) -> Buckets:
    """Days by their slot since 1970; the current day, and days with a due hour, are computed from their hours."""
    found = rows.buckets(DAY, [late.kept.metric], start_us, end_us)
    standing = concat([empty(), *(one.shifted(t_us // DAY_US) for (_, t_us), one in found.items())])
    for day_us in late.days:
        if not start_us <= day_us < end_us:
            continue
        if day_us < late.kept.hour_us:
            added = [one.total.shifted(day_us // DAY_US) for _, one in late.made(day_us, day_us + DAY_US)]
            standing = concat([standing, *added])
        else:
            of_hours = _within_days(rows, late, HOUR, day_us, day_us + DAY_US).coarsen(24)
            standing = concat([standing.part(standing.slot != day_us // DAY_US), of_hours])
    return standing
