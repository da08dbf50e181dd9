"""In any order and any overlap, one by one or together: each item is stored once. Seeded bugs are caught."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulators.ingest_batches import ALARM, acked, data, samples, stored, write
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import (
    AlarmRow,
    EventRow,
    HighWater,
    LostRange,
    TelemetrySample,
)
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.ingest.core.router import DataBatch, IngestMessage, route
from cloud_hub.ingest.writer import Writer
from shared.protocol import topics
from shared.protocol.codec import encode
from shared.protocol.messages import Batch, Birth, Lost, Stream


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
