"""Sparkplug devices are devices of the fleet: limits, alarms, missing data, monitoring, questions, retention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from simulators import histories
from simulators.sparkplug_births import NODE, birth, data, metric
from sqlmodel import select

from cloud_hub.ask import service as ask
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, Incident, LearnedSeries, LearningJob, Rollout, TelemetrySample
from cloud_hub.incidents import service as incidents
from cloud_hub.runtime.items import WorkItems
from cloud_hub.scada.core.records import Data, Record
from cloud_hub.scada.limits import LimitJudge
from cloud_hub.scada.store import Store
from cloud_hub.settings import Retention
from cloud_hub.settings.scada import Sparkplug
from cloud_hub.telemetry.retention import RetentionWorker
from cloud_hub.telemetry.rollups.worker import RollupWorker
from cloud_hub.thresholds.learning.core.policy import LimitPolicy
from cloud_hub.thresholds.monitoring.anomalies import AnomalyMonitor
from cloud_hub.thresholds.rollouts import service as rollouts
from cloud_hub.twins import service as twins
from shared.protocol.codec import plain
from shared.thresholds import Limits

pytestmark = pytest.mark.one_database
PRESS = "line-1-press-3"
NOW = 1_800_000_000_000_000
SECOND, MINUTE, DAY = 1_000_000, 60_000_000, 86_400_000_000


class Hub:
    """A store and the judge of its devices' limits."""

    def __init__(self, db: Database) -> None:
        self.db, self.now = db, NOW
        self.woken: list[str] = []
        self.store = Store(db, Sparkplug(), 32768)
        self.restart()

    def restart(self) -> None:
        self.judge = LimitJudge(self.db, self.woken.append, 32768)

    def take(self, *records: Record) -> None:
        self.now += SECOND
        stored = self.store.commit(records, self.now)
        self.judge.reload(self.now)
        self.judge.judge(stored.samples, self.now)

    def speed(self, *values: float) -> None:
        for value in values:
            self.now += SECOND
            self.take(data(t_ms=self.now // 1000, speed=value))

    def desire(self, **parts: Any) -> None:
        with self.db.write() as session:
            twins.update_desired(session, PRESS, "thresholds", parts, self.now, actor="anna", max_bytes=32768)
        self.judge.reload(self.now)

    def alarms(self) -> list[tuple[str, str, str, str]]:
        with self.db.read() as session:
            rows = session.exec(select(AlarmRow).order_by(AlarmRow.id)).all()
        return [(row.metric, row.about, row.kind, row.state) for row in rows]

    def progress(self) -> list[tuple[str, str, str]]:
        with self.db.read() as session:
            return [(row.path, row.state, row.reason) for row in twins.progress(session, PRESS)]


@pytest.fixture
def hub(db: Database) -> Hub:
    one = Hub(db)
    one.take(birth(NODE, metric("speed", 1.0, NOW // 1000), metric("mode", "auto", NOW // 1000)))
    return one


def test_a_limit_raises_an_alarm_with_an_incident_and_clears_it(hub: Hub) -> None:
    hub.desire(limits=[{"metric": "speed", "high": 100, "priority": "critical"}])
    assert hub.progress() == [("limits", "verified", "")]
    hub.speed(50, 150)
    assert hub.alarms() == [("speed", "", "high", "raised")]
    assert "diagnosis" in hub.woken
    with hub.db.read() as session:
        assert [row.device for row in session.exec(select(Incident))] == [PRESS]
    hub.restart()
    hub.speed(160)
    assert len(hub.alarms()) == 1, "a restart raises no second alarm"
    hub.speed(50)
    assert hub.alarms() == [("speed", "", "high", "cleared")]


def test_a_limit_that_is_removed_clears_its_alarm(hub: Hub) -> None:
    hub.desire(limits=[{"metric": "speed", "high": 100}])
    hub.speed(150)
    hub.desire(limits=[])
    assert hub.alarms() == [("speed", "", "high", "cleared")]


def test_limits_that_are_invalid_are_refused_with_the_reason(hub: Hub) -> None:
    hub.desire(limits=[{"metric": "speed", "high": "x"}])
    ((path, state, reason),) = hub.progress()
    assert (path, state) == ("limits", "refused")
    assert "high" in reason
    hub.desire(limits=[{"metric": "speed", "high": 1}, {"metric": "speed", "high": 2}])
    assert hub.progress()[0][1] == "refused"


def test_a_bad_or_older_sample_is_not_judged(hub: Hub) -> None:
    hub.desire(limits=[{"metric": "speed", "high": 100}])
    hub.speed(50)
    hub.take(data(NODE, metric("speed", 500.0, hub.now // 1000 - 5000)))
    hub.take(data(NODE, metric("speed", None, hub.now // 1000 + 1)), data(NODE, metric("mode", "x", hub.now // 1000)))
    assert hub.alarms() == []


def test_a_sample_from_the_future_is_judged_as_one_of_now(hub: Hub) -> None:
    hub.desire(limits=[{"metric": "speed", "high": 100}])
    hub.take(data(NODE, metric("speed", 50.0, (hub.now + 50 * MINUTE) // 1000)))
    hub.speed(500)
    assert hub.alarms() == [("speed", "", "high", "raised")]


def test_a_clock_of_the_hub_that_was_ahead_for_a_while_leaves_limits_in_force(hub: Hub) -> None:
    hub.desire(limits=[{"metric": "speed", "high": 100}])
    hub.now += DAY
    hub.speed(50)
    hub.now -= DAY
    hub.speed(500)
    assert hub.alarms() == [("speed", "", "high", "raised")]


def test_missing_data_raises_an_alarm_and_data_clear_it(hub: Hub) -> None:
    hub.desire(alarm_rules={"no_data": [{"metric": "speed", "after_s": 10}]})
    assert hub.progress() == [("alarm_rules", "verified", "")]
    for _ in range(15):
        hub.now += SECOND
        hub.judge.tick(hub.now)
    assert hub.alarms() == [("speed", "no-data", "high", "raised")]
    hub.speed(1)
    assert hub.alarms() == [("speed", "no-data", "high", "cleared")]


def test_a_judge_that_could_not_store_an_alarm_tries_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.desire(limits=[{"metric": "speed", "high": 100}])
    with monkeypatch.context() as patched:
        patched.setattr(incidents, "handle_alarms", None)
        hub.speed(150)
    assert hub.alarms() == []
    hub.speed(160)
    assert hub.alarms() == [("speed", "", "high", "raised")]


def test_a_rollout_of_limits_to_a_sparkplug_device_ends_confirmed(hub: Hub) -> None:
    with hub.db.write() as session:
        row, _ = rollouts.start(
            session, [PRESS], [Limits(metric="speed", high=9)], hub.now, actor="anna", watch_s=1, max_alarms=1,
            max_bytes=32768, trace="",
        )  # fmt: skip
    for _ in range(8):
        hub.now += 2 * SECOND
        rollouts.run_once(hub.db, hub.now, 32768)
        hub.judge.reload(hub.now)
    with hub.db.read() as session:
        assert session.get_one(Rollout, row.id).state == "confirmed"
    hub.speed(10)
    assert hub.alarms() == [("speed", "", "high", "raised")]


def _series(times: Any, values: Any) -> list[Data]:
    return [data(t_ms=int(t_us) // 1000, speed=float(value)) for t_us, value in zip(times, values, strict=True)]


def test_live_monitoring_learns_from_them_and_raises_an_anomaly(hub: Hub) -> None:
    policy = LimitPolicy(metrics=("speed",), monitor=True, pages_per_shift=1)
    with hub.db.write() as session:
        session.add(
            LearningJob(id="all", target="*", policy=plain(policy), actor="anna", created_us=NOW, due_us=1 << 61)
        )
        session.add(LearnedSeries(learning="all", device=PRESS, metric="speed"))
    hub.store.commit(_series(*histories.course(5, 60, 1, NOW)), NOW)
    monitor = AnomalyMonitor(hub.db, incidents.handle_alarm)
    while monitor.run_once(NOW).again:
        pass
    times = NOW + np.arange(12) * MINUTE
    hub.store.commit(_series(times, [400.0] * 12), int(times[-1]))
    while monitor.run_once(int(times[-1]) + MINUTE).again:
        pass
    assert hub.alarms() == [("speed", "anomaly", "high", "raised")]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (f"what is speed of {PRESS}?", f"speed of {PRESS} was 42"),
        ("which devices are offline?", "nothing was found"),
        (f"what is wrong with {PRESS}?", "against the limit 10"),
    ],
)
def test_questions_about_them_are_answered(hub: Hub, question: str, said: str) -> None:
    hub.desire(limits=[{"metric": "speed", "high": 10}])
    hub.speed(42)
    asked = ask.Question(text=question, actor="anna", powers=frozenset({"read"}), now_us=hub.now + SECOND)
    *_, last = ask.ask(hub.db, asked, None)
    assert last.answer is not None
    assert said in "\n".join(sentence.text for sentence in last.answer.sentences)


def test_old_samples_are_rolled_up_and_deleted(hub: Hub) -> None:
    old_us = NOW - 40 * DAY
    hub.store.commit(_series(old_us + np.arange(120) * MINUTE, np.ones(120)), NOW)
    while RollupWorker(hub.db).run_once(NOW).again:
        pass
    sweep = RetentionWorker(hub.db, Retention(telemetry_days=30))
    for _ in range(20):
        sweep.delete_next(NOW, WorkItems(hub.db, "retention", NOW))
    with hub.db.read() as session:
        rows = session.exec(select(TelemetrySample.t_us).where(TelemetrySample.metric == "speed")).all()
    assert all(t_us > old_us + DAY for t_us in rows)
