"""Background workers and their items: a bad item costs no other and is retried by hand; who fails as a whole waits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from simulators.actions import action_service
from simulators.births import born
from sqlmodel import select

from cloud_hub.configurations.reconciler import ConfigurationReconciler
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import (
    Configuration,
    Device,
    FailedItem,
    Incident,
    RolloutDevice,
    TwinRow,
)
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents import worker as diagnosis
from cloud_hub.runtime import items as runtime_items
from cloud_hub.runtime.items import TRIES, WorkItems, wait_us
from cloud_hub.runtime.worker import NOTHING, BackgroundWorker, WorkerSpec, WorkResult
from cloud_hub.thresholds.rollouts import service as rollout_service
from cloud_hub.twins import service as twins
from shared.durations import HOUR_US
from shared.errors import NotReady
from shared.ids import uuid7
from shared.protocol.messages import Alarm, Birth

SECOND = 1_000_000
NOW = 1_800_000_000 * SECOND // (24 * HOUR_US) * 24 * HOUR_US
BAD, GOOD = "press-1", "press-2"


def number(device: str) -> str:
    """An id; those of the bad device sort first."""
    return uuid7(NOW - (HOUR_US if device == BAD else 0), 0)


def failed(db: Database) -> list[FailedItem]:
    with db.read() as session:
        return list(session.exec(select(FailedItem)))


# -- what was found in use ---------------------------------------------------------------------------


def test_an_alarm_of_a_device_that_the_hub_does_not_know_is_diagnosed_as_any_other(db: Database) -> None:
    with db.write() as session:
        born(session, Birth(device=GOOD, session="s", epoch="e"), NOW)
        for device in (BAD, GOOD):
            alarm = Alarm(id=number(device), metric="cpu.load", kind="high", state="raised", priority="high", t_us=NOW,
                          value=5.0, limit=2.0)  # fmt: skip
            incidents.handle_alarm(session, device, alarm, NOW, "")
    diagnosis.run_once(db, None, action_service())
    with db.read() as session:
        assert [row.diagnosis["cause"] for row in session.exec(select(Incident)) if row.diagnosis] == [
            "cpu-saturated", "cpu-saturated",
        ]  # fmt: skip


@pytest.mark.parametrize("limits", [
    [{"metric": ["evil"], "high": 1.0}], [{"metric": {}, "high": 1.0}], ["evil"], {"path": 5}, {"path": []}, 7,
], ids=str)  # fmt: skip
def test_limits_that_a_device_reports_may_be_anything(db: Database, limits: Any) -> None:
    with db.write() as session:
        session.add_all(Device(id=device, state="online") for device in (BAD, GOOD))
        session.add(TwinRow(device=BAD, name="thresholds", version=1, state={"reported": {"limits": limits}},
                            deleted=False))  # fmt: skip
    with db.write() as session:
        row, _ = rollout_service.start(
            session, [BAD, GOOD], [], NOW, actor="anna", watch_s=60, max_alarms=1, max_bytes=32768, trace=""
        )
    with db.read() as session:
        states = {device: session.get_one(RolloutDevice, (row.id, device)).state for device in (BAD, GOOD)}
    assert states == {BAD: "pushed", GOOD: "pushed"}


def test_a_configuration_that_cannot_be_read_takes_nothing_from_its_devices(db: Database) -> None:
    with db.write() as session:
        session.add_all(Device(id=device, state="online") for device in (BAD, GOOD))
        session.add(Configuration(id="a", target=f"id = '{BAD}'", content={"": {"a": 1}}, actor="anna", created_us=NOW))
    worker = ConfigurationReconciler(db, 32768, 300, lambda: NOW)
    worker.run_once()
    with db.write() as session:
        session.get_one(Configuration, "a").target = "tags.x ="
    worker.all_changed()
    worker.run_once()
    with db.read() as session:
        assert twins.load(session, BAD, "").state == {"desired": {"a": 1}}


# -- items -------------------------------------------------------------------------------------------


def test_a_batch_is_split_down_to_the_bad_one(db: Database) -> None:
    calls: list[int] = []
    done: set[str] = set()

    def do(some: Sequence[str]) -> bool:
        calls.append(len(some))
        if "17" in some:
            raise ValueError("evil \udc80 \0")
        done.update(some)
        return True

    names = [str(n) for n in range(64)]
    assert all(WorkItems(db, "test", NOW).batch("thing", names, do))
    assert done == set(names) - {"17"}
    assert len(calls) == 13, "about two for each halving"
    (row,) = failed(db)
    assert (row.item, row.error) == ("17", "ValueError: evil ? \ufffd")


def test_an_item_that_works_again_is_forgotten(db: Database) -> None:
    WorkItems(db, "test", NOW).run("thing", "a", lambda: 1 // 0)
    assert WorkItems(db, "test", NOW).run("thing", "a", lambda: 1) is None, "it waits"
    assert WorkItems(db, "test", NOW + wait_us(1)).run("thing", "a", lambda: 1) == 1
    assert failed(db) == []


def test_a_world_that_is_not_there_is_no_fault_of_the_item(db: Database) -> None:
    """What was committed before is still published; then the worker fails as a whole."""

    def away() -> int:
        raise NotReady("the database is away", 0.0)

    items = WorkItems(db, "test", NOW)
    assert [items.run("thing", "a", lambda: 1), items.run("thing", "b", away), items.run("thing", "c", lambda: 3)] == [
        1, None, None,
    ]  # fmt: skip
    assert failed(db) == []
    finished: list[WorkResult] = []
    spec = WorkerSpec(name="test", run_once=lambda: items.result(again=True, wake=["x"]))
    worker = BackgroundWorker(spec, finished.append, lambda: NOW)
    worker.run()
    assert [(one.wake, one.again) for one in finished] == [(["x"], False)]
    assert (worker.status().state, worker.status().error) == ("failing", "the database is away")


def test_what_is_retried_by_hand_is_tried_at_once(db: Database) -> None:
    for tries in range(TRIES):
        WorkItems(db, "test", NOW + sum(map(wait_us, range(1, tries + 1)))).run("thing", "a", lambda: 1 // 0)
    (row,) = failed(db)
    assert row.parked_us is not None
    assert WorkItems(db, "test", NOW + 1000 * HOUR_US).run("thing", "a", lambda: 1) is None
    with db.write() as session:
        assert runtime_items.counts(session) == {"test": (1, 0)}
        runtime_items.retry(session, row.id, NOW, "anna", "")
    assert WorkItems(db, "test", NOW).run("thing", "a", lambda: 1) == 1


# -- workers -----------------------------------------------------------------------------------------


def test_a_worker_that_fails_as_a_whole_says_since_when_and_waits_longer_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, broken = [NOW], [True]

    def run_once() -> WorkResult:
        if broken[0]:
            raise OSError("no disk")
        return NOTHING

    worker = BackgroundWorker(WorkerSpec(name="test", run_once=run_once), lambda result: None, lambda: clock[0])
    with caplog.at_level(logging.INFO):
        waits = [worker.run() for _ in range(9)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    clock[0] += HOUR_US
    worker.run()
    status = worker.status()
    assert (status.state, status.failing_since_us, status.failures) == ("failing", NOW, 10)
    assert status.error == "OSError: no disk"
    broken[0] = False
    assert worker.run() == 0
    status = worker.status()
    assert (status.state, status.failing_since_us, status.failures, status.failed_runs) == ("idle", None, 0, 10)
