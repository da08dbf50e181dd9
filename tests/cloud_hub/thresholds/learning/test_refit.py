"""From stored history to limits on devices, and back when they alarm too much."""

from __future__ import annotations

import numpy as np
import pytest
from simulators import databases, histories
from simulators.refits import (
    FLEET,
    NOW,
    PERIOD_S,
    SECOND,
    TERMS,
    alarm,
    desired,
    fitted,
    learn,
    series,
    step,
    touched,
    trial,
    verify,
)
from sqlalchemy import delete
from sqlmodel import col, select

from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import LearnedSeries, Rollout, TelemetrySample
from cloud_hub.errors import HubError
from cloud_hub.telemetry.rollups.worker import RollupWorker
from cloud_hub.thresholds.learning import history as stored
from cloud_hub.thresholds.learning import refit, trials
from cloud_hub.thresholds.learning import registry as learning_registry
from cloud_hub.thresholds.learning.core.policy import LimitPolicy
from cloud_hub.thresholds.rollouts import service as rollout_service
from cloud_hub.twins import service as twins
from shared.durations import DAY_US
from shared.protocol.codec import encode
from shared.thresholds import Limits

pytestmark = pytest.mark.one_database


@pytest.mark.sql
def test_a_learning_goes_from_history_to_canaries_to_the_rest(plant: Database) -> None:
    learn(plant)
    row = fitted(plant)
    assert row.reason == f"rollout {trial(plant).id}"
    assert (touched(plant), trial(plant).canaries) == (set(), 1)
    step(plant, 1)
    (canary,) = touched(plant)
    verify(plant, 2)
    step(plant, 2)
    step(plant, 61)
    assert touched(plant) == {canary}
    step(plant, 63)
    assert touched(plant) == set(FLEET)
    verify(plant, 64)
    step(plant, 64)
    step(plant, 125)
    assert trial(plant).state == "confirmed"
    (limits,) = desired(plant, canary)
    assert (limits["source"], limits["fitted_us"], len(limits["highs"])) == ("learned", NOW, 24)
    assert limits["stale_s"] == TERMS.stale_s
    with plant.read() as session:
        assert learning_registry.status_counts(session, "all", NOW, TERMS.stale_s) == {
            "series": 4, "fitted": 4, "pushed": 4, "stale": 0, "in_force": 4}  # fmt: skip
        assert learning_registry.status_counts(session, "all", NOW + 4 * DAY_US, TERMS.stale_s)["stale"] == 4


def test_the_backtest_stands_beside_present_limits_before_anything_is_pushed(plant: Database) -> None:
    for device in FLEET:
        with plant.write() as session:
            body = encode({"state": {"reported": {"limits": [{"metric": "cpu.load", "high": 60.0}]}}})
            twins.handle_request(session, device, "thresholds", "update", body, NOW, actor=device, max_bytes=32768)
    learn(plant)
    fitted(plant)
    backtest = trial(plant).backtest
    assert backtest["devices"] == 4
    assert backtest["in_sample"] == 0
    assert backtest["per_device_week"] < 4 < backtest["present_per_device_week"]


