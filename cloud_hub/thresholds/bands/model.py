"""The band of a metric: what its next value should be, and between which limits it should lie. Online, pure.

The model, for n series side by side as NumPy columns; work and memory a sample are constant. Each series has a level
and a shape of day and week (`profile`). From these come three bases: level, level and day, level and day and week. To
each base is added what the values have lately been beyond it, once over half a day, once over the last few samples:
six forecasts. They are mixed by the fourth power of their mean absolute error over the last hundred samples, so the
best leads, and a series without weekdays pays little for having them tried (combination of forecasts by past error:
Bates & Granger 1969; discounting as in Stock & Watson 2004). Scale is the mean absolute error, times the hour's own
share of it.

How wide the band is in scales, the misses say (`edges`): coverage is held by feedback and not by a distribution that
was assumed. On a short history it is wider, and `sure` tells how much has been seen.

A value far outside is learned from as if it lay twice as far as the edge: an anomaly does not become the norm at once.
With each further sample outside the reach grows by a fifth, so a level that stays is followed after n samples, where
1.2**n is about its distance in widths: 13 for ten widths, 38 for a thousand. Meanwhile `sure` falls.

What a device judges by for the coming days is another band, the day-ahead one: bases only, with no sight of the last
hours. Its level moves at midnight UTC, and after three days of misses at once: no weekend lasts that long. It is
tracked beside the other on what it would have missed, so its width knows how far a day ahead can be seen.

What it loses: days are UTC, so a day shape that follows summer time is wrong for a week or so. Holidays are weekdays.
Two regimes that take turns get a band over both.
A scale comes in by 1% a sample, so after a unit of thousandths the band is too wide for more than ten days, and after a
first value of 1e30 for weeks. Values beyond 1e30 from the level count as 1e30.
Parameters were chosen on 29 series of the Numenta Anomaly Benchmark, 3 of KPI, and are the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.bands import seasonal_profile, width
from cloud_hub.thresholds.bands.day_ahead import day_ahead_limits
from cloud_hub.thresholds.bands.seasonal_profile import Shape
from cloud_hub.thresholds.bands.settings import STANDARD, BandSettings
from cloud_hub.thresholds.bands.state import Columns, Flags, Floats, Ints, Small, Tables, pack, unpack
from cloud_hub.thresholds.bands.width import HUGE, MOST, TINY, Band
from shared.thresholds import Limits

ERROR_RATE, AHEAD_RATE = np.float32(1 / 100), np.float32(1 / 1000)
SLOW_S, SLOW_MOST = np.float32(43_200), np.float32(0.2)
"""Half a day: what is beyond the shape for longer is the level's."""
FAST = np.float32(0.3)
WIDTH = 6.0
"""Scales to each side at first: 99% of samples of all but the heaviest tails."""
NORMAL = np.float32(1.25)
"""Standard deviation of a normal variable by its mean absolute value."""
FEW = 8
"""Of eight series one at most may be absent for all to be stepped together."""
STANDS_S, STANDS = np.float32(3 * 86400), np.float32(12)
"""Outside of the day-ahead band for three days, and twelve samples: no weekend, but a new level."""
KNOWN = 2
"""Samples before there is a band at all."""


@dataclass(frozen=True, slots=True, eq=False)
class BandResult:
    """One sample of each series beside what was expected before it was seen. All float64 [n], in the metric's unit.

    NaN where a series had no sample. `low` and `high` are infinite before the third
    sample, and where values swing by more than 1e29. `z` is the residual in
    scales (about standard deviations). `sure` is 0..1: how much of the needed history has been seen, lower while
    values are outside.
    """

    expected: Floats
    low: Floats
    high: Floats
    z: Floats
    sure: Floats


