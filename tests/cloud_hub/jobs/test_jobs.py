"""Bulk jobs: frozen at their start, done once however often the hub dies, and no device costs another."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from sqlalchemy import event, update
from sqlmodel import select

from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Command, Device, Job, JobDevice, TwinChange, TwinRow
from cloud_hub.devices import commands
from cloud_hub.errors import HubError
from cloud_hub.jobs import handlers
from cloud_hub.jobs import service as jobs
from cloud_hub.runtime.worker import WorkResult
from cloud_hub.twins import service as twins
from shared.protocol.codec import encode
from shared.protocol.messages import CommandResult

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
LIMIT = 2048
PATCH = {"settings": {"period_s": 5}}


@pytest.fixture(autouse=True)
def fleet(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BATCH_SIZE", 3)
    with db.write() as session:
        for n in range(8):
            session.add(Device(id=f"press-{n}", tags={"site": "a" if n < 7 else "b"}, state="online"))


def start(db: Database, content: Any = None, kind: str = "twin", **more: Any) -> Job:
    values = {"query": "tags.site = 'a'", "start_us": NOW, "deadline_us": NOW + 60 * SECOND} | more
    row = Job(id="", kind=kind, content=PATCH if content is None else content, actor="anna", created_us=NOW, **values)
    with db.write() as session:
        return jobs.create(session, row, LIMIT)


def run(db: Database, at_s: float = 1, steps: int = 100) -> list[WorkResult]:
    done = []
    while len(done) < steps and (one := jobs.run_once(db, NOW + int(at_s * SECOND), LIMIT)).again:
        done.append(one)
    return done


def outcomes(db: Database, job: Job) -> dict[str, str]:
    with db.read() as session:
        return {row.device: row.state for row in session.exec(select(JobDevice).where(JobDevice.job == job.id))}


def state(db: Database, job: Job) -> Job:
    with db.read() as session:
        return jobs.get(session, job.id)


def desired(db: Database, device: str) -> Any:
    with db.read() as session:
        return twins.load(session, device, "").state.get("desired")


def report(db: Database, device: str, value: Any) -> None:
    with db.write() as session:
        body = encode({"state": {"reported": value}})
        twins.handle_request(session, device, "", "update", body, NOW, actor=device, max_bytes=LIMIT)


def test_every_device_that_is_found_is_written_and_no_other(db: Database) -> None:
    job = start(db)
    done = run(db)
    assert outcomes(db, job) == {f"press-{n}": "written" for n in range(7)}
    assert desired(db, "press-6") == PATCH
    assert desired(db, "press-7") is None
    assert state(db, job).state == "completed"
    topics = [m.topic for one in done for m in one.messages]
    assert len([t for t in topics if t.endswith("update/delta")]) == 7
    with db.read() as session:
        assert set(session.exec(select(TwinChange.actor))) == {f"job:{job.id}"}
        rows = trail.rows(session)
    assert [row.kind for row in rows] == ["job.completed", "job.created"]
    assert rows[0].detail == {"devices": {"written": 7}}


def test_the_devices_are_those_of_the_start(db: Database) -> None:
    job = start(db, start_us=NOW + 10 * SECOND)
    assert run(db, at_s=9) == []
    with db.write() as session:
        session.add(Device(id="early", tags={"site": "a"}))
    run(db, at_s=10, steps=1)
    with db.write() as session:
        session.add(Device(id="late", tags={"site": "a"}))
        device = session.get(Device, "press-2")
        session.delete(device)
    run(db, at_s=11)
    found = outcomes(db, job)
    assert (found["early"], found["press-2"]) == ("written", "gone")
    assert "late" not in found


def test_unchanged_and_refused_are_told_and_cost_no_other(db: Database) -> None:
    with db.write() as session:
        twins.update_desired(session, "press-1", "", PATCH, NOW, actor="bob", max_bytes=LIMIT)
        twins.update_desired(session, "press-3", "", {"x": "y" * (LIMIT - 30)}, NOW, actor="bob", max_bytes=LIMIT)
    job = start(db)
    run(db)
    with db.read() as session:
        rows = {row.device: row for row in jobs.devices(session, job.id, state="", after="", limit=100)}
        owners = twins_owners(db, "press-1")
    assert (rows["press-1"].state, rows["press-1"].version) == ("unchanged", 1)
    assert owners == {"settings": {"period_s": f"job:{job.id}"}}
    assert (rows["press-3"].state, rows["press-3"].reason) == (
        "refused", "The payload exceeds the maximum size allowed",
    )  # fmt: skip
    assert rows["press-4"].state == "written"


def twins_owners(db: Database, device: str) -> Any:
    with db.read() as session:
        row = session.get(TwinRow, (device, ""))
        return row.owners if row else None


def test_a_device_whose_twin_is_broken_costs_no_other(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    report(db, "press-1", {"a": 1})
    with db.write() as session:
        session.connection().execute(update(TwinRow).values(state={"desired": 7}))  # type: ignore[arg-type]
    job = start(db)
    run(db)
    found = outcomes(db, job)
    assert found.pop("press-1") == "refused"
    assert set(found.values()) == {"written"}
    assert "job.device_failed" in caplog.text
    assert state(db, job).state == "completed"


class Power(BaseException):
    """The machine loses it."""


@pytest.mark.parametrize("fails_at", range(1, 16))
def test_a_hub_that_dies_at_any_commit_writes_each_device_once(db: Database, url: str, fails_at: int) -> None:
    """The connection is cut just before its nth commit: what was not committed is done again, nothing twice."""
    job = start(db)
    left = {"commits": fails_at}

    def cut(_connection: Any) -> None:
        left["commits"] -= 1
        if left["commits"] == 0:
            raise Power

    event.listen(db.engine, "commit", cut)
    with contextlib.suppress(Power):
        run(db)
    event.remove(db.engine, "commit", cut)
    again = Database(url)
    run(again)
    assert set(outcomes(again, job).values()) == {"written"}
    with again.read() as session:
        versions = [(row.device, row.version) for row in session.exec(select(TwinChange))]
    assert sorted(versions) == [(f"press-{n}", 1) for n in range(7)]
    assert state(again, job).state == "completed"
    again.close()


def test_cancelled_between_two_batches(db: Database) -> None:
    job = start(db)
    run(db, steps=2)
    with db.write() as session:
        jobs.cancel(session, job.id, NOW, "bob")
    assert run(db) == []
    assert sorted(outcomes(db, job).values()) == ["cancelled"] * 4 + ["written"] * 3
    found = state(db, job)
    assert (found.state, found.reason) == ("cancelled", "by bob")
    with db.write() as session, pytest.raises(HubError) as no:
        jobs.cancel(session, job.id, NOW, "bob")
    assert no.value.status == 409


def test_cancelled_while_a_batch_waits_for_the_write_lock(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    job = start(db)
    run(db, steps=1)
    real = jobs._pending

    def cancel_then(session: Any, row: Job) -> list[str]:
        found = real(session, row)
        with db.write() as other:
            jobs.cancel(other, job.id, NOW, "bob")
        monkeypatch.setattr(jobs, "_pending", real)
        return found

    monkeypatch.setattr(jobs, "_pending", cancel_then)
    assert [one.messages for one in run(db)] == [[]]
    assert set(outcomes(db, job).values()) == {"cancelled"}


def test_what_is_not_done_by_the_deadline_is_not_done(db: Database) -> None:
    job = start(db)
    run(db, steps=2)
    run(db, at_s=60)
    found = state(db, job)
    assert (found.state, found.reason) == ("failed", "not done by its deadline")
    assert sorted(outcomes(db, job).values()) == ["cancelled"] * 4 + ["written"] * 3


def test_a_job_that_finds_nobody_is_completed(db: Database) -> None:
    job = start(db, query="tags.site = 'nowhere'")
    run(db)
    assert state(db, job).state == "completed"
    assert outcomes(db, job) == {}


def test_jobs_go_one_after_the_other_in_the_order_of_their_start(db: Database) -> None:
    later = start(db, {"settings": {"period_s": 2}}, start_us=NOW + 2)
    first = start(db, {"settings": {"period_s": 1}}, start_us=NOW + 1)
    run(db)
    assert desired(db, "press-0") == {"settings": {"period_s": 2}}
    assert twins_owners(db, "press-0") == {"settings": {"period_s": f"job:{later.id}"}}
    assert state(db, first).state == "completed"


def test_tags_in_bulk(db: Database) -> None:
    with db.write() as session:
        session.add(Device(id="full", tags={"site": "a", "x": {"y": ["z" * 1000] * 8}}))
        session.add(Device(id="same", tags={"site": "a", "line": 3}, tags_version=4))
    job = start(db, {"line": 3, "old": None, "more": "m" * 200}, "tags")
    run(db)
    with db.read() as session:
        one = session.get_one(Device, "press-2")
        assert (one.tags, one.tags_version) == ({"site": "a", "line": 3, "more": "m" * 200}, 1)
        assert session.get_one(Device, "press-7").tags == {"site": "b"}
        rows = {row.device: row for row in jobs.devices(session, job.id, state="", after="", limit=100)}
    assert rows["full"].state == "refused"
    assert "8192" in rows["full"].reason
    assert (rows["same"].state, rows["same"].version) == ("written", 5)


def test_commands_in_bulk_wait_for_devices_that_are_away(db: Database) -> None:
    with db.write() as session:
        away = session.get_one(Device, "press-1")
        away.state = "offline"
        session.add(away)
    job = start(db, {"verb": "restart", "target": "camera", "args": {}}, "command")
    done = run(db)
    assert len([m for one in done for m in one.messages]) == 6
    with db.write() as session:
        rows = jobs.devices(session, job.id, state="written", after="", limit=100)
        sent = {row.device: session.get_one(Command, row.command) for row in rows}
        word = CommandResult(id=sent["press-0"].id, state="succeeded", t_us=NOW)
        commands.handle_result(session, "press-0", word, NOW)
    assert {device: row.state for device, row in sent.items()} == {
        "press-0": "succeeded", "press-1": "queued", **{f"press-{n}": "sent" for n in range(2, 7)},
    }  # fmt: skip
    assert sent["press-1"].expires_us == job.deadline_us
    assert sent["press-1"].actor == f"job:{job.id}"


def test_in_force_is_what_devices_report(db: Database) -> None:
    job = start(db, {"settings": {"period_s": 5, "old": None}})
    run(db)
    report(db, "press-1", {"settings": {"period_s": 5.0, "old": 7}})
    report(db, "press-2", {"settings": {"period_s": 6}})
    with db.read() as session:
        assert handlers.in_force(session, job, ["press-0", "press-1", "press-2"]) == {"press-1"}


def test_a_preview_tells_what_would_change_and_writes_nothing(db: Database) -> None:
    with db.write() as session:
        twins.update_desired(
            session, "press-0", "", {"settings": {"period_s": 9, "a": 1}}, NOW, actor="bob", max_bytes=LIMIT
        )
        twins.update_desired(session, "press-1", "", PATCH, NOW, actor="bob", max_bytes=LIMIT)
        twins.update_desired(session, "press-3", "", {"x": "y" * (LIMIT - 30)}, NOW, actor="bob", max_bytes=LIMIT)
    job = Job(id="", kind="twin", query="*", content=PATCH | {"settings": {"period_s": 5, "a": None}}, actor="anna",
              created_us=NOW, start_us=NOW, deadline_us=NOW)  # fmt: skip
    with db.read() as session:
        before = [row.model_dump() for row in session.exec(select(TwinRow))]
        found = handlers.preview(session, job, [f"press-{n}" for n in range(4)], NOW, LIMIT)
        assert [row.model_dump() for row in session.exec(select(TwinRow))] == before
    assert [(one.device, one.state) for one in found] == [
        ("press-0", "written"), ("press-1", "unchanged"), ("press-2", "written"), ("press-3", "refused"),
    ]  # fmt: skip
    assert found[0].changes == [
        {"path": "settings.a", "before": 1, "owner": "bob"},
        {"path": "settings.period_s", "before": 9, "after": 5, "owner": "bob"},
    ]
    assert found[2].changes == [{"path": "settings.period_s", "after": 5}]


@pytest.mark.parametrize(
    ("kind", "content", "document", "status"),
    [
        ("twin", {}, "", 400),
        ("twin", {"a": 1}, "no/name", 400),
        ("twin", {"a": "x" * 5000}, "", 413),
        ("twin", {"a": {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}}}, "", 400),
        ("tags", {"a.b": 1}, "", 422),
    ],
)
def test_what_no_device_could_take_is_refused_at_once(
    db: Database, kind: str, content: Any, document: str, status: int
) -> None:
    with pytest.raises(HubError) as no:
        start(db, content, kind, document=document)
    assert no.value.status == status


def test_a_query_that_cannot_be_read_is_refused_at_once(db: Database) -> None:
    with pytest.raises(HubError) as no:
        start(db, query="tags.site =")
    assert no.value.status == 400
