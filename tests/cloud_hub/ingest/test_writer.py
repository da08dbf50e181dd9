"""Ingest's writer: once each, in order, nothing beyond a gap, and no word of thanks for what is not committed."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from cloud_hub.certificates import registry as register
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import (
    AlarmRow,
    Device,
    EscalationRow,
    EventRow,
    HighWater,
    LostRange,
    TelemetrySample,
    TwinChange,
    TwinRow,
)
from cloud_hub.devices import registry as device_registry
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.ingest.core.router import DataBatch, DeviceMessage, IngestMessage, ShadowRequest, route
from cloud_hub.ingest.writer import Writer, WriteResults
from cloud_hub.telemetry import samples as telemetry
from cloud_hub.twins.rows import TwinRows
from shared import topics
from shared.codec import decode, encode
from shared.messages import Ack, Alarm, Batch, Birth, Escalation, Event, Lost, Metric, Sample, Stream
from shared.messages import Session as SessionWord

NOW = 1_800_000_000_000_000
DEVICE = "press-3"


def sample(seq: int) -> dict[str, Any]:
    return {"metric": "cpu.load", "t_us": NOW + seq, "value": float(seq)}


def batch(first: int, items: list[Any] | None = None, *, epoch: str = "e1", lost: Lost | None = None) -> Batch:
    return Batch(epoch=epoch, first=first, items=items or [], lost=lost)


def samples(first: int, last: int, epoch: str = "e1") -> Batch:
    return batch(first, [sample(seq) for seq in range(first, last + 1)], epoch=epoch)


def data(one: Batch, stream: Stream = "telemetry", device: str = DEVICE) -> DataBatch:
    return DataBatch(device=device, stream=stream, batch=one, size=1000)


def write(db: Database, *said: IngestMessage, writer: Writer | None = None, trace: str = "") -> WriteResults:
    results = WriteResults()
    with db.write() as session:
        (writer or Writer(db.hub_epoch, 32768)).write(session, [(one, trace) for one in said], NOW, results)
    return results


def stored(db: Database, epoch: str = "e1", stream: str = "telemetry") -> tuple[list[int], int]:
    """(sequence numbers as stored, high-water mark) of one stream."""
    with db.read() as session:
        mark = session.exec(select(HighWater).where(HighWater.epoch == epoch, HighWater.stream == stream)).first()
        if mark is None:
            return [], 0
        query = select(TelemetrySample.seq).where(TelemetrySample.source == mark.id).order_by(col(TelemetrySample.seq))
        return list(session.exec(query)), mark.upto


def acked(results: WriteResults, stream: str = "telemetry", epoch: str = "e1") -> int:
    return results.acks[DEVICE, epoch, stream]


# -- streams ---------------------------------------------------------------------------------------


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
ALARM = {"id": "x", "metric": "cpu.load", "kind": "high", "state": "raised", "priority": "low", "t_us": 1,
         "value": 2.0, "limit": 1.0}  # fmt: skip


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
    assert results.wake == {"diagnosis", "rollouts", "experts"}
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


# -- any order, any overlap ------------------------------------------------------------------------


class IgnoresTheMark(Writer):
    """A seeded bug: stores whatever comes."""

    def _data(self, work: Any, said: DataBatch, trace: str) -> None:
        key = (said.device, said.batch.epoch, said.stream)
        mark = work.marks.get(key)
        self._items(work, said, mark.source, list(enumerate(said.batch.items, said.batch.first)), trace)
        mark.upto = max(mark.upto, said.batch.last)
        work.results.acks[key] = mark.upto


class PassesOverGaps(Writer):
    """A seeded bug: drops what is here, yet takes what lies beyond a gap."""

    def _data(self, work: Any, said: DataBatch, trace: str) -> None:
        key = (said.device, said.batch.epoch, said.stream)
        mark = work.marks.get(key)
        fresh = [(seq, item) for seq, item in enumerate(said.batch.items, said.batch.first) if seq > mark.upto]
        self._items(work, said, mark.source, fresh, trace)
        mark.upto = max(mark.upto, said.batch.last)
        work.results.acks[key] = mark.upto


EPOCHS = itertools.count()
Ranges = list[tuple[int, int]]
LAST = 12
RANGES = st.lists(
    st.tuples(st.integers(1, LAST), st.integers(0, 4)).map(lambda r: (r[0], min(r[0] + r[1], LAST))), max_size=8
)


def hold(db: Database, writer: Writer, ranges: Ranges) -> None:
    """Send the ranges in this order, each alone; then what the acknowledgements leave open, as a device does."""
    epoch = f"h{next(EPOCHS)}"
    top = 0
    for first, last in ranges:
        upto = acked(write(db, data(samples(first, last, epoch)), writer=writer), epoch=epoch)
        assert upto >= top, "an acknowledgement went back"
        top = upto
        assert stored(db, epoch) == (list(range(1, top + 1)), top), "acknowledged is what is stored, without a gap"
    if top < LAST:
        write(db, data(samples(top + 1, LAST, epoch)), writer=writer)
    assert stored(db, epoch) == (list(range(1, LAST + 1)), LAST)


SHARED_DATABASE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED_DATABASE
@given(ranges=RANGES)
def test_any_interleaving_ends_with_each_item_once(db: Database, ranges: Ranges) -> None:
    hold(db, Writer(db.hub_epoch, 32768), ranges)


@pytest.mark.parametrize("broken", [IgnoresTheMark, PassesOverGaps])
def test_the_property_catches_seeded_bugs(db: Database, broken: type[Writer]) -> None:
    @SHARED_DATABASE
    @given(ranges=RANGES)
    def attempt(ranges: Ranges) -> None:
        hold(db, broken(db.hub_epoch, 32768), ranges)

    with pytest.raises((AssertionError, IntegrityError)):  # or the database's own key
        attempt()


# -- many in one transaction, or each alone ------------------------------------------------------------

DEVICES = ("d1", "d2")
Spoken = list[tuple[str, str, Stream, int, int, str]]
SPOKEN = st.lists(
    st.tuples(
        st.sampled_from(DEVICES), st.sampled_from(["e1", "e2"]), st.sampled_from(["telemetry", "event", "alarm"]),
        st.integers(1, 6), st.integers(1, 3), st.sampled_from(["good", "good", "good", "bad", "lost", "birth"]),
    ), min_size=2, max_size=14,
)  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    "telemetry": {"metric": "a", "value": 1.0}, "event": {"source": "s", "text": "t"},
    "alarm": ALARM,
}  # fmt: skip


def said_by(spoken: Spoken, run: str) -> list[IngestMessage]:
    """The things that devices of this run say, through the router, as from the wire."""
    said: list[IngestMessage] = []
    for device, epoch, stream, first, count, what in spoken:
        name = f"{run}-{device}"
        if what == "birth":
            message = encode(Birth(device=name, session="s", epoch=epoch, acked={"telemetry": first - 1}))
            said.append(route(topics.thing(name, "birth"), message))
            continue
        items: list[Any] = [
            GOOD[stream] | {"t_us": seq} | ({"id": f"{name}-{epoch}-{seq}"} if stream == "alarm" else {})
            for seq in range(first, first + count)
        ]
        if what == "bad":
            items[-1] = {"metric": "no name!"}
        lost = Lost(last=first + count - 1, reason="expired") if what == "lost" else None
        payload = encode(Batch(epoch=epoch, first=first, items=[] if lost else items, lost=lost))
        said.append(route(topics.thing(name, topics.STREAM_TOPIC[stream]), payload))
    return said


def everything(db: Database, run: str) -> Any:
    """What the database holds of a run's devices: marks, samples, events, alarms and lost ranges."""
    with db.read() as session:
        marks = session.exec(select(HighWater).where(col(HighWater.device).startswith(f"{run}-"))).all()
        name = {m.id: (m.device.removeprefix(run), m.epoch, m.stream) for m in marks}
        rows = [(name[r.source], r.seq, r.metric, r.t_us, r.value) for r in session.exec(
            select(TelemetrySample).where(col(TelemetrySample.source).in_(name)))]  # fmt: skip
        events = [
            (name[r.source], r.seq, r.t_us)
            for r in session.exec(select(EventRow).where(col(EventRow.source).in_(name)))
        ]
        lost = [
            (name[r.source], r.first, r.last, r.reason) for r in session.exec(select(LostRange)) if r.source in name
        ]
        alarms = [
            a.id.removeprefix(run)
            for a in session.exec(select(AlarmRow).where(col(AlarmRow.device).startswith(f"{run}-")))
        ]
    return sorted((name[m.id], m.upto) for m in marks), sorted(rows), sorted(events), sorted(lost), sorted(alarms)


