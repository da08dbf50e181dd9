"""The live watch: stored telemetry in, alarms of the hub out, one for each episode, whatever is restarted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from simulators import histories
from sqlmodel import select

from cloud_hub import incidents
from cloud_hub.db import Database
from cloud_hub.tables import AlarmRow, LearnedSeries, LearnedState, Learning
from cloud_hub.thresholds import surprise, watch
from cloud_hub.thresholds.scores import Scores
from cloud_hub.thresholds.surprise import CALM, One
from cloud_hub.thresholds.terms import Terms
from cloud_hub.thresholds.watch import Watch
from shared.codec import plain
from shared.messages import Alarm

NOW = 1_800_000_000_000_000
MINUTE = 60_000_000
FLEET = ["press-1", "press-2"]


@pytest.fixture
def plant(db: Database) -> Database:
    """Two devices with five days at a minute, watched."""
    histories.devices(db, FLEET, "cpu.load")
    terms = Terms(metrics=("cpu.load",), watch=True, pages_per_shift=1)
    with db.write() as session:
        session.add(Learning(id="all", target="*", terms=plain(terms), who="anna", created_us=NOW, due_us=1 << 61))
        session.add_all(LearnedSeries(learning="all", device=device, metric="cpu.load") for device in FLEET)
    for n, device in enumerate(FLEET):
        histories.store(db, device, "cpu.load", *histories.course(5, 60, n, NOW))
    return db


def live(db: Database, device: str, values: Any, at_us: int) -> int:
    times = at_us + np.arange(len(values)) * MINUTE
    histories.store(db, device, "cpu.load", times, np.asarray(values, float))
    return int(times[-1]) + MINUTE


def run(db: Database, now_us: int, watcher: Watch | None = None) -> None:
    watcher = watcher or Watch(db, incidents.alarm_changed)
    while watcher.step(now_us)[0]:
        pass


def alarms(db: Database) -> list[tuple[str, str, str]]:
    with db.read() as session:
        rows = session.exec(select(AlarmRow).order_by(AlarmRow.id))
        return [(row.device, row.about, row.state) for row in rows]


def calm(count: int, at_us: int, seed: int = 7) -> Any:
    _, values = histories.course(count / 1440, 60, seed, at_us + count * MINUTE)
    return values


def test_history_is_learned_from_and_alarms_of_nothing(plant: Database) -> None:
    run(plant, NOW)
    assert alarms(plant) == []
    with plant.read() as session:
        (row,) = session.exec(select(LearnedState)).all()
    assert row.per_day == pytest.approx(2 * 1440)
    assert len(row.series) == 2


def test_what_never_was_raises_one_alarm_and_calm_clears_it(plant: Database) -> None:
    run(plant, NOW)
    at = live(plant, "press-1", calm(30, NOW), NOW)
    at = live(plant, "press-1", [400.0] * 10, at)
    run(plant, at)
    assert alarms(plant) == [("press-1", "anomaly", "raised")]
    at = live(plant, "press-1", calm(2 * CALM, at), at)
    run(plant, at)
    assert alarms(plant) == [("press-1", "anomaly", "cleared")]
    with plant.read() as session:
        (alarm,) = session.exec(select(AlarmRow)).all()
        assert incidents.get(session, alarm.incident).state == "resolved"
    assert alarm.value >= alarm.limit


def test_a_restart_between_any_two_samples_changes_no_alarm(plant: Database, url: str) -> None:
    run(plant, NOW)
    at = NOW
    for value in [*calm(5, NOW), *[400.0] * 10, *calm(2 * CALM, NOW)]:
        at = live(plant, "press-1", [value], at)
        again = Database(url)
        run(again, at)
        again.close()
    assert alarms(plant) == [("press-1", "anomaly", "cleared")]


def test_where_the_devices_own_alarm_stands_there_is_no_second(plant: Database) -> None:
    run(plant, NOW)
    own = Alarm(id="own", metric="cpu.load", kind="high", state="raised", priority="low", t_us=NOW, value=99, limit=80)
    with plant.write() as session:
        incidents.alarm_changed(session, "press-1", own, NOW, "")
    at = live(plant, "press-1", [400.0] * 40, NOW)
    run(plant, at)
    assert [about for _, about, _ in alarms(plant)] == [""]


def test_a_state_of_another_version_begins_anew_and_nothing_stops(plant: Database) -> None:
    run(plant, NOW)
    with plant.write() as session:
        (row,) = session.exec(select(LearnedState)).all()
        row.state = b"of another version"
        session.add(row)
    at = live(plant, "press-1", calm(50, NOW), NOW)
    run(plant, at)
    with plant.read() as session:
        (row,) = session.exec(select(LearnedState)).all()
    assert len(surprise.unpacked(row.state, 2)) == 2
    assert row.state != b"of another version"


def test_new_series_get_a_group_of_their_own(plant: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    run(plant, NOW)
    monkeypatch.setattr(watch, "GROUP", 2)
    with plant.write() as session:
        session.add_all(LearnedSeries(learning="all", device=f"press-{n}", metric="cpu.load") for n in range(3, 6))
    run(plant, NOW)
    with plant.read() as session:
        groups = session.exec(select(LearnedState).order_by(LearnedState.number)).all()
    assert [len(group.series) for group in groups] == [2, 2, 1]


# -- the core --------------------------------------------------------------------------------------


def course(count: int, period_us: int) -> surprise.Samples:
    return np.arange(1, count + 1, dtype=np.int64) * period_us, np.zeros(count)


def test_the_limit_follows_the_budget_and_the_verdicts() -> None:
    base = surprise.limit(2, 14_400, 0)
    assert base == pytest.approx(np.log10(3600))
    assert surprise.limit(0.2, 14_400, 0) == pytest.approx(base + 1)
    assert surprise.limit(2, 14_400, 2) == pytest.approx(base + 0.6)
    assert surprise.limit(2, 14_400, 99) == pytest.approx(base + surprise.MOST_HIGHER)


def test_samples_a_day_by_their_usual_distance() -> None:
    some = [course(50, MINUTE), course(50, 2 * MINUTE), course(1, MINUTE)]
    assert surprise.per_day(some, 5.0) == pytest.approx((1440 + 720) / 2 * 3)
    assert surprise.per_day([course(1, MINUTE)], 5.0) == 5.0


class Fixed(Scores):
    """A score model that says what it is told."""

    def __init__(self, rows: Any) -> None:
        super().__init__(1)
        self._rows = iter(rows)

    def step(self, t_us: Any, values: Any) -> Any:
        return np.array([next(self._rows)])


def changes(surprises: list[float], one: One | None = None, live_us: int = 0) -> list[tuple[str, int]]:
    one = one or One(device="d", metric="m", upto_us=0)
    _, found = surprise.step(Fixed(surprises), [one], [course(len(surprises), 1)], [3.0], live_us)
    return [(change.state, change.t_us) for change in found]


def test_one_episode_is_one_alarm() -> None:
    quiet, loud = [0.0] * CALM, [5.0]
    assert changes(loud * 3 + quiet) == [("raised", 1), ("cleared", 3 + CALM)]
    assert changes(loud + quiet[:-1] + loud + quiet) == [("raised", 1), ("cleared", 2 * CALM + 1)]
    again = loud + quiet + loud + [0.0] * 200 + loud
    assert [state for state, _ in changes(again)] == ["raised", "cleared", "raised"]


def test_what_lies_before_the_watch_began_is_only_learned_from() -> None:
    assert changes([5.0, 5.0, 5.0], live_us=3) == [("raised", 3)]
