"""Removal of a device: one act after which nothing of it sends, acts, counts or calls; restore takes it back."""

from __future__ import annotations

from typing import Any

import pytest
from simulators.actions import action_service, command_row
from sqlmodel import Session, SQLModel, select

from cloud_hub.actions import worker as actions
from cloud_hub.audit import trail
from cloud_hub.certificates import enrolment
from cloud_hub.certificates import registry as register
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import (
    Action,
    AlarmRow,
    AppliedRow,
    CertificateRow,
    Claim,
    Command,
    ConfigurationDevice,
    Device,
    EscalationRow,
    Incident,
    Job,
    JobDevice,
    LearnedSeries,
    LimitFile,
    RemovedDevice,
    Rollout,
    RolloutDevice,
    Suppression,
    TelemetrySample,
    TwinRow,
)
from cloud_hub.decommissioning import service as decommissioning
from cloud_hub.devices import commands
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents.service import REMOVED
from cloud_hub.ingest.core.router import DataBatch, DeviceMessage, ShadowRequest
from cloud_hub.ingest.writer import Writer, WriteResults
from cloud_hub.jobs import service as jobs
from cloud_hub.runtime import outgoing as runtime_outgoing
from cloud_hub.twins import service as twins
from shared.protocol import topics
from shared.protocol.codec import plain
from shared.protocol.messages import Alarm, Batch, Birth, CommandResult, Priority, Sample

NOW = 1_800_000_000_000_000
PRESS, OTHER = "press-3", "press-4"


def alarm(number: str, priority: Priority = "high", metric: str = "cpu.load") -> Alarm:
    return Alarm(
        id=number, metric=metric, kind="high", state="raised", priority=priority, t_us=NOW, value=97.0, limit=90.0
    )


def fill(session: Session, device: str) -> None:
    """A device in the middle of everything."""
    session.add(Device(id=device, state="online", assigned_path="acme/a", tags={"line": 3}))
    session.flush()
    incidents.handle_alarm(session, device, alarm(f"{device}-a"), NOW, "")
    incidents.handle_alarm(session, device, alarm(f"{device}-b", metric="temperature"), NOW, "")
    session.add(Suppression(id=f"{device}-s", method="shelved", device=device, metric="x", actor="anna", created_us=NOW,
                            from_us=NOW, until_us=NOW + 10**12))  # fmt: skip
    sent, _ = commands.create(session, device, "restart", "vision", NOW, actor="anna", life_s=1e6)
    commands.create(session, device, "diagnose", "disk", NOW, actor="anna", mode="queued", life_s=1e6)
    incident = session.exec(select(Incident).where(Incident.device == device)).first()
    assert incident is not None
    for state in ("proposed", "approved", "executing"):
        session.add(command_row(f"{device}-{state}", device, target="vision", incident=incident.id, state=state,
                                command=sent.id, effect={"command": sent.id}, changed_us=NOW))  # fmt: skip
    twins.update_desired(session, device, "", {"period_s": 2}, NOW, actor="anna", max_bytes=10_000)
    twins.update_desired(session, device, "extra", {"a": 1}, NOW, actor="anna", max_bytes=10_000)
    enrolment.create_claim(session, device, NOW, actor="anna")
    session.add_all([
        CertificateRow(serial=f"{device}1", device=device, cn=device, issued_us=NOW, expires_us=NOW + 10**13),
        JobDevice(job="job-1", device=device, t_us=NOW), ConfigurationDevice(configuration="c", device=device,
                                                                             state="applied", t_us=NOW),
        RolloutDevice(rollout="r", device=device, state="pushed"),
        LearnedSeries(learning="l", device=device, metric="cpu.load"),
        LimitFile(name=f"{device}-f", device=device, digest="d", body=b"", t_us=NOW),
        AppliedRow(device=device, shadow="", path="period_s", version=1, state="verified", t_us=NOW),
        EscalationRow(id=f"{device}-e", device=device, model="m", digest="d", number=1, reason="r", label="l",
                      margin=0.1, height=1, width=1, frame=b"", t_us=NOW, received_us=NOW),
        TelemetrySample(device=device, metric="cpu.load", t_us=NOW, source=1, seq=1, value=1.0),
    ])  # fmt: skip


