"""Who is there: births, deaths, late Wills, restored hubs, newer devices, and two agents under one id."""

from __future__ import annotations

import pytest
from sqlmodel import select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, LostRange
from cloud_hub.devices import registry as device_registry
from cloud_hub.devices.births import CONFLICT_US
from cloud_hub.errors import HubError
from cloud_hub.ingest.core.router import DeviceMessage
from cloud_hub.ingest.writer import Writer, WriteResults
from shared import PROTOCOL
from shared.codec import decode
from shared.messages import Birth, Metric, Stream
from shared.messages import Session as SessionWord

NOW = 1_800_000_000_000_000
SECOND = 1_000_000


def birth(session: str = "s1", *, state: str = "online", epoch: str = "e1", protocol: int = PROTOCOL,
          acked: dict[Stream, int] | None = None) -> Birth:  # fmt: skip
    return Birth(
        device="press-3", session=session, state=state, epoch=epoch, protocol=protocol, acked=acked or {},  # type: ignore[arg-type]
        profile="x86-64", version="0.1.0", asset_path="demo/plant", metrics=[Metric(name="cpu.load", unit="%")],
    )  # fmt: skip


def say(db: Database, word: Birth, now_us: int = NOW) -> SessionWord | None:
    """What the hub answers to this birth, or None."""
    results = WriteResults()
    with db.write() as session:
        Writer(db.hub_epoch, 32768).write(
            session, [(DeviceMessage(device="press-3", message=word), "")], now_us, results
        )
    words = [m for m in results.outgoing() if m.topic.endswith("/session")]
    return decode(SessionWord, words[0].payload) if words else None


def press(db: Database) -> Device:
    with db.read() as session:
        return device_registry.get_device(session, "press-3")


def lost(db: Database) -> list[tuple[int, int, str]]:
    with db.read() as session:
        return [(row.first, row.last, row.reason) for row in session.exec(select(LostRange))]


def test_a_birth_is_kept_and_answered(db: Database) -> None:
    word = say(db, birth())
    assert word is not None
    assert (word.session, word.protocol, word.refused, word.hub_epoch) == ("s1", PROTOCOL, "", db.hub_epoch)
    row = press(db)
    assert (row.state, row.profile, row.asset_path, row.born_us) == ("online", "x86-64", "demo/plant", NOW)
    assert row.metrics[0]["name"] == "cpu.load"


def test_an_unknown_device_is_404(db: Database) -> None:
    with db.read() as session, pytest.raises(HubError) as no:
        device_registry.get_device(session, "press-3")
    assert no.value.status == 404


def test_a_death_of_this_connection_counts_and_is_not_answered(db: Database) -> None:
    say(db, birth("s1"))
    assert say(db, birth("s1", state="offline"), NOW + SECOND) is None
    assert (press(db).state, press(db).seen_us) == ("offline", NOW + SECOND)


def test_a_late_will_of_an_older_connection_is_ignored(db: Database) -> None:
    say(db, birth("s1"))
    say(db, birth("s2"), NOW + SECOND)
    assert say(db, birth("s1", state="offline"), NOW + 2 * SECOND) is None
    assert (press(db).state, press(db).session) == ("online", "s2")


def test_the_same_birth_again_is_answered_again(db: Database) -> None:
    say(db, birth("s1"))
    assert say(db, birth("s1"), NOW + SECOND) is not None
    assert press(db).conflict == ""


def test_what_the_device_deleted_and_this_hub_lacks_is_told_as_lost(db: Database) -> None:
    word = say(db, birth(acked={"telemetry": 50, "alarm": 0}))
    assert word is not None
    assert word.upto["telemetry"] == 50
    assert lost(db) == [(1, 50, "hub-restored")]
    word = say(db, birth(acked={"telemetry": 50}), NOW + SECOND)
    assert word is not None
    assert lost(db) == [(1, 50, "hub-restored")]


def test_an_acked_below_the_mark_changes_nothing(db: Database) -> None:
    say(db, birth(acked={"telemetry": 50}))
    word = say(db, birth(acked={"telemetry": 10}))
    assert word is not None
    assert word.upto["telemetry"] == 50
    assert lost(db) == [(1, 50, "hub-restored")]


def test_the_next_protocol_is_served_in_ours_and_the_one_after_is_refused_with_the_cure(db: Database) -> None:
    word = say(db, birth(protocol=PROTOCOL + 1))
    assert word is not None
    assert (word.protocol, word.refused) == (PROTOCOL, "")
    word = say(db, birth(protocol=PROTOCOL + 2))
    assert word is not None
    assert "update the hub first" in word.refused


def test_two_agents_with_one_id_are_told(db: Database) -> None:
    say(db, birth("a1", epoch="a"))
    say(db, birth("b1", epoch="b"), NOW + SECOND)  # a new epoch alone is no conflict: the disk may have been lost
    assert press(db).conflict == ""
    word = say(db, birth("a2", epoch="a"), NOW + 2 * SECOND)  # but the first one is still there
    assert word is not None
    assert "in use by another agent" in word.refused
    assert "give each its own device.id" in press(db).conflict
    word = say(db, birth("b2", epoch="b"), NOW + 3 * SECOND)
    assert word is not None
    assert word.refused == ""


def test_a_refused_agent_that_keeps_asking_is_let_in_once_the_other_is_gone(db: Database) -> None:
    """It asks every five seconds; that is no sign of life of the other."""
    for number, epoch in enumerate("ab"):
        say(db, birth(f"{epoch}1", epoch=epoch), NOW + number * SECOND)
    refused = []
    for number in range(2, 90, 5):
        say(db, birth("a2", epoch="a"), NOW + number * SECOND)
        refused.append(bool(press(db).conflict))
    assert refused[0]
    assert not refused[-1]


def test_an_old_epoch_that_returns_much_later_is_no_conflict(db: Database) -> None:
    say(db, birth("a1", epoch="a"))
    say(db, birth("b1", epoch="b"), NOW + SECOND)
    word = say(db, birth("a2", epoch="a"), NOW + 2 * SECOND + CONFLICT_US)
    assert word is not None
    assert word.refused == ""
    assert press(db).epoch == "a"


def test_devices_by_id(db: Database) -> None:
    with db.write() as session:
        for name in ("b", "c", "a"):
            session.add(Device(id=name))
    with db.read() as session:
        assert [row.id for row in device_registry.list_devices(session)] == ["a", "b", "c"]