def test_what_would_alarm_too_much_is_held_back(db: Database) -> None:
    histories.devices(db, FLEET, "cpu.load")
    for n, device in enumerate(FLEET):  # since two days it does every hour what it never did before
        times, values = histories.course(6, PERIOD_S, n, NOW)
        values[times > NOW - 2 * DAY_US] += (times[times > NOW - 2 * DAY_US] // 3_600_000_000 % 2) * 300
        histories.store(db, device, "cpu.load", times, values)
    learn(db, LimitPolicy(metrics=("cpu.load",), train_days=6, backtest_days=2, max_backtest=0.5))
    assert fitted(db).reason.startswith("held back: the backtest gave")
    assert touched(db) == set()
    with db.read() as session:
        assert rollout_service.list_newest(session, "all", 1) == []
        assert [one.kind for one in trail.rows(session, kind="learning.held")] == ["learning.held"]


def test_no_history_is_told_and_nothing_is_pushed(db: Database) -> None:
    histories.devices(db, FLEET, "cpu.load")
    learn(db)
    assert "no series could be learned" in fitted(db).reason
    assert "0 usable points" in series(db).reason


@pytest.mark.sql
def test_a_refit_that_was_interrupted_gives_the_same_limits(fitted_plant: Database) -> None:
    """P7: the same data, the same limits, with a restart and new data in between."""
    whole = {device: series(fitted_plant, device).limits for device in FLEET}
    with fitted_plant.write() as session:
        for one in session.exec(select(Rollout)):
            one.state = "confirmed"
        row = learning_registry.get(session, "all", lock=True)
        row.due_us = NOW
        session.add(row)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(refit, "PAGE", 1)
        refit.run_once(fitted_plant, NOW)
        refit.run_once(fitted_plant, NOW + SECOND)
        later, _ = histories.course(0.1, PERIOD_S, 9, NOW + DAY_US)
        histories.store(fitted_plant, "press-4", "cpu.load", later, np.full(len(later), 1e6))
        again = Database(databases.address(fitted_plant))
        while refit.run_once(again, NOW + 2 * SECOND).again:
            pass
        again.close()
    assert {device: series(fitted_plant, device).limits for device in FLEET} == whole


def test_nothing_is_refitted_while_it_is_on_trial(fitted_plant: Database) -> None:
    before = series(fitted_plant).limits
    assert not refit.run_once(fitted_plant, NOW + 9 * DAY_US).again
    assert series(fitted_plant).limits == before


def test_too_many_alarms_take_it_back_from_all(fitted_plant: Database) -> None:
    step(fitted_plant, 1)
    (canary,) = touched(fitted_plant)
    for n in range(2):
        alarm(fitted_plant, f"a{n}", canary, 5 + n)
    step(fitted_plant, 10)
    assert (trial(fitted_plant).state, trial(fitted_plant).reason) == ("rolled-back", "alarms raised: 2, allowed: 1")
    assert touched(fitted_plant) == set()
    assert series(fitted_plant, canary).pushed is None


def test_one_false_verdict_takes_it_back_where_none_is_allowed(fitted_plant: Database) -> None:
    step(fitted_plant, 1)
    (canary,) = touched(fitted_plant)
    alarm(fitted_plant, "a", canary, 5, verdict="false-alarm")
    step(fitted_plant, 10)
    assert trial(fitted_plant).reason == "alarms judged false: 1, allowed: 0"


def test_a_limit_by_hand_is_left_alone_until_it_is_released(plant: Database) -> None:
    hand = [{"metric": "cpu.load", "high": 99.0}]
    with plant.write() as session:
        twins.update_desired(session, "press-1", "thresholds", {"limits": hand}, NOW, actor="anna", max_bytes=32768)
    learn(
        plant,
        LimitPolicy(metrics=("cpu.load",), train_days=6, backtest_days=2, canary=1.0, watch_s=60, max_alarms=1),
    )
    fitted(plant)
    confirm_all(plant)
    assert desired(plant, "press-1") == hand
    with plant.read() as session:
        (left,) = rollout_service.devices(session, trial(plant).id, "left", "", 10)
    assert (left.device, left.reason) == ("press-1", "cpu.load: anna changed this limit")
    with plant.write() as session:
        assert learning_registry.release(session, "all", "press-1", (), NOW, "anna", "") == ["cpu.load"]
        learning_registry.refit_now(session, "all", NOW + 200 * SECOND, "anna", "")
    fitted(plant, NOW + 200 * SECOND)
    step(plant, 201)
    assert desired(plant, "press-1")[0]["source"] == "learned"


def confirm_all(plant: Database) -> None:
    step(plant, 1)
    verify(plant, 2)
    step(plant, 2)
    step(plant, 63)
    assert trial(plant).state == "confirmed"


def test_a_target_that_finds_nobody_is_no_error_and_others_go_on(plant: Database) -> None:
    learn(plant, target="id = 'nobody'")
    assert "no series could be learned" in fitted(plant).reason


def test_a_learning_on_trial_is_not_removed(fitted_plant: Database) -> None:
    with fitted_plant.write() as session, pytest.raises(HubError, match="has not ended"):
        learning_registry.remove(session, "all", NOW, "anna", "")
    step(fitted_plant, 1)
    step(fitted_plant, 999)
    assert trial(fitted_plant).state == "rolled-back"
    with fitted_plant.write() as session:
        learning_registry.remove(session, "all", NOW, "anna", "")
        assert session.exec(select(LearnedSeries)).all() == []


@pytest.mark.sql
def test_of_a_long_history_so_many_points_are_read_as_they_were_measured(plant: Database) -> None:
    with plant.read() as session:
        whole = stored.history(session, ("press-1", "cpu.load"), NOW - 2 * DAY_US, NOW)
        thin = stored.history(session, ("press-1", "cpu.load"), NOW - 2 * DAY_US, NOW, most=50)
    assert whole.t_us.size == 192
    assert 45 <= thin.t_us.size <= 51
    assert set(zip(thin.t_us.tolist(), thin.values.tolist(), strict=True)) <= set(
        zip(whole.t_us.tolist(), whole.values.tolist(), strict=True)
    )


def test_limits_by_hand_are_tried_first(plant: Database) -> None:
    with plant.read() as session:
        tight = trials.trial_manual_limits(session, FLEET, [Limits(metric="cpu.load", high=50.0)], NOW)
        loose = trials.trial_manual_limits(session, FLEET, [Limits(metric="cpu.load", high=500.0)], NOW)
        never = trials.trial_manual_limits(session, FLEET, [Limits(metric="a.b", high=1.0)], NOW)
    assert tight["per_device_week"] > 7
    assert (loose["per_device_week"], loose["points"] > 0) == (0, True)
    assert (never["per_device_week"], never["points"]) == (0, 0)


@pytest.mark.sql
def test_what_is_kept_as_rollups_alone_is_learned_from_too(db: Database) -> None:
    histories.devices(db, FLEET[:1], "cpu.load")
    histories.store(db, FLEET[0], "cpu.load", *histories.course(6, 300, 0, NOW))
    roller = RollupWorker(db)
    while roller.run_once(NOW).again:
        pass
    with db.write() as session:
        old = delete(TelemetrySample).where(col(TelemetrySample.t_us) < NOW - DAY_US)
        session.connection().execute(old)
    with db.read() as session:
        found = stored.history(session, ("press-1", "cpu.load"), NOW - 4 * DAY_US, NOW)
    assert found.period_s == 300
    assert found.t_us.size == pytest.approx(3 * 144 + 288, abs=12)
    assert (np.diff(found.t_us) > 0).all()
    _, values = histories.course(4, 300, 0, NOW)
    assert found.values[:100].mean() == pytest.approx(values[:200].mean(), abs=0.5)
    learn(db)
    assert fitted(db).reason == f"rollout {trial(db).id}"
    assert series(db).reason == ""