@pytest.fixture
def world(db: Database) -> Database:
    with db.write() as session:
        session.add(Rollout(id="r", devices=[PRESS, OTHER], started_us=NOW, watch_s=60.0, max_alarms=1))
        session.add(Job(id="job-1", kind="tags", query="*", content={}, actor="anna", state="running", created_us=NOW,
                        start_us=NOW, deadline_us=NOW + 10**13))  # fmt: skip
        session.flush()
        fill(session, PRESS)
        fill(session, OTHER)
    return db


def remove(db: Database, device: str = PRESS) -> list[runtime_outgoing.OutgoingMessage]:
    with db.write() as session:
        return decommissioning.remove(session, device, NOW + 1, actor="anna", reason="scrapped")


def test_each_table_with_a_device_in_it_says_what_removal_does_there() -> None:
    tables = {
        table.name for table in SQLModel.metadata.tables.values()
        if {"device", "devices", "series", "source"} & set(table.columns.keys())
    } | {"devices"}  # fmt: skip
    assert tables == set(decommissioning.TABLES), (
        "a table was added or went: decide what removal does, and test it below"
    )


def _about(db: Database, device: str) -> dict[str, list[dict[str, Any]]]:
    """All that the database holds of a device, by table; telemetry and audit apart."""
    found: dict[str, list[dict[str, Any]]] = {}
    with db.read() as session:
        for name, table in SQLModel.metadata.tables.items():
            column = table.columns.get("device", table.columns["id"] if name == "devices" else None)
            if column is not None and name != "audit":
                rows = session.connection().execute(table.select().where(column == device)).mappings()
                found[name] = [dict(row) for row in rows]
    return found


def test_whatever_state_a_device_was_in_nothing_of_it_is_left_under_way(world: Database) -> None:
    before, other = _about(world, PRESS), _about(world, OTHER)
    remove(world)
    after = _about(world, PRESS)
    for name in (
        "devices",
        "applied",
        "claims",
        "configuration_devices",
        "learned_series",
        "limit_files",
        "escalations",
    ):
        assert (len(before[name]) > 0, after[name]) == (True, []), name
    assert {(row["state"], row["cleared_by"], row["cleared_reason"]) for row in after["alarms"]} == {
        ("cleared", "anna", REMOVED)
    }
    assert {(row["state"], row["resolved_by"], row["resolution"]) for row in after["incidents"]} == {
        ("resolved", "anna", REMOVED)
    }
    assert sorted((row["state"], row["outcome"]) for row in after["actions"]) == [
        ("failed", REMOVED), ("refused", REMOVED), ("refused", REMOVED),
    ]  # fmt: skip
    assert {(row["state"], row["text"], row["done_us"]) for row in after["commands"]} == {
        ("cancelled", REMOVED, NOW + 1)
    }
    assert [(row["state"], row["reason"]) for row in after["job_devices"]] == [("gone", REMOVED)]
    assert [(row["state"], row["reason"]) for row in after["rollout_devices"]] == [("left", REMOVED)]
    assert [row["ended_us"] for row in after["suppressions"]] == [NOW + 1]
    assert [row["revoked_us"] for row in after["certificates"]] == [NOW + 1]
    assert {row["deleted"] for row in after["twins"]} == {True}
    assert after["telemetry"] == before["telemetry"]
    assert _about(world, OTHER) == other, "nothing of anybody else's changes"
    with world.read() as session:
        (row,) = trail.rows(session, kind="device.removed")
    assert (row.actor, row.detail["reason"], row.detail["alarms"], row.detail["incidents"]) == (
        "anna",
        "scrapped",
        2,
        2,
    )


def test_the_broker_forgets_it_and_the_device_learns_that_its_commands_are_cancelled(world: Database) -> None:
    messages = remove(world)
    kept = {message.topic for message in messages if message.retain and not message.payload}
    assert kept == {
        topics.thing(PRESS, "birth"),
        topics.shadow(PRESS, "", "update"),
        topics.shadow(PRESS, "extra", "update"),
    }
    assert sum(message.topic.endswith("/cancel") for message in messages) == 2
    assert {message.topic.split("/")[3] for message in messages} == {PRESS}


