"""The step of `scores` once more, for numba: the same numbers bit for bit, many times as fast.

Optional (extra `fast`): where numba is not installed `scores` goes the way of NumPy, which is also the one to read.
Every expression here stands there too, in the same order and the same width, for that is what makes the bits equal;
a test compares them. The rows of a block of series lie at distances that the compiler knows, so it needs no checks
whether they overlap and does eight series at a time, in place: what is not a whole block is copied into one.
"""

from __future__ import annotations

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
from cloud_hub.thresholds.machine import entry, mark, part
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
    HOURS,
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
    WIDE,
    WIDTH,
)
from cloud_hub.thresholds.tails import BEND, HALF, INSIDE, KNEE, LEAST, LN10, MIDWAY, RISES, SLOPES, TEN, THIRD

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
YEAR_US = 366 * DAY_US
LEVEL, LAG = 34, 38  # first rows of their slices, as numba likes them
CHANGED, REST, WEIGHT, SCALE = 1, 4, 12, 20
TAILS = 5 * CHANNELS
NONE = np.float32(0.0)

# The room to work in, in rows of WIDTH series.
Y, PACE, SETTLE, FRESH, SHARE, LEARN, LIMIT, VALUE, DAILY, WEEKLY, DAILY_OR, WEEKLY_OR, S, ALONE, HERE, SINGLES = (
    0, *range(CHANNELS, CHANNELS + 15)
)  # fmt: skip
SLOW_ROW, X, OFF, GAIN, PASSED, DAYS, COUNT_ROW, ERROR, ENERGY, DOUBLES = range(0, 10 * WIDTH, WIDTH)


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


@part
def _slim(x: Any) -> Any:
    return np.float32(min(max(x, -HUGE), HUGE))


@part
def _pace(count: Any, forget: Any) -> Any:
    return np.float32(max(10.0 / (count + 10.0), forget))


@part
def _settle(count: Any, forget: Any, rare: Any) -> Any:
    return np.float32(max(1.0 / (rare * count + 5.0), 10.0 * forget))


@part
def _block(state: Any, lo: int, m: int) -> Any:
    """The parts of series lo..lo+m, a block."""
    times, wide, slim, hours, rests, tails, shapes, seen, when = state
    hi = lo + m
    return (
        times[lo * 3 : hi * 3],
        wide[lo * WIDE : hi * WIDE],
        slim[lo * SLIM : hi * SLIM],
        hours[lo * HOURS : hi * HOURS],
        rests[lo * HOURS : hi * HOURS],
        tails[lo * TAILS : hi * TAILS],
        shapes[lo * SHAPES * CHANNELS : hi * SHAPES * CHANNELS],
        seen[lo * SHAPES : hi * SHAPES],
        when[lo * SHAPES : hi * SHAPES],
    )


@part
def _begin(block: Any, w: int, t: Any, values: Any, m: int, p: Any, s: Any, f: Any, d: Any) -> None:
    """What the views ask for, of each series: its value, its memory's share, its paces."""
    times, wide = block[0], block[1]
    for j in range(m):
        here = abs(values[j]) <= p.largest
        f[HERE * WIDTH + j] = ONE if here else NONE
        if here and times[COUNT * w + j] == 0:
            wide[SLOW * w + j] = wide[ANCHOR * w + j] = wide[PREVIOUS * w + j] = values[j]
            times[FIRST * w + j] = times[LAST * w + j] = t[j]
        d[SLOW_ROW + j] = wide[SLOW * w + j]
        d[X + j] = values[j] if here else d[SLOW_ROW + j]  # what is reckoned without a sample is not kept
    for j in range(m):
        last = times[LAST * w + j]
        d[COUNT_ROW + j] = times[COUNT * w + j]
        d[PASSED + j] = max(t[j] - last, 0)
        d[DAYS + j] = max(last - times[FIRST * w + j], 0) / DAY_US
    for j in range(m):
        count, passed, slow, scale = d[COUNT_ROW + j], d[PASSED + j], d[SLOW_ROW + j], s[SCALE * WIDTH + j]
        double = np.float64(scale)
        bound = (DOOR * double * double) if (scale > 0 and count >= YOUNG) else np.float64(HUGE)
        d[X + j] = min(max(d[X + j], slow - bound), slow + bound)
        fresh = 1.0 / (count + 1.0)
        gain = max(fresh, min(1.0 / p.memory_samples, passed / (p.memory_days * DAY_US)))
        learn = min(max(passed / (min(p.visits, 1.0 + d[DAYS + j]) * HOUR_US), 1e-4), 0.5)
        d[GAIN + j] = gain
        f[FRESH * WIDTH + j], f[SHARE * WIDTH + j], f[LEARN * WIDTH + j] = fresh, gain, learn
        f[PACE * WIDTH + j], f[SETTLE * WIDTH + j] = _pace(count, p.forget), _settle(count, p.forget, p.tail)
        f[LIMIT * WIDTH + j] = HUGE if count < YOUNG else NONE


