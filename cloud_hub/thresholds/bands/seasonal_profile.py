"""Seasonal profile: learns the shape of a day and of a week, one time slot at a time.

During a slot, only the sum and count of its residuals are kept; at its end, their mean updates the table. So a slot has
the same weight at one sample a second and at one an hour. Each visit has weight 1/visits, later LEAST_RATE: an
exponential window (Holt-Winters; Winters 1960) that starts as a plain mean. The mean error of a day updates the level
and, with DAMPING, the trend (Gardner & McKenzie 1985).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cloud_hub.thresholds.bands import width
from cloud_hub.thresholds.bands.state import DAY_SLOTS, HOURS, NEVER, WEEK_SLOTS, Columns, Flags, Ints, Small, Tables

QUARTER_US = 900_000_000
COARSE_S = 1000.0
"""Series with a longer period have one slot an hour: slots of a quarter would stay empty when the minute drifts."""
DAY_RATE, WEEK_RATE, SPREAD_RATE = 0.15, 0.2, 0.15
LEVEL_RATE, TREND_RATE, DAMPING = 0.25, 0.1, 0.95
LATE_SAMPLES = 3
TINY = np.float32(1e-30)


def slots_of(quarters: Ints, period: Small) -> Ints:
    """The row of `Tables.day` for times in quarters of an hour since the epoch."""
    slots: Ints = quarters % DAY_SLOTS
    return np.where(period > COARSE_S, slots & ~3, slots) if (period > COARSE_S).any() else slots


def turn(columns: Columns, tables: Tables, who: Ints, t_us: Ints) -> None:
    """Advance the clock of series that have a sample at `t_us`, and close the slots, hours and days that ended.

    A sample that is not after the last one leaves the clock unchanged; the third such sample in a row resets it.
    """
    new = columns.last == NEVER
    before = np.where(new, t_us, columns.last) if new.any() else columns.last
    gap = ((t_us.astype(np.float64) - before.astype(np.float64)) / 1e6).astype(np.float32)
    ahead = gap > 0
    columns.late += np.float32(1)
    columns.late[ahead | new] = 0
    clock = np.where(ahead | new | (columns.late >= LATE_SAMPLES), t_us, before)
    ended, now = before // QUARTER_US, clock // QUARTER_US
    if (ended != now).any():
        _close(columns, tables, who, ended, now)
    _learn_period(columns, gap, ahead)
    columns.last[:] = clock


def _learn_period(columns: Columns, gap: Small, ahead: Flags) -> None:
    """Update the period: a mean of the gaps in which a long gap has limited weight; exact for a regular series."""
    period = columns.period
    step = width.clip(gap - period, np.float32(-0.9) * period, period)
    rate = np.maximum(1 / np.maximum(columns.seen, 1), np.float32(0.05))
    moved = np.where(period == 0, gap, period + rate * step)
    np.copyto(period, moved, where=ahead)


def _close(columns: Columns, tables: Tables, who: Ints, ended: Ints, now: Ints) -> None:
    old, new = slots_of(ended, columns.period), slots_of(now, columns.period)
    some = np.flatnonzero((old != new) & (columns.slot_count > 0))
    if some.size:
        _close_slots(columns, tables, who, some, old[some])
    hours = ended // 4
    some = np.flatnonzero((hours != now // 4) & (columns.hour_count > 0))
    if some.size:
        _close_hours(columns, tables, who, some, hours[some])
    some = np.flatnonzero((ended // DAY_SLOTS != now // DAY_SLOTS) & (columns.day_count > 0))
    if some.size:
        _close_days(columns, tables, who, some)


def _close_slots(columns: Columns, tables: Tables, who: Ints, some: Ints, slots: Ints) -> None:
    old = tables.day[slots, who[some]]
    mean = columns.slot_sum[some] / columns.slot_count[some]
    rate = np.maximum(1 / (columns.days[some] + 1), np.float32(DAY_RATE))
    tables.day[slots, who[some]] = np.where(np.isnan(old), mean, old + rate * mean)
    columns.slot_sum[some] = columns.slot_count[some] = 0


def _close_hours(columns: Columns, tables: Tables, who: Ints, some: Ints, hours: Ints) -> None:
    count, days = columns.hour_count[some], columns.days[some]
    rate = np.where(days < 1, 0, np.maximum(1 / (days / 7 + 1), np.float32(WEEK_RATE)))
    tables.week[hours % WEEK_SLOTS, who[some]] += rate * columns.hour_sum[some] / count
    share = width.clip(columns.hour_size[some] / count / np.maximum(columns.scale[some], TINY), 0.2, 5)
    spread = tables.spread[hours % HOURS, who[some]]
    tables.spread[hours % HOURS, who[some]] = spread + np.float32(SPREAD_RATE) * (share - spread)
    columns.hour_sum[some] = columns.hour_count[some] = columns.hour_size[some] = 0


def _close_days(columns: Columns, tables: Tables, who: Ints, some: Ints) -> None:
    days = columns.days[some]
    error = columns.day_sum[some] / columns.day_count[some]
    # The part of the error that the slots have learned is not counted again.
    rate = np.minimum(np.float32(LEVEL_RATE), 1 - np.maximum(1 / (days + 1), np.float32(DAY_RATE)))
    day = tables.day[:, who[some]]
    seen = ~np.isnan(day)
    middle = np.where(seen, day, 0).sum(axis=0, dtype=np.float32) / np.maximum(seen.sum(axis=0), 1).astype(np.float32)
    tables.day[:, who[some]] = day - middle
    trend, step = columns.trend[some], rate * error
    columns.level[some] += (step + middle + trend).astype(np.float64)
    for short in (columns.slow, columns.fast):  # their effect on the level is not changed
        short[:, some] -= step
        short[0, some] -= middle
    columns.trend[some] = np.float32(DAMPING) * trend + np.where(days >= 2, np.float32(TREND_RATE), 0) * error
    columns.days[some] = days + 1
    columns.day_sum[some] = columns.day_count[some] = 0


@dataclass(slots=True, eq=False)
class Shape:
    """The shape at one time: `bases` [3, n] (level, with day, with day and week) relative to the level; `spread`."""

    bases: Small
    spread: Small


def shape_at(columns: Columns, tables: Tables, who: Ints, t_us: Ints) -> Shape:
    """The shape at the time of each sample."""
    quarters = t_us // QUARTER_US
    hours = quarters // 4
    n = tables.day.shape[1]
    day = tables.day.take(slots_of(quarters, columns.period) * n + who)
    bases = np.empty((3, who.size), np.float32)
    # The trend is that of a day's middle.
    bases[0] = columns.trend * ((quarters % DAY_SLOTS).astype(np.float32) / DAY_SLOTS - np.float32(0.5))
    bases[1] = bases[0] + np.where(np.isnan(day), np.float32(0), day)
    bases[2] = bases[1] + tables.week.take(hours % WEEK_SLOTS * n + who)
    return Shape(bases, tables.spread.take(hours % HOURS * n + who))
