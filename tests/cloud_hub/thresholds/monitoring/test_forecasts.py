"""Minutes ahead on a real database: trained from stored history, a warning before a daily crossing, none at night."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from simulators import databases, histories
from sqlmodel import select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, LearnedSeries, LearningJob
from cloud_hub.incidents import service as incidents
from cloud_hub.thresholds.forecasts.classifier import SHARED
from cloud_hub.thresholds.forecasts.models import MODELS
from cloud_hub.thresholds.forecasts.warnings import Forecast
from cloud_hub.thresholds.learning.core.policy import LimitPolicy
from cloud_hub.thresholds.monitoring import forecasters, forecasts
from cloud_hub.thresholds.monitoring.forecasters import ForecasterStore, TrainedForecaster
from cloud_hub.thresholds.monitoring.forecasts import ForecastMonitor, forecast_series
from cloud_hub.twins import service as twins
from shared.durations import DAY_US
from shared.protocol.codec import plain
from shared.protocol.messages import Alarm
from shared.thresholds import Limits

MINUTE = 60_000_000
STEP = 5 * MINUTE
TODAY = 1_800_000_000_000_000 // DAY_US * DAY_US
FLEET = ["press-1", "press-2", "press-3"]
JOB = 13 * 60 * MINUTE
"""The daily job begins at one o'clock and takes a quarter of an hour; it is above the limit."""
pytestmark = pytest.mark.one_database


def values(t_us: Any, seed: int) -> Any:
    noise = np.random.default_rng(seed).normal(0, 1, t_us.size)
    busy = (t_us % DAY_US >= JOB) & (t_us % DAY_US < JOB + 3 * STEP)
    return 40 + noise + 40 * busy


def store(db: Database, device: str, from_us: int, to_us: int, seed: int) -> None:
    t_us = np.arange(from_us, to_us, STEP, dtype=np.int64)
    histories.store(db, device, "cpu.load", t_us, values(t_us, seed))


def fourteen_days(db: Database) -> None:
    """Three devices with 14 days at five minutes, a limit of 60 in force, and a learning job that forecasts."""
    histories.devices(db, FLEET, "cpu.load")
    policy = LimitPolicy(metrics=("cpu.load",), warn_probability=0.5)
    with db.write() as session:
        session.add(LearningJob(id="all", target="*", policy=plain(policy), actor="anna", created_us=1, due_us=1 << 61))
        session.add_all(LearnedSeries(learning="all", device=device, metric="cpu.load") for device in FLEET)
    for n, device in enumerate(FLEET):
        store(db, device, TODAY - 14 * DAY_US, TODAY, n)
        limit(db, device, Limits(metric="cpu.load", high=60.0))


history = databases.filled_once(fourteen_days)
plant = databases.copy_of("history")


@pytest.fixture(scope="module")
def first_training(server: Any, history: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainedForecaster]:
    """What the hub learned from the history: trained once, as that takes most of the time."""
    with databases.copied(history, tmp_path_factory.mktemp("trained"), server) as url:
        db, held = Database(url), ForecasterStore()
        run(loop_of(db, held), TODAY)
        db.close()
        found = held.get("all")
        assert found is not None
        yield found


@pytest.fixture
def trained(first_training: TrainedForecaster) -> ForecasterStore:
    """The forecasters of a hub that has trained on the history of `plant`."""
    held = ForecasterStore()
    held.put("all", replace(first_training, selections=dict(first_training.selections)))
    return held


def limit(db: Database, device: str, limits: Limits) -> None:
    with db.write() as session:
        twins.update_desired(
            session, device, "thresholds", {"limits": [plain(limits)]}, 1, actor="anna", max_bytes=32768
        )


def run(loop: ForecastMonitor, now_us: int) -> None:
    while loop.run_once(now_us).again:
        pass


def loop_of(db: Database, held: ForecasterStore | None = None) -> ForecastMonitor:
    return ForecastMonitor(db, held or ForecasterStore(), incidents.handle_alarm)


def alarms(db: Database) -> list[AlarmRow]:
    with db.read() as session:
        return list(session.exec(select(AlarmRow).order_by(AlarmRow.raised_us, AlarmRow.id)))


def live(db: Database, loop: ForecastMonitor, from_us: int, to_us: int, every_us: int = STEP) -> None:
    """The devices' samples come, and every so often there is a round."""
    for at in range(from_us, to_us, every_us):
        for n, device in enumerate(FLEET):
            store(db, device, at, at + every_us, at % 1_000_003 + n)
        run(loop, at + every_us - STEP + MINUTE)


