"""What every method must hold: no look ahead, no crash on bad input, and a score for what it is made to see."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.detectors import CLASSIC, Detector
from benchmarks.series import Floats, Ints
from shared.durations import DAY_US

PERIOD_US = DAY_US // 288


def week(seed: int = 7) -> tuple[Ints, Floats]:
    dice = np.random.default_rng(seed)
    t_us = np.arange(2016, dtype=np.int64) * PERIOD_US
    return t_us, 50 + 10 * np.sin(2 * np.pi * t_us / DAY_US) + dice.normal(size=2016)


each = pytest.mark.parametrize("method", CLASSIC, ids=lambda method: method.name)


@each
def test_scores_do_not_depend_on_what_comes_later(method: Detector) -> None:
    t_us, values = week()
    changed = values.copy()
    changed[1500:] += 40
    before, after = method.scores(t_us, values), method.scores(t_us, changed)
    assert before.shape == values.shape
    assert np.array_equal(before[:1500], after[:1500])


@each
def test_a_jump_scores_higher_than_nearly_everything_before(method: Detector) -> None:
    t_us, values = week()
    values[1500:1506] += 60
    found = method.scores(t_us, values)
    assert found[1500:1506].max() > np.quantile(found[600:1500], 0.995)


@each
@pytest.mark.filterwarnings("error")
def test_missing_constant_and_short_series_give_numbers(method: Detector) -> None:
    t_us, values = week()
    values[700:720], values[900], values[901] = np.nan, np.inf, -np.inf
    assert np.isfinite(method.scores(t_us, values)).all()
    assert np.isfinite(method.scores(t_us, np.full(2016, 5.0))).all()
    assert np.isfinite(method.scores(t_us[:1], values[:1])).all()
    assert (method.scores(t_us, np.full(2016, np.nan)) == 0).all()


@pytest.mark.parametrize("method", [one for one in CLASSIC if one.band], ids=lambda method: method.name)
def test_bands_hold_about_what_they_promise_on_gaussian_noise(method: Detector) -> None:
    assert method.band is not None
    dice = np.random.default_rng(3)
    values = dice.normal(size=4032)
    low, high = method.band(np.arange(4032, dtype=np.int64) * PERIOD_US, values)
    inside = ((values >= low) & (values <= high))[700:].mean()
    assert 0.975 < inside < 0.995
