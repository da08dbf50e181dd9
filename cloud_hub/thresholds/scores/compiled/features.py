"""The features of `scores.features` for numba: standardised residuals in the rows Y."""

from __future__ import annotations

from typing import Any

import numpy as np

from cloud_hub.thresholds.scores.compiled.jit import part
from cloud_hub.thresholds.scores.compiled.layout import (
    CHANGED,
    COUNT_ROW,
    DAILY,
    DAILY_OR,
    DAYS,
    ENERGY,
    ERROR,
    FRESH,
    GAIN,
    HERE,
    LAG,
    LEARN,
    LEVEL,
    LIMIT,
    NONE,
    OFF,
    PACE,
    PASSED,
    REST,
    SCALE,
    SETTLE,
    SHARE,
    SLOW_ROW,
    VALUE,
    WEEKLY,
    WEEKLY_OR,
    WEIGHT,
    X,
    Y,
    pace_after,
    settle_after,
    slimmed,
)
from cloud_hub.thresholds.scores.features import (
    BIAS,
    BITS,
    CENTRE_SHARE,
    FAR,
    FASTS,
    HUGE,
    LN2,
    NEXT,
    NOTHING,
    ONE,
    OUTLIER_BOUND,
    RATE,
    SEASONS,
    SPREAD,
    SPREADS,
    STILL,
    TINY,
    YOUNG,
)
from cloud_hub.thresholds.scores.state import (
    ANCHOR,
    CENTRE,
    CHANGE,
    COUNT,
    DAY,
    FIRST,
    LAST,
    PREVIOUS,
    SLOW,
    WEEK,
    WIDTH,
)
from shared.durations import DAY_US, HOUR_US


@part
def begin(block: Any, w: int, t: Any, values: Any, m: int, p: Any, s: Any, f: Any, d: Any) -> None:
    """Compute the inputs of the features of each series: its value, gain, and step sizes."""
    times, wide = block[0], block[1]
    for j in range(m):
        here = abs(values[j]) <= p.largest
        f[HERE * WIDTH + j] = ONE if here else NONE
        if here and times[COUNT * w + j] == 0:
            wide[SLOW * w + j] = wide[ANCHOR * w + j] = wide[PREVIOUS * w + j] = values[j]
            times[FIRST * w + j] = times[LAST * w + j] = t[j]
        d[SLOW_ROW + j] = wide[SLOW * w + j]
        d[X + j] = values[j] if here else d[SLOW_ROW + j]  # results without a sample are discarded
    for j in range(m):
        last = times[LAST * w + j]
        d[COUNT_ROW + j] = times[COUNT * w + j]
        d[PASSED + j] = max(t[j] - last, 0)
        d[DAYS + j] = max(last - times[FIRST * w + j], 0) / DAY_US
    for j in range(m):
        count, passed, slow, scale = d[COUNT_ROW + j], d[PASSED + j], d[SLOW_ROW + j], s[SCALE * WIDTH + j]
        double = np.float64(scale)
        bound = (OUTLIER_BOUND * double * double) if (scale > 0 and count >= YOUNG) else np.float64(HUGE)
        d[X + j] = min(max(d[X + j], slow - bound), slow + bound)
        fresh = 1.0 / (count + 1.0)
        gain = max(fresh, min(1.0 / p.memory_samples, passed / (p.memory_days * DAY_US)))
        learn = min(max(passed / (min(p.visits, 1.0 + d[DAYS + j]) * HOUR_US), 1e-4), 0.5)
        d[GAIN + j] = gain
        f[FRESH * WIDTH + j], f[SHARE * WIDTH + j], f[LEARN * WIDTH + j] = fresh, gain, learn
        f[PACE * WIDTH + j], f[SETTLE * WIDTH + j] = pace_after(count, p.forget), settle_after(count, p.forget, p.tail)
        f[LIMIT * WIDTH + j] = HUGE if count < YOUNG else NONE


@part
def levels(m: int, s: Any, f: Any, d: Any) -> None:
    """Features 0 to 4: levels over spans against the slow level."""
    for j in range(m):
        off = d[X + j] - d[SLOW_ROW + j]
        d[OFF + j] = off
        f[Y * WIDTH + j] = slimmed(off)
    for k in range(4):
        for j in range(m):
            row = s[(LEVEL + k) * WIDTH + j]
            row += max(FASTS[k], f[FRESH * WIDTH + j]) * (f[Y * WIDTH + j] - row)
            s[(LEVEL + k) * WIDTH + j] = row
            f[(Y + 1 + k) * WIDTH + j] = row


