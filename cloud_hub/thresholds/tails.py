"""How rare a number is, told by those before it: streaming tails beyond a quantile (POT). No clock, no I/O.

Peaks over threshold (Pickands 1975; Siffer et al., "Anomaly Detection in Streams with Extreme Value Theory", 2017):
beyond the quantile q the excess is taken as exponential, so a number v above the quantile u has the tail probability
(1 - q) exp(-(v - u) / m) with m the mean excess, and surprise -log10 of that. Quantile and mean excess are followed
by stochastic approximation: a few numbers a tail, whatever the length of history. The inputs are logarithms of sizes,
so an exponential tail here is a power law in the unit of the series.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Singles = npt.NDArray[np.float32]

UPPER, LOWER, ABOVE, BELOW, MIDDLE = range(5)
HALF = np.float32(0.30103)  # the surprise of the median: -log10 1/2
LN10 = np.float32(2.3025851)
ONE = np.float32(1.0)
LEAST = np.float32(1e-3)
TEN = np.float32(10.0)


def fresh(channels: int, n: int) -> Singles:
    """Tails before the first number, float32[5, channels, n]: those of a number twice the usual size."""
    state = np.empty((5, channels, n), dtype=np.float32)
    state[UPPER], state[LOWER], state[ABOVE], state[BELOW], state[MIDDLE] = 2.0, -2.0, 1.0, 1.0, 0.0
    return state


def surprise(state: Singles, y: Singles, q: float, narrow: float, pace: Singles, settle: Singles) -> Singles:
    """Two-sided surprise float32[channels, n] of y given the numbers before; the state moves on.

    `pace`[n] is how far one number moves the quantiles, `settle`[n] the share of one excess in its mean. `narrow` is
    the least mean excess in half-widths of the body: a tail that has shown nothing yet is not taken for a wall.
    """
    upper, lower, above, below, middle = state
    rare, body = np.float32(1.0 - q), np.float32(-np.log10(1.0 - q))
    half = np.float32(0.5) * (upper - lower)
    floor = np.float32(narrow) * half
    up, down = np.maximum(above, floor), np.maximum(below, floor)
    over, under = y - upper, lower - y
    high, low, side = over > 0, under > 0, y > middle
    inner = np.abs(y - middle) / np.where(side, upper - middle, middle - lower)
    excess = np.where(high, over / up, under / down)
    out: Singles = np.where(high | low, body + excess / LN10, HALF + (body - HALF) * inner)
    above += high * settle * (np.minimum(over, TEN * up) - above)
    below += low * settle * (np.minimum(under, TEN * down) - below)
    upper += pace * up * (high - rare)
    lower -= pace * down * (low - rare)
    centre = np.float32(0.5) * (upper + lower)
    np.maximum(upper, centre + LEAST, out=upper)
    np.minimum(lower, centre - LEAST, out=lower)
    middle += np.float32(0.3) * pace * half * np.where(side, ONE, -ONE)
    np.clip(middle, lower + np.float32(0.1) * LEAST, upper - np.float32(0.1) * LEAST, out=middle)
    return out


def once(quantile: Singles, excess: Singles, y: Singles, rare: float, pace: Singles, settle: Singles) -> Singles:
    """Surprise float32[n] of y[n] > 0 on its upper side alone; quantile and mean excess move on.

    Below the quantile the surprise follows the shape that a sum of sixteen ordinary surprises has.
    """
    over = y - quantile
    high = over > 0
    body = np.float32(-np.log10(rare))
    inner = np.interp(y / quantile, (0.0, 0.55, 0.78, 1.0), (0.0, 0.3, 1.0, float(body))).astype(np.float32)
    out = np.where(high, body + over / (excess * LN10), inner)
    step = pace * excess
    excess += high * settle * (np.minimum(over, TEN * excess) - excess)
    quantile += step * (high - np.float32(rare))
    return out
