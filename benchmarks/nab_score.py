"""The score of the Numenta Anomaly Benchmark, after its protocol, and the alarms that a threshold makes of scores.

A. Lavin, S. Ahmad: Evaluating Real-time Anomaly Detection Algorithms - the Numenta Anomaly Benchmark, ICMLA 2015. The
first 15 % of a series is probation. In a window the earliest detection counts, scaled by the sigmoid of its position
(-1 at the window's start, towards 0 at its end); a detection outside costs by its distance from the window before;
a missed window costs too. The sum over a corpus is normalised: nothing detected is 0, perfect is 100.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.series import Floats, Ints, Series


@dataclass(frozen=True)
class Profile:
    """Weights of a hit window, a false detection and a missed window."""

    name: str
    hit: float
    false: float
    missed: float


PROFILES = (Profile("standard", 1, 0.11, 1), Profile("low FP", 1, 0.22, 1), Profile("low FN", 1, 0.11, 2))


def sigmoid(position: Floats) -> Floats:
    """NAB's scaled sigmoid, 2 / (1 + e^(5 y)) - 1, of a relative position; -1 beyond three windows after one."""
    return np.where(position > 3.0, -1.0, 2.0 / (1.0 + np.exp(5.0 * np.minimum(position, 3.0))) - 1.0)


BEST = float(sigmoid(np.array([-1.0]))[0])
"""What the first sample of a window is worth."""


def worth(series: Series) -> Floats:
    """What a detection at each sample is worth: above 0 to 1 in windows, -1 to below 0 outside."""
    found = np.full(len(series.values), -1.0)
    ends = [*(first for first, _ in series.windows[1:]), len(found)]
    for (first, last), end in zip(series.windows, ends, strict=False):  # without windows none ends
        width = last - first + 1
        found[first : last + 1] = sigmoid(-(last - np.arange(first, last + 1) + 1.0) / width) / BEST
        found[last + 1 : end] = sigmoid((np.arange(last + 1, end) - last) / max(width - 1.0, 1.0))
    return found


def raw(series: Series, alarms: Ints, worths: Floats, profile: Profile) -> float:
    """The score of one series, not normalised. `alarms` are indices of samples; those in the probation are dropped."""
    alarms = alarms[alarms >= series.learn]
    total = profile.false * float(worths[alarms[~series.inside[alarms]]].sum())
    for first, last in series.judged:
        here = alarms[(alarms >= first) & (alarms <= last)]
        total += profile.hit * float(worths[here].max()) if here.size else -profile.missed
    return total


def normalised(total: float, windows: int, profile: Profile) -> float:
    """A corpus' sum as a score: 0 for nothing detected, 100 for perfect. NaN without windows."""
    if not windows:
        return float("nan")
    return 100.0 * (total + profile.missed * windows) / ((profile.hit + profile.missed) * windows)


def alarms(scores: Floats, threshold: float, refractory: int) -> Ints:
    """Samples at which scores reach the threshold, none sooner than `refractory` samples after the one before.

    The same filter is used for all methods. 0 and 1 filter nothing; NaN never alarms.
    """
    with np.errstate(invalid="ignore"):
        crossings = np.flatnonzero(scores >= threshold)
    if refractory <= 1 or crossings.size < 2:
        return crossings
    kept, at = [], 0
    while at < crossings.size:
        kept.append(int(crossings[at]))
        at = int(np.searchsorted(crossings, crossings[at] + refractory))
    return np.array(kept, dtype=np.int64)