def same(db: Database, spoken: Spoken, writer: Writer) -> None:
    """All in one transaction leaves what each in its own leaves, and acknowledges the same."""
    number = next(EPOCHS)
    together, alone = f"t{number}", f"a{number}"
    acks = {(d.removeprefix(together), e, s): n
            for (d, e, s), n in write(db, *said_by(spoken, together), writer=writer).acks.items()}  # fmt: skip
    words: dict[tuple[str, str, str], int] = {}
    for one in said_by(spoken, alone):
        done = write(db, one).acks
        words |= {(d.removeprefix(alone), e, s): n for (d, e, s), n in done.items()}
    assert acks == words
    assert everything(db, together) == everything(db, alone)


@settings(SHARED_DATABASE, max_examples=20)
@given(spoken=SPOKEN)
def test_many_messages_in_one_transaction_leave_what_each_alone_leaves(db: Database, spoken: Spoken) -> None:
    same(db, spoken, Writer(db.hub_epoch, 32768))


class ForgetsTheRest(Writer):
    """A seeded bug: a birth throws away what was gathered before it."""

    def _birth(self, work: Any, birth: Birth) -> None:
        work.samples = []
        super()._birth(work, birth)


class ReadsTheTable(Writer):
    """A seeded bug: a birth is answered from the table, past the marks that are in memory."""

    def _birth(self, work: Any, birth: Birth) -> None:
        kept, work.marks = work.marks, StreamOffsets(work.session)
        super()._birth(work, birth)
        work.marks.save()
        work.marks = kept