@part
def hours(block: Any, w: int, t: Any, m: int, f: Any, d: Any, bits: Any) -> None:
    """Read and update the usual values of this hour: the only part with scattered memory access."""
    wide, hours, rests = block[1], block[3], block[4]
    stamp, day, week = np.int64(-1), np.int64(0), np.int64(0)
    for j in range(m):
        if t[j] != stamp or j == 0:  # usually equal for all series
            stamp = t[j]
            hour = stamp // HOUR_US
            day, week = (DAY + hour % 24) * w, (WEEK + hour % 168) * w
        f[VALUE * WIDTH + j] = slimmed(d[X + j] - wide[ANCHOR * w + j])
        f[DAILY_OR * WIDTH + j] = slimmed(d[SLOW_ROW + j] - wide[ANCHOR * w + j])
        bits[DAILY * WIDTH + j] = (np.int32(hours[day + j]) << 16) | (np.int32(rests[day + j]) << 8)
        bits[WEEKLY * WIDTH + j] = (np.int32(hours[week + j]) << 16) | (np.int32(rests[week + j]) << 8)
    for j in range(m):
        value, share = f[VALUE * WIDTH + j], f[LEARN * WIDTH + j]
        daily, weekly, level = f[DAILY * WIDTH + j], f[WEEKLY * WIDTH + j], f[DAILY_OR * WIDTH + j]
        known, knows = not np.isnan(daily), not np.isnan(weekly)
        daily_or = daily if known else level
        f[DAILY_OR * WIDTH + j] = daily_or
        f[WEEKLY_OR * WIDTH + j] = weekly if knows else daily_or
        f[DAILY * WIDTH + j] = (daily + share * (value - daily)) if known else value
        f[WEEKLY * WIDTH + j] = (weekly + share * (value - weekly)) if knows else value
    stamp = np.int64(-1)
    for j in range(m):
        if t[j] != stamp or j == 0:
            stamp = t[j]
            hour = stamp // HOUR_US
            day, week = (DAY + hour % 24) * w, (WEEK + hour % 168) * w
        daily_bits, weekly_bits = (bits[DAILY * WIDTH + j] + 128) >> 8, (bits[WEEKLY * WIDTH + j] + 128) >> 8
        if not f[HERE * WIDTH + j] > 0:
            continue
        hours[day + j], rests[day + j] = np.uint16((daily_bits >> 8) & 0xFFFF), np.uint8(daily_bits & 255)
        hours[week + j], rests[week + j] = np.uint16((weekly_bits >> 8) & 0xFFFF), np.uint8(weekly_bits & 255)


@part
def seasons(m: int, s: Any, f: Any) -> None:
    """Features 5 to 12: residuals after the usual values of the hour."""
    for k in range(4):
        for j in range(m):
            value = f[VALUE * WIDTH + j]
            rest = s[(REST + k) * WIDTH + j]
            rest += SEASONS[k] * (value - f[DAILY_OR * WIDTH + j] - rest)
            s[(REST + k) * WIDTH + j] = f[(Y + 5 + k) * WIDTH + j] = rest
            rest = s[(REST + 4 + k) * WIDTH + j]
            rest += SEASONS[k] * (value - f[WEEKLY_OR * WIDTH + j] - rest)
            s[(REST + 4 + k) * WIDTH + j] = f[(Y + 9 + k) * WIDTH + j] = rest


@part
def changes(wide: Any, w: int, m: int, f: Any, d: Any) -> None:
    """The size of the change since the sample before, in row VALUE."""
    for j in range(m):
        previous = wide[PREVIOUS * w + j]
        f[VALUE * WIDTH + j] = slimmed(abs(d[X + j] - previous))
        wide[PREVIOUS * w + j] = d[X + j] if f[HERE * WIDTH + j] > 0 else previous