@part
def _levels(m: int, s: Any, f: Any, d: Any) -> None:
    for j in range(m):
        off = d[X + j] - d[SLOW_ROW + j]
        d[OFF + j] = off
        f[Y * WIDTH + j] = _slim(off)
    for k in range(4):
        for j in range(m):
            row = s[(LEVEL + k) * WIDTH + j]
            row += max(FASTS[k], f[FRESH * WIDTH + j]) * (f[Y * WIDTH + j] - row)
            s[(LEVEL + k) * WIDTH + j] = row
            f[(Y + 1 + k) * WIDTH + j] = row


@part
def _hours(block: Any, w: int, t: Any, m: int, f: Any, d: Any, bits: Any) -> None:
    """The usual values of this hour, read and written: the one part that jumps about in memory."""
    wide, hours, rests = block[1], block[3], block[4]
    stamp, day, week = np.int64(-1), np.int64(0), np.int64(0)
    for j in range(m):
        if t[j] != stamp or j == 0:  # most have the same
            stamp = t[j]
            hour = stamp // HOUR_US
            day, week = (DAY + hour % 24) * w, (WEEK + hour % 168) * w
        f[VALUE * WIDTH + j] = _slim(d[X + j] - wide[ANCHOR * w + j])
        f[DAILY_OR * WIDTH + j] = _slim(d[SLOW_ROW + j] - wide[ANCHOR * w + j])
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
def _seasons(m: int, s: Any, f: Any) -> None:
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
def _changes(wide: Any, w: int, m: int, f: Any, d: Any) -> None:
    for j in range(m):
        previous = wide[PREVIOUS * w + j]
        f[VALUE * WIDTH + j] = _slim(abs(d[X + j] - previous))
        wide[PREVIOUS * w + j] = d[X + j] if f[HERE * WIDTH + j] > 0 else previous


@part
def _spreads(m: int, s: Any, f: Any, bits: Any) -> None:
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
def _forecast(m: int, s: Any, f: Any, d: Any) -> None:
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
        f[(Y + NEXT) * WIDTH + j] = _slim(d[ERROR + j])
        d[ENERGY + j] = RATE * d[ERROR + j] / d[ENERGY + j]
    for k in range(8):
        for j in range(m):
            lag = np.float64(s[(LAG + k) * WIDTH + j] - s[CENTRE * WIDTH + j])
            s[(WEIGHT + k) * WIDTH + j] = _slim(np.float64(s[(WEIGHT + k) * WIDTH + j]) + d[ENERGY + j] * lag)


@part
def _move(wide: Any, w: int, m: int, s: Any, f: Any, d: Any) -> None:
    """The slow level moves on, and what is told from it."""
    for j in range(m):
        scale = s[SCALE * WIDTH + j]
        limit = np.float64(HUGE if f[LIMIT * WIDTH + j] > 0 else (FAR * (scale * scale)))
        move = d[GAIN + j] * min(max(d[OFF + j], -limit), limit)
        wide[SLOW * w + j] = d[SLOW_ROW + j] + (move if f[HERE * WIDTH + j] > 0 else 0.0)
        f[VALUE * WIDTH + j] = _slim(move)
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
def _standardise(m: int, s: Any, f: Any, bits: Any) -> None:
    for k in range(SPREAD):
        for j in range(m):
            scale = s[(SCALE + k) * WIDTH + j]
            f[VALUE * WIDTH + j] = ONE + min(abs(f[(Y + k) * WIDTH + j]) / (scale * scale + TINY), FAR)
        for j in range(m):
            scale, y = s[(SCALE + k) * WIDTH + j], f[(Y + k) * WIDTH + j]
            far = (np.float32(bits[VALUE * WIDTH + j]) * BITS - BIAS) * LN2
            f[(Y + k) * WIDTH + j] = -far if y < 0 else far
            s[(SCALE + k) * WIDTH + j] = scale + f[SHARE * WIDTH + j] * (np.sqrt(abs(y)) - scale)


