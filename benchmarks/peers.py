"""Detectors of other libraries, if installed (extra `peers`); slow ones are cut by a time limit."""

from __future__ import annotations

import importlib.util
import warnings
from importlib import import_module

import numpy as np

from benchmarks.detectors import Detector, gaussian, on_finite
from benchmarks.series import Floats, Ints, probation
from shared.durations import DAY_US

MSTL_DAYS = 14.0
"""The past that each refit sees; longer ones only take longer."""


def peers() -> list[Detector]:
    """The methods of the peers that are here."""
    found = []
    if importlib.util.find_spec("river"):
        found.append(Detector("river GaussianScorer", 0.9973, on_finite(river_gaussian)))
        found.append(Detector("river HalfSpaceTrees", 0.98, on_finite(river_trees)))
    if importlib.util.find_spec("statsforecast"):
        found.append(gaussian("statsforecast MSTL, daily refit", 3.0, mstl))
    return found


def river_gaussian(t_us: Ints, values: Floats) -> Floats:
    """`river.anomaly.GaussianScorer`: distance from the median in the Gaussian of all before."""
    scorer, found = import_module("river.anomaly").GaussianScorer(grace_period=100), np.zeros(len(values))
    for i, value in enumerate(values.tolist()):
        found[i] = scorer.score_one(None, value)
        scorer.learn_one(None, value)
    return found


def river_trees(t_us: Ints, values: Floats) -> Floats:
    """`river.anomaly.HalfSpaceTrees` with its defaults, over value and last change, each scaled by min and max."""
    scaler = import_module("river.preprocessing").MinMaxScaler()
    trees = import_module("river.anomaly").HalfSpaceTrees(seed=7)
    model = import_module("river.compose").Pipeline(scaler, trees)
    found, before = np.zeros(len(values)), float(values[0])
    for i, value in enumerate(values.tolist()):
        sample = {"value": value, "change": value - before}
        found[i] = model.score_one(sample)
        model.learn_one(sample)
        before = value
    return found


def mstl(t_us: Ints, values: Floats) -> tuple[Floats, Floats]:
    """(expected, deviation) of each sample from `statsforecast`'s MSTL, refitted each day on the last MSTL_DAYS.

    Day and, where the past holds two, week are its seasons; its smoothers jump over a tenth of a day, as statsmodels
    advises for speed (a hundred times as fast). Deviation is that of the fit's own residuals.
    """
    models = import_module("statsforecast.models")
    period_us = max(1, int(np.median(np.diff(t_us)))) if len(t_us) > 1 else 1
    day = max(2, round(DAY_US / period_us))
    jumps = dict.fromkeys(("seasonal_jump", "trend_jump", "low_pass_jump"), max(1, day // 10))
    expected, deviation = values.copy(), np.full(len(values), np.inf)
    for start in range(max(2 * day, probation(len(values))), len(values), day):
        past = values[max(0, start - round(MSTL_DAYS * day)) : start]
        seasons = [day, 7 * day] if len(past) >= 14 * day else [day]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = models.MSTL(season_length=seasons, trend_forecaster=models.Naive(), stl_kwargs=jumps).fit(past)
            ahead = fitted.predict(min(day, len(values) - start))["mean"]
        expected[start : start + day] = ahead
        deviation[start : start + day] = max(float(np.nanstd(fitted.model_["remainder"])), 1e-6)
    return expected, deviation
