"""A fault does not become normal: what a refit does not learn from, and what it does not push."""

from __future__ import annotations

import numpy as np
import pytest
from simulators import histories
from simulators.births import born
from simulators.refits import (
    FLEET,
    NOW,
    PERIOD_S,
    SECOND,
    desired,
    fitted,
    learn,
    own_limits,
    series,
    stands,
    step,
    touched,
    trial,
)
from sqlmodel import select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, MissedFault
from cloud_hub.thresholds.learning import registry as learning_registry
from cloud_hub.thresholds.learning import trials
from cloud_hub.thresholds.learning.core.policy import LimitPolicy
from cloud_hub.thresholds.rollouts import service as rollout_service
from shared.durations import DAY_US
from shared.protocol.messages import Birth, Metric

pytestmark = pytest.mark.one_database

LONG = LimitPolicy(metrics=("cpu.load",), train_days=12, backtest_days=2, canary=1.0, watch_s=60, max_backtest=1e6)


def test_seventeen_minutes_of_a_fault_teach_nothing_and_its_alarm_stands(db: Database) -> None:
    histories.devices(db, ["press-1"], "cpu.load")
    own_limits(db, "press-1", high=90.0, priority="high")
    times = NOW - np.arange(1000, 0, -1) * SECOND
    histories.store(db, "press-1", "cpu.load", times, np.full(1000, 100.0))
    stands(db, "press-1", int(times[0]))
    learn(db, LimitPolicy(metrics=("cpu.load",), canary=1.0))
    assert fitted(db).reason == f"no series could be learned: cpu.load of press-1: {series(db).reason}"
    assert "cpu.load has 0 usable points" in series(db).reason
    assert "1000 in alarms that nobody judged false are not learned from" in series(db).reason
    for at_s in range(1, 10_000, 1000):
        step(db, at_s)
    assert desired(db, "press-1") is None
    with db.read() as session:
        assert [one.state for one in session.exec(select(AlarmRow))] == ["raised"]


def test_seventeen_minutes_without_an_alarm_teach_nothing_either(db: Database) -> None:
    histories.devices(db, ["press-1"], "cpu.load")
    histories.store(db, "press-1", "cpu.load", NOW - np.arange(1000, 0, -1) * SECOND, np.full(1000, 100.0))
    learn(db, LimitPolicy(metrics=("cpu.load",), canary=1.0))
    assert "over 0.0 days, on 1 of them; limits need 3 days" in fitted(db).reason


def faulty(db: Database, days: float) -> int:
    """A device whose load stands at 300 since so many days. When that began."""
    histories.devices(db, ["press-1"], "cpu.load")
    times, values = histories.course(12, PERIOD_S, 1, NOW)
    since_us = NOW - int(days * DAY_US)
    values[times >= since_us] = 300.0
    histories.store(db, "press-1", "cpu.load", times, values)
    return since_us


@pytest.mark.parametrize("verdict", ["", "real"])
def test_days_inside_an_alarm_are_not_learned_from(db: Database, verdict: str) -> None:
    since_us = faulty(db, 4)
    stands(db, "press-1", since_us, verdict, cleared_us=NOW - 1)
    learn(db, LONG)
    fitted(db)
    assert max(series(db).limits["highs"]) < 150  # type: ignore[index]


def test_control_days_that_were_judged_false_are_learned_from(db: Database) -> None:
    stands(db, "press-1", faulty(db, 4), "false-alarm", cleared_us=NOW - 1)
    learn(db, LONG)
    fitted(db)
    assert series(db).limits["high"] > 300  # type: ignore[index]


def test_trouble_that_people_told_is_not_learned_from(db: Database) -> None:
    since_us = faulty(db, 4)
    with db.write() as session:
        session.add(
            MissedFault(
                id="t", device="press-1", metric="cpu.load", start_us=since_us, end_us=NOW, actor="anna", t_us=NOW
            )
        )
    learn(db, LONG)
    fitted(db)
    assert max(series(db).limits["highs"]) < 150  # type: ignore[index]