@part
def _tails(m: int, p: Any, q: Any, f: Any) -> None:
    """The surprises of all views together in row S, that of the forecast in row ALONE."""
    rare, body, narrow = p.share, p.body, p.narrow
    for j in range(m):
        f[S * WIDTH + j] = NONE
    for k in range(CHANNELS):
        for j in range(m):
            upper, lower = q[k * WIDTH + j], q[(CHANNELS + k) * WIDTH + j]
            above, below = q[(2 * CHANNELS + k) * WIDTH + j], q[(3 * CHANNELS + k) * WIDTH + j]
            middle, v = q[(4 * CHANNELS + k) * WIDTH + j], f[(Y + k) * WIDTH + j]
            pace, settle = f[PACE * WIDTH + j], f[SETTLE * WIDTH + j]
            half = MIDWAY * (upper - lower)
            up, down = max(above, narrow * half), max(below, narrow * half)
            over, under = v - upper, lower - v
            high, low, side = over > 0, under > 0, v > middle
            inside = HALF + (body - HALF) * (abs(v - middle) / ((upper - middle) if side else (middle - lower)))
            beyond, size = (over if high else under), (up if high else down)
            outside = body + beyond / size / LN10
            s = outside if beyond > 0 else inside
            f[S * WIDTH + j] += s
            f[ALONE * WIDTH + j] = s if k == NEXT else f[ALONE * WIDTH + j]
            more, less = settle * (min(over, TEN * up) - above), settle * (min(under, TEN * down) - below)
            q[(2 * CHANNELS + k) * WIDTH + j] = above + (more if high else NONE)
            q[(3 * CHANNELS + k) * WIDTH + j] = below + (less if low else NONE)
            upper += pace * up * ((ONE if high else NONE) - rare)
            lower -= pace * down * ((ONE if low else NONE) - rare)
            centre = MIDWAY * (upper + lower)
            upper, lower = max(upper, centre + LEAST), min(lower, centre - LEAST)
            middle += THIRD * pace * half * (ONE if side else -ONE)
            q[k * WIDTH + j], q[(CHANNELS + k) * WIDTH + j] = upper, lower
            q[(4 * CHANNELS + k) * WIDTH + j] = min(max(middle, lower + INSIDE), upper - INSIDE)


@part
def _repeated(block: Any, w: int, f: Any, j: Any, s: Any, count: Any, reach: Any, apart: Any) -> Any:
    shapes, seen, when = block[6], block[7], block[8]
    best, nearest, oldest, eldest, now = 0, np.int64(2**31 - 1), 0, np.int64(-1), count >> TICK
    for slot in range(SHAPES):
        distance, age = np.int64(2**31 - 1), np.int64(0x10000)
        if seen[slot * w + j] != EMPTY:
            distance, age = np.int64(0), (now - np.int64(when[slot * w + j])) & 0xFFFF
            for k in range(CHANNELS):
                y = np.rint(f[(Y + k) * WIDTH + j] * GRAIN)
                off = np.int64(shapes[(slot * CHANNELS + k) * w + j]) - np.int64(min(max(y, -127.0), 127.0))
                distance += off * off
        if distance < nearest:
            best, nearest = slot, distance
        if age > eldest:
            oldest, eldest = slot, age
    if nearest < reach:
        if (now - np.int64(when[best * w + j])) & 0xFFFF > apart >> TICK and seen[best * w + j] < EMPTY - 1:
            seen[best * w + j] += 1
        when[best * w + j] = np.uint16(now & 0xFFFF)
        return s - TIMES[seen[best * w + j]]
    for k in range(CHANNELS):
        y = np.rint(f[(Y + k) * WIDTH + j] * GRAIN)
        shapes[(oldest * CHANNELS + k) * w + j] = np.int8(min(max(y, -127.0), 127.0))
    seen[oldest * w + j], when[oldest * w + j] = 0, np.uint16(now & 0xFFFF)
    return s - TIMES[0]


