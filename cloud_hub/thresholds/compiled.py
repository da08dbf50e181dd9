"""The step of `scores` once more, for numba: the same numbers bit for bit, many times as fast.

Optional (extra `fast`): where numba is not installed `scores` goes the way of NumPy, which is also the one to read.
Every expression here stands there too, in the same order and the same width, for that is what makes the bits equal;
a test compares them. A block of series is copied into one flat array, whose rows lie at distances that the compiler
knows, so it needs no checks whether rows overlap and does eight series at a time.

The machine code is kept beside this file and made anew when this file changes, not when a constant changes that it
takes from another: whoever changes one there clears `__pycache__`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cloud_hub.thresholds.channels import (
    BIAS,
    BITS,
    CENTRE_SHARE,
    DOOR,
    FAR,
    FASTS,
    HUGE,
    LN2,
    NEXT,
    NOTHING,
    ONE,
    RATE,
    SEASONS,
    SPREAD,
    SPREADS,
    STILL,
    TINY,
    YOUNG,
)
from cloud_hub.thresholds.memory import GRAIN, ORDINARY, STRANGE, TIMES
from cloud_hub.thresholds.score_columns import (
    ANCHOR,
    CENTRE,
    CHANGE,
    CHANNELS,
    COUNT,
    DAY,
    EMPTY,
    FIRST,
    GAP,
    GAP_EXCESS,
    LAST,
    NEWS,
    NEWS_EXCESS,
    PEAK,
    PREVIOUS,
    SHAPES,
    SLIM,
    SLOW,
    TICK,
    USUAL_GAP,
    WEEK,
)
from cloud_hub.thresholds.tails import BEND, HALF, INSIDE, KNEE, LEAST, LN10, MIDWAY, RISES, SLOPES, TEN, THIRD

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
YEAR_US = 366 * DAY_US
LEVEL, LAG = 34, 38  # first rows of their slices, as numba likes them
CHANGED, REST, WEIGHT, SCALE = 1, 4, 12, 20
NONE = np.float32(0.0)

# The room to work in, in rows of ROOM series: rows at fixed distances let the compiler see that they do not overlap.
ROOM = 256
TAILS, Y = SLIM, SLIM + 5 * CHANNELS
EACH = Y + CHANNELS
PACE, SETTLE, FRESH, SHARE, LEARN, LIMIT, VALUE, DAILY, WEEKLY, DAILY_OR, WEEKLY_OR, S, HERE = range(
    EACH + CHANNELS, EACH + CHANNELS + 13
)
SINGLES = HERE + 1
SLOW_ROW, X, OFF, GAIN, PASSED, DAYS, COUNT_ROW, ERROR, ENERGY = range(0, 9 * ROOM, ROOM)
DOUBLES = 9


class Plan(NamedTuple):
    """The settings and constants of a step, each in the width in which NumPy would reckon with it."""

    largest: float
    memory_samples: int
    memory_days: float
    visits: float
    forget: float
    tail: float
    share: np.float32
    body: np.float32
    narrow: np.float32
    warmup: int
    usual_sum: np.float32
    decade: np.float32
    fade: np.float32
    reach: int
    quiet: int
    news_worth: int
    news_rare: float
    news_share: np.float32
    news_body: np.float32
    news_least: tuple[np.float32, np.float32]
    gap_rare: float
    gap_share: np.float32
    gap_body: np.float32
    gap_least: tuple[np.float32, np.float32]


def _compiler() -> Callable[[Any], Any] | None:
    try:
        numba = importlib.import_module("numba")
    except ImportError:
        return None

    def compile_(function: Any) -> Any:
        try:
            return numba.njit(cache=True, error_model="numpy")(function)
        except RuntimeError:  # no folder to keep the machine code in
            return numba.njit(error_model="numpy")(function)

    return compile_


_COMPILE = _compiler()
AVAILABLE = _COMPILE is not None


def _compiled(function: Any) -> Any:
    return _COMPILE(function) if _COMPILE else function


@_compiled
def _slim(x: Any) -> Any:
    return np.float32(min(max(x, -HUGE), HUGE))


@_compiled
def _pace(count: Any, forget: Any) -> Any:
    return np.float32(max(10.0 / (count + 10.0), forget))


@_compiled
def _settle(count: Any, forget: Any, rare: Any) -> Any:
    return np.float32(max(1.0 / (rare * count + 5.0), 10.0 * forget))


@_compiled
def _load(state: Any, lo: int, m: int, f: Any, d: Any) -> None:
    _, wide, slims, _, _, tails, _, _, _ = state
    for j in range(m):
        d[SLOW_ROW + j] = wide[SLOW, lo + j]
    for r in range(SLIM):
        for j in range(m):
            f[r * ROOM + j] = slims[r, lo + j]
    for r in range(5):
        for k in range(CHANNELS):
            for j in range(m):
                f[(TAILS + r * CHANNELS + k) * ROOM + j] = tails[r, k, lo + j]


@_compiled
def _store(state: Any, lo: int, m: int, f: Any, d: Any) -> None:
    """What was loaded and moved on, back in its place; a series without a sample stays as it was."""
    _, wide, slims, _, _, tails, _, _, _ = state
    for j in range(m):
        wide[SLOW, lo + j] = d[SLOW_ROW + j] if f[HERE * ROOM + j] > 0 else wide[SLOW, lo + j]
    for r in range(SLIM):
        for j in range(m):
            slims[r, lo + j] = f[r * ROOM + j] if f[HERE * ROOM + j] > 0 else slims[r, lo + j]
    for r in range(5):
        for k in range(CHANNELS):
            for j in range(m):
                new = f[(TAILS + r * CHANNELS + k) * ROOM + j]
                tails[r, k, lo + j] = new if f[HERE * ROOM + j] > 0 else tails[r, k, lo + j]


@_compiled
def _begin(state: Any, t: Any, values: Any, lo: int, m: int, p: Any, f: Any, d: Any) -> None:
    times, wide = state[0], state[1]
    for j in range(m):
        here = abs(values[lo + j]) <= p.largest
        f[HERE * ROOM + j] = ONE if here else NONE
        d[X + j] = values[lo + j] if here else d[SLOW_ROW + j]  # what is reckoned without a sample is not kept
        if here and times[COUNT, lo + j] == 0:
            d[SLOW_ROW + j] = wide[ANCHOR, lo + j] = wide[PREVIOUS, lo + j] = values[lo + j]
            times[FIRST, lo + j] = times[LAST, lo + j] = t[lo + j]
    for j in range(m):
        i = lo + j
        d[COUNT_ROW + j] = times[COUNT, i]
        d[PASSED + j] = max(t[i] - times[LAST, i], 0)
        d[DAYS + j] = max(times[LAST, i] - times[FIRST, i], 0) / DAY_US
    for j in range(m):
        count, passed, slow, scale = d[COUNT_ROW + j], d[PASSED + j], d[SLOW_ROW + j], f[SCALE * ROOM + j]
        double = np.float64(scale)
        bound = (DOOR * double * double) if (scale > 0 and count >= YOUNG) else np.float64(HUGE)
        d[X + j] = min(max(d[X + j], slow - bound), slow + bound)
        fresh = 1.0 / (count + 1.0)
        gain = max(fresh, min(1.0 / p.memory_samples, passed / (p.memory_days * DAY_US)))
        learn = min(max(passed / (min(p.visits, 1.0 + d[DAYS + j]) * HOUR_US), 1e-4), 0.5)
        d[GAIN + j] = gain
        f[FRESH * ROOM + j], f[SHARE * ROOM + j], f[LEARN * ROOM + j] = fresh, gain, learn
        f[PACE * ROOM + j], f[SETTLE * ROOM + j] = _pace(count, p.forget), _settle(count, p.forget, p.tail)
        f[LIMIT * ROOM + j] = HUGE if count < YOUNG else NONE


@_compiled
def _levels(m: int, f: Any, d: Any) -> None:
    for j in range(m):
        off = d[X + j] - d[SLOW_ROW + j]
        d[OFF + j] = off
        f[Y * ROOM + j] = _slim(off)
    for k in range(4):
        for j in range(m):
            row = f[(LEVEL + k) * ROOM + j]
            row += max(FASTS[k], f[FRESH * ROOM + j]) * (f[Y * ROOM + j] - row)
            f[(LEVEL + k) * ROOM + j] = row
            f[(Y + 1 + k) * ROOM + j] = row


@_compiled
def _hours(state: Any, t: Any, lo: int, m: int, f: Any, d: Any, bits: Any) -> None:
    """The usual values of this hour, read and written: the one part that jumps about in memory."""
    wide, hours, rests = state[1], state[3], state[4]
    stamp, day, week = np.int64(-1), np.int64(0), np.int64(0)
    for j in range(m):
        i = lo + j
        if t[i] != stamp or j == 0:  # most have the same
            stamp = t[i]
            hour = stamp // HOUR_US
            day, week = DAY + hour % 24, WEEK + hour % 168
        f[VALUE * ROOM + j] = _slim(d[X + j] - wide[ANCHOR, i])
        f[DAILY_OR * ROOM + j] = _slim(d[SLOW_ROW + j] - wide[ANCHOR, i])
        bits[DAILY * ROOM + j] = (np.int32(hours[day, i]) << 16) | (np.int32(rests[day, i]) << 8)
        bits[WEEKLY * ROOM + j] = (np.int32(hours[week, i]) << 16) | (np.int32(rests[week, i]) << 8)
    for j in range(m):
        value, share = f[VALUE * ROOM + j], f[LEARN * ROOM + j]
        daily, weekly, level = f[DAILY * ROOM + j], f[WEEKLY * ROOM + j], f[DAILY_OR * ROOM + j]
        known, knows = not np.isnan(daily), not np.isnan(weekly)
        daily_or = daily if known else level
        f[DAILY_OR * ROOM + j] = daily_or
        f[WEEKLY_OR * ROOM + j] = weekly if knows else daily_or
        f[DAILY * ROOM + j] = (daily + share * (value - daily)) if known else value
        f[WEEKLY * ROOM + j] = (weekly + share * (value - weekly)) if knows else value
    stamp = np.int64(-1)
    for j in range(m):
        i = lo + j
        if t[i] != stamp or j == 0:
            stamp = t[i]
            hour = stamp // HOUR_US
            day, week = DAY + hour % 24, WEEK + hour % 168
        daily_bits, weekly_bits = (bits[DAILY * ROOM + j] + 128) >> 8, (bits[WEEKLY * ROOM + j] + 128) >> 8
        if not f[HERE * ROOM + j] > 0:
            continue
        hours[day, i], rests[day, i] = np.uint16((daily_bits >> 8) & 0xFFFF), np.uint8(daily_bits & 255)
        hours[week, i], rests[week, i] = np.uint16((weekly_bits >> 8) & 0xFFFF), np.uint8(weekly_bits & 255)


@_compiled
def _seasons(m: int, f: Any) -> None:
    for k in range(4):
        for j in range(m):
            value = f[VALUE * ROOM + j]
            rest = f[(REST + k) * ROOM + j]
            rest += SEASONS[k] * (value - f[DAILY_OR * ROOM + j] - rest)
            f[(REST + k) * ROOM + j] = f[(Y + 5 + k) * ROOM + j] = rest
            rest = f[(REST + 4 + k) * ROOM + j]
            rest += SEASONS[k] * (value - f[WEEKLY_OR * ROOM + j] - rest)
            f[(REST + 4 + k) * ROOM + j] = f[(Y + 9 + k) * ROOM + j] = rest


@_compiled
def _changes(state: Any, lo: int, m: int, f: Any, d: Any) -> None:
    wide = state[1]
    for j in range(m):
        previous = wide[PREVIOUS, lo + j]
        f[VALUE * ROOM + j] = _slim(abs(d[X + j] - previous))
        wide[PREVIOUS, lo + j] = d[X + j] if f[HERE * ROOM + j] > 0 else previous


@_compiled
def _spreads(m: int, f: Any, bits: Any) -> None:
    for j in range(m):
        change, usual = f[VALUE * ROOM + j], f[CHANGE * ROOM + j]
        most = HUGE if f[LIMIT * ROOM + j] > 0 else (FAR * usual + TINY)
        f[CHANGE * ROOM + j] = usual + f[SHARE * ROOM + j] * (min(change, most) - usual)
    for k in range(3):
        for j in range(m):
            recent, floor = f[(CHANGED + k) * ROOM + j], f[CHANGE * ROOM + j] + TINY
            recent += max(SPREADS[k], f[FRESH * ROOM + j]) * (f[VALUE * ROOM + j] - recent)
            f[(CHANGED + k) * ROOM + j] = recent
            f[(Y + SPREAD + k) * ROOM + j] = min((recent + STILL * floor) / floor, FAR)
        for j in range(m):
            f[(Y + SPREAD + k) * ROOM + j] = (np.float32(bits[(Y + SPREAD + k) * ROOM + j]) * BITS - BIAS) * LN2


@_compiled
def _forecast(m: int, f: Any, d: Any) -> None:
    for j in range(m):
        off, centre = f[Y * ROOM + j], f[CENTRE * ROOM + j]
        centre += max(CENTRE_SHARE, f[FRESH * ROOM + j]) * (off - centre)
        f[CENTRE * ROOM + j] = centre
        d[ERROR + j], d[ENERGY + j] = np.float64(off - centre), NOTHING
    for k in range(8):
        for j in range(m):
            lag = np.float64(f[(LAG + k) * ROOM + j] - f[CENTRE * ROOM + j])
            d[ERROR + j] -= np.float64(f[(WEIGHT + k) * ROOM + j]) * lag
            d[ENERGY + j] += lag * lag
    for j in range(m):
        f[(Y + NEXT) * ROOM + j] = _slim(d[ERROR + j])
        d[ENERGY + j] = RATE * d[ERROR + j] / d[ENERGY + j]
    for k in range(8):
        for j in range(m):
            lag = np.float64(f[(LAG + k) * ROOM + j] - f[CENTRE * ROOM + j])
            f[(WEIGHT + k) * ROOM + j] = _slim(np.float64(f[(WEIGHT + k) * ROOM + j]) + d[ENERGY + j] * lag)


@_compiled
def _move(m: int, f: Any, d: Any) -> None:
    """The slow level moves on, and what is told from it."""
    for j in range(m):
        scale = f[SCALE * ROOM + j]
        limit = np.float64(HUGE if f[LIMIT * ROOM + j] > 0 else (FAR * (scale * scale)))
        move = d[GAIN + j] * min(max(d[OFF + j], -limit), limit)
        d[SLOW_ROW + j] += move
        f[VALUE * ROOM + j] = _slim(move)
    for k in range(4):
        for j in range(m):
            f[(LEVEL + k) * ROOM + j] -= f[VALUE * ROOM + j]
    for k in range(7, 0, -1):
        for j in range(m):
            f[(LAG + k) * ROOM + j] = f[(LAG + k - 1) * ROOM + j] - f[VALUE * ROOM + j]
    for j in range(m):
        f[LAG * ROOM + j] = f[Y * ROOM + j] - f[VALUE * ROOM + j]
        f[CENTRE * ROOM + j] -= f[VALUE * ROOM + j]


@_compiled
def _standardise(m: int, f: Any, bits: Any) -> None:
    for k in range(SPREAD):
        for j in range(m):
            scale = f[(SCALE + k) * ROOM + j]
            f[VALUE * ROOM + j] = ONE + min(abs(f[(Y + k) * ROOM + j]) / (scale * scale + TINY), FAR)
        for j in range(m):
            scale, y = f[(SCALE + k) * ROOM + j], f[(Y + k) * ROOM + j]
            far = (np.float32(bits[VALUE * ROOM + j]) * BITS - BIAS) * LN2
            f[(Y + k) * ROOM + j] = -far if y < 0 else far
            f[(SCALE + k) * ROOM + j] = scale + f[SHARE * ROOM + j] * (np.sqrt(abs(y)) - scale)


@_compiled
def _tails(m: int, p: Any, f: Any) -> None:
    rare, body, narrow = p.share, p.body, p.narrow
    for k in range(CHANNELS):
        for j in range(m):
            upper, lower = f[(TAILS + k) * ROOM + j], f[(TAILS + CHANNELS + k) * ROOM + j]
            above, below = f[(TAILS + 2 * CHANNELS + k) * ROOM + j], f[(TAILS + 3 * CHANNELS + k) * ROOM + j]
            middle, v = f[(TAILS + 4 * CHANNELS + k) * ROOM + j], f[(Y + k) * ROOM + j]
            pace, settle = f[PACE * ROOM + j], f[SETTLE * ROOM + j]
            half = MIDWAY * (upper - lower)
            up, down = max(above, narrow * half), max(below, narrow * half)
            over, under = v - upper, lower - v
            side = v > middle
            inner = abs(v - middle) / ((upper - middle) if side else (middle - lower))
            inside = HALF + (body - HALF) * inner
            outside = body + ((over / up) if over > 0 else (under / down)) / LN10
            f[(EACH + k) * ROOM + j] = outside if (over > 0 or under > 0) else inside
            more, less = settle * (min(over, TEN * up) - above), settle * (min(under, TEN * down) - below)
            f[(TAILS + 2 * CHANNELS + k) * ROOM + j] = above + (more if over > 0 else NONE)
            f[(TAILS + 3 * CHANNELS + k) * ROOM + j] = below + (less if under > 0 else NONE)
            upper += pace * up * ((ONE if over > 0 else NONE) - rare)
            lower -= pace * down * ((ONE if under > 0 else NONE) - rare)
            centre = MIDWAY * (upper + lower)
            upper, lower = max(upper, centre + LEAST), min(lower, centre - LEAST)
            middle += THIRD * pace * half * (ONE if side else -ONE)
            f[(TAILS + k) * ROOM + j], f[(TAILS + CHANNELS + k) * ROOM + j] = upper, lower
            f[(TAILS + 4 * CHANNELS + k) * ROOM + j] = min(max(middle, lower + INSIDE), upper - INSIDE)


@_compiled
def _repeated(state: Any, f: Any, j: Any, i: Any, s: Any, count: Any, reach: Any, apart: Any) -> Any:
    shapes, seen, when = state[6], state[7], state[8]
    best, nearest, oldest, eldest, now = 0, np.int64(2**31 - 1), 0, np.int64(-1), count >> TICK
    for slot in range(SHAPES):
        distance, age = np.int64(2**31 - 1), np.int64(0x10000)
        if seen[slot, i] != EMPTY:
            distance, age = np.int64(0), (now - np.int64(when[slot, i])) & 0xFFFF
            for k in range(CHANNELS):
                y = np.rint(f[(Y + k) * ROOM + j] * GRAIN)
                off = np.int64(shapes[slot, k, i]) - np.int64(min(max(y, -127.0), 127.0))
                distance += off * off
        if distance < nearest:
            best, nearest = slot, distance
        if age > eldest:
            oldest, eldest = slot, age
    if nearest < reach:
        if (now - np.int64(when[best, i])) & 0xFFFF > apart >> TICK and seen[best, i] < EMPTY - 1:
            seen[best, i] += 1
        when[best, i] = np.uint16(now & 0xFFFF)
        return s - TIMES[seen[best, i]]
    for k in range(CHANNELS):
        shapes[oldest, k, i] = np.int8(min(max(np.rint(f[(Y + k) * ROOM + j] * GRAIN), -127.0), 127.0))
    seen[oldest, i], when[oldest, i] = 0, np.uint16(now & 0xFFFF)
    return s - TIMES[0]


@_compiled
def _upper(m: int, f: Any, quantile: int, excess: int, rare: Any, body: Any, least: Any) -> None:
    """The surprise of row S, in place, with the paces of rows PACE and SETTLE."""
    for j in range(m):
        u, size, y = f[quantile * ROOM + j], f[excess * ROOM + j], f[S * ROOM + j]
        over, part = y - u, min(y / u, ONE)
        rest = (RISES[0] + SLOPES[1] * (part - BEND)) if part < KNEE else (RISES[1] + SLOPES[2] * (part - KNEE))
        inner = body * ((SLOPES[0] * part) if part < BEND else rest)
        f[S * ROOM + j] = (body + over / (size * LN10)) if over > 0 else inner
        move = f[PACE * ROOM + j] * size * ((ONE if over > 0 else NONE) - rare)
        more = f[SETTLE * ROOM + j] * (min(over, TEN * size) - size)
        f[excess * ROOM + j] = max(size + (more if over > 0 else NONE), least[1])
        f[quantile * ROOM + j] = max(u + move, least[0])


@_compiled
def _news(state: Any, lo: int, m: int, p: Any, f: Any, d: Any) -> None:
    for j in range(m):
        f[S * ROOM + j] = f[EACH * ROOM + j]
    for k in range(1, CHANNELS):
        for j in range(m):
            f[S * ROOM + j] += f[(EACH + k) * ROOM + j]
    for j in range(m):
        awake, peak = d[COUNT_ROW + j] >= p.warmup, f[PEAK * ROOM + j]
        together = ((f[S * ROOM + j] - p.usual_sum) / p.decade + HALF) if awake else NONE
        s = together if together > peak else min(together, ORDINARY)
        f[PEAK * ROOM + j] = max(peak * p.fade, together)
        f[S * ROOM + j] = max(s, f[(EACH + NEXT) * ROOM + j] if awake else NONE)
    for j in range(m):
        if f[S * ROOM + j] >= STRANGE and f[HERE * ROOM + j] > 0:
            count = np.int64(d[COUNT_ROW + j])
            f[S * ROOM + j] = _repeated(state, f, j, lo + j, f[S * ROOM + j], count, p.reach, p.quiet)
    for j in range(m):
        known = 10 * (d[COUNT_ROW + j] + p.news_worth)
        f[PACE * ROOM + j] = TEN * _pace(known, p.forget)
        f[SETTLE * ROOM + j] = _settle(known, p.forget, p.news_rare)
    _upper(m, f, NEWS, NEWS_EXCESS, p.news_share, p.news_body, p.news_least)


@_compiled
def _gap(m: int, p: Any, f: Any, d: Any, bits: Any) -> None:
    for j in range(m):
        f[VALUE * ROOM + j] = f[S * ROOM + j]
        root, usual = np.float32(np.sqrt(min(d[PASSED + j], np.float64(YEAR_US)))), f[USUAL_GAP * ROOM + j]
        usual += (ONE if d[COUNT_ROW + j] == 1 else f[SHARE * ROOM + j]) * (root - usual)
        f[USUAL_GAP * ROOM + j] = usual
        many = min(max(root / (usual + TINY), ONE), FAR)
        f[S * ROOM + j] = many * many
        f[PACE * ROOM + j] = _pace(d[COUNT_ROW + j], 0.001)
        f[SETTLE * ROOM + j] = _settle(d[COUNT_ROW + j], 0.001, p.gap_rare)
    for j in range(m):
        f[S * ROOM + j] = (np.float32(bits[S * ROOM + j]) * BITS - BIAS) * LN2
    _upper(m, f, GAP, GAP_EXCESS, p.gap_share, p.gap_body, p.gap_least)


@_compiled
def _advance(state: Any, t: Any, values: Any, lo: int, m: int, p: Any, f: Any, d: Any, out: Any) -> None:
    """One sample of series lo..lo+m; `f` and `d` hold their state and room to work in."""
    bits = f.view(np.int32)
    _begin(state, t, values, lo, m, p, f, d)
    _levels(m, f, d)
    _hours(state, t, lo, m, f, d, bits)
    _seasons(m, f)
    _changes(state, lo, m, f, d)
    _spreads(m, f, bits)
    _forecast(m, f, d)
    _move(m, f, d)
    _standardise(m, f, bits)
    _tails(m, p, f)
    _news(state, lo, m, p, f, d)
    _gap(m, p, f, d, bits)
    times = state[0]
    for j in range(m):
        s = max(f[VALUE * ROOM + j], f[S * ROOM + j])
        if not f[HERE * ROOM + j] > 0:
            continue
        out[lo + j] = s if d[COUNT_ROW + j] >= p.warmup else NONE
        times[LAST, lo + j] = t[lo + j]
        times[COUNT, lo + j] += 1


@_compiled
def step(state: Any, t: Any, values: Any, p: Any, out: Any) -> None:
    """One sample of each series into `out`, in blocks whose working set stays in the cache."""
    f, d = np.zeros(SINGLES * ROOM, dtype=np.float32), np.zeros(DOUBLES * ROOM)
    for lo in range(0, values.size, ROOM):
        m = min(ROOM, values.size - lo)
        _load(state, lo, m, f, d)
        _advance(state, t, values, lo, m, p, f, d, out)
        _store(state, lo, m, f, d)


@_compiled
def run(state: Any, t: Any, values: Any, p: Any, out: Any) -> None:
    """All samples of one series into `out`; those that are no samples are skipped."""
    f, d = np.zeros(SINGLES * ROOM, dtype=np.float32), np.zeros(DOUBLES * ROOM)
    _load(state, 0, 1, f, d)
    for i in range(values.size):
        if abs(values[i]) <= p.largest:
            _advance(state, t[i : i + 1], values[i : i + 1], 0, 1, p, f, d, out[i : i + 1])
    _store(state, 0, 1, f, d)