class SavesOnlyOnce(StreamOffsets):
    def save(self) -> None:
        self._marks = dict(list(self._marks.items())[:1])
        super().save()


TWO: Spoken = [
    ("d1", "e1", "telemetry", 1, 2, "good"), ("d2", "e1", "telemetry", 1, 2, "good"),
    ("d1", "e1", "telemetry", 6, 1, "birth"), ("d1", "e1", "telemetry", 6, 1, "good"),
]  # fmt: skip


@pytest.mark.parametrize("broken", [ForgetsTheRest, ReadsTheTable])
def test_the_comparison_catches_seeded_bugs(db: Database, broken: type[Writer]) -> None:
    same(db, TWO, Writer(db.hub_epoch, 32768))
    with pytest.raises((AssertionError, IntegrityError)):
        same(db, TWO, broken(db.hub_epoch, 32768))


def test_the_comparison_catches_marks_that_are_not_saved(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_hub.ingest.writer.StreamOffsets", SavesOnlyOnce)
    with pytest.raises(AssertionError):
        same(db, TWO, Writer(db.hub_epoch, 32768))


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


# -- births together -------------------------------------------------------------------------------


BIRTHS = st.lists(
    st.builds(
        Birth, device=st.sampled_from(["a", "b", "c"]), session=st.sampled_from(["s1", "s2"]),
        epoch=st.sampled_from(["e1", "e2"]), state=st.sampled_from(["online", "online", "offline"]),
        acked=st.dictionaries(st.sampled_from(["telemetry", "alarm"]), st.integers(0, 5), max_size=2),
    ),
    max_size=8,
)  # fmt: skip


def _taken(db: Database, births: list[Birth], together: bool, name: str) -> tuple[list[Any], list[Any], list[Any]]:
    """Answers, devices and marks after `births`; devices are told apart by `name`, so that one database serves both."""
    mine = [replace(one, device=f"{name}-{one.device}") for one in births]
    writer, results = Writer(db.hub_epoch, 32768), WriteResults()
    with db.write() as session:
        for some in [mine] if together else [[one] for one in mine]:
            said = [(DeviceMessage(device=birth.device, message=birth), "") for birth in some]
            writer.write(session, said, NOW, results)
    words = [decode(SessionWord, message.payload) for message in results.messages]
    with db.read() as session:
        rows = session.exec(select(Device).where(col(Device.id).startswith(f"{name}-")).order_by(Device.id))
        devices = [(row.id.removeprefix(name), row.state, row.session, row.epoch, row.conflict) for row in rows]
        query = select(HighWater).where(col(HighWater.device).startswith(f"{name}-"))
        marks = sorted((m.device.removeprefix(name), m.epoch, m.stream, m.upto) for m in session.exec(query))
    return words, [(*one[:4], bool(one[4])) for one in devices], marks


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(births=BIRTHS, seeded=st.uuids())
def test_births_together_are_births_one_by_one(db: Database, births: list[Birth], seeded: Any) -> None:
    one, other = f"o{seeded.hex[:12]}", f"t{seeded.hex[:12]}"
    words, devices, marks = _taken(db, births, together=False, name=one)
    assert _taken(db, births, together=True, name=other)[1:] == (devices, marks)
    together = _taken(db, births, together=True, name=f"u{seeded.hex[:12]}")[0]
    strip = [(word.session, word.epoch, word.upto, bool(word.refused)) for word in words]
    assert [(word.session, word.epoch, word.upto, bool(word.refused)) for word in together] == strip


def test_the_property_of_births_catches_a_seeded_bug(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    load = StreamOffsets.load

    def forgetful(self: StreamOffsets, keys: Any) -> None:
        """Reads the marks once for each, and takes the one that was raised meanwhile back to what the table says."""
        self._loaded.clear()
        load(self, keys)

    monkeypatch.setattr(StreamOffsets, "load", forgetful)
    births = [Birth(device="a", session="s", epoch="e", acked={"alarm": upto}) for upto in (5, 0)]
    words, _, marks = _taken(db, births, together=False, name="o")
    together, _, other = _taken(db, births, together=True, name="t")
    assert ([word.upto for word in together], other) != ([word.upto for word in words], marks)


# -- twin requests together ------------------------------------------------------------------------


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.sampled_from(["", "gates"]), st.sampled_from(["update", "update", "get", "delete"]),
        st.dictionaries(st.sampled_from("xy"), st.one_of(st.none(), st.integers(0, 2)), max_size=2),
        st.sampled_from(["desired", "reported"]), st.one_of(st.none(), st.integers(1, 3)),
    ),
    max_size=8,
)  # fmt: skip


