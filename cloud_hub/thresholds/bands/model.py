"""The band of a metric: forecasts its next value and the range in which it should lie. Online, pure.

**Model.** n series are processed side by side as NumPy columns, with constant work and memory per sample. Each series
has a level and a seasonal shape of day and week (`seasonal_profile`). They give three bases: level, level and day,
level and day and week. To each base the recent mean residual is added, once over half a day and once over the last few
samples, which gives six forecasts. Their weights are the inverse fourth power of their mean absolute error over the
last hundred samples, so the best dominates, and unused seasonality costs little (combination of forecasts by past
error: Bates & Granger 1969; discounting as in Stock & Watson 2004). The scale is the mean absolute error, times a
factor for the hour of day.

**Width.** The width in scales follows the misses (`width`): coverage is held by feedback, not by an assumed
distribution. It is wider on a short history, and `sure` is the share of the needed history.

**Outliers.** A value far outside is learned from as if it were at twice the distance of the edge, so an anomaly does
not become normal at once. With each further sample outside, that distance grows by a fifth, so a new level is followed
after n samples, where 1.2**n is about its distance in widths: 13 for ten widths, 38 for a thousand. Meanwhile `sure`
falls.

**Day-ahead band.** Devices use a second band for the coming days: bases only, without the last hours. Its level moves
at midnight UTC, and at once after three days of misses, which is longer than any weekend. It is updated by its own
misses, so its width reflects the error of a forecast one day ahead.

**Limitations.** Days are UTC, so a daily shape that follows summer time is wrong for about a week. Holidays count as
weekdays. Two alternating regimes get one band over both. The scale adapts by 1 % a sample, so after a change of unit to
thousandths the band is too wide for more than ten days, and after a first value of 1e30 for weeks. Values beyond 1e30
from the level count as 1e30. Parameters were chosen on 29 series of the Numenta Anomaly Benchmark and 3 of KPI, and are
the same for all series.
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
"""Half a day: longer deviations from the shape belong to the level."""
FAST = np.float32(0.3)
WIDTH = 6.0
"""Initial width to each side in scales: covers 99 % of samples except for very heavy tails."""
NORMAL = np.float32(1.25)
"""Ratio of standard deviation to mean absolute value of a normal variable."""
FEW = 8
"""All series are stepped together if at most one in this many has no sample."""
STANDS_S, STANDS = np.float32(3 * 86400), np.float32(12)
"""Three days and twelve samples outside of the day-ahead band are a new level, not a weekend."""
KNOWN = 2
"""Samples before there is a band."""


@dataclass(frozen=True, slots=True, eq=False)
class BandResult:
    """One sample of each series and the band forecast before it. All float64 [n], in the metric's unit.

    NaN where a series had no sample. `low` and `high` are infinite before the third sample, and if values vary by more
    than 1e29. `z` is the residual in scales (about standard deviations). `sure` is 0..1, the share of the needed
    history; it is lower while values are outside.
    """

    expected: Floats
    low: Floats
    high: Floats
    z: Floats
    sure: Floats


class Bands:
    """Bands of `n` independent series; a series alone gives the same bits."""

    def __init__(self, n: int, settings: BandSettings = STANDARD) -> None:
        self.settings = settings
        self._adopt(Columns.new(n, WIDTH), Tables.new(n))

    def _adopt(self, columns: Columns, tables: Tables) -> None:
        self.n, self._columns, self._tables = columns.last.size, columns, tables
        self._all = np.arange(self.n)

    def step(self, t_us: npt.NDArray[Any], values: npt.NDArray[Any]) -> BandResult:
        """Judge one sample of each series by its history, then learn from it.

        `t_us` int64 [n] is UTC microseconds, `values` float [n]; NaN or infinity means no sample of that series. Raises
        ValueError for other shapes.
        """
        times, points = np.asarray(t_us, np.int64), np.asarray(values, np.float64)
        if times.shape != (self.n,) or points.shape != (self.n,):
            raise ValueError(f"times {times.shape} and values {points.shape} must both be ({self.n},)")
        absent = np.flatnonzero(~np.isfinite(points))
        with np.errstate(over="ignore", under="ignore"):  # infinite edges are intended: no limit
            if not absent.size:
                return BandResult(*_step(self._columns, self._tables, self._all, times, points, self.settings))
            most = absent.size * FEW < self.n
            return BandResult(*(self._step_most if most else self._step_some)(times, points, absent))

    def _step_most(self, times: Ints, points: Floats, absent: Ints) -> Floats:
        """Step all series, then restore the few without a sample, which is cheaper than copying all others.

        Their clock is not advanced, so none of their slots is closed and the tables do not change.
        """
        columns = self._columns.take(absent)
        times, points = times.copy(), points.copy()
        times[absent], points[absent] = columns.last, columns.level
        judged = _step(self._columns, self._tables, self._all, times, points, self.settings)
        self._columns.put(absent, columns)
        judged[:, absent] = np.nan
        return judged

    def _step_some(self, times: Ints, points: Floats, absent: Ints) -> Floats:
        """Step a copy of the series that have a sample."""
        who, judged = np.delete(self._all, absent), np.full((5, self.n), np.nan)
        if who.size:
            part = self._columns.take(who)
            judged[:, who] = _step(part, self._tables, who, times[who], points[who], self.settings)
            self._columns.put(who, part)
        return judged

    def learn(self, t_us: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """Learn from history: `values` float [T, n] at `t_us` int64 [T] or [T, n], as T steps."""
        times, points = np.asarray(t_us, np.int64), np.asarray(values, np.float64)
        for t, value in zip(
            times if times.ndim == 2 else np.repeat(times, self.n).reshape(-1, self.n), points, strict=True
        ):
            self.step(t, value)

    def limits(self, index: int, metric: str, now_us: int, *, period_s: float | None = None) -> Limits:
        """The limits of series `index` for the coming days; see `day_ahead.day_ahead_limits`."""
        one = np.array([index])
        return day_ahead_limits(self._columns.take(one), self._tables, index, metric, now_us, self.settings, period_s)

    def pack(self) -> bytes:
        """Serialise the state and settings. Continuing after `unpack` gives the same bits."""
        return pack(self._columns, self._tables, self.settings.numbers())

    @classmethod
    def unpack(cls, data: bytes) -> Bands:
        """Restore bands from `pack`. Raises ValueError for another version or damaged bytes."""
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
    value = width.clip(points - columns.level, -MOST, MOST).astype(np.float32)
    judged = _judged(columns, near, value, now.sure)
    _learn(columns, shape, near, ahead, value, 1 - settings.coverage)
    return judged


def _judged(columns: Columns, near: Band, value: Small, sure: Small) -> Floats:
    judged, level, known = np.empty((5, value.size)), columns.level, (columns.seen >= KNOWN) & (near.size < HUGE)
    judged[0] = level + near.expected
    judged[1] = np.where(known, level + (near.expected - near.down), -np.inf)
    judged[2] = np.where(known, level + (near.expected + near.up), np.inf)
    judged[3] = np.where(known, width.clip((value - near.expected) / near.size, -MOST, MOST), 0)
    judged[4] = sure / columns.lift
    return judged


def _learn(columns: Columns, shape: Shape, near: Band, ahead: Band, value: Small, outside: float) -> None:
    once = width.ONE / (columns.seen + 1)  # the first samples have equal weight, later ones decay by the rate
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
        columns.trend[stood] += np.float32(seasonal_profile.TREND_RATE) * width.clip(shift, -most, most)[stood]
        _move_level(columns, stood, shift[stood])


def _learn_near(columns: Columns, shape: Shape, near: Band, kept: Small, once: Small) -> None:
    rate = np.maximum(once, ERROR_RATE)
    error = np.abs(kept - near.expected) * NORMAL
    columns.hour_size += error
    columns.error += rate * (np.abs(kept - near.forecasts) - columns.error)
    columns.scale += rate * (error / shape.spread - columns.scale)
    for decaying in (columns.error, columns.scale):  # denormal numbers would be a hundred times slower
        np.maximum(decaying, TINY, out=decaying)
    beyond = kept - shape.bases
    slow = np.maximum(np.minimum(columns.period / SLOW_S, SLOW_MOST), once)
    columns.slow += slow * (beyond - columns.slow)
    columns.fast += np.maximum(once, FAST) * (beyond - columns.fast)


def _move_level(columns: Columns, some: Ints, shift: Small) -> None:
    """Move the level after values have been outside of the day-ahead band for three days."""
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
