"""From stored history to limits on devices, and back from what people say of them."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from simulators import histories
from simulators.births import born
from sqlalchemy import delete
from sqlmodel import col, select

from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, LearnedSeries, LearningJob, MissedFault, Rollout, TelemetrySample
from cloud_hub.errors import HubError
from cloud_hub.incidents import service as incidents
from cloud_hub.telemetry.rollups.worker import RollupWorker
from cloud_hub.thresholds.learning import history as stored
from cloud_hub.thresholds.learning import refit, trials
from cloud_hub.thresholds.learning import registry as learning_registry
from cloud_hub.thresholds.learning.core.policy import LimitPolicy
from cloud_hub.thresholds.rollouts import service as rollout_service
from cloud_hub.twins import service as twins
from shared.codec import encode, plain
from shared.durations import DAY_US
from shared.messages import About, Alarm, Applied, Birth, Metric
from shared.thresholds import Limits

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
FLEET = [f"press-{n}" for n in range(1, 5)]
TERMS = LimitPolicy(
    metrics=("cpu.load",), train_days=6, backtest_days=2, canary=0.3, watch_s=60, max_alarms=1, max_false_alarms=0
)


@pytest.fixture
def plant(db: Database) -> Database:
    """Four devices with six days of history."""
    histories.devices(db, FLEET, "cpu.load", "disk.used")
    for n, device in enumerate(FLEET):
        histories.store(db, device, "cpu.load", *histories.course(6, 300, n, NOW))
    return db


def learn(db: Database, policy: LimitPolicy = TERMS, target: str = "*") -> None:
    with db.write() as session:
        row = LearningJob(id="all", target=target, policy=plain(policy), actor="anna", created_us=NOW, due_us=NOW)
        learning_registry.put(session, row, "")


def fitted(db: Database, at_us: int = NOW) -> LearningJob:
    for _ in range(50):
        if not refit.run_once(db, at_us).again:
            break
    with db.read() as session:
        return learning_registry.get(session, "all")


def trial(db: Database) -> Rollout:
    with db.read() as session:
        return rollout_service.list_newest(session, "all", 1)[0]


def step(db: Database, after_s: float) -> None:
    rollout_service.run_once(db, NOW + int(after_s * SECOND), 32768)


def desired(db: Database, device: str) -> Any:
    with db.read() as session:
        return twins.load(session, device, "thresholds").state.get("desired", {}).get("limits")


def touched(db: Database) -> set[str]:
    return {device for device in FLEET if desired(db, device)}


def verify(db: Database, at_s: float) -> None:
    with db.write() as session:
        for device in FLEET:
            if (version := twins.load(session, device, "thresholds").version) > 0:
                word = Applied(shadow="thresholds", version=version, path="limits", state="verified")
                twins.record_progress(session, device, word, NOW + int(at_s * SECOND))


def confirm(db: Database) -> None:
    """Canaries and then the rest put it in force, and nothing happens."""
    for at_s in (1, 2, 63, 64, 65, 66, 127):
        step(db, at_s)
        verify(db, at_s)
    assert trial(db).state == "confirmed"


def series(db: Database, device: str = "press-1") -> LearnedSeries:
    with db.read() as session:
        return learning_registry.series(session, "all", device, "", 1)[0]


def alarm(db: Database, name: str, device: str, at_s: float, verdict: str = "", about: About = "") -> None:
    at = NOW + int(at_s * SECOND)
    one = Alarm(id=name, metric="cpu.load", kind="high", state="raised", priority="low", t_us=at, value=90, limit=80,
                about=about)  # fmt: skip
    with db.write() as session:
        incidents.handle_alarm(session, device, one, at, "")
        session.flush()
        session.get_one(AlarmRow, name).verdict = verdict


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
        times, values = histories.course(6, 300, n, NOW)
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


def test_a_refit_that_was_interrupted_gives_the_same_limits(plant: Database, url: str) -> None:
    """P7: the same data, the same limits, with a restart and new data in between."""
    learn(plant)
    fitted(plant)
    whole = {device: series(plant, device).limits for device in FLEET}
    with plant.write() as session:
        for one in session.exec(select(Rollout)):
            one.state = "confirmed"
        row = learning_registry.get(session, "all", lock=True)
        row.due_us = NOW
        session.add(row)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(refit, "PAGE", 1)
        refit.run_once(plant, NOW)
        refit.run_once(plant, NOW + SECOND)
        later, _ = histories.course(0.1, 300, 9, NOW + DAY_US)
        histories.store(plant, "press-4", "cpu.load", later, np.full(len(later), 1e6))
        again = Database(url)
        while refit.run_once(again, NOW + 2 * SECOND).again:
            pass
        again.close()
    assert {device: series(plant, device).limits for device in FLEET} == whole


def test_nothing_is_refitted_while_it_is_on_trial(plant: Database) -> None:
    learn(plant)
    fitted(plant)
    before = series(plant).limits
    assert not refit.run_once(plant, NOW + 9 * DAY_US).again
    assert series(plant).limits == before


def test_too_many_alarms_take_it_back_from_all(plant: Database) -> None:
    learn(plant)
    fitted(plant)
    step(plant, 1)
    (canary,) = touched(plant)
    for n in range(2):
        alarm(plant, f"a{n}", canary, 5 + n)
    step(plant, 10)
    assert (trial(plant).state, trial(plant).reason) == ("rolled-back", "alarms raised: 2, allowed: 1")
    assert touched(plant) == set()
    assert series(plant, canary).pushed is None


def test_one_false_verdict_takes_it_back_where_none_is_allowed(plant: Database) -> None:
    learn(plant)
    fitted(plant)
    step(plant, 1)
    (canary,) = touched(plant)
    alarm(plant, "a", canary, 5, verdict="false-alarm")
    step(plant, 10)
    assert trial(plant).reason == "alarms judged false: 1, allowed: 0"


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


def test_verdicts_are_counted_and_widen_the_next_fit(plant: Database) -> None:
    learn(plant)
    fitted(plant)
    confirm(plant)
    narrow = series(plant).limits
    for n, verdict in enumerate(["false-alarm", "false-alarm", "real", ""]):
        alarm(plant, f"a{n}", "press-1", 200 + n, verdict)
    alarm(plant, "old", "press-1", -5, "false-alarm")
    with plant.write() as session:
        for n, at in enumerate((NOW + 300 * SECOND, NOW + 10**10)):
            session.add(
                MissedFault(
                    id=str(n), device="press-2", metric="cpu.load", start_us=at, end_us=at, actor="anna", t_us=at
                )
            )
    with plant.read() as session:
        found = learning_registry.counts(session, "all")
    assert (found.alarms, found.hits, found.false, found.faults, found.missed) == (4, 1, 2, 2, 2)
    with plant.write() as session:
        for row in session.exec(select(AlarmRow)):
            row.state, row.cleared_us = "cleared", row.raised_us + SECOND
        learning_registry.refit_now(session, "all", NOW, "anna", "")
    fitted(plant, NOW)
    wide = series(plant)
    assert wide.factor == pytest.approx(1.25**2)
    assert narrow is not None
    assert wide.limits is not None
    assert wide.limits["high"] - wide.limits["low"] == pytest.approx(
        (narrow["high"] - narrow["low"]) * wide.factor, rel=0.2
    )
    assert series(plant, "press-2").factor == pytest.approx(0.9**2)
    with plant.read() as session:
        told = {row.device: row.detail["factor"] for row in trail.rows(session, kind="learning.corrected")}
    assert told == {"press-1": wide.factor, "press-2": series(plant, "press-2").factor}


def judged_by(db: Database, *abouts: About) -> tuple[learning_registry.Counts, float, Any]:
    """What verdicts on alarms about these, one of which stands over a trouble that was told, make of the limits."""
    learn(db)
    fitted(db)
    confirm(db)
    for about in abouts:
        for n, verdict in enumerate(["false-alarm", "false-alarm", "real", ""]):
            alarm(db, f"{about}{n}", "press-1", 200 + n, verdict, about)
    at = NOW + 300 * SECOND
    with db.write() as session:
        session.add(
            MissedFault(id="t", device="press-1", metric="cpu.load", start_us=at, end_us=at, actor="anna", t_us=at)
        )
    with db.read() as session:
        counts = learning_registry.counts(session, "all")
        said = stored.load_feedback(session, [("press-1", "cpu.load")], NOW, NOW + DAY_US)["press-1", "cpu.load"]
    with db.write() as session:
        learning_registry.refit_now(session, "all", NOW, "anna", "")
    fitted(db, NOW)
    return counts, series(db).factor, said


def test_verdicts_on_alarms_about_anything_else_move_no_limits(plant: Database) -> None:
    counts, factor, said = judged_by(plant, *(one for one in get_args(About) if one))
    assert (counts.alarms, counts.hits, counts.false, counts.faults, counts.missed) == (0, 0, 0, 1, 1)
    assert factor == pytest.approx(0.9)
    assert (len(said.faults), said.normal) == (1, ())


def test_control_the_same_verdicts_on_the_limits_own_alarms_move_them(plant: Database) -> None:
    counts, factor, said = judged_by(plant, "")
    assert (counts.alarms, counts.hits, counts.false, counts.faults, counts.missed) == (4, 1, 2, 1, 0)
    assert factor == pytest.approx(1.25**2)
    assert (len(said.faults), len(said.normal)) == (2, 2)


def test_a_target_that_finds_nobody_is_no_error_and_others_go_on(plant: Database) -> None:
    learn(plant, target="id = 'nobody'")
    assert "no series could be learned" in fitted(plant).reason


def test_a_learning_on_trial_is_not_removed(plant: Database) -> None:
    learn(plant)
    fitted(plant)
    with plant.write() as session, pytest.raises(HubError, match="has not ended"):
        learning_registry.remove(session, "all", NOW, "anna", "")
    step(plant, 1)
    step(plant, 999)
    assert trial(plant).state == "rolled-back"
    with plant.write() as session:
        learning_registry.remove(session, "all", NOW, "anna", "")
        assert session.exec(select(LearnedSeries)).all() == []


def test_of_a_long_history_so_many_points_are_read_as_they_were_measured(plant: Database) -> None:
    with plant.read() as session:
        whole = stored.history(session, ("press-1", "cpu.load"), NOW - 2 * DAY_US, NOW)
        thin = stored.history(session, ("press-1", "cpu.load"), NOW - 2 * DAY_US, NOW, most=100)
    assert whole.t_us.size == 576
    assert 95 <= thin.t_us.size <= 101
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


def test_what_is_kept_as_rollups_alone_is_learned_from_too(plant: Database) -> None:
    roller = RollupWorker(plant)
    while roller.run_once(NOW).again:
        pass
    with plant.write() as session:
        old = delete(TelemetrySample).where(col(TelemetrySample.t_us) < NOW - DAY_US)
        session.connection().execute(old)
    with plant.read() as session:
        found = stored.history(session, ("press-1", "cpu.load"), NOW - 4 * DAY_US, NOW)
    assert found.period_s == 300
    assert found.t_us.size == pytest.approx(3 * 144 + 288, abs=12)
    assert (np.diff(found.t_us) > 0).all()
    _, values = histories.course(4, 300, 0, NOW)
    assert found.values[:100].mean() == pytest.approx(values[:200].mean(), abs=0.5)
    learn(plant)
    assert fitted(plant).reason == f"rollout {trial(plant).id}"
    assert series(plant).reason == ""


# -- a fault does not become normal ------------------------------------------------------------------


def own_limits(db: Database, device: str, **limits: Any) -> None:
    """What the device reports as its limits in force."""
    body = encode({"state": {"reported": {"limits": [{"metric": "cpu.load"} | limits]}}})
    with db.write() as session:
        twins.handle_request(session, device, "thresholds", "update", body, NOW, actor=device, max_bytes=32768)


def stands(db: Database, device: str, from_us: int, verdict: str = "", cleared_us: int | None = None) -> None:
    with db.write() as session:
        session.add(AlarmRow(
            id=f"of-{device}-{from_us}", device=device, metric="cpu.load", kind="high", priority="high", value=100.0,
            limit=90.0, state="raised" if cleared_us is None else "cleared", raised_us=from_us, received_us=from_us,
            cleared_us=cleared_us, verdict=verdict))  # fmt: skip


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
    times, values = histories.course(12, 300, 1, NOW)
    since_us = NOW - int(days * DAY_US)
    values[times >= since_us] = 300.0
    histories.store(db, "press-1", "cpu.load", times, values)
    return since_us


LONG = LimitPolicy(metrics=("cpu.load",), train_days=12, backtest_days=2, canary=1.0, watch_s=60, max_backtest=1e6)


@pytest.mark.parametrize("verdict", ["", "real"])
def test_days_inside_an_alarm_are_not_learned_from(db: Database, verdict: str) -> None:
    since_us = faulty(db, 4)
    stands(db, "press-1", since_us, verdict, cleared_us=NOW - 1)
    learn(db, LONG)
    fitted(db)
    assert max(series(db).limits["highs"]) < 100  # type: ignore[index]


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
    assert max(series(db).limits["highs"]) < 100  # type: ignore[index]


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


def test_an_alarm_that_comes_while_canaries_are_watched_keeps_its_limits(plant: Database) -> None:
    learn(plant)
    fitted(plant)
    for device in FLEET:
        stands(plant, device, NOW + 1)
    step(plant, 1)
    assert touched(plant) == set()
    with plant.read() as session:
        assert {one.reason for one in rollout_service.devices(session, trial(plant).id, "left", "", 10)} == {
            "cpu.load: an alarm of its limits is active: they are kept until it clears or is judged false"}  # fmt: skip


def test_nothing_is_pushed_that_was_not_tried_on_history_it_had_not_seen(db: Database) -> None:
    histories.devices(db, FLEET, "cpu.load")
    for n, device in enumerate(FLEET):
        histories.store(db, device, "cpu.load", *histories.course(4, 300, n, NOW))
    learn(db)
    assert "no out-of-sample backtest: before the last 2 days" in fitted(db).reason
    assert touched(db) == set()


def test_learned_limits_have_the_priority_of_those_they_replace_and_stay_in_the_declared_range(db: Database) -> None:
    with db.write() as session:
        metrics = [Metric(name="cpu.load", unit="%", low=0.0, high=72.0)]
        born(session, Birth(device="press-1", session="s", epoch="e", metrics=metrics), 1)
    histories.store(db, "press-1", "cpu.load", *histories.course(6, 300, 1, NOW))
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
    times, _ = histories.course(6, 300, 1, NOW)
    histories.store(db, "press-1", "cpu.load", times, np.full(times.size, level))
    learn(db)
    fitted(db)
    limits = series(db).limits
    assert limits is not None
    assert limits["deadband"] > least
    assert limits["low"] < level < limits["high"]


def test_of_a_series_that_was_always_zero_nothing_tells_the_scale(db: Database) -> None:
    histories.devices(db, ["press-1"], "cpu.load")
    times, _ = histories.course(6, 300, 1, NOW)
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
    times, values = histories.course(6, 300, 1, NOW - 900 * SECOND)
    histories.store(db, "press-1", "cpu.load", times, values)
    histories.store(db, "press-1", "cpu.load", *histories.course(900 / 86_400, 1, 2, NOW))
    learn(db)
    assert fitted(db).reason.startswith("rollout ")