_FRESH = itertools.count()


def _asked(db: Database, requests: list[Any], together: bool) -> tuple[list[Any], list[Any], list[Any]]:
    """Replies, documents and history after `requests`, of devices that one database has not seen before."""
    prefix = f"fresh{next(_FRESH):06}"
    said: list[IngestMessage] = []
    for device, name, verb, patch, section, version in requests:
        body = {"state": {section: patch}} | ({"version": version} if version else {})
        payload = encode(body) if verb == "update" else b"{}"
        said.append(ShadowRequest(device=f"{prefix}-{device}", name=name, verb=verb, payload=payload))
    writer, results = Writer(db.hub_epoch, 32768), WriteResults()
    with db.write() as session:
        session.add_all([Device(id=f"{prefix}-{device}") for device in "ab"])
        session.flush()
        for some in [said] if together else [[one] for one in said]:
            writer.write(session, [(one, "") for one in some], NOW, results)
    replies = [(one.topic.replace(prefix, ""), one.payload.replace(prefix.encode(), b"")) for one in results.messages]
    with db.read() as session:
        mine = session.exec(select(TwinRow).where(col(TwinRow.device).startswith(f"{prefix}-")))
        rows = sorted((row.device[len(prefix) :], row.name, row.version, row.deleted, row.state) for row in mine)
        past = session.exec(select(TwinChange).where(col(TwinChange.device).startswith(f"{prefix}-")))
        changes = sorted((one.device[len(prefix) :], one.name, one.version, one.verb, str(one.state)) for one in past)
    return replies, rows, changes


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(requests=REQUESTS)
def test_twin_requests_together_are_twin_requests_one_by_one(db: Database, requests: list[Any]) -> None:
    assert _asked(db, requests, together=True) == _asked(db, requests, together=False)


def test_the_property_of_twin_requests_catches_a_seeded_bug(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    get = TwinRows.get

    def forgetful(self: TwinRows, device: str, name: str) -> Any:
        """Reads the row anew, which does not hold yet what the transaction has changed."""
        self._documents.clear()
        return get(self, device, name)

    monkeypatch.setattr(TwinRows, "get", forgetful)
    requests = [("a", "", "update", {"x": number}, "reported", None) for number in range(2)]
    with pytest.raises((AssertionError, IntegrityError)):
        assert _asked(db, requests, together=True) == _asked(db, requests, together=False)


def questions(db: Database, count: int) -> int:
    """Statements for one batch of births of `count` devices, known and all on their old epochs."""
    said = [
        (DeviceMessage(device=f"q{n}", message=Birth(device=f"q{n}", session="s", epoch="e")), "") for n in range(count)
    ]
    counted: list[str] = []
    for _ in range(2):
        counted.clear()
        with db.write() as session:
            listen = partial(_counting, counted)
            event.listen(session.connection().engine, "before_cursor_execute", listen)
            Writer(db.hub_epoch, 32768).write(session, said, NOW, WriteResults())
            event.remove(session.connection().engine, "before_cursor_execute", listen)
    return len(counted)


def _counting(counted: list[str], _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    counted.append(statement)


def test_a_fleet_that_returns_asks_the_database_as_often_as_a_few_devices(db: Database) -> None:
    few = questions(db, 3)
    assert few > 2
    assert questions(db, 60) == few