def test_limits_are_kept_while_an_alarm_of_theirs_stands(plant: Database) -> None:
    for device in FLEET:
        stands(plant, device, NOW - SECOND)
    learn(plant)
    assert "an alarm of its limits is active" in fitted(plant).reason
    assert touched(plant) == set()
    with plant.write() as session:
        for row in session.exec(select(AlarmRow)):
            row.verdict = "false-alarm"
        learning_registry.refit_now(session, "all", NOW, "anna", "")
    assert fitted(plant).reason.startswith("rollout ")


@pytest.mark.sql
def test_an_alarm_that_comes_while_canaries_are_watched_keeps_its_limits(fitted_plant: Database) -> None:
    for device in FLEET:
        stands(fitted_plant, device, NOW + 1)
    step(fitted_plant, 1)
    assert touched(fitted_plant) == set()
    with fitted_plant.read() as session:
        assert {one.reason for one in rollout_service.devices(session, trial(fitted_plant).id, "left", "", 10)} == {
            "cpu.load: an alarm of its limits is active: they are kept until it clears or is judged false"}  # fmt: skip


def test_nothing_is_pushed_that_was_not_tried_on_history_it_had_not_seen(db: Database) -> None:
    histories.devices(db, FLEET, "cpu.load")
    for n, device in enumerate(FLEET):
        histories.store(db, device, "cpu.load", *histories.course(4, PERIOD_S, n, NOW))
    learn(db)
    assert "no out-of-sample backtest: before the last 2 days" in fitted(db).reason
    assert touched(db) == set()


def test_learned_limits_have_the_priority_of_those_they_replace_and_stay_in_the_declared_range(db: Database) -> None:
    with db.write() as session:
        metrics = [Metric(name="cpu.load", unit="%", low=0.0, high=72.0)]
        born(session, Birth(device="press-1", session="s", epoch="e", metrics=metrics), 1)
    histories.store(db, "press-1", "cpu.load", *histories.course(6, PERIOD_S, 1, NOW))
    own_limits(db, "press-1", high=90.0, priority="critical")
    learn(db)
    fitted(db)
    limits = series(db).limits
    assert limits is not None
    assert (limits["priority"], limits["high"]) == ("critical", 72.0)
    assert max(limits["highs"]) == 72.0
    assert min(limits["lows"]) >= 0.0


@pytest.mark.parametrize(("level", "least"), [(100.0, 0.05), (1e-6, 1e-10), (5e9, 1e6)])
def test_a_series_that_hardly_moves_gets_a_deadband_of_its_scale(db: Database, level: float, least: float) -> None:
    histories.devices(db, ["press-1"], "cpu.load")
    times, _ = histories.course(6, PERIOD_S, 1, NOW)
    histories.store(db, "press-1", "cpu.load", times, np.full(times.size, level))
    learn(db)
    fitted(db)
    limits = series(db).limits
    assert limits is not None
    assert limits["deadband"] > least
    assert limits["low"] < level < limits["high"]


def test_of_a_series_that_was_always_zero_nothing_tells_the_scale(db: Database) -> None:
    histories.devices(db, ["press-1"], "cpu.load")
    times, _ = histories.course(6, PERIOD_S, 1, NOW)
    histories.store(db, "press-1", "cpu.load", times, np.zeros(times.size))
    learn(db)
    assert "was always 0 and declares no range: set its limit by hand" in fitted(db).reason


def test_the_backtest_says_as_little_as_the_refit_of_what_lay_in_alarms(db: Database) -> None:
    since_us = faulty(db, 4)
    stands(db, "press-1", since_us)
    with db.read() as session:
        (one,) = trials.trial_series(session, [("press-1", "cpu.load")], LONG, NOW - 2 * DAY_US, NOW)
    assert one.proposed is not None
    assert [(episode.end_us, episode.peak) for episode in one.proposed.episodes] == [(None, 300.0)]


def test_a_series_that_is_sampled_faster_since_today_is_learned_from_its_days(db: Database) -> None:
    histories.devices(db, ["press-1"], "cpu.load")
    times, values = histories.course(6, PERIOD_S, 1, NOW - 900 * SECOND)
    histories.store(db, "press-1", "cpu.load", times, values)
    histories.store(db, "press-1", "cpu.load", *histories.course(900 / 86_400, 1, 2, NOW))
    learn(db)
    assert fitted(db).reason.startswith("rollout ")