@part
def _upper(m: int, s: Any, f: Any, quantile: int, excess: int, rare: Any, body: Any, least: Any) -> None:
    """The surprise of row S, in place, with the paces of rows PACE and SETTLE."""
    for j in range(m):
        u, size, y = s[quantile * WIDTH + j], s[excess * WIDTH + j], f[S * WIDTH + j]
        over, part = y - u, min(y / u, ONE)
        rest = (RISES[0] + SLOPES[1] * (part - BEND)) if part < KNEE else (RISES[1] + SLOPES[2] * (part - KNEE))
        inner = body * ((SLOPES[0] * part) if part < BEND else rest)
        f[S * WIDTH + j] = (body + over / (size * LN10)) if over > 0 else inner
        move = f[PACE * WIDTH + j] * size * ((ONE if over > 0 else NONE) - rare)
        more = f[SETTLE * WIDTH + j] * (min(over, TEN * size) - size)
        s[excess * WIDTH + j] = max(size + (more if over > 0 else NONE), least[1])
        s[quantile * WIDTH + j] = max(u + move, least[0])


@part
def _news(block: Any, w: int, m: int, p: Any, s: Any, f: Any, d: Any) -> None:
    for j in range(m):
        awake, peak = d[COUNT_ROW + j] >= p.warmup, s[PEAK * WIDTH + j]
        together = ((f[S * WIDTH + j] - p.usual_sum) / p.decade + HALF) if awake else NONE
        new = together if together > peak else min(together, ORDINARY)
        s[PEAK * WIDTH + j] = max(peak * p.fade, together)
        f[S * WIDTH + j] = max(new, f[ALONE * WIDTH + j] if awake else NONE)
    for j in range(m):
        if f[S * WIDTH + j] >= STRANGE and f[HERE * WIDTH + j] > 0:
            count = np.int64(d[COUNT_ROW + j])
            f[S * WIDTH + j] = _repeated(block, w, f, j, f[S * WIDTH + j], count, p.reach, p.quiet)
    for j in range(m):
        known = 10 * (d[COUNT_ROW + j] + p.news_worth)
        f[PACE * WIDTH + j] = TEN * _pace(known, p.forget)
        f[SETTLE * WIDTH + j] = _settle(known, p.forget, p.news_rare)
    _upper(m, s, f, NEWS, NEWS_EXCESS, p.news_share, p.news_body, p.news_least)


@part
def _gap(m: int, p: Any, s: Any, f: Any, d: Any, bits: Any) -> None:
    for j in range(m):
        f[VALUE * WIDTH + j] = f[S * WIDTH + j]
        root, usual = np.float32(np.sqrt(min(d[PASSED + j], np.float64(YEAR_US)))), s[USUAL_GAP * WIDTH + j]
        usual += (ONE if d[COUNT_ROW + j] == 1 else f[SHARE * WIDTH + j]) * (root - usual)
        s[USUAL_GAP * WIDTH + j] = usual
        many = min(max(root / (usual + TINY), ONE), FAR)
        f[S * WIDTH + j] = many * many
        f[PACE * WIDTH + j] = _pace(d[COUNT_ROW + j], 0.001)
        f[SETTLE * WIDTH + j] = _settle(d[COUNT_ROW + j], 0.001, p.gap_rare)
    for j in range(m):
        f[S * WIDTH + j] = (np.float32(bits[S * WIDTH + j]) * BITS - BIAS) * LN2
    _upper(m, s, f, GAP, GAP_EXCESS, p.gap_share, p.gap_body, p.gap_least)


