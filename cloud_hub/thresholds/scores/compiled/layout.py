"""Memory layout of the scratch arrays of a block: rows of WIDTH series, at strides known at compile time.

The compiler then knows that rows do not overlap, and vectorises. `f` holds the SINGLES, float32, `d` the DOUBLES,
float64; `s` and `q` are the slim state and the tails of a whole block.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cloud_hub.thresholds.scores.compiled.jit import part
from cloud_hub.thresholds.scores.features import HUGE
from cloud_hub.thresholds.scores.state import FEATURES, WIDTH
from shared.durations import DAY_US

YEAR_US = 366 * DAY_US
LEVEL, LAG = 34, 38  # first rows of their slices, as numba likes them
CHANGED, REST, WEIGHT, SCALE = 1, 4, 12, 20
TAILS = 5 * FEATURES
NONE = np.float32(0.0)

# The scratch arrays, in rows of WIDTH series.
Y, PACE, SETTLE, FRESH, SHARE, LEARN, LIMIT, VALUE, DAILY, WEEKLY, DAILY_OR, WEEKLY_OR, S, ALONE, HERE, SINGLES = (
    0, *range(FEATURES, FEATURES + 15)
)  # fmt: skip
SLOW_ROW, X, OFF, GAIN, PASSED, DAYS, COUNT_ROW, ERROR, ENERGY, DOUBLES = range(0, 10 * WIDTH, WIDTH)


@part
def slimmed(x: Any) -> Any:
    """x as a 32-bit number, clipped to its range."""
    return np.float32(min(max(x, -HUGE), HUGE))


@part
def pace_after(count: Any, forget: Any) -> Any:
    """The step of a quantile per number, after `count` numbers."""
    return np.float32(max(10.0 / (count + 10.0), forget))


@part
def settle_after(count: Any, forget: Any, rare: Any) -> Any:
    """The weight of one excess in its mean, after `count` numbers."""
    return np.float32(max(1.0 / (rare * count + 5.0), 10.0 * forget))
