"""When a probability warns: never beside another alarm, never for longer than 15 minutes, never twice in an hour."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.thresholds.forecasts import warnings
from cloud_hub.thresholds.forecasts.classifier import CrossingClassifier, features
from cloud_hub.thresholds.forecasts.features import AHEAD_US
from cloud_hub.thresholds.forecasts.warnings import (
    EVERY_US,
    Forecast,
    WarningState,
    decide,
    excess,
    forecast_side,
    most_probable,
)
from shared.durations import DAY_US
from shared.thresholds import Limits

MINUTE = 60_000_000
BAR = 0.5
NOW = 1_800_000_000_000_000 // DAY_US * DAY_US
rounds = st.lists(
    st.tuples(st.one_of(st.none(), st.floats(0, 1)), st.booleans(), st.booleans(), st.integers(1, 30)), max_size=60
)
"""The probability, whether the value is beyond, whether another alarm stands, and minutes to the next round."""


def forecast(probability: float | None, beyond: bool = False) -> Forecast:
    probability = None if beyond else probability
    return Forecast(probability=probability, limit=60.0, side="high", at_us=NOW, beyond=beyond)


def broken(course: list[tuple[float | None, bool, bool, int]]) -> list[str]:
    """What a course of rounds shows that must never be."""
    now, warned, stands, found = NOW, None, False, []
    for probability, beyond, other, minutes in course:
        prediction = forecast(probability, beyond)
        standing = WarningState(warning="w" if stands else "", warned_us=warned, other=other)
        change = decide(prediction, standing, BAR, now)
        if change == "raised":
            found += ["beside another"] if other else []
            found += ["unlikely"] if prediction.probability is None or prediction.probability < BAR else []
            found += ["twice in an hour"] if warned is not None and now - warned < EVERY_US else []
            found += ["twice"] if stands else []
            warned, stands = now, True
        stands = stands and change != "cleared"
        if stands and change != "raised":
            found += ["too long"] if warned is not None and now - warned >= AHEAD_US else []
            found += ["after it came"] if beyond else []
            found += ["when calm"] if prediction.probability is not None and prediction.probability < BAR / 2 else []
        now += minutes * MINUTE
    return found


@given(rounds)
def test_a_warning_is_rare_alone_and_short(course: list[tuple[float | None, bool, bool, int]]) -> None:
    assert broken(course) == []


@pytest.mark.parametrize(
    ("name", "course"),
    [("AHEAD_US", [(0.9, False, False, 20), (0.9, False, False, 20)]),
     ("EVERY_US", [(0.9, False, False, 5), (0.1, False, False, 5), (0.9, False, False, 5)])],
)  # fmt: skip
def test_a_seeded_wrong_time_breaks_the_property(monkeypatch: pytest.MonkeyPatch, name: str, course: Any) -> None:
    assert broken(course) == []
    monkeypatch.setattr(warnings, name, DAY_US if name == "AHEAD_US" else 0)
    assert broken(course) != []


def test_between_the_bar_and_its_half_a_warning_stays() -> None:
    standing = WarningState(warning="w", warned_us=NOW - MINUTE)
    assert decide(forecast(0.3), standing, BAR, NOW) == ""
    assert decide(forecast(None), standing, BAR, NOW) == ""
    assert decide(forecast(0.24), standing, BAR, NOW) == "cleared"
    assert decide(forecast(None, beyond=True), standing, BAR, NOW) == "cleared"


class Saying:
    """Trees that say what they are told."""

    def decision_function(self, rows: Any) -> Any:
        return np.zeros(len(rows))


EVEN = CrossingClassifier(Saying(), 1.0, 0.0)


def course(days: float, value: float = 10.0) -> tuple[Any, Any]:
    t_us = NOW - np.arange(int(days * 288), dtype=np.int64)[::-1] * 5 * MINUTE
    return t_us, np.full(t_us.size, value)


def said(t_us: Any, values: Any, limits: Limits, now_us: int = NOW, side: Any = "high") -> Forecast:
    return forecast_side(EVEN, t_us, values, limits, side, now_us)


def test_what_is_not_judged_has_its_reason() -> None:
    limits = Limits(metric="m", high=60.0)
    t_us, values = course(3)
    assert said(t_us, values, limits) == Forecast(probability=0.5, limit=60.0, side="high", at_us=NOW, skill=EVEN.skill)
    assert said(t_us[:0], values[:0], limits).reason == "no samples"
    assert said(t_us[-200:], values[-200:], limits).reason == "less than a day of history"
    assert said(t_us, values, limits, NOW + AHEAD_US + 1).reason == "no sample in the last 15 minutes"
    gap = np.r_[: t_us.size - 10, t_us.size - 1]
    assert said(t_us[gap], values[gap], limits).reason == "the first sample after a gap"
    high = said(t_us, values + 60, limits)
    assert (high.reason, high.beyond, high.probability) == ("already beyond the limit", True, None)
    low = said(t_us, values, limits, side="low")
    assert (low.reason, low.limit) == ("no limit is in force", None)
    assert most_probable([low, said(t_us, values, limits)]).side == "high"


def test_a_lower_limit_is_an_upper_one_of_negated_values() -> None:
    t_us, values = course(3)
    values = values + np.sin(np.arange(values.size))
    below = excess(t_us, values, Limits(metric="m", low=5.0), "low")
    above = excess(t_us, -values, Limits(metric="m", high=-5.0), "high")
    np.testing.assert_array_equal(below, above)


def test_limits_of_the_hour_and_the_schedule_are_those_that_the_device_judges_by() -> None:
    t_us, values = course(8)
    hours = Limits(metric="m", highs=tuple(float(hour) for hour in range(24)), schedule=("mon-fri 06:00-22:00",))
    found = excess(t_us, values, hours, "high")
    wanted = [10.0 - high if (high := hours.at(int(t))[1]) is not None else math.nan for t in t_us]
    np.testing.assert_array_equal(found, wanted)
    assert np.isnan(found).any()


def test_a_steady_limit_gives_the_features_that_its_excess_gives() -> None:
    t_us, values = course(10)
    values = values + 4 * np.sin(np.arange(values.size) / 16)
    over = excess(t_us, values, Limits(metric="m", high=12.0), "high")
    np.testing.assert_allclose(features(t_us, over, 0.0), features(t_us, values, 12.0), rtol=1e-4, atol=1e-4)
