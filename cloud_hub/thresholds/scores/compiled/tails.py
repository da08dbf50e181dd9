"""Tails, pattern memory and novelty of `scores` for numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from cloud_hub.thresholds.scores.compiled.jit import part
from cloud_hub.thresholds.scores.compiled.layout import (
    ALONE,
    COUNT_ROW,
    HERE,
    NONE,
    PACE,
    PASSED,
    SETTLE,
    SHARE,
    VALUE,
    YEAR_US,
    S,
    Y,
    pace_after,
    settle_after,
)
from cloud_hub.thresholds.scores.features import BIAS, BITS, FAR, LN2, NEXT, ONE, TINY
from cloud_hub.thresholds.scores.pattern_memory import GRAIN, ORDINARY, STRANGE, TIMES
from cloud_hub.thresholds.scores.state import (
    EMPTY,
    FEATURES,
    GAP,
    GAP_EXCESS,
    NOVELTY,
    NOVELTY_EXCESS,
    PEAK,
    SHAPES,
    TICK,
    USUAL_GAP,
    WIDTH,
)
from cloud_hub.thresholds.scores.tails import BEND, HALF, INSIDE, KNEE, LEAST, LN10, MIDWAY, RISES, SLOPES, TEN, THIRD


@part
def tails(m: int, p: Any, q: Any, f: Any) -> None:
    """Write the sum of all feature scores to row S, and the score of the forecast error to row ALONE."""
    rare, body, narrow = p.share, p.body, p.narrow
    for j in range(m):
        f[S * WIDTH + j] = NONE
    for k in range(FEATURES):
        for j in range(m):
            upper, lower = q[k * WIDTH + j], q[(FEATURES + k) * WIDTH + j]
            above, below = q[(2 * FEATURES + k) * WIDTH + j], q[(3 * FEATURES + k) * WIDTH + j]
            middle, v = q[(4 * FEATURES + k) * WIDTH + j], f[(Y + k) * WIDTH + j]
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
            q[(2 * FEATURES + k) * WIDTH + j] = above + (more if high else NONE)
            q[(3 * FEATURES + k) * WIDTH + j] = below + (less if low else NONE)
            upper += pace * up * ((ONE if high else NONE) - rare)
            lower -= pace * down * ((ONE if low else NONE) - rare)
            centre = MIDWAY * (upper + lower)
            upper, lower = max(upper, centre + LEAST), min(lower, centre - LEAST)
            middle += THIRD * pace * half * (ONE if side else -ONE)
            q[k * WIDTH + j], q[(FEATURES + k) * WIDTH + j] = upper, lower
            q[(4 * FEATURES + k) * WIDTH + j] = min(max(middle, lower + INSIDE), upper - INSIDE)


@part
def _repeated(block: Any, w: int, f: Any, j: Any, s: Any, count: Any, reach: Any, apart: Any) -> Any:
    shapes, seen, when = block[6], block[7], block[8]
    best, nearest, oldest, eldest, now = 0, np.int64(2**31 - 1), 0, np.int64(-1), count >> TICK
    for slot in range(SHAPES):
        distance, age = np.int64(2**31 - 1), np.int64(0x10000)
        if seen[slot * w + j] != EMPTY:
            distance, age = np.int64(0), (now - np.int64(when[slot * w + j])) & 0xFFFF
            for k in range(FEATURES):
                y = np.rint(f[(Y + k) * WIDTH + j] * GRAIN)
                off = np.int64(shapes[(slot * FEATURES + k) * w + j]) - np.int64(min(max(y, -127.0), 127.0))
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
    for k in range(FEATURES):
        y = np.rint(f[(Y + k) * WIDTH + j] * GRAIN)
        shapes[(oldest * FEATURES + k) * w + j] = np.int8(min(max(y, -127.0), 127.0))
    seen[oldest * w + j], when[oldest * w + j] = 0, np.uint16(now & 0xFFFF)
    return s - TIMES[0]


@part
def _upper(m: int, s: Any, f: Any, quantile: int, excess: int, rare: Any, body: Any, least: Any) -> None:
    """Replace row S by its one-sided score, with the rates of rows PACE and SETTLE."""
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
def novelty(block: Any, w: int, m: int, p: Any, s: Any, f: Any, d: Any) -> None:
    """Replace row S by its novelty; looks up and stores patterns."""
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
        known = 10 * (d[COUNT_ROW + j] + p.novelty_worth)
        f[PACE * WIDTH + j] = TEN * pace_after(known, p.forget)
        f[SETTLE * WIDTH + j] = settle_after(known, p.forget, p.novelty_rare)
    _upper(m, s, f, NOVELTY, NOVELTY_EXCESS, p.novelty_share, p.novelty_body, p.novelty_least)


@part
def gap(m: int, p: Any, s: Any, f: Any, d: Any, bits: Any) -> None:
    """Write the score of the gap since the last sample to row S; the score of the sample moves to row VALUE."""
    for j in range(m):
        f[VALUE * WIDTH + j] = f[S * WIDTH + j]
        root, usual = np.float32(np.sqrt(min(d[PASSED + j], np.float64(YEAR_US)))), s[USUAL_GAP * WIDTH + j]
        usual += (ONE if d[COUNT_ROW + j] == 1 else f[SHARE * WIDTH + j]) * (root - usual)
        s[USUAL_GAP * WIDTH + j] = usual
        many = min(max(root / (usual + TINY), ONE), FAR)
        f[S * WIDTH + j] = many * many
        f[PACE * WIDTH + j] = pace_after(d[COUNT_ROW + j], 0.001)
        f[SETTLE * WIDTH + j] = settle_after(d[COUNT_ROW + j], 0.001, p.gap_rare)
    for j in range(m):
        f[S * WIDTH + j] = (np.float32(bits[S * WIDTH + j]) * BITS - BIAS) * LN2
    _upper(m, s, f, GAP, GAP_EXCESS, p.gap_share, p.gap_body, p.gap_least)
