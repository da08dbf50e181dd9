"""Streaming tails: how rare a number is, given those before it. No clock, no I/O.

Peaks over threshold (Pickands 1975; Siffer et al., "Anomaly Detection in Streams with Extreme Value Theory", 2017):
beyond the quantile u of q the excess is taken as exponential, so v > u has the tail probability
(1 - q) exp(-(v - u) / m) with m the mean excess. Quantile and mean excess are estimated by stochastic approximation:
a few numbers per tail, independent of the length of history. The inputs are logarithms of sizes, so an exponential tail
is a power law in the unit of the series.
"""

from __future__ import annotations

import numpy as np

from cloud_hub.thresholds.scores.state import Longs, Singles

HALF = np.float32(0.30103)  # the score of the median: -log10 1/2
LN10 = np.float32(2.3025851)
ONE, TEN, MIDWAY, THIRD = np.float32(1.0), np.float32(10.0), np.float32(0.5), np.float32(0.3)
LEAST, INSIDE = np.float32(1e-3), np.float32(1e-4)
KNEE, BEND = np.float32(0.75), np.float32(0.5)
SLOPES = tuple(np.float32(slope) for slope in (0.44, 1.8, 1.32))
RISES = tuple(np.float32(height) for height in (0.22, 0.67))


def paces(count: Longs, forget: float, rare: float) -> tuple[Singles, Singles]:
    """(step of a quantile per number, weight of one excess in its mean) after `count` numbers."""
    pace = np.maximum(10.0 / (count + 10.0), forget)
    settle = np.maximum(1.0 / (rare * count + 5.0), 10.0 * forget)
    return pace.astype(np.float32), settle.astype(np.float32)


def two_sided(tails: Singles, y: Singles, rare: float, narrow: float, pace: Singles, settle: Singles) -> Singles:
    """Two-sided score float32[features, n] of y given the numbers before; updates the tails float32[5, features, n].

    `rare` is the share of numbers beyond each quantile, `narrow` the least mean excess in half-widths of the body:
    a tail without samples is not taken as a hard bound.
    """
    upper, lower, above, below, middle = tails
    share, body = np.float32(rare), np.float32(-np.log10(rare))
    half = MIDWAY * (upper - lower)
    floor = np.float32(narrow) * half
    up, down = np.maximum(above, floor), np.maximum(below, floor)
    over, under = y - upper, lower - y
    high, low, side = over > 0, under > 0, y > middle
    inner = np.abs(y - middle) / np.where(side, upper - middle, middle - lower)
    excess = np.where(high, over / up, under / down)
    out: Singles = np.where(high | low, body + excess / LN10, HALF + (body - HALF) * inner)
    above += high * (settle * (np.minimum(over, TEN * up) - above))
    below += low * (settle * (np.minimum(under, TEN * down) - below))
    upper += pace * up * (high - share)
    lower -= pace * down * (low - share)
    centre = MIDWAY * (upper + lower)
    np.maximum(upper, centre + LEAST, out=upper)
    np.minimum(lower, centre - LEAST, out=lower)
    middle += THIRD * pace * half * np.where(side, ONE, -ONE)
    np.clip(middle, lower + INSIDE, upper - INSIDE, out=middle)
    return out


def one_sided(
    quantile: Singles,
    excess: Singles,
    y: Singles,
    rare: float,
    least: tuple[float, float],
    pace: Singles,
    settle: Singles,
) -> Singles:
    """Score float32[n] of y[n] >= 0 on the upper side alone; updates quantile and mean excess.

    `least` are lower bounds of quantile and mean excess, so that small deviations of a very calm series do not page.
    Below the quantile the score follows the measured distribution of sums of normal scores.
    """
    body, over = np.float32(-np.log10(rare)), y - quantile
    high = over > 0
    part = np.minimum(y / quantile, ONE)
    rest = np.where(part < KNEE, RISES[0] + SLOPES[1] * (part - BEND), RISES[1] + SLOPES[2] * (part - KNEE))
    inner = np.where(part < BEND, SLOPES[0] * part, rest)
    out: Singles = np.where(high, body + over / (excess * LN10), body * inner)
    move = pace * excess * (high - np.float32(rare))
    excess += high * (settle * (np.minimum(over, TEN * excess) - excess))
    np.maximum(excess, np.float32(least[1]), out=excess)
    quantile += move
    np.maximum(quantile, np.float32(least[0]), out=quantile)
    return out
