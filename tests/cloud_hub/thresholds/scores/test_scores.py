"""The anomaly score: equal to itself however it is run, calm on ordinary and bad input, awake to what is strange.

Each property comes with a seeded bug that it must catch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from simulators.series import LENGTH, PERIOD_US, START_US, Series, noise, times

from cloud_hub.thresholds.scores import model as scores
from cloud_hub.thresholds.scores import pattern_memory, tails
from cloud_hub.thresholds.scores import state as score_columns
from cloud_hub.thresholds.scores.compiled import jit
from cloud_hub.thresholds.scores.model import (
    DEFAULTS,
    ScoreModel,
    ScoreSettings,
    exceedances,
    score_series,
)
from shared.durations import DAY_US, HOUR_US

CHANGE = 4000

pytestmark = pytest.mark.timeout(300)  # the first to ask for machine code waits until it is made
needs_numba = pytest.mark.skipif(not jit.AVAILABLE, reason="numba is not installed")


def daily(seed: int = 1, n: int = LENGTH) -> np.ndarray:
    """A day between 40 and 60 with noise."""
    return 50 + 10 * np.sin(2 * np.pi * times(n) / DAY_US) + noise(n, seed)


def pages(series: Series) -> list[int]:
    return np.flatnonzero(exceedances(score_series(*series))).tolist()


def after(values: np.ndarray, change: Callable[[np.ndarray], Any], until: int = LENGTH) -> Series:
    values = values.copy()
    values[CHANGE:until] = change(values[CHANGE:until])
    return times(values.size), values


# What is strange is found.

STRANGE: dict[str, Series] = {
    "a level that shifts": after(daily(), lambda x: x + 40),
    "a spike": after(daily(), lambda x: x + 60, CHANGE + 2),
    "another unit": after(daily(), lambda x: x * 1000),
    "a flat line": after(daily(), lambda x: x[0], CHANGE + 600),
    "another spread": after(daily(), lambda x: x + 4 * noise(x.size, 2)),
    "another period": after(
        daily(), lambda x: 50 + 10 * np.sin(6 * np.pi * times()[CHANGE:] / DAY_US) + noise(x.size, 2)
    ),
    "a day without samples": (times() + DAY_US * (np.arange(LENGTH) >= CHANGE), daily()),
    "a counter that starts again": (times(), np.cumsum(5 + noise()) - 20_000.0 * (np.arange(LENGTH) >= CHANGE)),
    "the first change ever": (times(), np.where(np.arange(LENGTH) == CHANGE, 1.0, 0.0)),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_strange_pages_soon_and_not_before(name: str) -> None:
    found = pages(STRANGE[name])
    assert [page for page in found if CHANGE <= page < CHANGE + 100]
    assert len([page for page in found if page < CHANGE]) <= 1


@pytest.mark.parametrize("name", STRANGE)
def test_what_stays_strange_becomes_ordinary_without_a_storm(name: str) -> None:
    assert len(pages(STRANGE[name])) <= 5


def without_a_day() -> Series:
    shape = np.where(times() // HOUR_US % 24 < 12, 80.0, 20.0) + noise()
    return after(shape, lambda x: 20 + noise(x.size, 2), CHANGE + 288)


def test_a_day_that_is_missing_in_a_daily_shape_pages() -> None:
    """Nothing leaves the range of the day: only the hour tells."""
    found = pages(without_a_day())
    assert [page for page in found if CHANGE <= page < CHANGE + 288]
    assert len([page for page in found if page < CHANGE]) <= 10


def test_without_the_views_of_day_and_week_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded bug: every sample falls into the same hour."""
    whole = without_a_day()
    monkeypatch.setattr(scores, "HOUR_US", 10**18)
    said = ScoreModel(1, fast=False).follow(*(part[: CHANGE + 288] for part in whole))
    assert not [page for page in np.flatnonzero(exceedances(said)) if CHANGE <= page < CHANGE + 288]


def test_silence_is_said_before_the_next_sample_comes() -> None:
    quiet = ScoreModel(1)
    quiet.follow(times(1000), daily(n=1000))
    last, state = times(1000)[-1:], quiet.pack()
    rising = [float(quiet.silence(last + lasting)[0]) for lasting in (PERIOD_US, 3_600_000_000, DAY_US)]
    assert rising == sorted(rising)
    assert rising[0] < 1 < 3 < rising[2]
    assert quiet.pack() == state
    assert ScoreModel(1).silence(last).tolist() == [0.0]


# What is ordinary is not.

RANDOM = np.random.RandomState(7)


def autoregressive(share: float) -> np.ndarray:
    values = noise(seed=3)
    for i in range(1, LENGTH):
        values[i] += share * values[i - 1]
    return values


