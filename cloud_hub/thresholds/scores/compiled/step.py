"""The update step of the score model for numba: bit-identical to NumPy, and many times as fast.

Optional (extra `fast`): without numba the score model runs on NumPy, which is also the version to read. Every
expression here exists there too, in the same order and precision, which makes the bits equal; a test compares them.
The rows of a block of series have fixed strides that the compiler knows, so it needs no overlap checks and processes
eight series at a time, in place. A partial block is copied into a full one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cloud_hub.thresholds.scores.compiled.features import (
    begin,
    changes,
    forecast,
    hours,
    levels,
    move,
    seasons,
    spreads,
    standardise,
)
from cloud_hub.thresholds.scores.compiled.jit import entry, mark, part
from cloud_hub.thresholds.scores.compiled.layout import COUNT_ROW, DOUBLES, HERE, NONE, SINGLES, TAILS, VALUE, S
from cloud_hub.thresholds.scores.compiled.tails import gap, novelty, tails
from cloud_hub.thresholds.scores.state import COUNT, FEATURES, HOURS, LAST, SHAPES, SLIM, WIDE, WIDTH


class Plan(NamedTuple):
    """Settings and constants of a step, each in the precision that NumPy would use."""

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
    novelty_worth: int
    novelty_rare: float
    novelty_share: np.float32
    novelty_body: np.float32
    novelty_least: tuple[np.float32, np.float32]
    gap_rare: float
    gap_share: np.float32
    gap_body: np.float32
    gap_least: tuple[np.float32, np.float32]


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
        shapes[lo * SHAPES * FEATURES : hi * SHAPES * FEATURES],
        seen[lo * SHAPES : hi * SHAPES],
        when[lo * SHAPES : hi * SHAPES],
    )


@part
def _advance(block: Any, w: int, t: Any, values: Any, m: int, p: Any, scratch: Any, out: Any) -> None:
    """Process one sample of each of m series; rows of `block` are w apart, rows of `scratch` are WIDTH apart."""
    s, q, f, d = scratch
    bits, wide, times = f.view(np.int32), block[1], block[0]
    begin(block, w, t, values, m, p, s, f, d)
    levels(m, s, f, d)
    hours(block, w, t, m, f, d, bits)
    seasons(m, s, f)
    changes(wide, w, m, f, d)
    spreads(m, s, f, bits)
    forecast(m, s, f, d)
    move(wide, w, m, s, f, d)
    standardise(m, s, f, bits)
    tails(m, p, q, f)
    novelty(block, w, m, p, s, f, d)
    gap(m, p, s, f, d, bits)
    for j in range(m):
        if not f[HERE * WIDTH + j] > 0:
            continue
        new = max(f[VALUE * WIDTH + j], f[S * WIDTH + j])
        out[j] = new if d[COUNT_ROW + j] >= p.warmup else NONE
        times[LAST * w + j] = t[j]
        times[COUNT * w + j] += 1


@part
def _copy(given: Any, apart: int, kept: Any, spread: int, m: int) -> None:
    """Copy rows of m numbers from stride `apart` to stride `spread`."""
    for r in range(given.size // apart):
        for j in range(m):
            kept[r * spread + j] = given[r * apart + j]


@part
def _aside(rows: Any, kept: Any, which: Any, back: bool) -> None:
    """Save the state of the series `which` of a block, or restore it if `back`; row by row, as stored in memory."""
    for r in range(rows.size // WIDTH):
        for i in range(which.size):
            if back:
                rows[r * WIDTH + which[i]] = kept[r, i]
            else:
                kept[r, i] = rows[r * WIDTH + which[i]]


@part
def _step(state: Any, t: Any, values: Any, p: Any, out: Any) -> None:
    """Score one sample of each series into `out`, block by block."""
    f, d = np.zeros(SINGLES * WIDTH, dtype=np.float32), np.zeros(DOUBLES)
    for lo in range(0, values.size, WIDTH):
        m = min(WIDTH, values.size - lo)
        hi, block = lo + m, _block(state, lo, m)
        missing = np.flatnonzero(~(np.abs(values[lo:hi]) <= p.largest))  # NaN is
        if missing.size == m:
            continue
        s, q = block[2], block[5]
        if m < WIDTH:
            s, q = np.zeros(SLIM * WIDTH, dtype=np.float32), np.zeros(TAILS * WIDTH, dtype=np.float32)
            _copy(block[2], m, s, WIDTH, m)
            _copy(block[5], m, q, WIDTH, m)
        kept = np.empty((SLIM + TAILS, missing.size), dtype=np.float32)
        _aside(s, kept, missing, False)
        _aside(q, kept[SLIM:], missing, False)
        _advance(block, m, t[lo:hi], values[lo:hi], m, p, (s, q, f, d), out[lo:hi])
        _aside(s, kept, missing, True)
        _aside(q, kept[SLIM:], missing, True)
        if m < WIDTH:
            _copy(s, WIDTH, block[2], m, m)
            _copy(q, WIDTH, block[5], m, m)


@part
def _run(state: Any, t: Any, values: Any, p: Any, out: Any) -> None:
    """Score all samples of one series into `out`; missing samples are skipped."""
    f, d = np.zeros(SINGLES * WIDTH, dtype=np.float32), np.zeros(DOUBLES)
    s, q = np.zeros(SLIM * WIDTH, dtype=np.float32), np.zeros(TAILS * WIDTH, dtype=np.float32)
    block = _block(state, 0, 1)
    _copy(block[2], 1, s, WIDTH, 1)
    _copy(block[5], 1, q, WIDTH, 1)
    for i in range(values.size):
        if abs(values[i]) <= p.largest:
            _advance(block, 1, t[i : i + 1], values[i : i + 1], 1, p, (s, q, f, d), out[i : i + 1])
    _copy(s, WIDTH, block[2], 1, 1)
    _copy(q, WIDTH, block[5], 1, 1)


def _entries(made_of: int) -> Any:
    """The entries `step` and `run` that Python calls."""

    def step(state: Any, t: Any, values: Any, p: Any, out: Any) -> None:
        _ = made_of
        _step(state, t, values, p, out)

    def run(state: Any, t: Any, values: Any, p: Any, out: Any) -> None:
        _ = made_of
        _run(state, t, values, p, out)

    return entry(step), entry(run)


step, run = _entries(mark(_step, _run))
