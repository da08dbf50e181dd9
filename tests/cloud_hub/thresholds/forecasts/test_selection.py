"""Models compete on a series' own validation data: the one that fits it wins, none where nothing beats chance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from cloud_hub.thresholds.forecasts import selection
from cloud_hub.thresholds.forecasts.classifier import SHARED, CrossingClassifier, Samples, Skill, samples, train
from cloud_hub.thresholds.forecasts.models import BLEND, MODELS, OWN, blended, fitted
from cloud_hub.thresholds.forecasts.selection import (
    LEAST,
    LIFT,
    NoForecaster,
    SelectedModel,
    calibration,
    select_model,
    validation_predictions,
)
from shared.durations import DAY_US

STEP_US = 300_000_000
A_DAY = DAY_US // STEP_US
LIMIT = 60.0


def times(days: int) -> np.ndarray:
    return np.arange(days * A_DAY, dtype=np.int64) * STEP_US


def daily(seed: int, days: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and a job at three hours of its own that is always there: only the clock tells."""
    t_us, random = times(days), np.random.default_rng(seed)
    values = 40 + random.normal(0, 3, t_us.size)
    for start in random.choice(A_DAY - 3, 3, replace=False):
        values.reshape(days, A_DAY)[:, start : start + 3] += 40
    return t_us, values


def noise(seed: int, days: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Crossings by chance alone."""
    t_us, random = times(days), np.random.default_rng(seed)
    return t_us, np.where(random.random(t_us.size) < 0.05, 80.0, 40.0)


class Blind:
    """Trees that see nothing."""

    def decision_function(self, rows: np.ndarray) -> np.ndarray:
        return np.zeros(len(rows))


USELESS = CrossingClassifier(Blind(), 1.0, -3.0, Skill(SHARED, 0.05, 0.05))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def parts(course: tuple[np.ndarray, np.ndarray]) -> tuple[Samples, np.ndarray]:
    return samples(*course, LIMIT), course[0]


def test_the_winner_has_the_best_average_precision_and_says_how_it_did() -> None:
    own, t_us = parts(daily(3))
    winner = select_model(own, t_us, USELESS)
    assert isinstance(winner, SelectedModel)
    assert winner.skill.average_precision > 0.9
    assert winner.skill.base_rate == pytest.approx(9 / A_DAY, rel=0.3)
    late = own[2] > 10 * A_DAY
    predictions = winner.of(own[0][late], t_us[own[2][late]])
    assert predictions[own[1][late] == 1].mean() > 5 * predictions[own[1][late] == 0].mean()


def test_shared_trees_that_foretell_a_series_better_than_its_own_history_win() -> None:
    """Its own history has no crossing before the validation data; other series had them, and the same rise before."""
    t_us = times(14)
    climb = np.minimum(np.abs((np.arange(t_us.size) % 50) - 25), 12) * -2.5 + 61
    shared = train([samples(t_us, climb + np.random.default_rng(n).normal(0, 0.3, t_us.size), LIMIT) for n in range(4)])
    late = np.where(t_us < 10 * DAY_US, climb - 40, climb)
    own, _ = parts((t_us, late))
    chosen = select_model(own, t_us, shared)
    assert chosen.skill.model == SHARED
    assert not chosen.reason


def test_no_model_over_the_base_rate_is_silent_and_says_so() -> None:
    own, t_us = parts(noise(1))
    found = select_model(own, t_us, USELESS)
    assert isinstance(found, NoForecaster)
    assert "no model is better than the base rate" in found.reason
    assert found.skill.average_precision < LIFT * found.skill.base_rate
    assert found.newest(*noise(1), LIMIT) is None


def test_a_series_without_crossings_to_validate_on_is_left_to_the_shared_trees_where_they_are_any_good() -> None:
    t_us, values = daily(3)
    values[t_us > 9 * DAY_US] = 40.0
    own, _ = parts((t_us, values))
    assert isinstance(select_model(own, t_us, USELESS), NoForecaster)
    good = CrossingClassifier(Blind(), 1.0, -3.0, Skill(SHARED, 0.5, 0.05))
    assert select_model(own, t_us, good) is good


def test_what_is_validated_was_never_seen_in_fitting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fold is said by a model of the samples before it alone."""
    own, t_us = parts(daily(3))
    rows, labels, index = own
    seen: list[tuple[int, int]] = []

    def spy(name: str, before: np.ndarray, *rest: np.ndarray) -> object:
        def say(given: np.ndarray, when: np.ndarray) -> np.ndarray:
            seen.append((int(rest[1].max()), int(when.min())))
            return np.full(len(given), 0.5)

        return say

    monkeypatch.setattr(selection, "fitted", spy)
    predictions = validation_predictions(rows, labels, t_us[index], USELESS)
    assert set(predictions) == set(MODELS)
    assert len(seen) == 2 * len(OWN)
    assert all(learned < judged for learned, judged in seen)
    assert {one.size for one in predictions.values()} == {labels.size - int(0.7 * labels.size)}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("crossings", [0, 1])
def test_a_model_without_both_outcomes_says_the_base_rate(name: str, crossings: int) -> None:
    (rows, labels, index), t_us = parts(daily(3))
    few = np.zeros_like(labels)
    few[:crossings] = 1
    predictions = fitted(name, rows, few, t_us[index])(rows[:5], t_us[index][:5])
    np.testing.assert_allclose(predictions, (crossings + 0.5) / (labels.size + 1))


def test_a_blend_lies_between_its_parts_and_one_that_knows_nothing_pulls_it_to_the_middle() -> None:
    one, other = np.array([0.9, 0.1, 0.5]), np.array([0.9, 0.5, 0.5])
    found = blended([one, other])
    np.testing.assert_allclose(found, [0.9, 0.25, 0.5])


def test_a_calibration_mends_what_is_said_too_surely_and_leaves_alone_what_is_right() -> None:
    dice = np.random.default_rng(5)
    odds = dice.normal(-2, 1, 20_000)
    labels = (dice.random(odds.size) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    slope, shift = calibration(1 / (1 + np.exp(-odds)), labels)
    assert (slope, shift) == (pytest.approx(1, abs=0.1), pytest.approx(0, abs=0.1))
    slope, _ = calibration(1 / (1 + np.exp(-3 * odds)), labels)
    assert slope == pytest.approx(1 / 3, abs=0.1)
    few = slice(0, LEAST)
    slope, shift = calibration(1 / (1 + np.exp(-3 * odds[few])), labels[few])
    assert abs(shift) < 0.5


def test_the_same_history_gives_the_same_winner_bit_for_bit() -> None:
    own, t_us = parts(daily(4))
    first, again = (select_model(own, t_us, USELESS) for _ in range(2))
    assert isinstance(first, SelectedModel)
    assert isinstance(again, SelectedModel)
    assert first.skill == again.skill
    assert (first.slope, first.shift) == (again.slope, again.shift)
    rows, when = own[0][-50:], t_us[own[2][-50:]]
    np.testing.assert_array_equal(first.of(rows, when), again.of(rows, when))


def test_the_blend_is_kept_unless_another_beats_it_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    own, t_us = parts(daily(3))
    skills = {name: Skill(name, 0.5, 0.03) for name in MODELS}
    skills["time-of-day"] = Skill("time-of-day", 0.54, 0.03)
    monkeypatch.setattr(selection, "skill", lambda name, *rest: skills[name])
    assert select_model(own, t_us, USELESS).skill.model == BLEND
    skills["time-of-day"] = Skill("time-of-day", 0.56, 0.03)
    assert select_model(own, t_us, USELESS).skill.model == "time-of-day"