def birth(state: str = "online") -> DeviceMessage:
    message = Birth(device=PRESS, session="s", epoch="e", state=state, version="1", profile="p", protocol=1)  # type: ignore[arg-type]
    return DeviceMessage(device=PRESS, message=message)


def hear(db: Database, *said: Any) -> WriteResults:
    results = WriteResults()
    with db.write() as session:
        Writer("hub", 10_000).write(session, [(one, "") for one in said], NOW + 2, results)
    return results


def everything() -> list[Any]:
    """All that a device may send."""
    samples = Batch(epoch="e", first=1, clock="synced", items=[plain(Sample(metric="cpu.load", t_us=NOW, value=1.0))])
    alarms = Batch(epoch="e", first=1, clock="synced", items=[plain(alarm("late"))])
    result = CommandResult(id="c", state="succeeded", t_us=NOW)
    return [
        birth(), birth("offline"), DataBatch(device=PRESS, stream="telemetry", batch=samples, size=1),
        DataBatch(device=PRESS, stream="alarm", batch=alarms, size=1), DeviceMessage(device=PRESS, message=result),
        ShadowRequest(device=PRESS, name="", verb="update", payload=b'{"state": {"reported": {"a": 1}}}'),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(6))
def test_nothing_that_a_removed_device_sends_is_taken(world: Database, number: int) -> None:
    remove(world)
    before = _about(world, PRESS)
    results = hear(world, everything()[number])
    assert _about(world, PRESS) == before
    assert (results.acks, results.removed) == ({}, {PRESS})
    answers = [message for message in results.messages if message.topic == topics.thing(PRESS, "session")]
    assert [b"was removed" in message.payload for message in answers] == ([True] if number == 0 else [])


def test_an_alarm_that_a_loop_of_the_hub_raises_afterwards_calls_nobody(world: Database) -> None:
    remove(world)
    with world.write() as session:
        incidents.handle_alarm(session, PRESS, alarm("of-a-loop"), NOW + 2, "")
        assert session.get(AlarmRow, "of-a-loop") is None


def test_an_action_that_was_proposed_meanwhile_does_nothing(world: Database) -> None:
    remove(world)
    with world.write() as session:
        session.add(command_row("late", PRESS, incident="none", state="approved", changed_us=NOW))
    messages = actions.run_once(world, action_service(), NOW + 2).messages
    assert not [message for message in messages if message.topic.startswith(topics.thing(PRESS, ""))]
    with world.read() as session:
        assert session.get_one(Action, "late").state == "failed"


def test_it_cannot_be_registered_enrolled_or_changed_and_the_error_says_why(world: Database) -> None:
    remove(world)
    acts: list[Any] = [
        lambda session: device_registry.register(session, PRESS, NOW, actor="anna"),
        lambda session: enrolment.create_claim(session, PRESS, NOW, actor="anna", readmit=True),
        lambda session: register.refuse_revoked(session, PRESS),
        lambda session: device_registry.require_device(session, PRESS),
        lambda session: decommissioning.remove(session, PRESS, NOW, actor="anna"),
    ]
    for act in acts:
        with pytest.raises(HubError) as told, world.write() as session:
            act(session)
        assert "was removed" in told.value.detail
        assert "restore" in told.value.detail


def test_restore_brings_it_back_where_it_stood_and_only_then_is_it_heard(world: Database) -> None:
    remove(world)
    with world.write() as session:
        back = decommissioning.restore(session, PRESS, NOW + 2, actor="bert")
        assert (back.assigned_path, back.tags, back.state) == ("acme/a", {"line": 3}, "offline")
    results = hear(world, birth())
    assert results.removed == set()
    with world.read() as session:
        assert session.get_one(Device, PRESS).state == "online"
        assert session.get(RemovedDevice, PRESS) is None
        assert [row.actor for row in trail.rows(session, kind="device.restored")] == ["bert"]
        assert {row.revoked_us for row in register.certificates(session, PRESS)} == {NOW + 1}
    with pytest.raises(HubError, match="Not removed"), world.write() as session:
        decommissioning.restore(session, PRESS, NOW, actor="bert")


