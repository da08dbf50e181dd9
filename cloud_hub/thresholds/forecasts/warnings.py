"""Decides when the probability of crossing a limit raises a warning, and when the warning clears. No clock, no I/O.

A limit may change with the hour, so the excess over it is forecast, with limit 0. A lower limit is treated as an upper
limit of the negated values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cloud_hub.thresholds.bands.state import Floats, Ints
from cloud_hub.thresholds.forecasts.classifier import Samples, Skill, samples
from cloud_hub.thresholds.forecasts.features import AHEAD_US
from cloud_hub.thresholds.forecasts.selection import SeriesForecaster
from shared.durations import DAY_US
from shared.thresholds import Limits

Side = Literal["high", "low"]
SIDES: tuple[Side, ...] = ("high", "low")
EVERY_US = 4 * AHEAD_US
"""A series warns at most once in an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The probability that the series is beyond `limit` on this side within 15 minutes after its sample of `at_us`.

    The probability is None, with a `reason`, if it is not judged. `beyond`: the series is already beyond the limit.
    `skill`: the model and its quality.
    """

    probability: float | None
    limit: float | None
    side: Side
    at_us: int | None
    reason: str = ""
    beyond: bool = False
    skill: Skill | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningState:
    """The alarms of a series: the active warning, when the last one was raised, and whether there is another alarm."""

    warning: str = ""
    warned_us: int | None = None
    side: Side = "high"
    other: bool = False


def decide(found: Forecast, standing: WarningState, bar: float, now_us: int) -> Literal["", "raised", "cleared"]:
    """Whether to raise or clear the warning. `found` is of the side of the active warning, if there is one.

    Raised at a probability of at least `bar`, if no alarm is active and the last warning is an hour old. Cleared when
    the limit is crossed, below half of `bar`, and after 15 minutes in any case.
    """
    if standing.warning:
        over = standing.warned_us is None or now_us - standing.warned_us >= AHEAD_US
        calm = found.probability is not None and found.probability < bar / 2
        return "cleared" if over or calm or found.beyond else ""
    recent = standing.warned_us is not None and now_us - standing.warned_us < EVERY_US
    likely = found.probability is not None and found.probability >= bar
    return "raised" if likely and not recent and not standing.other else ""


def excess(t_us: Ints, values: Floats, limits: Limits, side: Side) -> Floats:
    """By how much each value is beyond its limit; float64[T], NaN where no limit is in force on this side."""
    edges = limit_at(t_us, limits, side)
    return edges - values if side == "low" else values - edges


def limit_at(t_us: Ints, limits: Limits, side: Side) -> Floats:
    """The limit at each time; float64[T], NaN where there is none."""
    which = SIDES[::-1].index(side)
    if limits.slots == 1 and not limits.schedule:
        return np.full(t_us.size, _number(limits.slot(0)[which]))
    return np.array([_number(limits.at(t)[which]) for t in t_us.tolist()], np.float64)


def _number(limit: float | None) -> float:
    return math.nan if limit is None else limit


def forecast_side(
    forecaster: SeriesForecaster, t_us: Ints, values: Floats, limits: Limits, side: Side, now_us: int
) -> Forecast:
    """The forecast from the newest of the samples (times ascending, values finite, none after `now_us`)."""
    if not t_us.size:
        return Forecast(probability=None, limit=None, side=side, at_us=None, reason="no samples")
    beyond = excess(t_us, values, limits, side)
    limit, at_us = float(limit_at(t_us[-1:], limits, side)[0]), int(t_us[-1])
    reason = _unjudged(t_us, beyond, now_us) or forecaster.reason
    return Forecast(
        probability=None if reason else forecaster.newest(t_us, beyond, 0.0), reason=reason, side=side, at_us=at_us,
        limit=limit if math.isfinite(limit) else None, beyond=bool(beyond[-1] > 0), skill=forecaster.skill,
    )  # fmt: skip


def _unjudged(t_us: Ints, beyond: Floats, now_us: int) -> str:
    """Why the newest sample is not judged; '' where it is."""
    limited = t_us[np.isfinite(beyond)]
    if not limited.size or limited[-1] != t_us[-1]:
        return "no limit is in force"
    if now_us - t_us[-1] > AHEAD_US:
        return "no sample in the last 15 minutes"
    if beyond[-1] > 0:
        return "already beyond the limit"
    if t_us[-1] - limited[0] < DAY_US:
        return "less than a day of history"
    if limited[-1] - limited[-2] > AHEAD_US:
        return "the first sample after a gap"
    return ""


def most_probable(found: Sequence[Forecast]) -> Forecast:
    """The forecast of the side that will most probably be crossed, among those with a limit."""
    limited = [one for one in found if one.limit is not None] or list(found)
    return max(limited, key=lambda one: -1.0 if one.probability is None else one.probability)


def training_series(t_us: Ints, values: Floats, limits: Limits) -> dict[Side, Samples]:
    """Training samples of a series, for each side that has a limit."""
    both = {side: excess(t_us, values, limits, side) for side in SIDES}
    return {side: samples(t_us, beyond, 0.0) for side, beyond in both.items() if np.isfinite(beyond).any()}