@pytest.mark.sql
def test_a_daily_crossing_is_warned_of_minutes_before_and_nothing_at_night(
    plant: Database, trained: ForecasterStore
) -> None:
    loop = loop_of(plant, trained)
    live(plant, loop, TODAY, TODAY + JOB - 6 * STEP, 25 * STEP)
    assert alarms(plant) == []
    live(plant, loop, TODAY + JOB - 6 * STEP, TODAY + JOB + 6 * STEP)
    found = alarms(plant)
    assert sorted(row.device for row in found) == FLEET
    for row in found:
        assert (row.about, row.priority, row.kind, row.state, row.limit) == ("forecast", "low", "high", "cleared", 60)
        assert row.value >= 0.5
        assert 0 < TODAY + JOB - row.raised_us <= 15 * MINUTE
        assert row.cleared_us is not None
        assert row.cleared_us - row.raised_us <= 16 * MINUTE
    live(plant, loop, TODAY + JOB + 6 * STEP, TODAY + DAY_US, 42 * STEP)
    assert len(alarms(plant)) == len(FLEET)


def test_a_restart_trains_anew_and_warns_no_second_time(plant: Database, trained: ForecasterStore) -> None:
    live(plant, loop_of(plant, trained), TODAY, TODAY + JOB - STEP, JOB - STEP)
    assert len(alarms(plant)) == len(FLEET)
    run(loop_of(plant), TODAY + JOB - STEP)
    assert len(alarms(plant)) == len(FLEET)


def test_where_an_alarm_stands_there_is_no_warning(plant: Database, trained: ForecasterStore) -> None:
    own = Alarm(
        id="own", metric="cpu.load", kind="high", state="raised", priority="low", t_us=TODAY, value=99, limit=80
    )
    with plant.write() as session:
        incidents.handle_alarm(session, "press-1", own, TODAY, "")
    live(plant, loop_of(plant, trained), TODAY, TODAY + JOB - STEP, JOB - STEP)
    assert sorted(row.device for row in alarms(plant) if row.about == "forecast") == FLEET[1:]


def test_a_warning_of_a_learning_that_is_gone_is_cleared(plant: Database, trained: ForecasterStore) -> None:
    loop = loop_of(plant, trained)
    live(plant, loop, TODAY, TODAY + JOB - STEP, JOB - STEP)
    with plant.write() as session:
        session.delete(session.get_one(LearningJob, "all"))
    run(loop, TODAY + JOB + 4 * STEP)
    assert {row.state for row in alarms(plant)} == {"cleared"}


def test_a_lower_limit_is_foretold_as_one(plant: Database) -> None:
    for n, device in enumerate(FLEET):
        with plant.write() as session:
            other = Limits(metric="low.load", low=-60.0)
            told = [plain(Limits(metric="cpu.load", high=60.0)), plain(other)]
            twins.update_desired(session, device, "thresholds", {"limits": told}, 2, actor="anna", max_bytes=32768)
            session.add(LearnedSeries(learning="all", device=device, metric="low.load"))
        t_us = np.arange(TODAY - 14 * DAY_US, TODAY + JOB, STEP, dtype=np.int64)
        histories.store(plant, device, "low.load", t_us, -values(t_us, n))
    run(loop_of(plant), TODAY + JOB - STEP + MINUTE)
    assert {(row.metric, row.kind, row.limit) for row in alarms(plant)} == {("low.load", "low", -60.0)}


# -- training --------------------------------------------------------------------------------------


def ask(db: Database, held: ForecasterStore, now_us: int, limits: Limits | None = None) -> Forecast:
    with db.read() as session:
        return forecast_series(session, held, ("press-1", "cpu.load"), limits, now_us)[0]


def test_a_series_is_asked_for_by_its_own_limit_and_by_another(plant: Database, trained: ForecasterStore) -> None:
    assert ask(plant, ForecasterStore(), TODAY).reason == "the forecaster is not trained yet"
    night = ask(plant, trained, TODAY)
    assert (night.limit, night.side, night.at_us, night.reason) == (60.0, "high", TODAY - STEP, "")
    assert night.probability is not None
    assert night.probability < 0.1
    assert ask(plant, trained, TODAY, Limits(metric="cpu.load", high=0.0)).reason == "already beyond the limit"
    one = trained.get("all")
    assert one is not None
    assert one.base_rate == pytest.approx(3 / 288, rel=0.1)


