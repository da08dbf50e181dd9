"""Computes seventeen features of one series, each a standardised residual of the sample.

There are five kinds of feature, most smoothed over several spans, to detect spikes as well as changes of hours:
- 0-4, levels: the level over 1, 3, 10, 30 and 100 samples against the slow level;
- 5-8 and 9-12, day and week: what is left over 1, 3, 10 and 30 samples after the usual value of this hour;
- 13, the next sample: the error of a forecast from the last eight (normalised LMS: Widrow and Hoff 1960);
- 14-16, spread: the size of the changes over 10, 30 and 100 samples against its slow mean. A flat line is small.
An hour without data falls back: the week's value to the day's, the day's to the slow level. Spans are in samples,
because they determine the delay; memories are in time as well, because days and weeks are.
"""

from __future__ import annotations

import numpy as np

from cloud_hub.thresholds.scores.state import (
    ANCHOR,
    CENTRE,
    CHANGE,
    CHANGES,
    COUNT,
    DAY,
    DAY_REST,
    FEATURES,
    LAGS,
    LEVELS,
    PREVIOUS,
    SCALES,
    SLOW,
    WEEK,
    WEEK_REST,
    WEIGHTS,
    Columns,
    Doubles,
    Longs,
    Singles,
)

FASTS = np.array([0.3, 0.1, 0.03, 0.01], dtype=np.float32)
SPREADS = FASTS[1:]
SEASONS = np.array([1.0, 0.3, 0.1, 0.03], dtype=np.float32)
CENTRE_SHARE, RATE = np.float32(0.003), 0.02
NEXT, SPREAD = 13, 14

ONE = np.float32(1.0)
HUGE, OUTLIER_BOUND = np.float32(1e30), 1e6
YOUNG = 100  # samples before the state of a series is reliable
TINY = np.float32(1e-30)
NOTHING = 1e-200
FAR = np.float32(1000.0)  # residuals beyond a thousand times the usual one are equal
STILL = np.float32(0.01)  # changes below a hundredth of the usual one are equal
BITS, BIAS, LN2 = np.float32(2.0**-23), np.float32(127.0), np.float32(0.6931472)


def ln(x: Singles) -> Singles:
    """The natural logarithm of positive x within 0.06: piecewise linear between powers of two.

    Read from the bits of the number, by exact arithmetic only, so that every machine gives the same.
    """
    return (x.view(np.int32).astype(np.float32) * BITS - BIAS) * LN2


def to_float32(x: Doubles) -> Singles:
    """x as 32-bit numbers, clipped to their range."""
    return np.clip(x, -HUGE, HUGE).astype(np.float32)


def clip_outliers(columns: Columns, x: Doubles) -> Doubles:
    """x[n], clipped to a million times the usual distance from the slow level.

    A single absurd value must not desensitise the model until it has decayed; a new unit takes some sixty samples to be
    accepted.
    """
    usual = columns.slim[SCALES.start].astype(np.float64)
    bound = np.where((usual > 0) & (columns.times[COUNT] >= YOUNG), OUTLIER_BOUND * usual * usual, HUGE)
    slow = columns.wide[SLOW]
    inside: Doubles = np.minimum(np.maximum(x, slow - bound), slow + bound)
    return inside


def compute_features(columns: Columns, x: Doubles, hour: Longs, gain: Doubles, learn: Doubles, count: Longs) -> Singles:
    """Standardised residuals float32[FEATURES, n] of values x[n]; updates the state.

    `hour` counts from 1970, `gain` is the slow memory's share of this sample, `learn` that of an hour's usual value,
    `count` the samples before this one.
    """
    wide, slims = columns.wide, columns.slim
    fresh = np.reciprocal(count + 1.0).astype(np.float32)
    out = np.empty((FEATURES, x.size), dtype=np.float32)
    off = x - wide[SLOW]
    out[0] = to_float32(off)
    level = slims[LEVELS]
    level += np.maximum(FASTS[:, None], fresh) * (out[0] - level)
    out[1:5] = level
    _seasons(columns, x, hour, learn, out)
    change = to_float32(np.abs(x - wide[PREVIOUS]))  # exact: a flat line is flat
    _spreads(slims, change, out, gain.astype(np.float32), fresh, count)
    out[NEXT] = _forecast(slims, out[0], fresh)
    limit = np.where(count < YOUNG, HUGE, FAR * (slims[SCALES.start] * slims[SCALES.start]))
    move = gain * np.minimum(np.maximum(off, -limit), limit)
    wide[SLOW] += move
    wide[PREVIOUS] = x
    slims[LEVELS.start : CENTRE + 1] -= to_float32(move)  # relative to the slow level, so 32 bits are enough
    _standardise(slims[SCALES], out[:SPREAD], gain.astype(np.float32))
    return out


