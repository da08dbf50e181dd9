"""Tidegate's own methods under the contract of the others, over many series at once as the hub runs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

import numpy as np

from benchmarks.detectors import Detector
from benchmarks.series import DAY_US, Floats, Ints, Series, probation
from cloud_hub.thresholds import budget, scores
from cloud_hub.thresholds.bands import Bands
from cloud_hub.thresholds.fit import NotEnough, clean, fit
from shared.thresholds import Limits

BUDGET = 0.05
"""False alarms a series-day that the default threshold is made for."""
USUAL = budget.threshold(BUDGET / 2, 1, 288.0)
"""One threshold for a whole corpus must name one period: 5 minutes, 288 samples a day."""


def ours() -> list[Detector]:
    """What of ours is here."""
    return [
        Detector("Tidegate score, DEFAULTS", USUAL, alone, fleet=partial(together, settings=scores.DEFAULTS)),
        Detector("Tidegate score, TUNED", USUAL, alone, fleet=partial(together, settings=scores.TUNED)),
        Detector("Tidegate band, z", 4.0, lambda t, v: far([Series("alone", t, v)])[0], fleet=far, fleet_band=bands),
        Detector("limits of the daily fit (device)", 1.0, fitted),
    ]


def columns(series: Sequence[Series]) -> Iterator[tuple[Ints, Floats]]:
    """The n-th samples of all series, for each n: (t_us[N], values[N]); NaN where a series has ended."""
    longest = max(len(one.values) for one in series)
    t_us = np.stack([np.r_[one.t_us, np.full(longest - len(one.t_us), one.t_us[-1])] for one in series])
    values = np.stack([np.r_[one.values, np.full(longest - len(one.values), np.nan)] for one in series])
    for n in range(longest):
        yield t_us[:, n].copy(), values[:, n].copy()


def alone(t_us: Ints, values: Floats) -> Floats:
    """`Scores` of one series."""
    return together([Series("alone", t_us, values)], scores.DEFAULTS)[0]


def together(series: Sequence[Series], settings: scores.ScoreSettings) -> list[Floats]:
    """`Scores` over all series at once; float[T] for each."""
    model = scores.Scores(len(series), settings)
    found = np.stack([model.step(t_us, values) for t_us, values in columns(series)], axis=1)
    return [found[n, : len(one.values)] for n, one in enumerate(series)]


def judged(series: Sequence[Series]) -> tuple[Floats, Floats, Floats]:
    """(low, high, |z|) of `Bands` for all series at each sample, [N, T] each, said before it is learned from."""
    model, found = Bands(len(series)), []
    for t_us, values in columns(series):
        one = model.step(t_us, values)
        found.append((one.low, one.high, np.abs(one.z)))
    low, high, z = (np.stack([part[n] for part in found], axis=1) for n in range(3))
    return low, high, z


def far(series: Sequence[Series]) -> list[Floats]:
    """Distance from what the band expects, in its scales."""
    z = judged(series)[2]
    return [np.nan_to_num(z[n, : len(one.values)]) for n, one in enumerate(series)]


def bands(series: Sequence[Series]) -> list[tuple[Floats, Floats]]:
    """(low, high) of each series."""
    low, high, _ = judged(series)
    return [(low[n, : len(one.values)], high[n, : len(one.values)]) for n, one in enumerate(series)]


def fitted(t_us: Ints, values: Floats) -> Floats:
    """What a device judges between two refits: distance from the middle of limits fitted each day, 1 at the limit."""
    times, points = clean(t_us, values)
    found, limits = np.zeros(len(values)), None
    start = int(t_us[min(probation(len(values)), len(t_us) - 1)])
    while start <= t_us[-1]:
        past = slice(int(times.searchsorted(start - 28 * DAY_US)), int(times.searchsorted(start)))
        with suppress(NotEnough):
            limits = fit("value", times[past], points[past], now_us=start)
        here = slice(int(t_us.searchsorted(start)), int(t_us.searchsorted(start + DAY_US)))
        if limits is not None:
            found[here] = _beyond(limits, t_us[here], values[here])
        start += DAY_US
    return found


def _beyond(limits: Limits, t_us: Ints, values: Floats) -> Floats:
    pairs = np.array([limits.at(t) for t in t_us.tolist()], dtype=float).reshape(-1, 2)
    middle, reach = pairs.mean(axis=1), (pairs[:, 1] - pairs[:, 0]) / 2
    return np.asarray(np.abs(values - middle) / reach)
