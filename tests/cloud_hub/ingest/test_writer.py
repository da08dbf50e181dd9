"""Ingest writer: each item once, in order, nothing beyond a gap, no acknowledgement of what is not committed."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from simulators.ingest_batches import ALARM, DEVICE, NOW, acked, batch, data, sample, samples, stored, write
from sqlalchemy import func
from sqlmodel import select

from cloud_hub.certificates import registry as register
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import (
    AlarmRow,
    EscalationRow,
    EventRow,
    HighWater,
    LostRange,
    TwinRow,
)
from cloud_hub.devices import registry as device_registry
from cloud_hub.ingest.core.router import DeviceMessage, ShadowRequest, route
from cloud_hub.ingest.writer import Writer, WriteResults
from cloud_hub.telemetry import samples as telemetry
from shared.protocol import topics
from shared.protocol.codec import decode, encode
from shared.protocol.messages import Ack, Alarm, Birth, Escalation, Event, Lost, Metric, Sample, Stream
from shared.protocol.messages import Session as SessionWord


def test_a_batch_is_stored_and_acknowledged(db: Database) -> None:
    results = write(db, data(samples(1, 3)))
    assert stored(db) == ([1, 2, 3], 3)
    (message,) = results.outgoing()
    assert message.topic == topics.thing(DEVICE, "acks")
    assert decode(Ack, message.payload) == Ack(epoch="e1", stream="telemetry", upto=3)


def test_a_duplicate_is_acknowledged_again_and_stored_once(db: Database) -> None:
    for _ in range(3):
        assert acked(write(db, data(samples(1, 3)))) == 3
    assert stored(db) == ([1, 2, 3], 3)


def test_an_overlap_adds_only_what_is_new(db: Database) -> None:
    write(db, data(samples(1, 3)))
    assert acked(write(db, data(samples(2, 5)))) == 5
    assert stored(db) == ([1, 2, 3, 4, 5], 5)


def test_beyond_a_gap_nothing_is_stored_and_the_mark_stays(db: Database) -> None:
    write(db, data(samples(1, 3)))
    assert acked(write(db, data(samples(5, 9)))) == 3
    assert stored(db) == ([1, 2, 3], 3)
    assert acked(write(db, data(samples(4, 4)), data(samples(5, 9)))) == 9


def test_the_first_batch_of_all_may_not_begin_beyond_1(db: Database) -> None:
    assert acked(write(db, data(samples(2, 4)))) == 0
    assert stored(db) == ([], 0)


def test_a_lost_range_advances_the_mark_and_is_kept_with_its_reason(db: Database) -> None:
    write(db, data(samples(1, 2)))
    results = write(db, data(batch(2, lost=Lost(last=7, reason="evicted"))), data(samples(8, 9)))
    assert acked(results) == 9
    assert stored(db) == ([1, 2, 8, 9], 9)
    with db.read() as session:
        (row,) = session.exec(select(LostRange)).all()
    assert (row.first, row.last, row.reason) == (3, 7, "evicted")  # 2 is here: it was not lost


def test_a_lost_range_beyond_a_gap_waits_too(db: Database) -> None:
    assert acked(write(db, data(batch(5, lost=Lost(last=7, reason="damaged"))))) == 0
    with db.read() as session:
        assert session.exec(select(LostRange)).all() == []


@pytest.mark.parametrize("bad", [
    None, 7, "x", [], {}, {"metric": "Bad Name", "t_us": 1, "value": 1.0}, {"metric": "a", "t_us": -1, "value": 1.0},
    {"metric": "a", "t_us": 10**30, "value": 1.0}, {"metric": "a", "t_us": 1, "value": None},
    {"metric": "a", "t_us": 1, "value": 10**400}, {"metric": "a", "t_us": 1, "value": {"b": 1}},
])  # fmt: skip
def test_one_bad_item_costs_no_other(db: Database, bad: Any) -> None:
    assert acked(write(db, data(batch(1, [sample(1), bad, sample(3)])))) == 3
    assert stored(db) == ([1, 3], 3)
    with db.read() as session:
        (row,) = session.exec(select(LostRange)).all()
    assert (row.first, row.last, row.reason) == (2, 2, "invalid")


ESCALATION = {"id": "x", "t_us": 1, "model": "digits", "digest": "d", "number": 1, "reason": "unsure", "label": "7",
              "margin": 0.1, "shape": [1, 2], "frame": "AAA="}  # fmt: skip


@pytest.mark.parametrize(("stream", "bad"), [
    ("escalation", ESCALATION | {"shape": [10**30, 0], "frame": ""}),
    ("escalation", ESCALATION | {"shape": [-1, -2]}),
    ("escalation", ESCALATION | {"number": 10**30}),
    ("escalation", ESCALATION | {"features": {"a": 10**400}}),
    ("alarm", ALARM | {"value": 10**400}),
    ("alarm", ALARM | {"t_us": 1 << 62}),
    ("event", {"t_us": 1, "source": "s", "text": "t", "fields": {"a": 10**400}}),
    ("event", {"t_us": 1, "source": "s", "text": "t", "level": "shouting"}),
])  # fmt: skip
def test_an_item_that_no_database_can_hold_blocks_no_stream(db: Database, stream: Stream, bad: Any) -> None:
    assert acked(write(db, data(batch(1, [bad]), stream)), stream) == 1


NUL = "a\0b"


@pytest.mark.parametrize(("stream", "bad"), [
    ("telemetry", {"metric": "door", "t_us": 1, "value": NUL}),
    ("event", {"t_us": 1, "source": "s", "text": NUL}),
    ("event", {"t_us": 1, "source": NUL, "text": "t"}),
    ("event", {"t_us": 1, "source": "s", "text": "t", "fields": {NUL: 1}}),
    ("event", {"t_us": 1, "source": "s", "text": "t", "fields": {"a": NUL}}),
    ("alarm", ALARM | {"id": NUL}),
    ("escalation", ESCALATION | {"label": NUL}),
])  # fmt: skip
def test_an_item_with_nul_is_invalid_on_both_databases_and_costs_no_other(
    db: Database, stream: Stream, bad: Any
) -> None:
    good = {"t_us": NOW, "source": "line", "text": "a\\u0000b"} if stream == "event" else bad | {"t_us": 1}
    good = {key: "kept" if value == NUL else value for key, value in good.items()}
    said = route(topics.thing(DEVICE, topics.STREAM_TOPIC[stream]), encode(batch(1, [bad, good])))
    assert acked(write(db, said), stream) == 2
    with db.read() as session:
        (row,) = session.exec(select(LostRange)).all()
    assert (row.first, row.last, row.reason) == (1, 1, "invalid")


def test_two_hubs_that_hear_one_device_store_each_item_once(db: Database, url: str) -> None:
    """A resend may reach another hub than the first sending, at the same time."""
    other = Database(url)
    errors: list[Exception] = []

    def hear(hub: Database) -> None:
        try:
            for first in range(1, 60, 3):
                with hub.write(DEVICE) as session:
                    writer = Writer(hub.hub_epoch, 32768)
                    writer.write(session, [(data(samples(first, first + 4)), "")], NOW, WriteResults())
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must show it
            errors.append(error)

    threads = [threading.Thread(target=hear, args=(hub,)) for hub in (db, other, db)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    other.close()
    assert errors == []
    assert stored(db) == (list(range(1, 63)), 62)


def test_a_new_epoch_is_counted_anew(db: Database) -> None:
    write(db, data(samples(1, 5)))
    assert acked(write(db, data(samples(1, 2, "e2"))), epoch="e2") == 2
    assert stored(db, "e1") == ([1, 2, 3, 4, 5], 5)
    assert stored(db, "e2") == ([1, 2], 2)


def test_streams_and_devices_do_not_mix(db: Database) -> None:
    event = {"t_us": NOW, "source": "line", "text": "lamp broke", "level": "warning", "fields": {"n": 1}}
    write(db, data(samples(1, 3)), data(batch(1, [event, event]), "event"), data(samples(1, 1), device="press-4"))
    with db.read() as session:
        marks = {(m.device, m.stream): m.upto for m in session.exec(select(HighWater))}
        assert marks == {(DEVICE, "telemetry"): 3, (DEVICE, "event"): 2, ("press-4", "telemetry"): 1}
        rows = session.exec(select(EventRow)).all()
    assert [(row.seq, row.text, row.level, row.origin) for row in rows] == [
        (1, "lamp broke", "warning", "line"), (2, "lamp broke", "warning", "line"),
    ]  # fmt: skip


def test_values_of_every_kind(db: Database) -> None:
    items = [
        Sample(metric="a", t_us=1, value=1.5), Sample(metric="a", t_us=1, value="open"),
        Sample(metric="a", t_us=2, value=None, quality="bad"), Sample(metric="a", t_us=3, value=7),
    ]  # fmt: skip
    said = route(topics.thing(DEVICE, "telemetry"), encode(batch(1, list(items))))
    write(db, said)
    with db.read() as session:
        rows = telemetry.series(session, DEVICE, "a")
    assert [(row.value, row.text, row.quality) for row in rows] == [
        (1.5, None, "good"), (None, "open", "good"), (None, None, "bad"), (7.0, None, "good"),
    ]  # fmt: skip


def test_alarms_and_escalations_reach_their_tables_and_ring_their_loops(db: Database) -> None:
    alarm = Alarm(id="a1", metric="cpu.load", kind="high", state="raised", priority="high", t_us=NOW, value=9, limit=5)
    asked = Escalation(id="x1", t_us=NOW, model="digits", digest="d", number=4, reason="unsure", label="7", margin=0.1,
                       shape=(2, 2, 1), frame=bytes(4))  # fmt: skip
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    said = [
        route(topics.thing(DEVICE, "alarms"), encode(batch(1, [alarm]))),
        route(topics.thing(DEVICE, "escalations"), encode(batch(1, [asked]))),
    ]
    results = write(db, *said, trace=trace)
    assert results.wake == {"diagnosis", "rollouts", "experts", "experts-remote"}
    with db.read() as session:
        assert session.get_one(AlarmRow, "a1").trace_id == "ab" * 16
        row = session.get_one(EscalationRow, "x1")
    assert (row.frame, row.height, row.width, row.channels, row.answer, row.trace_id) == (
        bytes(4),
        2,
        2,
        1,
        None,
        "ab" * 16,
    )


def test_an_escalation_that_comes_in_a_new_epoch_again_is_one(db: Database) -> None:
    asked = Escalation(id="x1", t_us=NOW, model="digits", digest="d", number=4, reason="unsure", label="7", margin=0.1,
                       shape=(2, 2, 1), frame=bytes(4))  # fmt: skip
    for epoch in ("e1", "e2"):
        write(db, route(topics.thing(DEVICE, "escalations"), encode(batch(1, [asked], epoch=epoch))))
    with db.read() as session:
        assert len(session.exec(select(EscalationRow)).all()) == 1


def test_nothing_is_acknowledged_of_a_transaction_that_failed(db: Database) -> None:
    results = WriteResults()

    def fail() -> None:
        with db.write() as session:
            Writer(db.hub_epoch, 32768).write(session, [(data(samples(1, 3)), "")], NOW, results)
            raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        fail()
    assert stored(db) == ([], 0)
    assert acked(write(db, data(samples(2, 3)))) == 0  # and the next word says so


def test_acknowledgements_of_one_transaction_are_joined(db: Database) -> None:
    results = write(db, data(samples(1, 2)), data(samples(3, 4)), data(samples(5, 6)))
    assert [decode(Ack, m.payload).upto for m in results.outgoing()] == [6]


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_a_device_shows_the_limits_that_its_birth_says_have_no_source(db: Database, known: bool) -> None:
    if known:
        write(
            db, DeviceMessage(device=DEVICE, message=Birth(device=DEVICE, session="s0", limits_without_source=["old"]))
        )
    write(
        db, DeviceMessage(device=DEVICE, message=Birth(device=DEVICE, session="s1", limits_without_source=["oil.temp"]))
    )
    with db.read() as session:
        assert device_registry.get_device(session, DEVICE).model_dump()["limits_without_source"] == ["oil.temp"]


def test_a_birth_is_answered_with_what_the_hub_holds(db: Database) -> None:
    write(db, data(samples(1, 4)))
    birth = Birth(device=DEVICE, session="s1", epoch="e1", metrics=[Metric(name="cpu.load", unit="%")])
    (message,) = write(db, DeviceMessage(device=DEVICE, message=birth)).outgoing()
    word = decode(SessionWord, message.payload)
    assert (word.session, word.hub_epoch, word.epoch, word.refused) == ("s1", db.hub_epoch, "e1", "")
    assert word.upto == {"alarm": 0, "escalation": 0, "event": 0, "telemetry": 4}


@pytest.mark.parametrize("prefix", [topics.PREFIX, topics.AWS])
@pytest.mark.parametrize("verb", ["get", "update", "delete"])
def test_an_unknown_thing_is_answered_404(db: Database, prefix: str, verb: str) -> None:
    asked = ShadowRequest(device=DEVICE, name="n", verb=verb, payload=b'{"clientToken": "t"}', prefix=prefix)
    (message,) = write(db, asked).outgoing()
    assert message.topic == topics.shadow(DEVICE, "n", f"{verb}/rejected", prefix)
    body = decode(dict[str, Any], message.payload)
    assert body == {"code": 404, "message": "Thing not found", "timestamp": NOW // 1_000_000, "clientToken": "t"}


def test_the_answer_goes_to_the_prefix_that_asked_and_has_its_limit(db: Database) -> None:
    write(db, DeviceMessage(device=DEVICE, message=Birth(device=DEVICE, session="s1", epoch="e1")))
    payload = encode({"state": {"reported": {"a": "x" * 9000}}})
    for prefix, verb in ((topics.AWS, "update/rejected"), (topics.PREFIX, "update/accepted")):
        asked = ShadowRequest(device=DEVICE, name="", verb="update", payload=payload, prefix=prefix)
        first, *_ = write(db, asked).outgoing()
        assert first.topic == topics.shadow(DEVICE, "", verb, prefix)


def test_a_twin_of_an_unknown_device_is_not_made(db: Database) -> None:
    asked = ShadowRequest(device=DEVICE, name="", verb="update", payload=b'{"state": {"reported": {"a": 1}}}')
    write(db, asked)
    with db.read() as session:
        assert session.get(TwinRow, (DEVICE, "")) is None
    write(db, DeviceMessage(device=DEVICE, message=Birth(device=DEVICE, session="s1", epoch="e1")))
    replies = write(db, asked).outgoing()
    assert [m.topic.rpartition("/")[2] for m in replies] == ["accepted", "documents"]
    with db.read() as session:
        assert session.get_one(TwinRow, (DEVICE, "")).version == 1


def test_the_mark_survives_a_restart(url: str) -> None:
    for first in (1, 4, 7):
        hub = Database(url)
        write(hub, data(samples(max(1, first - 2), first + 2)))
        hub.close()
    hub = Database(url)
    assert stored(hub) == (list(range(1, 10)), 9)
    with hub.read() as session:
        assert session.exec(select(func.count()).select_from(HighWater)).one() == 1
    hub.close()


def test_events_are_what_was_said(db: Database) -> None:
    event = Event(t_us=NOW, source="agent", text="started", fields={"boot": 3.0})
    write(db, route(topics.thing(DEVICE, "events"), encode(batch(1, [event]))))
    with db.read() as session:
        (row,) = telemetry.events(session, DEVICE)
    assert (row.origin, row.text, row.fields) == ("agent", "started", {"boot": 3.0})


def test_a_revoked_device_is_told_so_and_not_heard(db: Database) -> None:
    with db.write() as session:
        register.revoke(session, DEVICE, NOW, actor="test", reason="stolen")
    birth = Birth(device=DEVICE, session="s1", epoch="e1")
    desire = ShadowRequest(device=DEVICE, name="", verb="update", payload=b'{"state": {"desired": {"a": 1}}}')
    results = write(db, DeviceMessage(device=DEVICE, message=birth), data(samples(1, 3)), desire)
    (message,) = results.outgoing()
    word = decode(SessionWord, message.payload)
    assert (message.topic, word.session) == (topics.thing(DEVICE, "session"), "s1")
    assert "was revoked" in word.refused
    assert stored(db) == ([], 0)
    other = data(samples(1, 2), device="press-4")
    assert write(db, other).acks == {("press-4", "e1", "telemetry"): 2}
