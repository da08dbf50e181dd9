"""Beside peers on the hub's schedule: stored telemetry in, one page for one fault out, whatever is restarted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from simulators import databases, histories
from sqlalchemy import event
from sqlmodel import Session, col, select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, AuditRow, Device, LearnedSeries, LearningJob, PeerState
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.incidents import service as incidents
from cloud_hub.runtime.worker import NOTHING
from cloud_hub.telemetry import samples
from cloud_hub.telemetry.rollups.worker import RollupWorker
from cloud_hub.thresholds.learning import registry as learning_registry
from cloud_hub.thresholds.learning.core.policy import LimitPolicy
from cloud_hub.thresholds.monitoring import peer_alarms
from cloud_hub.thresholds.monitoring import peers as peer_monitor
from cloud_hub.thresholds.monitoring.five_minute_means import SLOT_US
from cloud_hub.thresholds.monitoring.peers import GRACE_US, PeerMonitor
from cloud_hub.thresholds.peers import alarms as peer_rules
from cloud_hub.thresholds.peers.alarms import PeerTask
from shared.durations import DAY_US
from shared.protocol.codec import plain
from shared.protocol.messages import About, Alarm

NOW = 1_800_000_000_000_000 // DAY_US * DAY_US + 8 * 3_600_000_000
DAYS = 6
METRICS = ("cpu.load", "latency.p95")
FLEET = [f"web-{n}" for n in range(6)] + [f"db-{n}" for n in range(6)]
START = NOW - DAYS * DAY_US
HOUR = 12
pytestmark = pytest.mark.one_database


def ordinary(until_us: int = NOW) -> Any:
    """[M, T, N] every five minutes since START: what services share, and noise of each server's own."""
    slots = (until_us - START) // SLOT_US
    dice = np.random.default_rng(3)
    t_us = START + np.arange(slots) * SLOT_US
    course = 50 + 20 * np.sin(2 * np.pi * (t_us % DAY_US) / DAY_US)
    noise = 1 + 0.03 * dice.normal(size=(len(METRICS), slots + 2000, len(FLEET)))[:, :slots]
    return course[:, None] * noise


def store(db: Database, values: Any, first_us: int = START) -> None:
    """Values [M, T, N] as ingest would have written them; NaN is none."""
    with db.write() as session:
        marks = StreamOffsets(session)
        for n, device in enumerate(FLEET):
            source = marks.get((device, "e", "telemetry")).source
            seq = first_us // SLOT_US * 10
            rows = [
                (device, metric, first_us + k * SLOT_US, source, seq + k * 10 + m, float(v), None, "good")
                for m, metric in enumerate(METRICS) for k, v in enumerate(values[m, :, n]) if np.isfinite(v)
            ]  # fmt: skip
            samples.store_samples(session, rows)


def tagged(session: Session, device: str, tags: dict[str, Any]) -> None:
    row = session.get_one(Device, device)
    row.tags = tags
    session.add(row)


def twelve(db: Database) -> None:
    """Twelve servers of two services with six days of history, rolled up where their hours are over."""
    histories.devices(db, FLEET, *METRICS)
    policy = LimitPolicy(metrics=METRICS, peers="tags.service", pages_per_shift=0.001)
    with db.write() as session:
        session.add(
            LearningJob(id="all", target="*", policy=plain(policy), actor="anna", created_us=NOW, due_us=1 << 61)
        )
        for device in FLEET:
            tagged(session, device, {"service": device.split("-")[0]})
            session.add_all(LearnedSeries(learning="all", device=device, metric=metric) for metric in METRICS)
    store(db, ordinary())
    roll(db, NOW)


history = databases.filled_once(twelve)
judged = databases.filled_once(lambda db: run(db, NOW), of="history")
new = databases.copy_of("history")  # before the hub looks at them for the first time
plant = databases.copy_of("judged")  # judged until now


def roll(db: Database, now_us: int) -> None:
    roller = RollupWorker(db)
    while roller.run_once(now_us).again:
        pass


def run(db: Database, now_us: int, watcher: PeerMonitor | None = None) -> None:
    watcher = watcher or PeerMonitor(db, incidents.handle_alarm)
    while watcher.run_once(now_us + GRACE_US).again:
        pass


def alarms(db: Database) -> list[tuple[str, str, str, str]]:
    with db.read() as session:
        rows = session.exec(select(AlarmRow).order_by(AlarmRow.raised_us, AlarmRow.id))
        return [(row.device, row.metric, row.about, row.state) for row in rows]


def states(db: Database) -> list[PeerState]:
    with db.read() as session:
        return list(session.exec(select(PeerState).order_by(PeerState.metric)))