@part
def spreads(m: int, s: Any, f: Any, bits: Any) -> None:
    """Features 14 to 16: how large changes are, as logarithms."""
    for j in range(m):
        change, usual = f[VALUE * WIDTH + j], s[CHANGE * WIDTH + j]
        most = HUGE if f[LIMIT * WIDTH + j] > 0 else (FAR * usual + TINY)
        s[CHANGE * WIDTH + j] = usual + f[SHARE * WIDTH + j] * (min(change, most) - usual)
    for k in range(3):
        for j in range(m):
            recent, floor = s[(CHANGED + k) * WIDTH + j], s[CHANGE * WIDTH + j] + TINY
            recent += max(SPREADS[k], f[FRESH * WIDTH + j]) * (f[VALUE * WIDTH + j] - recent)
            s[(CHANGED + k) * WIDTH + j] = recent
            f[(Y + SPREAD + k) * WIDTH + j] = min((recent + STILL * floor) / floor, FAR)
        for j in range(m):
            f[(Y + SPREAD + k) * WIDTH + j] = (np.float32(bits[(Y + SPREAD + k) * WIDTH + j]) * BITS - BIAS) * LN2


@part
def forecast(m: int, s: Any, f: Any, d: Any) -> None:
    """Feature 13: the error of the forecast from the last eight, whose weights learn."""
    for j in range(m):
        off, centre = f[Y * WIDTH + j], s[CENTRE * WIDTH + j]
        centre += max(CENTRE_SHARE, f[FRESH * WIDTH + j]) * (off - centre)
        s[CENTRE * WIDTH + j] = centre
        d[ERROR + j], d[ENERGY + j] = np.float64(off - centre), NOTHING
    for k in range(8):
        for j in range(m):
            lag = np.float64(s[(LAG + k) * WIDTH + j] - s[CENTRE * WIDTH + j])
            d[ERROR + j] -= np.float64(s[(WEIGHT + k) * WIDTH + j]) * lag
            d[ENERGY + j] += lag * lag
    for j in range(m):
        f[(Y + NEXT) * WIDTH + j] = slimmed(d[ERROR + j])
        d[ENERGY + j] = RATE * d[ERROR + j] / d[ENERGY + j]
    for k in range(8):
        for j in range(m):
            lag = np.float64(s[(LAG + k) * WIDTH + j] - s[CENTRE * WIDTH + j])
            s[(WEIGHT + k) * WIDTH + j] = slimmed(np.float64(s[(WEIGHT + k) * WIDTH + j]) + d[ENERGY + j] * lag)


@part
def move(wide: Any, w: int, m: int, s: Any, f: Any, d: Any) -> None:
    """Update the slow level and everything relative to it."""
    for j in range(m):
        scale = s[SCALE * WIDTH + j]
        limit = np.float64(HUGE if f[LIMIT * WIDTH + j] > 0 else (FAR * (scale * scale)))
        move = d[GAIN + j] * min(max(d[OFF + j], -limit), limit)
        wide[SLOW * w + j] = d[SLOW_ROW + j] + (move if f[HERE * WIDTH + j] > 0 else 0.0)
        f[VALUE * WIDTH + j] = slimmed(move)
    for k in range(4):
        for j in range(m):
            s[(LEVEL + k) * WIDTH + j] -= f[VALUE * WIDTH + j]
    for k in range(7, 0, -1):
        for j in range(m):
            s[(LAG + k) * WIDTH + j] = s[(LAG + k - 1) * WIDTH + j] - f[VALUE * WIDTH + j]
    for j in range(m):
        s[LAG * WIDTH + j] = f[Y * WIDTH + j] - f[VALUE * WIDTH + j]
        s[CENTRE * WIDTH + j] -= f[VALUE * WIDTH + j]


@part
def standardise(m: int, s: Any, f: Any, bits: Any) -> None:
    """Features 0 to 13 as signed logarithms of how many times the usual size they are."""
    for k in range(SPREAD):
        for j in range(m):
            scale = s[(SCALE + k) * WIDTH + j]
            f[VALUE * WIDTH + j] = ONE + min(abs(f[(Y + k) * WIDTH + j]) / (scale * scale + TINY), FAR)
        for j in range(m):
            scale, y = s[(SCALE + k) * WIDTH + j], f[(Y + k) * WIDTH + j]
            far = (np.float32(bits[VALUE * WIDTH + j]) * BITS - BIAS) * LN2
            f[(Y + k) * WIDTH + j] = -far if y < 0 else far
            s[(SCALE + k) * WIDTH + j] = scale + f[SHARE * WIDTH + j] * (np.sqrt(abs(y)) - scale)
