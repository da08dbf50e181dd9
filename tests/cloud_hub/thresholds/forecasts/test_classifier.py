"""Minutes ahead: no look into the future, honest probabilities, the same answer twice, and no crash on bad input."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from cloud_hub.thresholds.bands.day_ahead import NotEnough
from cloud_hub.thresholds.forecasts import classifier as crossing
from cloud_hub.thresholds.forecasts.classifier import NAMES, CrossingClassifier, features, samples, train
from cloud_hub.thresholds.forecasts.features import AHEAD_US, SeriesHistory
from shared.durations import DAY_US

STEP_US = 300_000_000
A_DAY = DAY_US // STEP_US


def times(days: int) -> np.ndarray:
    return np.arange(days * A_DAY, dtype=np.int64) * STEP_US


def jobs(seed: int, days: int = 21) -> tuple[np.ndarray, np.ndarray]:
    """Noise around 40 and three jobs a day at hours of its own, each of which runs with a chance of two thirds."""
    t_us, random = times(days), np.random.default_rng(seed)
    values = 40 + random.normal(0, 3, t_us.size)
    for start in random.choice(A_DAY - 3, 3, replace=False):
        for day in np.flatnonzero(random.random(days) < 2 / 3):
            values[day * A_DAY + start : day * A_DAY + start + 3] += 40
    return t_us, values


def coins(seed: int, days: int = 21) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples that cross 1 with a chance that a slow wave tells, and that chance for the next three together."""
    t_us, random = times(days), np.random.default_rng(seed)
    wave = 0.12 + 0.11 * np.sin(2 * np.pi * t_us / DAY_US)
    values = np.where(random.random(t_us.size) < wave, 2.0, wave)
    later = [np.append(wave[k:], np.zeros(k)) for k in (1, 2, 3)]
    return t_us, values, 1 - np.prod([1 - chance for chance in later], axis=0)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on busy cores take minutes for what one does in a second.

    What is not loaded yet cannot be limited.
    """
    import sklearn.ensemble  # noqa: F401

    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def forecaster() -> CrossingClassifier:
    return train([samples(*jobs(seed), 60.0) for seed in range(4)])


def differs_before(now: int) -> bool:
    """Whether another future changes a feature of the moments up to `now`."""
    t_us, values = jobs(5, 10)
    other = values.copy()
    other[now + 1 :] = 500 - other[now + 1 :]
    return not all(
        np.array_equal(
            features(t_us[:end], series[:end], 60.0)[: now + 1], features(t_us, values, 60.0)[: now + 1], equal_nan=True
        )
        for series in (values, other)
        for end in (now + 1, t_us.size)
    )


@pytest.mark.parametrize("now", [A_DAY, 5 * A_DAY + 17, 9 * A_DAY])
def test_the_future_changes_no_feature(now: int) -> None:
    assert not differs_before(now)


def test_a_seeded_look_ahead_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SeriesHistory.until
    monkeypatch.setattr(SeriesHistory, "until", lambda self, ago_us: honest(self, ago_us - STEP_US))
    assert differs_before(5 * A_DAY + 17)


def test_the_future_changes_no_probability(forecaster: CrossingClassifier) -> None:
    t_us, values = jobs(6)
    now = 15 * A_DAY
    whole = forecaster.probability(t_us, values, 60.0)[:now]
    assert np.isfinite(whole).any()
    np.testing.assert_array_equal(whole, forecaster.probability(t_us[:now], values[:now], 60.0))


def test_each_feature_has_a_name_and_no_unit() -> None:
    t_us, values = jobs(5, 10)
    found = features(t_us, values, 60.0)
    assert found.shape == (t_us.size, len(NAMES))
    np.testing.assert_array_equal(found, features(t_us, values * 1024, 60.0 * 1024))


def test_labels_tell_the_next_quarter_of_an_hour_and_leave_out_what_is_not_known() -> None:
    t_us = times(2)
    values = np.zeros(t_us.size)
    values[400] = 9.0
    rows, labels, index = samples(t_us, values, 5.0)
    assert index[labels == 1].tolist() == [397, 398, 399]
    assert 400 not in index
    assert index[0] == A_DAY
    assert index[-1] == t_us.size - 1 - AHEAD_US // STEP_US
    assert rows.shape == (index.size, len(NAMES))


@pytest.fixture(scope="module")
def coin_teller() -> CrossingClassifier:
    return train([samples(*coins(seed)[:2], 1.0) for seed in range(4)])


def worst_bin(teller: CrossingClassifier) -> float:
    """The largest gap between what is said and the true chance, over bins that hold 200 moments."""
    predictions, truth = [], []
    for seed in range(10, 14):
        t_us, values, chance = coins(seed)
        probability = teller.probability(t_us, values, 1.0)
        judged = np.isfinite(probability) & (t_us > t_us[-1] - 7 * DAY_US) & (t_us <= t_us[-1] - AHEAD_US)
        predictions.append(probability[judged])
        truth.append(chance[judged])
    every, true = np.concatenate(predictions), np.concatenate(truth)
    assert np.ptp(every) > 0.4
    bins = [(every >= low) & (every < low + 0.1) for low in np.arange(0.0, 1.0, 0.1)]
    return max(abs(float(every[one].mean() - true[one].mean())) for one in bins if one.sum() > 200)


def test_what_is_said_comes_as_often_as_said(coin_teller: CrossingClassifier) -> None:
    assert worst_bin(coin_teller) < 0.05


@pytest.mark.parametrize("wrong", [{"shift": 1.0}, {"slope": 3.0}], ids=str)
def test_a_seeded_wrong_calibration_is_noticed(coin_teller: CrossingClassifier, wrong: dict[str, float]) -> None:
    assert worst_bin(dataclasses.replace(coin_teller, **wrong)) > 0.05


def test_jobs_of_series_never_seen_are_foretold_where_distance_tells_nothing(forecaster: CrossingClassifier) -> None:
    from sklearn.metrics import average_precision_score

    ours, distance = [], []
    for seed in range(20, 23):
        t_us, values = jobs(seed)
        rows, labels, index = samples(t_us, values, 60.0)
        late = index > 14 * A_DAY
        ours.append(average_precision_score(labels[late], forecaster.of(rows[late])))
        distance.append(average_precision_score(labels[late], values[index[late]]))
    assert np.mean(ours) > 0.5
    assert np.mean(ours) > 5 * np.mean(distance)


def test_same_data_same_probabilities_bit_for_bit_in_any_order(forecaster: CrossingClassifier) -> None:
    again = train([samples(*jobs(seed), 60.0) for seed in range(4)])
    t_us, values = jobs(6)
    first = forecaster.probability(t_us, values, 60.0)
    np.testing.assert_array_equal(first, again.probability(t_us, values, 60.0))
    order = np.random.default_rng(1).permutation(t_us.size)
    np.testing.assert_array_equal(first[order], again.probability(t_us[order], values[order], 60.0))


def test_not_judged_while_above_nor_on_the_first_day_nor_after_a_gap(forecaster: CrossingClassifier) -> None:
    t_us, values = jobs(6)
    gap = np.r_[0 : 10 * A_DAY, 11 * A_DAY : t_us.size]
    t_us, values = t_us[gap], values[gap]
    values[12 * A_DAY] = np.nan
    found = forecaster.probability(t_us, values, 60.0)
    expected = (values <= 60.0) & (t_us >= DAY_US)
    expected[10 * A_DAY] = False
    np.testing.assert_array_equal(np.isfinite(found), expected)
    assert np.nanmin(found) >= 0
    assert np.nanmax(found) <= 1


ODD: list[tuple[str, Any, Any]] = [
    ("nothing", times(0), np.zeros(0)),
    ("one", times(2)[:1], np.zeros(1)),
    ("constant", times(9), np.full(9 * A_DAY, 3.0)),
    ("at the limit", times(9), np.full(9 * A_DAY, 60.0)),
    ("always above", times(9), np.full(9 * A_DAY, 61.0)),
    ("not a number", times(9), np.full(9 * A_DAY, np.nan)),
    ("infinities", times(9), np.where(np.arange(9 * A_DAY) % 7, 1.0, np.inf)),
    ("huge", times(9), np.where(np.arange(9 * A_DAY) % 7, -1.7e308, 1.7e308)),
    ("tiny", times(9), np.full(9 * A_DAY, 5e-324)),
    ("duplicates", times(9) // (3 * STEP_US) * 3 * STEP_US, np.arange(9.0 * A_DAY) % 50),
    ("one time", np.full(9 * A_DAY, 7), np.arange(9.0 * A_DAY)),
    ("clock jumps", np.where(np.arange(9 * A_DAY) % 100, times(9), 4 * 10**18), np.arange(9.0 * A_DAY) % 90),
    ("hourly", times(9) * 12, np.arange(9.0 * A_DAY) % 90),
]


@pytest.mark.parametrize(("t_us", "values"), [case[1:] for case in ODD], ids=[case[0] for case in ODD])
def test_odd_series_get_probabilities_or_nothing(forecaster: CrossingClassifier, t_us: Any, values: Any) -> None:
    found = forecaster.probability(t_us, values, 60.0)
    judged = found[np.isfinite(found)]
    assert found.shape == values.shape
    assert ((judged >= 0) & (judged <= 1)).all()
    rows, labels, index = samples(t_us, values, 60.0)
    assert rows.shape[0] == labels.size == index.size


@pytest.mark.parametrize("limit", [np.nan, np.inf, -np.inf])
def test_a_limit_that_is_no_number_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        samples(*jobs(1, 3), limit)


def test_too_few_crossings_are_refused_by_name() -> None:
    with pytest.raises(NotEnough, match="0 samples with 0 crossings"):
        train([])
    with pytest.raises(NotEnough, match="with 0 crossings"):
        train([samples(*jobs(1, 3), 1e9)])


def test_five_days_teach_though_nothing_is_known_of_a_week_ago() -> None:
    short = train([samples(*jobs(seed, 5), 60.0) for seed in range(8)])
    found = short.probability(*jobs(9), 60.0)
    assert np.nanmin(found) >= 0
    assert np.nanmax(found) <= 1


def test_scikit_learn_is_not_loaded_before_it_is_needed() -> None:
    assert "sklearn" not in vars(crossing)