def hourly_values(columns: Columns, row: Longs) -> Singles:
    """The usual values of hours row[n], relative to the anchor, stored in 24 bits; NaN where there is none yet."""
    series = np.arange(row.size)
    bits = (columns.hours[row, series].astype(np.uint32) << 16) | (columns.rests[row, series].astype(np.uint32) << 8)
    return bits.view(np.float32)


def store_hourly(columns: Columns, row: Longs, value: Singles) -> None:
    """Store the usual values that `hourly_values` reads, rounded to 24 bits."""
    bits, series = (value.view(np.uint32) + np.uint32(128)) >> 8, np.arange(row.size)
    columns.hours[row, series], columns.rests[row, series] = bits >> 8, bits & 255


def _seasons(columns: Columns, x: Doubles, hour: Longs, learn: Doubles, out: Singles) -> None:
    day, week = DAY + hour % 24, WEEK + hour % 168
    value, level = to_float32(x - columns.wide[ANCHOR]), to_float32(columns.wide[SLOW] - columns.wide[ANCHOR])
    daily, weekly = hourly_values(columns, day), hourly_values(columns, week)
    daily_or = np.where(np.isnan(daily), level, daily)
    weekly_or = np.where(np.isnan(weekly), daily_or, weekly)
    share = learn.astype(np.float32)
    store_hourly(columns, day, np.where(np.isnan(daily), value, daily + share * (value - daily)))
    store_hourly(columns, week, np.where(np.isnan(weekly), value, weekly + share * (value - weekly)))
    for rows, base, first in ((DAY_REST, daily_or, 5), (WEEK_REST, weekly_or, 9)):
        rest = columns.slim[rows]
        rest += SEASONS[:, None] * (value - base - rest)
        out[first : first + 4] = rest


def _forecast(slims: Singles, off: Singles, fresh: Singles) -> Singles:
    """The error of the forecast of this value from the last eight, relative to the slow level; updates the weights."""
    weights, centre = slims[WEIGHTS], slims[CENTRE]
    centre += np.maximum(CENTRE_SHARE, fresh) * (off - centre)
    lags = (slims[LAGS] - centre).astype(np.float64)
    error, energy = (off - centre).astype(np.float64), np.full(off.size, NOTHING)
    for lag, weight in zip(lags, weights, strict=True):  # sequential: another order of summation gives other bits
        error -= weight * lag
        energy += lag * lag
    weights[:] = to_float32(weights + (RATE * error / energy) * lags)
    slims[LAGS] = np.concatenate((off[None], slims[LAGS][:-1]))
    return to_float32(error)


def _spreads(slims: Singles, change: Singles, out: Singles, gain: Singles, fresh: Singles, count: Longs) -> None:
    usual, recent = slims[CHANGE], slims[CHANGES]
    usual += gain * (np.minimum(change, np.where(count < YOUNG, HUGE, FAR * usual + TINY)) - usual)
    recent += np.maximum(SPREADS[:, None], fresh) * (change - recent)
    floor = usual + TINY
    out[SPREAD:] = ln(np.minimum((recent + STILL * floor) / floor, FAR))


def _standardise(scales: Singles, out: Singles, gain: Singles) -> None:
    """Replace residuals, in place, by the signed logarithm of 1 plus their size in units of the usual size."""
    size = np.abs(out)
    times = np.minimum(size / (scales * scales + TINY), FAR)
    far = ln(ONE + times)
    out[:] = np.where(out < 0, -far, far)
    # The mean of square roots, squared: one spike of a million does not blind the scale for a fortnight.
    scales += gain * (np.sqrt(size) - scales)
