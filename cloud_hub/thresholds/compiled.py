"""The step of `scores` once more, for numba: the same numbers bit for bit, some thirty times as fast.

Optional (extra `fast`): where numba is not installed `scores` goes the way of NumPy, which is also the one to read.
Every expression here stands there too, in the same order and the same width, for that is what makes the bits equal;
a test compares them. Series are the inner loops, so that the compiler can do eight at a time.
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
from cloud_hub.thresholds.columns import (
    ANCHOR,
    CENTRE,
    CHANGE,
    CHANNELS,
    COUNT,
    DAY,
    FIRST,
    GAP,
    GAP_EXCESS,
    LAST,
    NEWS,
    NEWS_EXCESS,
    PEAK,
    PREVIOUS,
    SHAPES,
    SLOW,
    USUAL_GAP,
    WEEK,
    WIDE,
)
from cloud_hub.thresholds.memory import GRAIN, ORDINARY, STRANGE, TIMES
from cloud_hub.thresholds.tails import BEND, HALF, INSIDE, KNEE, LEAST, LN10, MIDWAY, RISES, SLOPES, TEN, THIRD

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
YEAR_US = 366 * DAY_US
LEVEL, LAG = 4, 8  # first rows of their slices, as numba likes them
CHANGED, REST, WEIGHT, SCALE = 1, 4, 12, 20
NONE = np.float32(0.0)
HALFWAY = (RISES[0], RISES[1], SLOPES[0], SLOPES[1], SLOPES[2])


class Plan(NamedTuple):
    """The settings and constants of a step, each in the width in which NumPy would reckon with it."""

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
def _upper(
    slims: Any, quantile: Any, excess: Any, j: Any, y: Any, rare: Any, body: Any, least: Any, pace: Any, settle: Any
) -> Any:
    u, m = slims[quantile, j], slims[excess, j]
    over, part = y - u, min(y / u, ONE)
    if over > 0:
        out = body + over / (m * LN10)
        move = pace * m * (ONE - rare)
        m += settle * (min(over, TEN * m) - m)
    else:
        if part < BEND:
            inner = HALFWAY[2] * part
        elif part < KNEE:
            inner = HALFWAY[0] + HALFWAY[3] * (part - BEND)
        else:
            inner = HALFWAY[1] + HALFWAY[4] * (part - KNEE)
        out = body * inner
        move = pace * m * (NONE - rare)
    slims[excess, j] = max(m, least[1])
    slims[quantile, j] = max(u + move, least[0])
    return out


@_compiled
def _levels(wide: Any, x: Any, fresh: Any, lo: Any, y: Any) -> None:
    for j in range(x.size):
        y[0, j] = _slim(x[j] - wide[SLOW, lo + j])
    for k in range(4):
        for j in range(x.size):
            row = wide[LEVEL + k, lo + j]
            row += max(FASTS[k], fresh[j]) * (x[j] - row)
            wide[LEVEL + k, lo + j] = row
            y[1 + k, j] = _slim(row - wide[SLOW, lo + j])


@_compiled
def _seasons(wide: Any, slims: Any, t: Any, x: Any, learn: Any, lo: Any, y: Any) -> None:
    for j in range(x.size):
        i = lo + j
        hour = t[j] // HOUR_US
        day, week, share = DAY + hour % 24, WEEK + hour % 168, np.float32(learn[j])
        value, usual = _slim(x[j] - wide[ANCHOR, i]), _slim(wide[SLOW, i] - wide[ANCHOR, i])
        daily, weekly = slims[day, i], slims[week, i]
        if np.isnan(daily):
            slims[day, i] = value
        else:
            usual = daily
            slims[day, i] = daily + share * (value - daily)
        weekly_or = usual
        if np.isnan(weekly):
            slims[week, i] = value
        else:
            weekly_or = weekly
            slims[week, i] = weekly + share * (value - weekly)
        for k in range(4):
            rest = slims[REST + k, i]
            rest += SEASONS[k] * (value - usual - rest)
            slims[REST + k, i] = rest
            y[5 + k, j] = rest
            rest = slims[REST + 4 + k, i]
            rest += SEASONS[k] * (value - weekly_or - rest)
            slims[REST + 4 + k, i] = rest
            y[9 + k, j] = rest


@_compiled
def _forecast(wide: Any, slims: Any, x: Any, fresh: Any, lo: Any, y: Any, error: Any, energy: Any) -> None:
    for j in range(x.size):
        i = lo + j
        wide[CENTRE, i] += max(CENTRE_SHARE, fresh[j]) * (x[j] - wide[CENTRE, i])
        error[j], energy[j] = x[j] - wide[CENTRE, i], NOTHING
    for k in range(8):
        for j in range(x.size):
            lag = wide[LAG + k, lo + j] - wide[CENTRE, lo + j]
            error[j] -= slims[WEIGHT + k, lo + j] * lag
            energy[j] += lag * lag
    for k in range(7, -1, -1):
        for j in range(x.size):
            i = lo + j
            lag = wide[LAG + k, i] - wide[CENTRE, i]
            slims[WEIGHT + k, i] = np.float32(slims[WEIGHT + k, i] + (RATE * error[j] / energy[j]) * lag)
            wide[LAG + k, i] = wide[LAG + k - 1, i] if k else x[j]
    for j in range(x.size):
        y[NEXT, j] = _slim(error[j])


@_compiled
def _spreads(wide: Any, slims: Any, x: Any, gain: Any, fresh: Any, young: Any, lo: Any, y: Any, bits: Any) -> None:
    for j in range(x.size):
        change = _slim(abs(x[j] - wide[PREVIOUS, lo + j]))
        usual = slims[CHANGE, lo + j]
        slims[CHANGE, lo + j] = usual + np.float32(gain[j]) * (
            min(change, young[j] if young[j] > 0 else FAR * usual + TINY) - usual
        )
    for k in range(3):
        for j in range(x.size):
            change = _slim(abs(x[j] - wide[PREVIOUS, lo + j]))
            recent, floor = slims[CHANGED + k, lo + j], slims[CHANGE, lo + j] + TINY
            recent += max(SPREADS[k], np.float32(fresh[j])) * (change - recent)
            slims[CHANGED + k, lo + j] = recent
            y[SPREAD + k, j] = min((recent + STILL * floor) / floor, FAR)
        for j in range(x.size):
            y[SPREAD + k, j] = (np.float32(bits[SPREAD + k, j]) * BITS - BIAS) * LN2
    for j in range(x.size):
        i = lo + j
        limit = np.float64(young[j] if young[j] > 0 else FAR * (slims[SCALE, i] * slims[SCALE, i]))
        wide[SLOW, i] += gain[j] * min(max(x[j] - wide[SLOW, i], -limit), limit)
        wide[PREVIOUS, i] = x[j]


@_compiled
def _standardise(slims: Any, gain: Any, lo: Any, y: Any, logs: Any, bits: Any) -> None:
    for k in range(SPREAD):
        for j in range(gain.size):
            scale = slims[SCALE + k, lo + j]
            logs[k, j] = ONE + min(abs(y[k, j]) / (scale * scale + TINY), FAR)
        for j in range(gain.size):
            scale, size = slims[SCALE + k, lo + j], abs(y[k, j])
            y[k, j] = np.copysign((np.float32(bits[k, j]) * BITS - BIAS) * LN2, y[k, j])
            slims[SCALE + k, lo + j] = scale + np.float32(gain[j]) * (np.sqrt(size) - scale)


@_compiled
def _tails(tails: Any, y: Any, rare: Any, body: Any, narrow: Any, pace: Any, settle: Any, lo: Any, each: Any) -> None:
    for k in range(CHANNELS):
        for j in range(pace.size):
            i = lo + j
            upper, lower, above, below = tails[0, k, i], tails[1, k, i], tails[2, k, i], tails[3, k, i]
            middle, v, p = tails[4, k, i], y[k, j], pace[j]
            half = MIDWAY * (upper - lower)
            up, down = max(above, narrow * half), max(below, narrow * half)
            over, under = v - upper, lower - v
            side = v > middle
            inner = abs(v - middle) / ((upper - middle) if side else (middle - lower))
            inside = HALF + (body - HALF) * inner
            outside = body + ((over / up) if over > 0 else (under / down)) / LN10
            each[k, j] = outside if (over > 0 or under > 0) else inside
            tails[2, k, i] = above + (settle[j] * (min(over, TEN * up) - above) if over > 0 else NONE)
            tails[3, k, i] = below + (settle[j] * (min(under, TEN * down) - below) if under > 0 else NONE)
            upper += p * up * ((ONE if over > 0 else NONE) - rare)
            lower -= p * down * ((ONE if under > 0 else NONE) - rare)
            centre = MIDWAY * (upper + lower)
            upper, lower = max(upper, centre + LEAST), min(lower, centre - LEAST)
            middle += THIRD * p * half * (ONE if side else -ONE)
            tails[0, k, i], tails[1, k, i] = upper, lower
            tails[4, k, i] = min(max(middle, lower + INSIDE), upper - INSIDE)


@_compiled
def _repeated(
    shapes: Any, seen: Any, when: Any, y: Any, j: Any, i: Any, s: Any, now: Any, reach: Any, apart: Any
) -> Any:
    best, nearest, oldest = 0, np.int64(2**31 - 1), 0
    for slot in range(SHAPES):
        distance = np.int64(2**31 - 1)
        if when[slot, i] >= 0:
            distance = np.int64(0)
            for k in range(CHANNELS):
                d = np.int64(shapes[slot, k, i]) - np.int64(min(max(np.rint(y[k, j] * GRAIN), -127.0), 127.0))
                distance += d * d
        if distance < nearest:
            best, nearest = slot, distance
        if when[slot, i] < when[oldest, i]:
            oldest = slot
    if nearest < reach:
        if now - when[best, i] > apart and seen[best, i] < 255:
            seen[best, i] += 1
        when[best, i] = now
        return s - TIMES[seen[best, i]]
    for k in range(CHANNELS):
        shapes[oldest, k, i] = np.int8(min(max(np.rint(y[k, j] * GRAIN), -127.0), 127.0))
    seen[oldest, i], when[oldest, i] = 0, now
    return s - TIMES[0]


@_compiled
def _begin(
    times: Any, wide: Any, slims: Any, t: Any, values: Any, lo: Any, p: Any, x: Any, doubles: Any, rows: Any
) -> None:
    gain, learn, fresh, pace, settle, young = doubles[0], doubles[1], doubles[2], rows[0], rows[1], rows[2]
    for j in range(t.size):
        i = lo + j
        count = times[COUNT, i]
        if count == 0:
            for k in range(WIDE):
                wide[k, i] = values[j]
            times[FIRST, i] = times[LAST, i] = t[j]
        scale, slow = np.float64(slims[SCALE, i]), wide[SLOW, i]
        bound = DOOR * scale * scale if scale > 0 and count >= YOUNG else np.float64(HUGE)
        x[j] = min(max(values[j], slow - bound), slow + bound)
        passed = max(t[j] - times[LAST, i], 0)
        fresh[j] = 1.0 / (count + 1.0)
        young[j] = HUGE if count < YOUNG else NONE
        lasting = min(1.0 / p.memory_samples, passed / (p.memory_days * DAY_US))
        days = max(times[LAST, i] - times[FIRST, i], 0) / DAY_US
        gain[j] = max(fresh[j], lasting)
        learn[j] = min(max(passed / (min(p.visits, 1.0 + days) * HOUR_US), 1e-4), 0.5)
        pace[j], settle[j] = _pace(count, p.forget), _settle(count, p.forget, p.tail)


@_compiled
def _advance(state: Any, t: Any, values: Any, lo: Any, p: Any, x: Any, doubles: Any, singles: Any, out: Any) -> None:
    """One sample of series lo..lo+len(t); `x`, `doubles` and `singles` are room to work in."""
    times, wide, slims, tails, shapes, seen, when = state
    gain, learn, fresh, error, energy = doubles[0], doubles[1], doubles[2], doubles[3], doubles[4]
    y, each, logs = singles[0], singles[1], singles[2]
    pace, settle, young = singles[3, 0], singles[3, 1], singles[3, 2]
    _begin(times, wide, slims, t, values, lo, p, x, doubles, singles[3])
    _levels(wide, x, fresh, lo, y)
    _seasons(wide, slims, t, x, learn, lo, y)
    _forecast(wide, slims, x, fresh, lo, y, error, energy)
    _spreads(wide, slims, x, gain, fresh, young, lo, y, y.view(np.int32))
    _standardise(slims, gain, lo, y, logs, logs.view(np.int32))
    _tails(tails, y, p.share, p.body, p.narrow, pace, settle, lo, each)
    for j in range(t.size):
        i = lo + j
        count = times[COUNT, i]
        total = each[0, j]
        for k in range(1, CHANNELS):
            total += each[k, j]
        awake, peak = count >= p.warmup, slims[PEAK, i]
        together = (total - p.usual_sum) / p.decade + HALF if awake else NONE
        s = together if together > peak else min(together, ORDINARY)
        slims[PEAK, i] = max(peak * p.fade, together)
        s = max(s, each[NEXT, j] if awake else NONE)
        if s >= STRANGE:
            s = _repeated(shapes, seen, when, y, j, i, s, count, p.reach, p.quiet)
        known = 10 * (count + p.news_worth)
        quick, calm = TEN * _pace(known, p.forget), _settle(known, p.forget, p.news_rare)
        s = _upper(slims, NEWS, NEWS_EXCESS, i, s, p.news_share, p.news_body, p.news_least, quick, calm)
        passed = min(max(t[j] - times[LAST, i], 0), YEAR_US)
        root, usual = np.float32(np.sqrt(np.float64(passed))), slims[USUAL_GAP, i]
        usual += (ONE if count == 1 else np.float32(gain[j])) * (root - usual)
        slims[USUAL_GAP, i] = usual
        many = min(max(root / (usual + TINY), ONE), FAR)
        logs[0, j] = many * many
        many = (np.float32(logs.view(np.int32)[0, j]) * BITS - BIAS) * LN2
        quick, calm = _pace(count, 0.001), _settle(count, 0.001, p.gap_rare)
        gap = _upper(slims, GAP, GAP_EXCESS, i, many, p.gap_share, p.gap_body, p.gap_least, quick, calm)
        out[j] = max(s, gap) if awake else 0.0
        times[LAST, i] = t[j]
        times[COUNT, i] = count + 1


@_compiled
def step(state: Any, t: Any, values: Any, p: Any, out: Any) -> None:
    """One sample of each series into `out`, in blocks whose working set stays in the cache."""
    n = values.size
    room = min(n, 256)
    x, doubles = np.empty(room), np.empty((5, room))
    singles = np.empty((4, CHANNELS, room), dtype=np.float32)
    for lo in range(0, n, room):
        m = min(room, n - lo)
        part = slice(lo, lo + m)
        if m < room:
            x, doubles = np.empty(m), np.empty((5, m))
            singles = np.empty((4, CHANNELS, m), dtype=np.float32)
        _advance(state, t[part], values[part], lo, p, x, doubles, singles, out[part])


@_compiled
def run(state: Any, t: Any, values: Any, largest: Any, p: Any, out: Any) -> None:
    """All samples of one series into `out`; those that are no samples are skipped."""
    x, doubles, singles = np.empty(1), np.empty((5, 1)), np.empty((4, CHANNELS, 1), dtype=np.float32)
    for i in range(values.size):
        if abs(values[i]) <= largest:
            _advance(state, t[i : i + 1], values[i : i + 1], 0, p, x, doubles, singles, out[i : i + 1])