ORDINARY: dict[str, np.ndarray] = {
    "white noise": noise(),
    "a day": daily(),
    "short memory": autoregressive(0.9),
    "long memory": autoregressive(0.99),
    "a random walk": np.cumsum(noise()),
    "heavy tails": np.random.RandomState(4).standard_t(3, LENGTH),
    "counts": np.random.RandomState(5).poisson(np.exp(1 + np.sin(2 * np.pi * times() / DAY_US))).astype(float),
    "steps of a gauge": np.round(daily() / 5) * 5,
    "a ramp": np.arange(LENGTH, dtype=float),
    "two values in turn": np.arange(LENGTH) % 2 * 1.0,
    "a constant": np.full(LENGTH, 5.0),
    "large with little noise": 1e12 + noise(),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_data_reach_a_surprise_about_as_often_as_it_says(name: str) -> None:
    s = score_series(times(), ORDINARY[name])
    assert np.mean(s >= 3) <= 3e-3
    assert np.mean(s >= 2) <= 3e-2


def test_a_surprise_too_large_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded bug: sums of surprises counted as twice as rare as they are."""
    monkeypatch.setattr(scores, "DECADE", scores.DECADE / np.float32(2))
    said = ScoreModel(1).follow(times(), ORDINARY["heavy tails"])  # machine code is told this constant
    assert np.mean(said >= 3) > 3e-3


def repeating() -> tuple[Series, list[int]]:
    """The same hump every few hours, at no fixed hour."""
    n = 7000
    values, rng, at, places = daily(n=n), np.random.RandomState(6), 1500, []
    while at < n - 100:
        values[at : at + 20] += 25 * np.sin(np.arange(20) / 20 * np.pi)
        places.append(at)
        at += int(rng.randint(100, 300))
    return (times(n), values), places


def heights(s: np.ndarray, places: list[int]) -> list[float]:
    return [float(s[place : place + 25].max()) for place in places]


def test_a_pattern_that_repeats_is_no_news_for_long() -> None:
    series, places = repeating()
    peaks = heights(score_series(*series), places)
    assert peaks[0] > 4
    assert np.median(peaks[-20:]) < 2.1


def test_tails_that_learn_nothing_would_go_on_calling_it_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded bug: what the tails learn is lost once they know ordinary days; no peak or shape is remembered."""
    series, places = repeating()
    learning, calls = tails.two_sided, iter(range(10**6))
    monkeypatch.setattr(
        tails, "two_sided", lambda state, *given: learning(state if next(calls) < 1500 else state.copy(), *given)
    )
    monkeypatch.setattr(pattern_memory, "novelty", lambda state, together, fade: together)
    monkeypatch.setattr(pattern_memory, "discount_repeats", lambda *given: None)
    assert np.median(heights(ScoreModel(1, fast=False).follow(*series), places)[-20:]) >= 2.1


def met(shapes: list[np.ndarray], near: float) -> list[float]:
    """What is left of a surprise of 4 at each of `shapes`, met a day after one another."""
    state, left = score_columns.fresh(1), []
    for i, shape in enumerate(shapes):
        s = np.array([4.0], dtype=np.float32)
        pattern_memory.discount_repeats(state, shape[:, None], s, np.array([i * 288]), near, 100)
        left.append(round(float(s[0]), 2))
    return left


def shape(seed: int) -> np.ndarray:
    return 2 * np.random.RandomState(seed).normal(size=score_columns.FEATURES).astype(np.float32)


def test_a_shape_met_before_surprises_less_each_time_and_another_does_not() -> None:
    assert met([shape(1), shape(2), shape(1), shape(1) + np.float32(0.3), shape(3)], 0.5) == [4, 4, 3.7, 3.52, 4]


def test_shapes_never_near_enough_would_be_caught() -> None:
    assert met([shape(1), shape(1)], 1e-9) == [4, 4]


def test_the_shape_not_met_for_longest_makes_room() -> None:
    seventeen = [shape(seed) for seed in range(score_columns.SHAPES + 1)]
    assert met([*seventeen, seventeen[0], seventeen[2]], 0.5)[-2:] == [4, 3.7]


# Bad input: no crash, no silence, no storm.

BAD: dict[str, Series] = {
    "NaN among samples": (times(), np.where(RANDOM.rand(LENGTH) < 0.3, np.nan, daily())),
    "infinities": (times(), np.where(RANDOM.rand(LENGTH) < 0.01, np.inf, daily())),
    "both infinities in turn": (times(), np.where(np.arange(LENGTH) % 2, np.inf, -np.inf)),
    "nothing but NaN": (times(), np.full(LENGTH, np.nan)),
    "growth beyond all": (times(), np.exp(np.arange(LENGTH) / 20)),
    "the largest numbers": (times(), np.where(np.arange(LENGTH) % 3, 1.7e308, -1.7e308)),
    "the smallest numbers": (times(), daily() * 1e-307),
    "one stamp a year ahead": (times() + 365 * DAY_US * (np.arange(LENGTH) == CHANGE), daily()),
    "a clock that falls back a year": (times() - 365 * DAY_US * (np.arange(LENGTH) >= CHANGE), daily()),
    "every stamp twice": (np.repeat(times()[::2], 2), daily()),
    "one stamp for all": (np.full(LENGTH, START_US), daily()),
    "stamps in disorder": (RANDOM.permutation(times()), daily()),
    "stamps at both ends of time": (np.where(np.arange(LENGTH) % 2, 2**62, -(2**62)), daily()),
}


@pytest.fixture(scope="module")
def scores_of_bad_input() -> dict[tuple[str, bool], np.ndarray]:
    """The scores of each bad input by NumPy and by machine code; the series go side by side, as NumPy is slow alone."""
    t_us, values = (np.stack(parts, axis=1)[CHANGE - 1500 :] for parts in zip(*BAD.values(), strict=True))
    found = {}
    for fast in (True, False):
        scored = ScoreModel(len(BAD), fast=fast)
        rows = np.array([scored.step(t, row) for t, row in zip(t_us, values, strict=True)])
        found |= {(name, fast): rows[:, n] for n, name in enumerate(BAD)}
    return found


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("fast", [True, False])
def test_bad_input_neither_crashes_nor_storms(
    name: str, fast: bool, scores_of_bad_input: dict[tuple[str, bool], np.ndarray]
) -> None:
    values, s = BAD[name][1][CHANGE - 1500 :], scores_of_bad_input[name, fast]
    assert np.isfinite(s).tolist() == (np.abs(values) <= scores.LARGEST).tolist()
    assert np.sum(exceedances(s)) <= 3


@pytest.mark.parametrize("name", sorted(set(BAD) - {"growth beyond all", "the smallest numbers"}))
def test_after_bad_input_the_series_is_heard_again(name: str) -> None:
    scored = ScoreModel(1)
    scored.follow(*BAD[name])
    t_us, values = after(daily(), lambda x: x + 40)
    s = scored.follow(t_us + LENGTH * PERIOD_US, values)
    assert s[CHANGE : CHANGE + 100].max() >= DEFAULTS.threshold


@pytest.mark.parametrize("name", ["growth beyond all", "the smallest numbers"])
def test_a_unit_beyond_all_proportion_needs_a_new_start(name: str) -> None:
    scored, beside = ScoreModel(2), ScoreModel(1)
    t_us, values = after(daily(), lambda x: x + 40)
    for at in range(0, LENGTH, 20):
        scored.step(np.repeat(t_us[at], 2), np.repeat(BAD[name][1][at], 2))
        beside.step(t_us[at : at + 1], BAD[name][1][at : at + 1])
    scored.restart(np.array([1]))
    s = np.array(
        [scored.step(np.repeat(t + LENGTH * PERIOD_US, 2), np.repeat(v, 2)) for t, v in zip(t_us, values, strict=True)]
    )
    assert s[CHANGE : CHANGE + 100, 1].max() >= DEFAULTS.threshold
    assert s[:, 1].tobytes() == score_series(t_us + LENGTH * PERIOD_US, values).tobytes()
    assert s[:, 0].tobytes() == beside.follow(t_us + LENGTH * PERIOD_US, values).tobytes()


@needs_numba
def test_ten_years_of_hours_end_as_they_began() -> None:
    n = 87_600
    t_us = START_US + np.arange(n, dtype=np.int64) * HOUR_US
    values = 50 + 10 * np.sin(2 * np.pi * t_us / DAY_US) + noise(n)
    values[-50:] += 40
    s = score_series(t_us, values)
    assert np.sum(exceedances(s[:-50])) <= n * 1e-3
    assert s[-50:].max() >= DEFAULTS.threshold


def test_one_sample_and_none() -> None:
    assert score_series(times(1), np.array([3.0])).tolist() == [0.0]
    assert score_series(times(0), np.array([])).size == 0
    assert ScoreModel(0).step(times(0), np.array([])).size == 0


@pytest.mark.parametrize("shape", [(2,), (1, 1), ()])
def test_arrays_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        ScoreModel(1).step(np.zeros(shape, np.int64), np.zeros(shape))
    with pytest.raises(ValueError, match="shape"):
        ScoreModel(1).step(np.zeros(1, np.int64), np.zeros(shape))


def test_only_a_single_series_is_followed() -> None:
    with pytest.raises(ValueError, match="one series"):
        ScoreModel(2).follow(times(5), noise(5))


# Pages and settings.


def test_one_episode_pages_once_and_what_outlasts_the_quiet_pages_again() -> None:
    s = np.array([0, 5, 5, 0, 5, np.nan, 5, 5, 5])
    assert np.flatnonzero(exceedances(s, 3.0, 4)).tolist() == [1, 6]
    assert np.flatnonzero(exceedances(s, 3.0, 0)).tolist() == [1, 2, 4, 6, 7, 8]
    assert not exceedances(s, 6.0).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_samples": 0},
        {"memory_days": 0.0},
        {"visits": -1.0},
        {"tail": 0.5},
        {"tail": 0.0},
        {"forget": 0.1},
        {"echo": 0},
        {"near": 0.0},
        {"warmup": -1},
        {"quiet": -1},
        {"threshold": 0.0},
    ],
)
def test_settings_without_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"above 0|between|negative"):
        ScoreSettings(**wrong)