def fault(hours: float, servers: Any = 2, metrics: Any = 0, by: float = 1.6) -> tuple[Any, int]:
    """(`hours` of values after NOW with a fault in them, their end)."""
    end_us = NOW + int(hours * HOUR) * SLOT_US
    values = ordinary(end_us)[:, (NOW - START) // SLOT_US :]
    changed = values.copy()
    changed[metrics, :, servers] *= by
    return changed, end_us


@pytest.mark.sql
def test_history_is_learned_from_and_alarms_of_nothing(plant: Database) -> None:
    assert alarms(plant) == []
    first, second = states(plant)
    assert (first.metric, first.upto_us, first.live_us) == ("cpu.load", NOW, NOW)
    assert len(first.devices) == 12
    assert second.upto_us == NOW


@pytest.mark.sql
def test_a_fault_is_one_page_for_its_server_and_is_over_when_it_is_ordinary(plant: Database) -> None:
    values, end_us = fault(12, metrics=[[0], [1]])  # on both metrics: one page
    store(plant, values, NOW)
    run(plant, end_us)
    ((device, _, about, state),) = alarms(plant)
    assert (device, about, state) == ("web-2", "peers", "raised")
    with plant.read() as session:
        (row,) = session.exec(select(AlarmRow)).all()
        assert row.value >= row.limit > 3
        assert row.incident
    calm, later_us = fault(60, by=1.0)
    store(plant, calm[:, values.shape[1] :], end_us)
    roll(plant, later_us)
    run(plant, later_us)
    assert {state for _, _, _, state in alarms(plant)} == {"cleared"}
    with plant.read() as session:
        assert incidents.get(session, row.incident).state == "resolved"


def test_without_a_look_at_what_stands_each_metric_would_page(plant: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_alarms, "_stands", lambda *_: False)
    values, end_us = fault(12, metrics=[[0], [1]])
    store(plant, values, NOW)
    run(plant, end_us)
    assert len(alarms(plant)) == 2


def test_what_all_servers_of_a_service_do_is_one_page_that_names_it(plant: Database) -> None:
    values, end_us = fault(12, servers=slice(6, 12), by=4.0)
    store(plant, values, NOW)
    run(plant, end_us)
    ((device, metric, about, _),) = alarms(plant)
    assert (device.split("-")[0], metric, about) == ("db", "cpu.load", "service")
    with plant.read() as session:
        (entry,) = session.exec(select(AuditRow).where(AuditRow.kind == "alarm.of-service")).all()
    assert (entry.subject, entry.device) == ("db", device)


def test_a_restart_between_slots_gives_the_same_alarms(new: Database) -> None:
    values, end_us = fault(12)
    for k in range(0, values.shape[1], 9):
        again = Database(databases.address(new))
        run(again, NOW + k * SLOT_US)
        again.close()
        store(new, values[:, k : k + 9], NOW + k * SLOT_US)
    run(new, end_us)
    assert alarms(new) == [("web-2", "cpu.load", "peers", "raised")]
    again = Database(databases.address(new))
    run(again, end_us)
    again.close()
    assert len(alarms(new)) == 1


def test_where_the_devices_own_alarm_stands_there_is_no_second(plant: Database) -> None:
    own = Alarm(id="own", metric="cpu.load", kind="high", state="raised", priority="low", t_us=NOW, value=99, limit=80)
    with plant.write() as session:
        incidents.handle_alarm(session, "web-2", own, NOW, "")
    values, end_us = fault(12)
    store(plant, values, NOW)
    run(plant, end_us)
    assert [about for _, _, about, _ in alarms(plant)] == [""]


def told_with(db: Database, base: list[dict[str, Any]], false: int, about: About, end_us: int) -> list[AlarmRow]:
    """The alarms of the same course after so many about this, of web-2's cpu.load, were judged false before."""
    with db.write() as session:
        for row in [*session.exec(select(AlarmRow)), *session.exec(select(PeerState))]:
            session.delete(row)
        session.flush()
        session.add_all(PeerState(**one) for one in base)
        for n in range(false):
            old = Alarm(id=f"old{n}", metric="cpu.load", kind="high", state="raised", priority="medium", t_us=START,
                        value=4, limit=4, about=about)  # fmt: skip
            incidents.handle_alarm(session, "web-2", old, START, "")
            session.flush()
            incidents.handle_alarm(session, "web-2", replace(old, state="cleared"), START, "")
            session.get_one(AlarmRow, old.id).verdict = "false-alarm"
    run(db, end_us)
    with db.read() as session:
        return list(session.exec(select(AlarmRow).where(col(AlarmRow.raised_us) >= NOW)))


@pytest.mark.parametrize(("about", "servers"), [("peers", 2), ("service", slice(0, 6))])
def test_alarms_judged_false_ask_for_more_evidence_of_the_same(plant: Database, about: About, servers: Any) -> None:
    base = [row.model_dump() for row in states(plant)]
    values, end_us = fault(12, servers=servers, by=4.0)
    store(plant, values, NOW)
    (first,), (second,), (other,) = (
        told_with(plant, base, false, one, end_us) for false, one in ((0, about), (3, about), (3, "anomaly"))
    )
    assert (first.about, second.about) == (about, about)
    assert second.limit == pytest.approx(first.limit + 0.9)
    assert second.value >= second.limit
    assert second.raised_us >= first.raised_us
    assert (other.limit, other.raised_us) == (first.limit, first.raised_us)


def test_a_device_without_the_tag_is_left_out_and_that_is_said(new: Database) -> None:
    with new.write() as session:
        tagged(session, "web-5", {})
        tagged(session, "db-5", {"service": "lonely"})
    run(new, NOW)
    with new.read() as session:
        first, _ = learning_registry.peer_summaries(session, "all")
    assert (first.servers, first.services, first.left_out) == (10, 2, 2)
    assert first.reasons == {
        "db-5": "only 1 of service 'lonely': 3 are the least", "web-5": "has no tags.service",
    }  # fmt: skip


def test_a_fleet_without_services_learns_nothing_and_says_so(new: Database) -> None:
    with new.write() as session:
        for device in FLEET:
            tagged(session, device, {})
    run(new, NOW)
    assert [(row.state, len(row.left_out)) for row in states(new)] == [(b"", 12)] * 2


def test_when_a_device_leaves_the_state_is_made_anew_and_a_standing_alarm_stays(plant: Database) -> None:
    values, end_us = fault(12)
    store(plant, values, NOW)
    run(plant, end_us)
    before = states(plant)[0]
    with plant.write() as session:
        tagged(session, "web-0", {})
    roll(plant, end_us + SLOT_US)
    run(plant, end_us + SLOT_US)
    after = states(plant)[0]
    assert (len(before.devices), len(after.devices)) == (12, 11)
    assert after.live_us == before.upto_us
    assert [one["alarm"] for one in after.standing] == [one["alarm"] for one in before.standing]
    with plant.write() as session:
        tagged(session, "web-2", {})
    run(plant, end_us + 2 * SLOT_US)
    assert alarms(plant) == [("web-2", "cpu.load", "peers", "cleared")]


@pytest.mark.sql
def test_a_learning_that_is_deleted_takes_state_and_alarms_along(plant: Database) -> None:
    values, end_us = fault(12)
    store(plant, values, NOW)
    run(plant, end_us)
    with plant.write() as session:
        learning_registry.remove(session, "all", end_us, "anna", "")
    run(plant, end_us + SLOT_US)
    assert states(plant) == []
    assert [state for _, _, _, state in alarms(plant)] == ["cleared"]


def test_gaps_and_a_state_of_another_version_stop_nothing(plant: Database) -> None:
    with plant.write() as session:
        row = session.get_one(PeerState, ("all", "cpu.load"))
        row.state = b"of another version"
        session.add(row)
    values, end_us = fault(3, by=np.nan)
    values[:, 12:24] = np.nan
    store(plant, values, NOW)
    run(plant, end_us)
    assert [row.upto_us for row in states(plant)] == [end_us] * 2
    assert states(plant)[0].state not in (b"", b"of another version")
    assert alarms(plant) == []


@pytest.mark.sql
def test_a_round_comes_with_each_slot_and_asks_a_constant_number_of_queries(plant: Database) -> None:
    watcher = PeerMonitor(plant, incidents.handle_alarm)
    run(plant, NOW, watcher)
    asked: list[str] = []
    event.listen(plant.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    assert watcher.run_once(NOW + GRACE_US + 1) == NOTHING
    assert asked == []
    values, end_us = fault(1, by=1.0)
    store(plant, values, NOW)
    asked.clear()
    run(plant, end_us, watcher)
    of_state = [one for one in asked if "peer_states" in one or "telemetry" in one]
    assert len(of_state) <= 1 + len(METRICS) * 5


@pytest.mark.parametrize(("verdict", "missing"), [("", 12), ("real", 12), ("false-alarm", 0)])
def test_history_in_an_alarm_is_not_learned_from_unless_it_was_judged_false(
    db: Database, verdict: str, missing: int
) -> None:
    first, live = NOW, NOW + 288 * SLOT_US
    with db.write() as session:
        session.add(AlarmRow(
            id="fault", device="web-1", metric="cpu.load", kind="high", priority="high", value=99.0, limit=90.0,
            state="raised", raised_us=live - 12 * SLOT_US, received_us=live, verdict=verdict))  # fmt: skip
    fleet = peer_rules.fleet_of({device: {"service": "web"} for device in FLEET[:6]}, "tags.service")
    task = PeerTask(learning="all", metric="cpu.load", fleet=fleet, side="both", form="")
    row = PeerState(learning="all", metric="cpu.load", form="", state=b"", upto_us=first, live_us=live)
    values = np.ones((300, 6))
    with db.read() as session:
        peer_monitor._exclude_alarms(session, task, row, values)
    assert np.isnan(values).sum(axis=0).tolist() == [0, missing, 0, 0, 0, 0]
    assert np.isfinite(values[288:]).all()
