"""Rarities of episodes: they come as often as they say on noise of short and of long tails; the seeded bug does not."""

import numpy as np
import pytest

from benchmarks.fleet_budget import on_noise
from cloud_hub.thresholds.scores import episodes
from cloud_hub.thresholds.scores.episodes import BEGIN, DECADES, KEPT, KNOWN, LEAST, USUAL, Episodes, rarity

QUIET = 100


def came(noise: str, method: str, level: float) -> float:
    """Episodes beyond a level for each that it means."""
    dice = np.random.default_rng(5)
    values = {
        "normal": lambda: dice.standard_normal((40 * 288, 60)),
        "log-normal": lambda: np.exp(2 * dice.standard_normal((40 * 288, 60))),
        "Student t, 2": lambda: dice.standard_t(2, (40 * 288, 60)),
    }[noise]()
    (found,) = [row.value for row in on_noise(noise, values, [level]) if row.method == method]
    return found


@pytest.mark.parametrize("noise", ["normal", "log-normal", "Student t, 2"])
def test_a_rarity_beyond_four_comes_about_as_often_as_it_says(noise: str) -> None:
    assert came(noise, "rarity of an episode", 4.5) < 3.5


def test_seeded_bug_a_surprise_beyond_four_comes_far_more_often_than_it_says() -> None:
    assert came("Student t, 2", "anomaly score of a sample", 4.5) > 5


def test_up_to_what_is_known_a_surprise_is_what_it_was() -> None:
    surprises = np.array([0.3, 1.9, 2.2, KNOWN + 0.2])
    assert rarity(Episodes(), surprises, QUIET)[1].tolist() == [0.3, 1.9, 2.2, max(
        KNOWN, KNOWN + DECADES * (((0.2 * KEPT + KNOWN + 0.2 - LEAST) - BEGIN) / USUAL - 1))]  # fmt: skip


def test_what_lasts_is_rarer_than_one_sample_of_it() -> None:
    once, lasting = (rarity(Episodes(), np.full(count, 4.0), QUIET)[1].max() for count in (1, 5))
    assert lasting > once + 1


def test_a_series_that_often_has_such_episodes_is_asked_for_more() -> None:
    now = Episodes()
    first = rarity(now, np.array([5.0]), QUIET)[1][0]
    for _ in range(20):
        now, _ = rarity(now, np.r_[5.0, np.zeros(QUIET + 1)], QUIET)
    assert now.mean == pytest.approx(2.7 - (2.7 - USUAL) * episodes.TRUST / now.count)
    assert rarity(now, np.array([5.0]), QUIET)[1][0] < first - 1


def test_one_absurd_episode_does_not_deafen_a_series() -> None:
    now, _ = rarity(Episodes(), np.r_[1e6, np.zeros(5000)], QUIET)
    assert now.mean <= USUAL * (1 + episodes.CLIP / episodes.TRUST)


def test_samples_in_one_step_or_in_many_give_the_same() -> None:
    surprises = np.maximum(np.random.default_rng(3).exponential(0.6, 3000), 0.1)
    whole, all_at_once = rarity(Episodes(), surprises, QUIET)
    now, parts = Episodes(), []
    for part in np.split(surprises, [1, 2, 700, 701, 2500]):
        now, found = rarity(now, part, QUIET)
        parts.append(found)
    np.testing.assert_allclose(np.concatenate(parts), all_at_once, rtol=1e-12)
    assert (now.count, now.left) == (whole.count, whole.left)
    assert now.mean == pytest.approx(whole.mean)


def test_a_sample_that_is_missing_says_nothing() -> None:
    now, found = rarity(Episodes(), np.array([np.nan, 2.5, np.nan]), QUIET)
    assert found.tolist() == [0.0, 2.5, 0.0]
    assert now.left == QUIET - 1