class Bands:
    """Bands of `n` series. Series do not know each other: each alone would get the same bits."""

    def __init__(self, n: int, settings: BandSettings = STANDARD) -> None:
        self.settings = settings
        self._adopt(Columns.new(n, WIDTH), Tables.new(n))

    def _adopt(self, columns: Columns, tables: Tables) -> None:
        self.n, self._columns, self._tables = columns.last.size, columns, tables
        self._all = np.arange(self.n)

    def step(self, t_us: npt.NDArray[Any], values: npt.NDArray[Any]) -> BandResult:
        """Judge one sample of each series by its past, then learn from it.

        `t_us` int64 [n] is UTC microseconds, `values` float [n]; NaN or infinite is no sample of that series. Raises
        ValueError for other shapes.
        """
        times, points = np.asarray(t_us, np.int64), np.asarray(values, np.float64)
        if times.shape != (self.n,) or points.shape != (self.n,):
            raise ValueError(f"times {times.shape} and values {points.shape} must both be ({self.n},)")
        absent = np.flatnonzero(~np.isfinite(points))
        with np.errstate(over="ignore", under="ignore"):  # infinite edges are meant: no limit
            if not absent.size:
                return BandResult(*_step(self._columns, self._tables, self._all, times, points, self.settings))
            most = absent.size * FEW < self.n
            return BandResult(*(self._step_most if most else self._step_some)(times, points, absent))

    def _step_most(self, times: Ints, points: Floats, absent: Ints) -> Floats:
        """All series; the few absent ones are put back as they were, which is cheaper than to copy all others.

        Their clock stands still, so that no slot of theirs is closed: the tables stay as they are.
        """
        columns = self._columns.take(absent)
        times, points = times.copy(), points.copy()
        times[absent], points[absent] = columns.last, columns.level
        judged = _step(self._columns, self._tables, self._all, times, points, self.settings)
        self._columns.put(absent, columns)
        judged[:, absent] = np.nan
        return judged

    def _step_some(self, times: Ints, points: Floats, absent: Ints) -> Floats:
        """Those series that have a sample, in a copy."""
        who, judged = np.delete(self._all, absent), np.full((5, self.n), np.nan)
        if who.size:
            part = self._columns.take(who)
            judged[:, who] = _step(part, self._tables, who, times[who], points[who], self.settings)
            self._columns.put(who, part)
        return judged

    def learn(self, t_us: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """Replay history: `values` float [T, n] at `t_us` int64 [T] or [T, n], as T steps."""
        times, points = np.asarray(t_us, np.int64), np.asarray(values, np.float64)
        for t, value in zip(
            times if times.ndim == 2 else np.repeat(times, self.n).reshape(-1, self.n), points, strict=True
        ):
            self.step(t, value)

    def limits(self, index: int, metric: str, now_us: int, *, period_s: float | None = None) -> Limits:
        """What a device shall judge series `index` by in the coming days; see `ahead.limits`."""
        one = np.array([index])
        return day_ahead_limits(self._columns.take(one), self._tables, index, metric, now_us, self.settings, period_s)

    def pack(self) -> bytes:
        """The whole state, settings too. Stepping on after `unpack` gives the same bits as without."""
        return pack(self._columns, self._tables, self.settings.numbers())

    @classmethod
    def unpack(cls, data: bytes) -> Bands:
        """What `pack` made. Raises ValueError for another version or damaged bytes."""
        columns, tables, numbers = unpack(data)
        bands = cls(0, BandSettings.of(numbers))
        bands._adopt(columns, tables)
        return bands


def _step(columns: Columns, tables: Tables, who: Ints, times: Ints, points: Floats, settings: BandSettings) -> Floats:
    new = columns.seen == 0
    if new.any():
        columns.level[new] = points[new]
    seasonal_profile.turn(columns, tables, who, times)
    shape = seasonal_profile.shape_at(columns, tables, who, times)
    forecasts = np.concatenate((shape.bases + columns.slow, shape.bases + columns.fast))
    now = width.moment(columns, shape.spread)
    near = width.band(forecasts, columns.error, columns.scale, (columns.low, columns.high), now)
    reach = columns.ahead_low, columns.ahead_high
    ahead = width.band(shape.bases, columns.ahead_error, columns.ahead_scale, reach, now)
    value = np.clip(points - columns.level, -MOST, MOST).astype(np.float32)
    judged = _judged(columns, near, value, now.sure)
    _learn(columns, shape, near, ahead, value, 1 - settings.coverage)
    return judged


def _judged(columns: Columns, near: Band, value: Small, sure: Small) -> Floats:
    judged, level, known = np.empty((5, value.size)), columns.level, (columns.seen >= KNOWN) & (near.size < HUGE)
    judged[0] = level + near.expected
    judged[1] = np.where(known, level + (near.expected - near.down), -np.inf)
    judged[2] = np.where(known, level + (near.expected + near.up), np.inf)
    judged[3] = np.where(known, np.clip((value - near.expected) / near.size, -MOST, MOST), 0)
    judged[4] = sure / columns.lift
    return judged


def _learn(columns: Columns, shape: Shape, near: Band, ahead: Band, value: Small, outside: float) -> None:
    once = width.ONE / (columns.seen + 1)  # the first samples count alike, later ones as the rate says
    known = columns.seen >= KNOWN
    below, above = near.beyond(value, known)
    kept = np.where(known, near.clipped(value, columns.lift), value)
    width.raise_lift(columns.lift, below | above)
    width.follow(columns, below, above, once, outside)
    _learn_near(columns, shape, near, kept, once)
    _learn_ahead(columns, shape, ahead, kept, known, np.maximum(once, AHEAD_RATE))
    for count in (columns.slot_count, columns.hour_count, columns.day_count, columns.seen):
        np.add(count, 1, out=count)
    stood = np.flatnonzero(columns.ahead_run > np.maximum(STANDS_S / np.maximum(columns.period, TINY), STANDS))
    if stood.size:
        shift = near.expected - ahead.expected
        most = width.LEAST_WITHIN * ahead.size
        columns.trend[stood] += np.float32(seasonal_profile.TREND_RATE) * np.clip(shift, -most, most)[stood]
        _move_level(columns, stood, shift[stood])


def _learn_near(columns: Columns, shape: Shape, near: Band, kept: Small, once: Small) -> None:
    rate = np.maximum(once, ERROR_RATE)
    error = np.abs(kept - near.expected) * NORMAL
    columns.hour_size += error
    columns.error += rate * (np.abs(kept - near.forecasts) - columns.error)
    columns.scale += rate * (error / shape.spread - columns.scale)
    for decaying in (columns.error, columns.scale):  # denormal numbers would cost a hundred times as much
        np.maximum(decaying, TINY, out=decaying)
    beyond = kept - shape.bases
    slow = np.maximum(np.minimum(columns.period / SLOW_S, SLOW_MOST), once)
    columns.slow += slow * (beyond - columns.slow)
    columns.fast += np.maximum(once, FAST) * (beyond - columns.fast)


def _move_level(columns: Columns, some: Ints, shift: Small) -> None:
    """Values have stood outside of the day-ahead band for three days: that is the level now."""
    columns.level[some] += shift.astype(np.float64)
    columns.slow[:, some] -= shift
    columns.fast[:, some] -= shift
    columns.ahead_run[some] = 0
    columns.day_sum[some] = columns.slot_sum[some] = columns.hour_sum[some] = 0
    columns.day_count[some] = columns.slot_count[some] = 0


def _learn_ahead(columns: Columns, shape: Shape, ahead: Band, kept: Small, known: Flags, rate: Small) -> None:
    below, above = ahead.beyond(kept, known)
    width.follow_ahead(columns, ahead, kept, below, above)
    kept = np.where(known, ahead.clipped(kept), kept)
    off = kept - ahead.expected
    columns.ahead_error += rate * (np.abs(kept - shape.bases) - columns.ahead_error)
    columns.ahead_scale += rate * (np.abs(off) * NORMAL / shape.spread - columns.ahead_scale)
    for decaying in (columns.ahead_error, columns.ahead_scale):
        np.maximum(decaying, TINY, out=decaying)
    columns.slot_sum += kept - shape.bases[1]
    columns.hour_sum += kept - shape.bases[2]
    columns.day_sum += off
