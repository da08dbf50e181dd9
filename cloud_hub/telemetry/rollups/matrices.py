"""Reads many series over a long time as NumPy matrices, for fitting thresholds.

It reads stored rollups only; hours and days are rolled up some minutes after their end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlmodel import Session

from cloud_hub.database.tables import Rollup
from cloud_hub.telemetry.rollups.aggregate import samples
from cloud_hub.telemetry.rollups.core.buckets import Buckets, Floats, Ints, merge_neighbours, unpack_all
from cloud_hub.telemetry.rollups.store import DAY, HOUR, MINUTE, SPAN_US, of_series

Series = tuple[str, str]
"""(device, metric)"""

CELLS = 2_000_000
"""Series x points of one page."""
TOGETHER = 2000
"""Series of one page; databases limit the number of parameters."""
POINTS = 1_000_000
"""Maximum points of one series."""
ROWS = 50_000
"""Rows unpacked at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """Some of the series that were asked for, from number `first` on, n of them, at T times.

    `t_us` int64[T] are the beginnings of the buckets; `mean`, `low`, `high` float64[n, T] are NaN and `count`
    int64[n, T] is 0 where there are no samples.
    """

    first: int
    t_us: Ints
    count: Ints
    low: Floats
    high: Floats
    mean: Floats


def columns(
    session: Session, series: Sequence[Series], start_us: int, end_us: int, resolution_s: int = HOUR
) -> Iterator[Page]:
    """Buckets of `resolution_s` seconds (whole minutes, such as 60, 300, 3600 or 86400) of start_us..end_us.

    Both ends are rounded outwards to whole buckets. Series come in the order given, as many in a page as fit into
    `CELLS`. Raises ValueError for an invalid resolution or range.
    """
    stored = source_of(resolution_s)
    step_us = resolution_s * 1_000_000
    start, end = start_us // step_us, -(-end_us // step_us)
    if not 0 < end - start <= POINTS:
        raise ValueError(f"a span must end after its start, and have at most {POINTS} points")
    t_us = np.arange(start, end, dtype=np.int64) * step_us
    at_once = max(1, min(TOGETHER, CELLS // len(t_us)))
    for first in range(0, len(series), at_once):
        found = _filled(session, series[first : first + at_once], stored, resolution_s // stored, start, end)
        yield Page(first, t_us, *found)


def source_of(resolution_s: int) -> int:
    """The stored step from which buckets of `resolution_s` seconds are computed; ValueError if there is none."""
    for step, row_s in ((DAY, DAY), (HOUR, DAY), (MINUTE, HOUR)):
        if 0 < resolution_s <= row_s and resolution_s % step == 0 and row_s % resolution_s == 0:
            return step
    raise ValueError(f"no rollups of {resolution_s} s: minutes that divide an hour, hours that divide a day, or 86400")


def raw(session: Session, device: str, metric: str, start_us: int, end_us: int) -> tuple[Ints, Floats]:
    """(t_us int64[n], values float64[n]) of the numeric samples in order of time, without those of bad quality."""
    pages = list(samples(session, device, metric, start_us, end_us))
    if not pages:
        return np.zeros(0, np.int64), np.zeros(0)
    return np.concatenate([t_us for t_us, _ in pages]), np.concatenate([values for _, values in pages])


def _filled(
    session: Session, series: Sequence[Series], stored: int, fold: int, start: int, end: int
) -> tuple[Ints, Floats, Floats, Floats]:
    """(count, low, high, mean), each a row for a series, of the buckets `start` to `end`."""
    width = end - start
    count = np.zeros((len(series), width), np.int64)
    low, high, mean = (np.full((len(series), width), np.nan) for _ in range(3))
    for number, found in _rows(session, series, stored, start * fold * stored, end * fold * stored):
        slot = found.slot // fold - start
        inside = (slot >= 0) & (slot < width)
        part, cell = found, number * width + slot
        if not inside.all():
            part, cell = found.part(inside), cell[inside]
        whole = (
            merge_neighbours(cell, part.count, part.low, part.high, part.mean) if fold > 1 else replace(part, slot=cell)
        )
        count.ravel()[whole.slot] = whole.count
        for matrix, column in ((low, whole.low), (high, whole.high), (mean, whole.mean)):
            matrix.ravel()[whole.slot] = column
    return count, low, high, mean


def _rows(
    session: Session, series: Sequence[Series], stored: int, start_s: int, end_s: int
) -> Iterator[tuple[Ints, Buckets]]:
    """(number of the series, buckets by their slot since 1970) of some rows at a time, in order of both."""
    start_us, end_us = start_s * 1_000_000 // SPAN_US[stored] * SPAN_US[stored], end_s * 1_000_000
    found = of_series(session, Rollup, "buckets", series, stored, start_us, end_us)
    for some in found.partitions(ROWS):
        number, t_us, packed = zip(*some, strict=True)
        row, buckets = unpack_all(packed)
        base = np.array(t_us, np.int64) // (stored * 1_000_000)
        yield np.array(number, np.int64)[row], buckets.shifted(base[row])
