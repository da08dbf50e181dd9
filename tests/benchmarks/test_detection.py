"""F1, the curve, two-fold transfer and coverage on series small enough to count by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import detection
from benchmarks.series import Floats, Series
from shared.durations import HOUR_US


def series(name: str, samples: int, *windows: tuple[int, int]) -> Series:
    return Series(name, np.arange(samples, dtype=np.int64) * HOUR_US, np.zeros(samples), windows)


def scores(samples: int, **at: float) -> Floats:
    found = np.zeros(samples)
    for name, value in at.items():
        found[int(name[1:])] = value
    return found


def test_f1_counts_samples() -> None:
    # 100 samples, a window of 10. Found 5 of them and 5 others: precision and recall 0.5.
    found = scores(100, **{f"i{n}": 1.0 for n in range(45, 55)})
    plain, _ = detection.best_f1([series("a", 100, (50, 59))], [found])
    assert plain == pytest.approx(0.5)


def test_point_adjusted_f1_finds_a_window_whole_or_misses_it_whole() -> None:
    one = series("a", 400, (100, 119), (200, 219))
    in_time, late = scores(400, i107=1.0, i300=1.0), scores(400, i108=1.0, i300=1.0)
    # 20 found, 20 missed, one false: 40 / (40 + 20 + 1); a sample later nothing of it is left but the best of all: 0.
    assert detection.best_f1([one], [in_time])[1] == pytest.approx(40 / 61)
    everything_is_alarm = 2 * 40 / (2 * 40 + 400 - probation(400) - 40)
    assert detection.best_f1([one], [late])[1] == pytest.approx(everything_is_alarm)


def probation(samples: int) -> int:
    return series("a", samples).learn


def test_f1_without_windows_is_no_number() -> None:
    assert all(math.isnan(one) for one in detection.best_f1([series("a", 100)], [np.zeros(100)]))


def test_outcome_counts_windows_and_false_alarms_at_each_threshold() -> None:
    many = [series("a", 1000, (500, 549)), series("b", 1000)]
    found = detection.outcome(many, [scores(1000, i510=5.0, i300=2.0, i10=9.0), scores(1000, i800=3.0)], usual=4.0)
    assert found.thresholds[-1] == 4.0
    assert (found.hits[-1].tolist(), found.false[-1].tolist()) == ([1, 0], [0, 0])
    low = int(np.flatnonzero(found.thresholds <= 2.0)[-1])
    assert (found.hits[low].tolist(), found.false[low].tolist()) == ([1, 0], [1, 1])
    assert found.false_a_day()[low] == pytest.approx(2 / (2 * 849 / 24))
    assert found.hit_at(0.0) == 1.0


def test_a_corpus_without_windows_has_false_alarms_but_no_share_of_hits() -> None:
    found = detection.outcome([series("a", 1000)], [scores(1000, i800=3.0)], usual=2.0)
    assert found.false_a_day()[-1] > 0
    assert math.isnan(found.hit_at(0.05))


def test_two_fold_takes_the_threshold_of_the_other_half() -> None:
    """Each series is perfect at a threshold of its own and noisy at the other's: transfer must not see its own."""
    loud = scores(1000, i500=10.0, **{f"i{n}": 5.0 for n in range(200, 480, 10)})
    quiet = scores(1000, i500=5.0, **{f"i{n}": 2.0 for n in range(200, 480, 10)})
    many = [series("a", 1000, (500, 549)), series("b", 1000, (500, 549))]
    found = detection.outcome(many, [loud, quiet], usual=10.0)
    first = detection.halves(2)
    assert found.one_way(0, ~first) == pytest.approx(0)  # at the loud one's threshold the quiet one says nothing
    assert found.one_way(0, first) < 100  # at the quiet one's threshold the loud one is noisy
    assert found.transferred(0, first) == pytest.approx((found.one_way(0, first) + found.one_way(0, ~first)) / 2)
    assert found.nab(0) > found.transferred(0, first)


def test_coverage_leaves_out_probation_windows_and_missing_values() -> None:
    values = np.zeros(100)
    values[:15], values[20:30], values[40], values[50:52] = 99.0, 99.0, np.nan, 99.0
    one = Series("a", np.arange(100, dtype=np.int64), values, ((20, 29),))
    covered = detection.coverage([one], [(np.full(100, -1.0), np.full(100, 1.0))])
    assert covered == pytest.approx(100 * 72 / 74)
