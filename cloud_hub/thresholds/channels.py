"""What a sample is compared with: sixteen views of one series, each a residual on a common footing. No clock, no I/O.

Four kinds of view, each smoothed over several spans so that a spike, an hour and half a day are all seen:
`LEVELS` - the level over 1, 3, 10, 30 and 100 samples against the slow level;
`SPREADS` - the size of the changes over 10, 30 and 100 samples against its slow mean (a flat line, a new spread);
`DAYS`, `WEEKS` - what is left of 1, 3, 10 and 30 samples after the usual value of this hour of the day or of the week.
An hour not seen yet falls back: the week's on the day's, the day's on the slow level. Spans are in samples because
that is what detection delay costs; memories are in time as well, because days and weeks are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

HOUR_US = 3_600_000_000
FAST = np.array([0.3, 0.1, 0.03, 0.01])[:, None]
SPREAD = FAST[1:].astype(np.float32)
SEASON = np.array([1.0, 0.3, 0.1, 0.03], dtype=np.float32)[:, None]
CHANNELS = 16
STANDARD = 13  # channels with a scale of their own: all but the three spreads, which are ratios already

# Rows of the state of one series. Wide rows hold values in the unit of the series, slim rows what is left of them.
ANCHOR, SLOW, LAST = 0, 1, 2
LEVEL = slice(3, 7)
WIDE = 7
CHANGE = 0
CHANGES = slice(1, 4)
DAY_REST, WEEK_REST = slice(4, 8), slice(8, 12)
SCALE = slice(12, 12 + STANDARD)
DAY, WEEK = 25, 49
SLIM = WEEK + 168

HUGE = np.float32(1e30)
TINY = np.float32(1e-30)
FAR = np.float32(1000.0)  # beyond a thousand times the usual residual all is equally strange
LN2 = np.float32(0.6931472)


def ln(x: Singles) -> Singles:
    """The natural logarithm of positive x within 0.06, piecewise linear between powers of two.

    Read from the bits of the number: exact arithmetic only, so that every machine gives the same bits.
    """
    bits = x.view(np.int32).astype(np.float32)
    return (bits * np.float32(2.0**-23) - np.float32(127.0)) * LN2


def slim(x: Doubles) -> Singles:
    """x as 32-bit numbers, what does not fit cut off."""
    return np.clip(x, -HUGE, HUGE).astype(np.float32)


def begin(wide: Doubles, x: Doubles) -> None:
    """Let series begin at their first values x."""
    wide[:] = x


def views(
    wide: Doubles, slims: Singles, x: Doubles, hour: Longs, gain: Doubles, learn: Doubles, count: Longs
) -> Singles:
    """Standardised residuals float32[16, n] of values x[n]; the state in `wide` and `slims` moves on.

    `hour` is the hour since 1970, `gain` the slow memory's share of this sample, `learn` that of an hour's usual
    value, `count` the samples before this one.
    """
    fresh: Doubles = 1.0 / (count + 1.0)
    residual: Any = np.empty((CHANNELS, x.size), dtype=np.float32)
    level, slow = wide[LEVEL], wide[SLOW]
    level += np.maximum(FAST, fresh) * (x - level)
    residual[0] = slim(x - slow)
    residual[1:5] = slim(level - slow)
    _spreads(wide, slims, x, gain, fresh, residual[13:])
    _seasons(wide, slims, x, hour, learn, residual[5:13])
    wide[SLOW] += gain * (x - slow)
    wide[LAST] = x
    _standardise(slims[SCALE], residual[:STANDARD], np.maximum(gain, fresh).astype(np.float32))
    return residual  # type: ignore[no-any-return]


def _spreads(wide: Doubles, slims: Singles, x: Doubles, gain: Doubles, fresh: Doubles, out: Singles) -> None:
    change = slim(np.abs(x - wide[LAST]))
    usual, recent = slims[CHANGE], slims[CHANGES]
    usual += gain.astype(np.float32) * (change - usual)
    recent += np.maximum(SPREAD, fresh.astype(np.float32)) * (change - recent)
    floor = usual + TINY
    # A hundredth of the usual change is as good as none: below it a flat line is a flat line.
    out[:] = ln((recent + np.float32(0.01) * floor) / floor)


def _seasons(wide: Doubles, slims: Singles, x: Doubles, hour: Longs, learn: Doubles, out: Singles) -> None:
    columns = np.arange(x.size)
    day, week = DAY + hour % 24, WEEK + hour % 168
    value, level = slim(x - wide[ANCHOR]), slim(wide[SLOW] - wide[ANCHOR])
    usual, weekly = slims[day, columns], slims[week, columns]
    usual_or = np.where(np.isnan(usual), level, usual)
    weekly_or = np.where(np.isnan(weekly), usual_or, weekly)
    step = learn.astype(np.float32)
    slims[day, columns] = np.where(np.isnan(usual), value, usual + step * (value - usual))
    slims[week, columns] = np.where(np.isnan(weekly), value, weekly + step * (value - weekly))
    for rows, base, part in ((DAY_REST, usual_or, out[:4]), (WEEK_REST, weekly_or, out[4:])):
        slims[rows] += SEASON * (value - base - slims[rows])
        part[:] = slims[rows]


def _standardise(scale: Singles, residual: Singles, gain: Singles) -> None:
    """Residuals to signed logarithms of how many times the usual size they are, in place."""
    size = np.abs(residual)
    times = np.minimum(size / (scale * scale + TINY), FAR)
    np.copysign(ln(np.float32(1.0) + times), residual, out=residual)
    # The mean of square roots, squared: one spike of a million does not blind the scale for a fortnight.
    scale += gain * (np.sqrt(size) - scale)