@part
def _advance(block: Any, w: int, t: Any, values: Any, m: int, p: Any, room: Any, out: Any) -> None:
    """One sample of each of m series; rows of `block` are w apart, but those of `room`, which hold numbers, WIDTH."""
    s, q, f, d = room
    bits, wide, times = f.view(np.int32), block[1], block[0]
    _begin(block, w, t, values, m, p, s, f, d)
    _levels(m, s, f, d)
    _hours(block, w, t, m, f, d, bits)
    _seasons(m, s, f)
    _changes(wide, w, m, f, d)
    _spreads(m, s, f, bits)
    _forecast(m, s, f, d)
    _move(wide, w, m, s, f, d)
    _standardise(m, s, f, bits)
    _tails(m, p, q, f)
    _news(block, w, m, p, s, f, d)
    _gap(m, p, s, f, d, bits)
    for j in range(m):
        if not f[HERE * WIDTH + j] > 0:
            continue
        new = max(f[VALUE * WIDTH + j], f[S * WIDTH + j])
        out[j] = new if d[COUNT_ROW + j] >= p.warmup else NONE
        times[LAST * w + j] = t[j]
        times[COUNT * w + j] += 1


@part
def _copy(given: Any, apart: int, kept: Any, spread: int, m: int) -> None:
    """Rows of m numbers, `apart` from one another, to where they are `spread`."""
    for r in range(given.size // apart):
        for j in range(m):
            kept[r * spread + j] = given[r * apart + j]


@part
def _aside(rows: Any, size: int, j: int, kept: Any, back: bool) -> None:
    """The state of series j of a block, set aside or put `back`."""
    for r in range(size):
        if back:
            rows[r * WIDTH + j] = kept[r]
        else:
            kept[r] = rows[r * WIDTH + j]


@part
def _missing(values: Any, largest: Any, which: Any) -> int:
    """How many of the values are no samples, and which."""
    count = 0
    for j in range(values.size):
        if not abs(values[j]) <= largest:
            which[count] = j
            count += 1
    return count


@part
def _step(state: Any, t: Any, values: Any, p: Any, out: Any) -> None:
    """One sample of each series into `out`, block by block."""
    f, d = np.zeros(SINGLES * WIDTH, dtype=np.float32), np.zeros(DOUBLES)
    which = np.zeros(WIDTH, dtype=np.int64)
    for lo in range(0, values.size, WIDTH):
        m = min(WIDTH, values.size - lo)
        hi, block = lo + m, _block(state, lo, m)
        missing = _missing(values[lo:hi], p.largest, which)
        if missing == m:
            continue
        s, q = block[2], block[5]
        if m < WIDTH:
            s, q = np.zeros(SLIM * WIDTH, dtype=np.float32), np.zeros(TAILS * WIDTH, dtype=np.float32)
            _copy(block[2], m, s, WIDTH, m)
            _copy(block[5], m, q, WIDTH, m)
        kept = np.empty((missing, SLIM + TAILS), dtype=np.float32)
        for i in range(missing):
            _aside(s, SLIM, which[i], kept[i], False)
            _aside(q, TAILS, which[i], kept[i, SLIM:], False)
        _advance(block, m, t[lo:hi], values[lo:hi], m, p, (s, q, f, d), out[lo:hi])
        for i in range(missing):
            _aside(s, SLIM, which[i], kept[i], True)
            _aside(q, TAILS, which[i], kept[i, SLIM:], True)
        if m < WIDTH:
            _copy(s, WIDTH, block[2], m, m)
            _copy(q, WIDTH, block[5], m, m)


@part
def _run(state: Any, t: Any, values: Any, p: Any, out: Any) -> None:
    """All samples of one series into `out`; those that are no samples are skipped."""
    f, d = np.zeros(SINGLES * WIDTH, dtype=np.float32), np.zeros(DOUBLES)
    s, q = np.zeros(SLIM * WIDTH, dtype=np.float32), np.zeros(TAILS * WIDTH, dtype=np.float32)
    _copy(state[2], 1, s, WIDTH, 1)
    _copy(state[5], 1, q, WIDTH, 1)
    for i in range(values.size):
        if abs(values[i]) <= p.largest:
            _advance(state, 1, t[i : i + 1], values[i : i + 1], 1, p, (s, q, f, d), out[i : i + 1])
    _copy(s, WIDTH, state[2], 1, 1)
    _copy(q, WIDTH, state[5], 1, 1)


def _entries(made_of: int) -> Any:
    def step(state: Any, t: Any, values: Any, p: Any, out: Any) -> None:
        _ = made_of
        _step(state, t, values, p, out)

    def run(state: Any, t: Any, values: Any, p: Any, out: Any) -> None:
        _ = made_of
        _run(state, t, values, p, out)

    return entry(step), entry(run)


step, run = _entries(mark(_step, _run))