def test_without_a_learning_that_foresees_the_reason_says_so(plant: Database) -> None:
    with plant.write() as session:
        row = session.get_one(LearningJob, "all")
        row.policy = plain(LimitPolicy(metrics=("cpu.load",)))
        session.add(row)
    held = ForecasterStore()
    run(loop_of(plant, held), TODAY)
    assert held.get("all") is None
    assert ask(plant, held, TODAY).reason == "no learning job with a warn_probability has this series"


def test_too_few_crossings_are_a_reason_and_are_tried_again_after_an_hour(plant: Database) -> None:
    for device in FLEET:
        limit(plant, device, Limits(metric="cpu.load", high=1000.0))
    held = ForecasterStore()
    loop = loop_of(plant, held)
    run(loop, TODAY)
    assert "with 0 crossings" in ask(plant, held, TODAY).reason
    for device in FLEET:
        limit(plant, device, Limits(metric="cpu.load", high=60.0))
    run(loop, TODAY + forecasts.RETRY_US - 1)
    assert ask(plant, held, TODAY).probability is None
    run(loop, TODAY + forecasts.RETRY_US)
    assert ask(plant, held, TODAY).probability is not None


def test_a_forecaster_is_trained_once_for_each_refit_that_has_ended(
    plant: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[int] = []

    def training(db: Database, row: LearningJob, now_us: int) -> TrainedForecaster:
        times.append(now_us)
        return TrainedForecaster(due_us=row.due_us, trained_us=now_us, reason="not in this test")

    monkeypatch.setattr(forecasts, "train_forecaster", training)
    loop = loop_of(plant)
    rounds = [(1, None, 1 << 61), (2, None, 1 << 61), (3, {"now_us": 3}, 3), (4, None, 100), (5, None, 100)]
    for now, refit, due in rounds:
        with plant.write() as session:
            row = session.get_one(LearningJob, "all")
            row.refit, row.due_us = refit, due
            session.add(row)
        run(loop, now)
    assert times == [1, 4]


# -- the models of a series ------------------------------------------------------------------------


def test_each_series_gets_the_model_that_was_best_on_its_own_history(plant: Database, trained: ForecasterStore) -> None:
    one = trained.get("all")
    assert one is not None
    assert {name for name, _ in one.selections} == set(FLEET)
    found = ask(plant, trained, TODAY)
    assert found.skill is not None
    assert found.skill.model in MODELS
    assert found.skill.average_precision > 0.9
    assert found.skill.base_rate == pytest.approx(3 / 288, rel=0.5)
    other = ask(plant, trained, TODAY, Limits(metric="cpu.load", high=50.0))
    assert other.skill is not None
    assert other.skill.model == SHARED, "by another limit than the one it learned from the shared trees speak"


def test_a_series_whose_limit_has_changed_chooses_anew_after_an_hour(plant: Database, trained: ForecasterStore) -> None:
    loop = loop_of(plant, trained)
    one = trained.get("all")
    assert one is not None
    limit(plant, "press-1", Limits(metric="cpu.load", high=70.0))
    for now, wanted in ((TODAY + MINUTE, 60.0), (TODAY + forecasts.RETRY_US, 70.0)):
        run(loop, now)
        assert one.selections["press-1", "cpu.load"].limits.high == wanted
    assert one.selections["press-2", "cpu.load"].at_us == TODAY


def test_a_series_that_no_model_fits_is_silent_and_the_others_choose(
    plant: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = forecasters.select_model, [0]

    def failing(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            raise ValueError("a broken matrix")
        return honest(*given)

    monkeypatch.setattr(forecasters, "select_model", failing)
    held = ForecasterStore()
    run(loop_of(plant, held), TODAY)
    found = ask(plant, held, TODAY)
    assert (found.probability, found.reason) == (None, "its models could not be fitted: a broken matrix")
    one = held.get("all")
    assert one is not None
    assert set(one.selections) == {(device, "cpu.load") for device in FLEET}


def test_choosing_models_does_not_hold_up_a_round_that_is_due(plant: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = loop_of(plant)
    assert loop.run_once(TODAY).again
    order: list[str] = []
    monkeypatch.setattr(loop, "_select_model", lambda *given: order.append("choose"))
    monkeypatch.setattr(loop, "_judge_group", lambda *given: bool(order.append("judge")))
    loop.run_once(TODAY + 1)
    loop.run_once(TODAY + forecasts.ROUND_US)
    loop.run_once(TODAY + forecasts.ROUND_US + 1)
    assert order == ["choose", "judge", "choose"]
