"""Tidegate's methods with the interface of the baselines, over many series at once as in the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np

from benchmarks.detectors import Detector
from benchmarks.series import Floats, Ints, Series
from cloud_hub.thresholds.bands.model import Bands
from cloud_hub.thresholds.scores import model as scores
from shared.durations import DAY_US
from shared.thresholds import Limits


def tidegate_detectors() -> list[Detector]:
    """Tidegate's detectors."""
    return [
        Detector("Tidegate score", scores.DEFAULTS.threshold, alone, fleet=together),
        Detector("Tidegate band, z", 4.0, lambda t, v: far([Series("alone", t, v)])[0], fleet=far, fleet_band=bands),
        Detector("limits pushed daily (device)", 1.0, lambda t, v: pushed([Series("alone", t, v)])[0], fleet=pushed),
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
    return together([Series("alone", t_us, values)])[0]


def together(series: Sequence[Series]) -> list[Floats]:
    """`Scores` over all series at once; float[T] for each."""
    model = scores.ScoreModel(len(series))
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


def pushed(series: Sequence[Series]) -> list[Floats]:
    """Scores by the limits pushed to a device at each midnight UTC for the next day; 1 at the limit, 0 without one.

    The score is the distance from their middle in half-widths. No limits before a series has enough history.
    """
    model, found = Bands(len(series)), [np.zeros(len(one.values)) for one in series]
    standing: list[tuple[int, Limits | None]] = [(0, None)] * len(series)
    for n, (t_us, values) in enumerate(columns(series)):
        model.step(t_us, values)
        for i, one in enumerate(series):
            last = n == len(one.values) - 1
            if n < len(one.values) and (last or one.t_us[n] // DAY_US != one.t_us[n + 1] // DAY_US):
                since, limits = standing[i]
                day = slice(since, n + 1)
                if limits is not None:
                    found[i][day] = _beyond(limits, one.t_us[day], one.values[day])
                with suppress(ValueError):
                    limits = model.limits(i, "value", int(one.t_us[n]))
                standing[i] = (n + 1, limits)
    return found


def _beyond(limits: Limits, t_us: Ints, values: Floats) -> Floats:
    pairs = np.array([limits.at(t) for t in t_us.tolist()], dtype=float).reshape(-1, 2)
    middle, reach = pairs.mean(axis=1), (pairs[:, 1] - pairs[:, 0]) / 2
    return np.asarray(np.nan_to_num(np.abs(values - middle) / reach))
