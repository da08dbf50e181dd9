"""The scorer against NAB's published formula, a hand-worked example, and what must hold for any detector."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.nab_score import BEST, PROFILES, Profile, alarms, normalised, raw, sigmoid, worth
from benchmarks.series import Ints, Series, probation

STANDARD, LOW_FP, LOW_FN = PROFILES


def series(samples: int, *windows: tuple[int, int]) -> Series:
    return Series("s", np.arange(samples, dtype=np.int64), np.zeros(samples), windows)


def score(one: Series, at: list[int], profile: Profile = STANDARD) -> float:
    indices: Ints = np.array(at, dtype=np.int64)
    return normalised(raw(one, indices, worth(one), profile), len(one.judged), profile)


def test_the_sigmoid_is_nabs() -> None:
    # The values of Lavin and Ahmad's formula; NAB's own tests name 0.98661 as the best of a window.
    assert pytest.approx(0.98661429815143) == BEST
    assert sigmoid(np.array([0.0])) == pytest.approx([0.0])
    assert sigmoid(np.array([1.0])) == pytest.approx([-0.98661429815143])
    assert sigmoid(np.array([3.0001, 50.0, 1e6])).tolist() == [-1.0, -1.0, -1.0]


def test_nothing_detected_is_zero_and_every_window_at_its_first_sample_is_a_hundred() -> None:
    one = series(200, (50, 69), (120, 139))
    for profile in PROFILES:
        assert score(one, [], profile) == pytest.approx(0)
        assert score(one, [50, 120], profile) == pytest.approx(100)


def test_a_hand_worked_example() -> None:
    """100 samples, probation 15, windows of 10 at 40..49 and 70..79; alarms at 5, 20, 44, 46, 52, 90.

    5 is probation. 20 has no window before it: -0.11. 44 is the earliest in its window, (49-44+1)/10 = 0.6 from the
    end; 46 adds nothing. 52 is 3/9 of a window after 49. The second window is missed: -1. 90 is 11/9 after 79.
    """
    hit = (2 / (1 + math.exp(-3.0)) - 1) / BEST
    after = 0.11 * (2 / (1 + math.exp(5 * 3 / 9)) - 1)
    late = 0.11 * (2 / (1 + math.exp(5 * 11 / 9)) - 1)
    total = -0.11 + hit + after - 1 + late
    assert total == pytest.approx(-0.377, abs=0.001)
    assert score(series(100, (40, 49), (70, 79)), [5, 20, 44, 46, 52, 90]) == pytest.approx(100 * (total + 2) / 4)


def test_the_profiles_weigh_false_alarms_and_misses() -> None:
    one = series(200, (50, 69))
    assert score(one, [40], STANDARD) == pytest.approx(100 * -0.11 / 2)
    assert score(one, [40], LOW_FP) == pytest.approx(100 * -0.22 / 2)
    assert score(one, [40], LOW_FN) == pytest.approx(100 * -0.11 / 3)


def test_without_windows_there_is_no_score() -> None:
    assert math.isnan(score(series(100), [50]))
    assert worth(series(100)).tolist() == [-1.0] * 100


@pytest.mark.parametrize(("samples", "expected"), [(100, 15), (4032, 604), (5000, 750), (15902, 750), (1, 0)])
def test_the_probation_is_nabs(samples: int, expected: int) -> None:
    assert probation(samples) == expected


@given(st.lists(st.integers(0, 199), max_size=30), st.integers(0, 199))
def test_one_more_alarm_outside_never_helps_and_an_earlier_one_inside_never_harms(at: list[int], more: int) -> None:
    one = series(200, (50, 69), (120, 139))
    before, after = score(one, sorted(set(at))), score(one, sorted({*at, more}))
    if one.inside[more]:
        assert after >= before - 1e-9
    else:
        assert after <= before + 1e-9


def test_the_refractory_filter_keeps_the_first_alarm_of_each_stretch() -> None:
    scores = np.array([0, 5, 5, 0, 5, 5, 5, np.nan, 0, 5], dtype=float)
    assert alarms(scores, 5, 1).tolist() == [1, 2, 4, 5, 6, 9]
    assert alarms(scores, 5, 3).tolist() == [1, 4, 9]
    assert alarms(scores, 5, 100).tolist() == [1]
    assert alarms(scores, 6, 3).tolist() == []


@given(st.lists(st.floats(0, 1), max_size=60), st.integers(2, 20))
def test_filtered_alarms_are_far_apart_and_every_crossing_has_one_shortly_before(scores: list[float], gap: int) -> None:
    array = np.array(scores, dtype=float)
    kept, crossings = alarms(array, 0.5, gap), np.flatnonzero(array >= 0.5)
    assert (np.diff(kept) >= gap).all()
    assert all(((kept <= one) & (kept > one - gap)).any() for one in crossings)
