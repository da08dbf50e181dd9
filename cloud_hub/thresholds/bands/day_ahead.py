"""Computes the limits that a device uses for the coming days from a learned band. Pure.

The limits of an hour cover all of its quarters, and also all days if 168 limits for the week are not justified. Each is
beyond the day-ahead forecast by so much that ordinary samples exceed it as rarely as the settings require; so the
limits are valid for a device that receives new ones once a day. A trend is extrapolated over the coming day.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cloud_hub.thresholds.bands import width
from cloud_hub.thresholds.bands.seasonal_profile import COARSE_S
from cloud_hub.thresholds.bands.settings import BandSettings
from cloud_hub.thresholds.bands.state import DAY_SLOTS, HOURS, WEEK_SLOTS, Columns, Floats, Tables
from shared.durations import DAY_US
from shared.thresholds import Limits

DAYS_AHEAD, MOST_DAYS = 1.0, 7.0
WORTH = 0.9
"""A more detailed shape is used only if it reduces the error by at least a tenth."""
WEEKS_DAYS = 14
LEAST_DAYS = 0.99
"""A day, less the rounding error of a mean of periods in 32 bits."""
LEAST_DEADBAND = 0.1
"""Share of the minimum width: if values hardly move, the scale is rounding noise."""


class NotEnough(ValueError):
    """The history holds too few usable points to learn limits from."""


@dataclass(frozen=True, slots=True, eq=False)
class _Week:
    """A week from Monday 00:00 UTC, float64 [7, 24, 4] relative to the level: expected values and their scale."""

    expected: Floats
    size: Floats


def day_ahead_limits(
    one: Columns, tables: Tables, index: int, metric: str, now_us: int, settings: BandSettings, period_s: float | None
) -> Limits:
    """Limits of `metric` from columns of one series, which has `index` in `tables`; `now_us` is their timestamp.

    `period_s` is the time between samples before any thinning. Raises NotEnough for less than 30 samples over a day,
    ValueError for numbers that overflow.
    """
    # By the period, or by the number of midnights, if samples have become more frequent.
    seen, days = int(one.seen[0]), max(float(one.seen[0] * one.period[0]) / 86400, float(one.days[0]) - 1)
    if seen < width.LEAST_SEEN or days < LEAST_DAYS:
        raise NotEnough(f"{metric} has {seen} usable points over {days:.2f} days; limits need 30 over a day")
    if not one.ahead_scale[0] < width.HUGE:
        raise ValueError(f"{metric} swings by more than {width.HUGE:g}; no limits can be learned from that")
    level, period_s = float(one.level[0]), period_s or float(one.period[0])
    week = _week(one, tables, index, level)
    least = settings.least_width * max(abs(level), 1e-6)
    low, high = _edges(one, week, settings, period_s, now_us, least)
    slots = _worth(one)
    lows, highs = _slots(level + low, slots, np.min), _slots(level + high, slots, np.max)
    return Limits(
        metric=metric,
        low=min(lows),
        high=max(highs),
        lows=tuple(lows) if slots > 1 else (),
        highs=tuple(highs) if slots > 1 else (),
        cycle="week" if slots == WEEK_SLOTS else "day",
        deadband=min(
            max(settings.deadband * float(week.size.min()), LEAST_DEADBAND * least),
            min(np.subtract(highs, lows).tolist()) / 4,
        ),
        on_delay_s=settings.on_periods * period_s,
        off_delay_s=settings.off_periods * period_s,
        source="learned",
        fitted_us=now_us,
    )


def _week(one: Columns, tables: Tables, index: int, level: float) -> _Week:
    day = np.nan_to_num(tables.day[:, index]).astype(np.float64)
    if one.period[0] > COARSE_S:
        day = np.repeat(day[::4], 4)
    thursday = tables.week[:, index].astype(np.float64).reshape(7, HOURS, 1)
    week = np.roll(thursday, 3, axis=0)  # the epoch began on a Thursday
    _, daily, weekly = _weights(one)
    expected = (daily + weekly) * day.reshape(1, HOURS, DAY_SLOTS // HOURS) + weekly * week
    size = float(one.ahead_scale[0]) * tables.spread[:, index].astype(np.float64).reshape(1, HOURS, 1)
    return _Week(expected, np.maximum(size, abs(level) * width.ROUNDING + 1e-30) * np.ones_like(expected))


def _weights(one: Columns) -> list[float]:
    error = one.ahead_error[:, 0].astype(np.float64)
    least = float(one.ahead_scale[0]) * 1e-3 + 1e-30
    weights = ((error.min() + least) / (error + least)) ** 4
    shares: list[float] = (weights / weights.sum()).tolist()
    return shares


def _edges(
    one: Columns, week: _Week, settings: BandSettings, period_s: float, now_us: int, least: float
) -> tuple[Floats, Floats]:
    """Low and high relative to the level, float64 [7, 24, 4]."""
    outside = min(settings.outside, width.TAIL, max(period_s, 1e-3) / 86400 / settings.return_days)
    folds = float(np.log(width.TAIL / outside))
    caution = float(width.caution(one, width.progress(one))[0])
    down = (float(one.ahead_low[0]) + folds * float(one.low_excess[0])) * caution
    up = (float(one.ahead_high[0]) + folds * float(one.high_excess[0])) * caution
    trend, old = float(one.trend[0]), (now_us - int(one.last[0])) / DAY_US
    # The level is that of the last day's middle.
    courses = (-0.5 * trend, (min(max(old, 0.0), MOST_DAYS) + DAYS_AHEAD) * trend)
    with np.errstate(over="ignore"):  # Limits rejects values that are not finite
        low = week.expected + min(courses) - np.maximum(down * week.size, least)
        high = week.expected + max(courses) + np.maximum(up * week.size, least)
    return low, high


def _worth(one: Columns) -> int:
    """The number of slots that the limits need: 1, the 24 hours of a day or the 168 of a week."""
    flat, daily, weekly = one.ahead_error[:, 0].tolist()
    if one.days[0] >= WEEKS_DAYS and weekly < WORTH * min(daily, flat):
        return WEEK_SLOTS
    return HOURS if min(daily, weekly) < WORTH * flat else 1


def _slots(edge: Floats, slots: int, worst: Callable[..., Floats]) -> list[float]:
    """The extreme value of a week [7, 24, 4] in each slot."""
    axes = {1: (0, 1, 2), HOURS: (0, 2), WEEK_SLOTS: (2,)}[slots]
    found: list[float] = np.atleast_1d(worst(edge, axis=axes)).ravel().tolist()
    return found