def test_a_device_that_was_revoked_before_is_so_after_a_restore(world: Database) -> None:
    with world.write() as session:
        register.revoke(session, PRESS, NOW, actor="anna", reason="stolen")
    remove(world)
    with world.write() as session:
        decommissioning.restore(session, PRESS, NOW + 2, actor="anna")
        assert register.revocation_reason(session, PRESS) == "stolen"


def test_its_page_swallows_no_alarm_of_others(db: Database) -> None:
    with db.write() as session:
        fill(session, PRESS)
        session.add(Device(id="press-5", assigned_path="acme/a"))
    remove(db)
    with db.write() as session:
        incidents.handle_alarm(session, "press-5", alarm("n1"), NOW + 3, "")
        (row,) = session.exec(select(Incident).where(Incident.device == "press-5")).all()
        assert row.page == row.id


def test_an_incident_that_no_device_clears_is_ended_by_a_person_with_a_reason(world: Database) -> None:
    with world.read() as session:
        number = session.exec(select(Incident.id).where(Incident.device == PRESS, Incident.subject == "cpu")).one()
    with pytest.raises(HubError, match="reason"), world.write() as session:
        incidents.resolve(session, number, NOW + 1, actor="anna", reason=" ")
    with world.write() as session:
        row = incidents.resolve(session, number, NOW + 1, actor="anna", reason="sensor taken off")
        assert (row.state, row.resolved_by, row.resolution) == ("resolved", "anna", "sensor taken off")
    with world.read() as session:
        cleared = session.get_one(AlarmRow, f"{PRESS}-a")
        assert (cleared.state, cleared.cleared_reason) == ("cleared", "sensor taken off")
        assert session.get_one(AlarmRow, f"{PRESS}-b").state == "raised", "another incident's"
        (told,) = trail.rows(session, kind="incident.resolved")
        assert told.detail["reason"] == "sensor taken off"
    with pytest.raises(HubError, match="already resolved"), world.write() as session:
        incidents.resolve(session, number, NOW + 1, actor="anna", reason="again")


def test_an_alarm_is_ended_by_a_person_only_where_its_device_is_gone(world: Database) -> None:
    with world.write() as session:
        incidents.handle_alarm(session, "never-born", alarm("orphan"), NOW, "")
    with pytest.raises(HubError, match="is there"), world.write() as session:
        incidents.resolve_alarm(session, f"{PRESS}-a", NOW + 1, actor="anna", reason="r")
    with world.write() as session:
        row = incidents.resolve_alarm(session, "orphan", NOW + 1, actor="anna", reason="never born")
        assert row.state == "cleared"
        assert session.get_one(Incident, row.incident).state == "resolved"


def test_the_incident_of_a_device_never_born_ends_with_its_last_alarm_although_an_action_is_proposed(
    world: Database,
) -> None:
    with world.write() as session:
        for number in ("orphan-1", "orphan-2"):
            incidents.handle_alarm(session, "never-born", alarm(number, metric=f"{number}.x"), NOW, "")
        incident = session.get_one(AlarmRow, "orphan-1").incident
        session.get_one(AlarmRow, "orphan-2").incident = incident
        session.add(command_row("proposal", "never-born", incident=incident, state="proposed", changed_us=NOW))
    with world.write() as session:
        incidents.resolve_alarm(session, "orphan-1", NOW + 1, actor="anna", reason="never born")
        assert session.get_one(Incident, incident).state == "open", "one alarm is still raised"
        incidents.resolve_alarm(session, "orphan-2", NOW + 2, actor="anna", reason="never born")
        assert session.get_one(Incident, incident).state == "resolved"
        assert session.get_one(Action, "proposal").state == "refused"


def test_a_job_under_way_goes_on_with_the_others(world: Database) -> None:
    remove(world)
    for _ in range(3):
        jobs.run_once(world, NOW + 3, 10_000)
    with world.read() as session:
        assert session.get_one(Job, "job-1").state == "completed"
        assert {row.device: row.state for row in session.exec(select(JobDevice))}[PRESS] == "gone"
        assert [row.name for row in session.exec(select(TwinRow).where(TwinRow.deleted == False))] != []  # noqa: E712
        assert session.get(Claim, PRESS) is None
        assert session.exec(select(Command).where(Command.device == PRESS, Command.done_us == None)).all() == []  # noqa: E711
