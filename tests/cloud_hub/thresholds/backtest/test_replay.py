"""Backtests: episodes come from the devices' own judge, the rolling band knows the past alone, counts are honest."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_hub.demo import weeks
from cloud_hub.thresholds.backtest.core import vectorized_judge
from cloud_hub.thresholds.backtest.core.replay import (
    Episode,
    Window,
    compare,
    replay,
    replay_rolling,
    rolling_limits,
    score,
)
from cloud_hub.thresholds.bands.fit import NotEnough, fit
from shared.durations import DAY_US
from shared.thresholds import JudgeState, Limits, judge

S = 1_000_000
STEP_US = 300 * S
DAYS = DAY_US // STEP_US
LIMITS = Limits(metric="cpu.load", low=10, high=80, deadband=5, on_delay_s=20, off_delay_s=20)


def at(*seconds: int) -> np.ndarray:
    return np.array(seconds, dtype=np.int64) * S


def noise(days: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    t_us = np.arange(days * DAYS, dtype=np.int64) * STEP_US
    return t_us, np.random.RandomState(seed).normal(50, 2, t_us.size)


def test_replay_tells_start_end_kind_and_peak() -> None:
    t_us = at(*range(10, 200, 10))
    values = np.array([50, 90, 95, 99, 85, 76, 70, 70, 70, 50, 5, 5, 5, 4, 20, 20, 20, 20, 20.0])
    assert replay(LIMITS, t_us, values) == [
        Episode(start_us=40 * S, end_us=90 * S, kind="high", peak=99.0),
        Episode(start_us=130 * S, end_us=170 * S, kind="low", peak=4.0),
    ]


def test_an_episode_without_end_stands_and_lone_spikes_and_gaps_make_none() -> None:
    values = np.array([90, 50, 90, 50, 90, 90, 90.0])
    (standing,) = replay(LIMITS, at(10, 20, 30, 40, 50, 60, 70), values)
    assert standing == Episode(start_us=70 * S, end_us=None, kind="high", peak=90.0)
    assert replay(LIMITS, at(), np.array([])) == []
    assert replay(LIMITS, at(10, 20, 30), np.array([90, np.nan, 50])) == []


def test_replay_uses_the_very_judge_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def spy(limits: Limits, state: JudgeState, t_us: int, value: float | None) -> object:
        seen.append(t_us)
        return judge(limits, state, t_us, value)

    monkeypatch.setattr(vectorized_judge, "judge", spy)
    replay(LIMITS, at(30, 10, 20), np.array([99.0, 98.0, 97.0]))
    assert seen == [10 * S, 20 * S, 30 * S]


def test_rolling_never_looks_ahead() -> None:
    t_us, values = noise(12)
    values[8 * DAYS : 8 * DAYS + 30] += 40
    cut = 9 * DAYS
    whole = replay_rolling("cpu.load", t_us, values, 4, 1)
    part = replay_rolling("cpu.load", t_us[:cut], values[:cut], 4, 1)
    assert [e for e in whole if e.start_us < t_us[cut]] == part
    assert [e.start_us for e in part] == [t_us[8 * DAYS + 2]]


def test_limits_are_learned_again_each_refit_and_stamped_with_it() -> None:
    t_us, values = noise(9)
    seen = list(rolling_limits("cpu.load", t_us, values, 4, 2))
    assert [limits.fitted_us for limits, _ in seen] == [4 * DAY_US, 6 * DAY_US, 8 * DAY_US]
    assert [some for _, some in seen] == [
        slice(4 * DAYS, 6 * DAYS),
        slice(6 * DAYS, 8 * DAYS),
        slice(8 * DAYS, 9 * DAYS),
    ]


def test_rolling_keeps_the_last_good_limits_over_a_gap_and_judges_nothing_without_any() -> None:
    t_us, values = noise(14)
    keep = (t_us < 5 * DAY_US) | (t_us >= 12 * DAY_US)
    values[13 * DAYS : 13 * DAYS + 30] += 40
    assert len(replay_rolling("cpu.load", t_us[keep], values[keep], 4, 1)) == 1
    assert replay_rolling("cpu.load", t_us[:150], values[:150], 0.1, 1) == []
    assert replay_rolling("cpu.load", at(), np.array([]), 4, 1) == []


@pytest.mark.parametrize("days", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_rolling_refuses_days_that_lead_nowhere(days: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        replay_rolling("cpu.load", *noise(1), *days)


def test_score_counts_raised_alarms_and_leaves_out_windows_of_the_training() -> None:
    raised = [5, 12, 31, 32, 45, 60]
    episodes = [Episode(start_us=s, end_us=s + 100, kind="high", peak=1.0) for s in raised]
    windows = [Window(start_us=8, end_us=15), Window(start_us=30, end_us=40), Window(start_us=50, end_us=55)]
    got = score(episodes, windows, from_us=10)
    # 5 is too early; 12 lies in a window that began in training; the alarm that stands at 50 is no news.
    assert (got.alarms, got.windows, got.hit, got.false_alarms) == (5, 2, 1, 2)


def test_compare_judges_all_over_the_same_time() -> None:
    t_us, values = noise(10)
    values[: 2 * DAYS] = 95.0
    values[8 * DAYS : 8 * DAYS + 30] = 95.0
    window = Window(start_us=int(t_us[8 * DAYS]), end_us=int(t_us[8 * DAYS + 30]))
    result = compare("cpu.load", t_us, values, [window], [LIMITS], train_days=4, refit_days=1)
    assert result.from_us == 4 * DAY_US
    assert list(result.fixed) == ["80"]
    assert (result.fixed["80"].alarms, result.fixed["80"].hit, result.fixed["80"].false_alarms) == (1, 1, 0)
    with pytest.raises(NotEnough):
        compare("cpu.load", at(), np.array([]), [], [LIMITS], train_days=4, refit_days=1)


def test_recorded_weeks_load_and_compare() -> None:
    loaded = weeks.load()
    assert len(loaded) == 3
    for week in loaded:
        assert week.t_us.size == week.values.size == 4032
        assert (np.diff(week.t_us) > 0).all()
        assert ((week.values >= 0) & (week.values <= 100)).all()
        assert week.windows
        assert all(week.t_us[0] <= w.start_us < w.end_us <= week.t_us[-1] for w in week.windows)
    rows = weeks.compare(loaded)
    assert [row.method for row in rows] == ["fixed 80%", "fixed 90%", "learned band"] * 3
    assert all(0 <= row.hit <= row.windows and 0 <= row.false_alarms <= row.alarms for row in rows)
    assert sum(row.false_alarms for row in rows if row.method == "learned band") <= 3


def test_fixed_limits_of_the_recorded_weeks_have_the_delays_of_the_learned_band() -> None:
    week = weeks.load()[0]
    learned = fit("cpu.load", week.t_us, week.values, now_us=0)
    assert (learned.on_delay_s, learned.off_delay_s) == weeks.DELAYS_S
