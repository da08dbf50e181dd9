"""Old rows go in small batches; what was promised stays, and what can be recalled is whole."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import SQLModel, func, select

from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import (
    AskTurn,
    AuditRow,
    Command,
    Device,
    EventRow,
    HighWater,
    InferenceTask,
    Job,
    JobDevice,
    LostRange,
    TelemetrySample,
    TwinChange,
)
from cloud_hub.runtime.items import WorkItems
from cloud_hub.settings import Retention
from cloud_hub.telemetry import retention, samples
from cloud_hub.telemetry.retention import RetentionWorker
from cloud_hub.telemetry.rollups.worker import RollupWorker
from cloud_hub.twins import history
from cloud_hub.twins import service as twins
from shared.durations import DAY_US, HOUR_US

NOW = 1_795_000_000_000_000
ALL = Retention(
    telemetry_days=30,
    minutes_days=30,
    hours_days=30,
    events_days=30,
    escalations_days=30,
    history_days=30,
    jobs_days=30,
)

OFF = dict.fromkeys(
    (
        "telemetry_days",
        "minutes_days",
        "hours_days",
        "questions_days",
        "tasks_days",
        "scaling_days",
        "scaling_holds_days",
    ),
    0.0,
)
"""Switches off what is on by default."""


def swept(db: Database, days: Retention = ALL) -> list[int]:
    """Everything that is due, deleted; the batches."""
    sweep, batches = RetentionWorker(db, days), []
    assert sweep.delete_next(NOW, WorkItems(db, "retention", NOW)) is None, "the first call begins"
    while (done := sweep.delete_next(NOW, WorkItems(db, "retention", NOW))) is not None:
        batches.append(done)
    return batches


def count(db: Database, kind: type[SQLModel]) -> int:
    with db.read() as session:
        return int(session.exec(select(func.count()).select_from(kind)).one())


def fill(db: Database, days_old: list[float]) -> None:
    """Rows of these ages, of two devices."""
    with db.write() as session:
        for number, device in enumerate(["press-1", "press-2"], 1):
            session.add(Device(id=device))
            session.add(HighWater(id=number, device=device, epoch="e", stream="telemetry", upto=100))
            session.flush()
            session.add(LostRange(source=number, first=1, last=2, reason="evicted"))
            for seq, age in enumerate(days_old):
                t_us = NOW - int(age * DAY_US)
                for metric in ("cpu.load", "memory.used"):
                    session.add(
                        TelemetrySample(device=device, metric=metric, t_us=t_us, source=number, seq=seq, value=1)
                    )
                session.add(
                    EventRow(source=number, seq=seq, device=device, t_us=t_us, level="info", text="x", origin="")
                )
                command: dict[str, Any] = {"id": f"{device}-{seq}", "device": device, "verb": "diagnose", "target": "x"}
                session.add(Command(**command, created_us=t_us, expires_us=t_us, done_us=t_us))
                trail.add(session, t_us, "test", "old", device, device=device)
        for seq, age in enumerate(days_old):
            t_us = NOW - int(age * DAY_US)
            session.add(Job(id=f"j{seq}", kind="twin", query="", actor="t", created_us=t_us, start_us=t_us,
                            deadline_us=t_us, ended_us=t_us))  # fmt: skip
            session.add(JobDevice(job=f"j{seq}", device="press-1", t_us=t_us))


def test_what_is_older_goes_and_what_was_promised_stays(db: Database) -> None:
    fill(db, [100, 31, 29, 1, 0])
    swept(db)
    assert count(db, TelemetrySample) == 2 * 2 * 3
    assert (count(db, EventRow), count(db, Command)) == (2 * 3, 2 * 3)
    assert (count(db, Job), count(db, JobDevice)) == (3, 3)
    assert (count(db, HighWater), count(db, LostRange), count(db, AuditRow)) == (2, 2, 10)
    with db.read() as session:
        assert trail.verify(session) is None


def test_ended_tasks_of_language_models_go_and_open_ones_stay(db: Database) -> None:
    with db.write() as session:
        for name, state, age in [
            ("a", "succeeded", 31),
            ("b", "cancelled", 40),
            ("c", "failed", 29),
            ("d", "queued", 0),
        ]:
            t_us = NOW - int(age * DAY_US)
            session.add(InferenceTask(
                id=name, actor="t", request_class="low", body={}, state=state, created_us=t_us, deadline_us=t_us,
                next_us=t_us, ended_us=t_us if age else None,
            ))  # fmt: skip
    assert swept(db, Retention(**OFF | {"tasks_days": 30})) == [2, 0]
    with db.read() as session:
        assert sorted(session.exec(select(InferenceTask.id))) == ["c", "d"]


def test_of_a_flood_of_questions_the_newest_stay(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "QUESTIONS", 3)
    with db.write() as session:
        for number in range(8):
            asked = {"session": "s", "actor": "vic", "t_us": NOW, "question": "?"}
            session.add(AskTurn(id=f"q{number}", text="", author="rules", engine="e", answer={}, **asked))
    assert sum(swept(db, Retention(**OFF | {"questions_days": 90}))) == 5
    with db.read() as session:
        assert sorted(session.exec(select(AskTurn.id))) == ["q5", "q6", "q7"]


def test_nothing_goes_unless_it_is_asked_for(db: Database) -> None:
    fill(db, [100_00])
    assert swept(db, Retention(**OFF)) == []
    assert count(db, TelemetrySample) == 4


def test_the_batches_are_small_and_all_of_it_goes_but_last_values(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ROWS", 7)
    fill(db, [100.0 + n / 10 for n in range(30)])
    batches = swept(db)
    assert max(batches) <= 8, "a job's own row goes with its last devices"
    assert (count(db, EventRow), count(db, Command), count(db, Job)) == (0, 0, 0)
    assert count(db, TelemetrySample) == 4, "the newest of each series tells its last value"


def test_samples_stay_until_they_are_rolled_up(db: Database) -> None:
    hour = NOW // HOUR_US * HOUR_US
    with db.write() as session:
        rows = [("press-1", "cpu.load", hour - age * DAY_US, 1, age, 1.0, None, "good") for age in range(60, 0, -1)]
        samples.store_samples(session, rows)
    swept(db)
    assert count(db, TelemetrySample) == 60
    roller = RollupWorker(db)
    while roller.run_once(NOW).again:
        pass
    swept(db)
    assert count(db, TelemetrySample) == 30


def test_every_version_since_then_can_still_be_recalled(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS", 5)
    with db.write() as session:
        session.add(Device(id="press-1"))
    versions = 120
    for version in range(1, versions + 1):
        t_us = NOW - int((versions - version) * DAY_US)
        with db.write("press-1") as session:
            payload = f'{{"state":{{"desired":{{"a":{version},"b{version % 9}":1}}}}}}'.encode()
            twins.handle_request(session, "press-1", "", "update", payload, t_us, actor="t", max_bytes=8192)
    with db.read() as session:
        before = {v: history.at(session, "press-1", "", version=v) for v in range(versions - 29, versions + 1)}
    swept(db)
    assert 30 <= count(db, TwinChange) < versions
    with db.read() as session:
        assert {v: history.at(session, "press-1", "", version=v) for v in before} == before
