"""The outbox on a real SQLite file: what it promises one by one, and as a property that catches seeded bugs (O1-O6, O8;
O7 and O9 are the link's: test_session.py)."""

from __future__ import annotations

import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edge_agent.store import outbox as module
from edge_agent.store.outbox import ROW_BYTES, Outbox, OutboxFull, Row, RowBatch, status
from edge_agent.store.statestore import schema_mark
from shared.codec import MAX_PAYLOAD, decode, encode
from shared.errors import ConfigError
from shared.messages import STREAMS, Alarm, Batch, Event, Stream
from shared.times import MINUTE_US

FIXED = settings(max_examples=120, deadline=None, derandomize=True, database=None)
ROOMY = 4_000_000
TIGHT = 20_000
"""Room for about ten rows of 1,000 characters."""


def event(text: str = "hello") -> Event:
    return Event(t_us=1, source="test", text=text)


def lot(stream: Stream, *texts: str) -> RowBatch:
    return RowBatch(stream=stream, items=[event(text) for text in texts])


def batch(row: Row | None) -> Batch:
    assert row is not None
    return decode(Batch, row.payload)


def texts(row: Row | None) -> list[str]:
    return [item["text"] for item in batch(row).items]


def waiting(outbox: Outbox, stream: Stream) -> Iterator[Batch]:
    """Everything that would be sent, in order."""
    seq = outbox.acked[stream]
    while (row := outbox.after(stream, seq)) is not None:
        yield batch(row)
        seq = row.last


def spoil(path: Path, statement: str, *arguments: Any) -> None:
    db = sqlite3.connect(path)
    with db:
        assert db.execute(statement, arguments).rowcount == 1
    db.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.sqlite"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    opened = Outbox(path, ROOMY, "e1")
    yield opened
    opened.close()


# -- one by one ----------------------------------------------------------------------------------------


def test_rows_come_out_as_they_went_in_until_the_hub_has_them(outbox: Outbox) -> None:
    outbox.accept([lot("event", "a", "b"), RowBatch(stream="alarm", items=[event("c")], trace="t")], "holdover")
    outbox.accept([lot("event", "d")], "synced")
    first = outbox.after("event", 0)
    assert texts(first) == ["a", "b"]
    assert (batch(first).epoch, batch(first).first, batch(first).last, batch(first).clock) == ("e1", 1, 2, "holdover")
    assert outbox.after("event", 0) == first
    assert texts(outbox.after("event", 2)) == ["d"]
    assert outbox.after("event", 3) is None
    alarm = outbox.after("alarm", 0)
    assert (texts(alarm), alarm and alarm.trace) == (["c"], "t")
    assert outbox.waiting() == 4
    outbox.forget("event", 2)
    assert texts(outbox.after("event", 0)) == ["d"]
    assert (outbox.waiting(), outbox.acked["event"], outbox.last["event"]) == (2, 2, 3)
    outbox.forget("event", 3)
    outbox.forget("event", 1)
    assert (outbox.after("event", 0), outbox.acked["event"], outbox.waiting()) == (None, 3, 1)


def test_a_row_that_the_hub_holds_in_part_is_sent_again_whole(outbox: Outbox) -> None:
    outbox.accept([lot("event", "a", "b", "c")], "synced")
    outbox.forget("event", 2)
    assert texts(outbox.after("event", 2)) == ["a", "b", "c"]


def test_a_restart_changes_nothing(outbox: Outbox, path: Path) -> None:
    outbox.accept([lot("telemetry", "a"), lot("event", "b")], "synced")
    outbox.accept([lot("telemetry", "c")], "synced")
    outbox.forget("telemetry", 1)
    before = (outbox.epoch, outbox.bytes, outbox.last, outbox.acked, outbox.after("telemetry", 1))
    outbox.close()
    again = Outbox(path, ROOMY, "e2")
    assert (again.epoch, again.bytes, again.last, again.acked, again.after("telemetry", 1)) == before
    again.accept([lot("telemetry", "d")], "synced")
    assert [b.first for b in waiting(again, "telemetry")] == [2, 3]
    again.close()


def test_numbers_go_on_after_everything_was_acknowledged_and_the_agent_restarted(outbox: Outbox, path: Path) -> None:
    outbox.accept([lot("event", "a", "b")], "synced")
    outbox.forget("event", 2)
    outbox.close()
    again = Outbox(path, ROOMY, "e2")
    again.accept([lot("event", "c")], "synced")
    assert batch(again.after("event", 2)).first == 3
    again.close()


def test_what_was_accepted_is_on_disk_when_accept_returns(outbox: Outbox, path: Path) -> None:
    outbox.accept([lot("alarm", "a")], "synced")
    assert status(path)["streams"]["alarm"] == {"accepted": 1, "at_hub": 0}
    (mode,) = outbox._db.execute("PRAGMA synchronous").fetchone()
    assert mode == 2, "FULL"


def test_a_damaged_row_is_told_as_lost(outbox: Outbox, path: Path) -> None:
    for text in "abc":
        outbox.accept([lot("event", text)], "synced")
    (payload,) = outbox._db.execute("SELECT payload FROM rows WHERE first=2").fetchone()
    spoilt = payload.replace(b'"b"', b'"x"')
    assert spoilt != payload
    spoil(path, "UPDATE rows SET payload=? WHERE stream='event' AND first=2", spoilt)
    told = list(waiting(outbox, "event"))
    assert [(b.first, b.last, b.lost.reason if b.lost else "") for b in told] == [
        (1, 1, ""), (2, 2, "damaged"), (3, 3, ""),
    ]  # fmt: skip
    assert outbox.bytes == sum(len(outbox.after("event", seq).payload) for seq in (0, 2))  # type: ignore[union-attr]
    assert status(path)["lost"] == [("event", 2, 2, "damaged")]


def test_another_epoch_numbers_all_that_is_stored_anew_and_in_order(outbox: Outbox, path: Path) -> None:
    for text in "abcdef":
        outbox.accept([lot("event", text, text.upper()), lot("alarm", text)], "synced")
    outbox.forget("event", 4)
    spoil(path, "UPDATE rows SET payload=x'00' WHERE stream='event' AND first=7")
    outbox.renew("e2")
    told = [(b.epoch, b.first, b.last, [i["text"] for i in b.items]) for b in waiting(outbox, "event")]
    assert told == [("e2", 1, 2, ["c", "C"]), ("e2", 3, 4, []), ("e2", 5, 6, ["e", "E"]), ("e2", 7, 8, ["f", "F"])]
    assert [b.items[0]["text"] for b in waiting(outbox, "alarm")] == list("abcdef")
    assert status(path) == {
        "epoch": "e2", "lost": [("event", 3, 4, "damaged")],
        "streams": {s: {"accepted": n, "at_hub": 0} for s, n in sorted({**outbox.last}.items())},
    }  # fmt: skip
    assert outbox.last == {"alarm": 6, "escalation": 0, "event": 8, "telemetry": 0}
    outbox.accept([lot("event", "g")], "synced")
    assert batch(outbox.after("event", 8)).first == 9
    assert outbox.bytes == sum(len(row[0]) for row in outbox._db.execute("SELECT payload FROM rows"))


def test_another_epoch_keeps_what_was_evicted_as_a_range(path: Path) -> None:
    outbox = Outbox(path, TIGHT, "e1")
    for number in range(40):
        outbox.accept([lot("telemetry", f"{number}" + "x" * 1000)], "synced")
    before = [(b.last - b.first + 1, b.lost is not None) for b in waiting(outbox, "telemetry")]
    outbox.renew("e2")
    after = list(waiting(outbox, "telemetry"))
    assert before == [(b.last - b.first + 1, b.lost is not None) for b in after]
    assert before[0][1], "something was evicted"
    assert [b.first for b in after][1:] == [b.last + 1 for b in after][:-1]
    outbox.close()


def test_a_crash_while_a_damaged_row_is_given_up_leaves_no_gap(outbox: Outbox, path: Path) -> None:
    outbox.accept([lot("event", "a")], "synced")
    outbox.accept([lot("event", "b")], "synced")
    spoil(path, "UPDATE rows SET crc=crc+1 WHERE first=1")
    outbox._db.execute("CREATE TRIGGER crash BEFORE INSERT ON lost BEGIN SELECT RAISE(ABORT, 'power cut'); END")
    with pytest.raises(sqlite3.Error, match="power cut"):
        outbox.after("event", 0)
    outbox._db.execute("DROP TRIGGER crash")
    assert [b.first for b in waiting(outbox, "event")] == [1, 2]


def test_a_failed_forget_leaves_the_store_usable(outbox: Outbox) -> None:
    outbox.accept([lot("event", "a")], "synced")
    size = outbox.bytes
    outbox._db.execute("CREATE TRIGGER fails BEFORE UPDATE ON streams BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(sqlite3.Error, match="no"):
        outbox.forget("event", 1)
    assert (outbox.bytes, outbox.acked["event"]) == (size, 0)
    outbox._db.execute("DROP TRIGGER fails")
    outbox.accept([lot("event", "b")], "synced")
    assert [b.first for b in waiting(outbox, "event")] == [1, 2]


# -- when it is full -----------------------------------------------------------------------------------


def test_a_full_store_gives_up_telemetry_then_events_then_escalations(path: Path) -> None:
    outbox = Outbox(path, TIGHT, "e1")
    for stream in STREAMS:
        for _ in range(3):
            outbox.accept([lot(stream, "x" * 1000)], "synced")
    gone: list[Stream] = []
    before = status(path)["lost"]
    for _ in range(10):
        outbox.accept([lot("alarm", "y" * 1000)], "synced")
        after = status(path)["lost"]
        if after != before:
            gone.extend(row[0] for row in after if row not in before)
        before = after
    order = list(dict.fromkeys(gone))
    assert order == ["telemetry", "event", "escalation"]
    assert {row[0] for row in before} == set(order), "an alarm was given up"
    assert [(b.first, b.last) for b in waiting(outbox, "telemetry")] == [(1, 3)], "joined ranges, in their place"
    assert [b.first for b in waiting(outbox, "alarm")] == list(range(1, 14))
    outbox.close()


def test_a_store_full_of_alarms_refuses_and_changes_nothing(path: Path) -> None:
    outbox = Outbox(path, TIGHT, "e1")
    for _ in range(12):
        outbox.accept([lot("alarm", "x" * 1000)], "synced")
    with pytest.raises(OutboxFull, match="alarms only"):
        outbox.accept([lot("alarm", "x" * 3000)], "synced")
    outbox.forget("alarm", 1)
    outbox.accept([lot("event", "small")], "synced")
    before = (dict(outbox.last), outbox.bytes, [b.first for b in waiting(outbox, "alarm")], outbox.after("event", 0))
    with pytest.raises(OutboxFull, match="nothing was stored"):
        outbox.accept([lot("event", "z"), lot("alarm", "x" * 3000)], "synced")
    after = (dict(outbox.last), outbox.bytes, [b.first for b in waiting(outbox, "alarm")], outbox.after("event", 0))
    assert after == before
    assert not status(path)["lost"], "the eviction was undone too"
    outbox.forget("alarm", outbox.last["alarm"])
    outbox.accept([lot("alarm", "x" * 3000)], "synced")
    outbox.close()


@pytest.mark.parametrize("length", [20, 1000, 5000, 30_000])
def test_the_file_keeps_its_bound_and_telemetry_always_finds_room(path: Path, length: int) -> None:
    bound = 1_000_000
    outbox = Outbox(path, bound, "e1")
    rows = min(2000, 3 * bound // (length + 200))
    with outbox._db:  # one commit for all: only the sizes matter here
        outbox._db.execute("PRAGMA synchronous=OFF")
    for _ in range(rows):
        outbox.accept([lot("event", "x" * length)], "synced")
    outbox.accept([RowBatch(stream="alarm", items=[event("fire")])], "synced")
    assert outbox.bytes <= bound
    outbox._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size <= bound
    assert texts(outbox.after("alarm", 0)) == ["fire"]
    outbox.close()


def test_a_smaller_bound_is_kept_from_the_next_commit_on(path: Path) -> None:
    outbox = Outbox(path, ROOMY, "e1")
    for _ in range(30):
        outbox.accept([lot("telemetry", "x" * 1000)], "synced")
    outbox.close()
    smaller = Outbox(path, TIGHT, "e2")
    smaller.accept([lot("event", "y")], "synced")
    assert smaller.bytes <= TIGHT
    told = list(waiting(smaller, "telemetry"))
    assert told[0].lost is not None
    assert told[-1].last == 30
    smaller.close()


def test_large_items_are_spread_over_rows_that_a_hub_can_take(outbox: Outbox) -> None:
    outbox.accept([RowBatch(stream="event", items=[event("\x01" * 2000) for _ in range(300)])], "synced")
    rows = list(waiting(outbox, "event"))
    sizes = [len(outbox.after("event", b.first - 1).payload) for b in rows]  # type: ignore[union-attr]
    assert max(sizes) <= ROW_BYTES < MAX_PAYLOAD
    assert [n for b in rows for n in range(b.first, b.last + 1)] == list(range(1, 301))


# -- too old -------------------------------------------------------------------------------------------

KEEP: dict[Stream, float] = {"telemetry": 60.0}


def test_what_is_older_than_its_stream_may_be_is_told_as_expired(path: Path) -> None:
    outbox = Outbox(path, ROOMY, "e1", keep_s=KEEP)
    outbox.accept([lot("telemetry", "old"), lot("event", "kept")], "synced", 1000)
    outbox.accept([lot("telemetry", "young")], "synced", 2000)
    assert outbox.expire(1000 + MINUTE_US - 1) == 0
    assert outbox.expire(1000 + MINUTE_US) == 1
    told = list(waiting(outbox, "telemetry"))
    assert [(b.first, b.last, b.lost.reason if b.lost else "") for b in told] == [(1, 1, "expired"), (2, 2, "")]
    assert texts(outbox.after("event", 0)) == ["kept"], "a stream without a limit is kept for ever"
    assert outbox.bytes == sum(len(row[0]) for row in outbox._db.execute("SELECT payload FROM rows"))
    outbox.close()


def test_what_came_while_the_clock_was_not_set_never_expires(path: Path) -> None:
    outbox = Outbox(path, ROOMY, "e1", keep_s=KEEP)
    outbox.accept([lot("telemetry", "in 1970")], "unsynced", 5)
    assert outbox.expire(1_800_000_000_000_000) == 0
    assert texts(outbox.after("telemetry", 0)) == ["in 1970"]
    outbox.close()


def test_a_crash_while_rows_expire_leaves_all_of_them(path: Path) -> None:
    outbox = Outbox(path, ROOMY, "e1", keep_s=KEEP)
    for text in "ab":
        outbox.accept([lot("telemetry", text)], "synced", 1000)
    outbox._db.execute("CREATE TRIGGER crash BEFORE UPDATE ON lost BEGIN SELECT RAISE(ABORT, 'power cut'); END")
    with pytest.raises(sqlite3.Error, match="power cut"):
        outbox.expire(1000 + MINUTE_US)
    outbox._db.execute("DROP TRIGGER crash")
    assert [texts(outbox.after("telemetry", seq)) for seq in (0, 1)] == [["a"], ["b"]]
    assert outbox.bytes == sum(len(row[0]) for row in outbox._db.execute("SELECT payload FROM rows"))
    outbox.close()


def test_a_store_of_the_schema_before_is_taken_over(path: Path) -> None:
    outbox = Outbox(path, ROOMY, "e1")
    outbox.accept([lot("event", "a")], "synced")
    outbox.close()
    db = sqlite3.connect(path)
    db.executescript("DROP INDEX rows_by_expiry; ALTER TABLE rows DROP COLUMN expires_us; PRAGMA user_version=1")
    db.close()
    again = Outbox(path, ROOMY, "e2", keep_s=KEEP)
    assert (again.epoch, texts(again.after("event", 0))) == ("e1", ["a"])
    again.accept([lot("telemetry", "b")], "synced", 1000)
    assert again.expire(1000 + MINUTE_US) == 1
    again.close()


# -- broken files --------------------------------------------------------------------------------------


def rubbish(path: Path) -> None:
    path.write_bytes(b"this is no database at all " * 500)


def broken_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * 6)
        file.write(b"\xff" * 4096)


@pytest.mark.parametrize("harm", [rubbish, broken_page])
def test_a_corrupted_file_is_moved_aside_and_a_new_epoch_begins(
    path: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(path, ROOMY, "e1")
    for _ in range(50):
        outbox.accept([lot("event", "x" * 3000)], "synced")
    outbox.close()
    harm(path)
    again = Outbox(path, ROOMY, "e2")
    assert again.epoch == "e2"
    assert again.waiting() == 0
    again.accept([lot("event", "new")], "synced")
    assert (batch(again.after("event", 0)).epoch, batch(again.after("event", 0)).first) == ("e2", 1)
    again.close()
    assert Path(f"{path}.damaged").exists()
    assert "store.damaged" in [record.message for record in caplog.records]


def test_a_newer_schema_is_refused_and_left_as_it_is(path: Path) -> None:
    Outbox(path, ROOMY, "e1").close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={module.SCHEMA_VERSION + 1}")
    db.execute(f"PRAGMA application_id={schema_mark(path, module.SCHEMA_VERSION + 1)}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="newer agent") as caught:
        Outbox(path, ROOMY, "e2")
    assert caught.value.cure
    assert path.read_bytes() == before
    assert not Path(f"{path}.damaged").exists()


def test_a_place_that_cannot_hold_a_file_is_told_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        Outbox(tmp_path / "not-there" / "outbox.sqlite", ROOMY, "e1")


# -- the property --------------------------------------------------------------------------------------

Step = tuple[str, Stream, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.sampled_from(STREAMS), st.integers(1, 3)),
        st.tuples(st.just("accept"), st.sampled_from(STREAMS), st.integers(1, 3)),
        st.tuples(st.just("accept"), st.just("telemetry"), st.integers(1, 3)),
        st.tuples(st.just("accept"), st.just("alarm"), st.just(15)),  # most of the room
        st.tuples(st.just("send"), st.sampled_from(STREAMS), st.integers(1, 4)),
        st.tuples(st.just("reopen"), st.just("alarm"), st.just(0)),
        st.tuples(st.just("wait"), st.just("alarm"), st.sampled_from([20, 70])),  # seconds
    ),
    min_size=8,
    max_size=30,
)


class Checker:
    """Plays the hub and remembers what was accepted; asserts what must hold of any outbox."""

    def __init__(self, folder: Path, kind: type[Outbox]) -> None:
        self.path, self.kind, self.made = folder / "o.sqlite", kind, 0
        self.now_us = MINUTE_US
        self.outbox = kind(self.path, TIGHT, "e1", keep_s=KEEP)
        self.times: dict[str, int] = {}
        self.accepted: dict[Stream, list[str]] = {stream: [] for stream in STREAMS}
        self.queued: dict[Stream, list[str | None]] = {stream: [] for stream in STREAMS}

    def accept(self, stream: Stream, count: int) -> None:
        names = []
        for _ in range(count):
            self.made += 1
            names.append(f"{self.made} {'x' * 700}")
        before = self.seen()
        try:
            self.outbox.accept([lot(stream, *names)], "synced", self.now_us)
        except OutboxFull:
            assert self.seen() == before, "a refusal changed something"
            items = [event(name) for name in names]
            size = len(encode(Batch(epoch="e1", first=len(self.accepted[stream]) + 1, items=items)))
            alarms = sum(len(row[3]) for row in before[3] if row[0] == "alarm")
            assert alarms + size > TIGHT * module.PAYLOAD_SHARE, "refused while others could be given up (O5)"
            return
        self.accepted[stream] += names
        self.times |= dict.fromkeys(names, self.now_us)
        assert self.outbox.last[stream] == len(self.accepted[stream]), "numbers have a gap or come twice (O3)"

    def send(self, stream: Stream, rows: int) -> None:
        """The hub takes up to `rows` rows, commits and acknowledges."""
        held = self.queued[stream]
        for _ in range(rows):
            row = self.outbox.after(stream, len(held))
            assert row == self.outbox.after(stream, len(held)), "reading changed something"
            if row is None:
                assert len(held) == len(self.accepted[stream]), "something accepted is nowhere (O1)"
                break
            got = batch(row)
            assert got.epoch == "e1"
            assert got.first <= len(held) + 1 <= got.last == row.last, "a gap or an old row (O3)"
            assert stream != "alarm" or got.lost is None, "an alarm was given up (O5)"
            items = [None] * (got.last - got.first + 1) if got.lost else [item["text"] for item in got.items]
            held += items[len(held) + 1 - got.first :]
        # A crash before the acknowledgement: the same set must be there (O6).
        self.reopen("alarm", 0)
        if held:
            self.outbox.forget(stream, len(held))

    def wait(self, _stream: Stream, seconds: int) -> None:
        """Time passes; the outbox gives up what is too old, and nothing else (O8)."""
        self.now_us += seconds * 1_000_000
        rows = {row[:2]: row for row in self.seen()[3]}
        self.outbox.expire(self.now_us)
        for row in rows.keys() - {row[:2] for row in self.seen()[3]}:
            oldest = self.times[decode(Batch, rows[row][3]).items[0]["text"]]
            assert row[0] == "telemetry", "a stream without a limit expired (O8)"
            assert self.now_us - oldest >= MINUTE_US, "something young expired (O8)"
        for _, _, _, payload in (row for row in self.seen()[3] if row[0] == "telemetry"):
            oldest = self.times[decode(Batch, payload).items[0]["text"]]
            assert self.now_us - oldest < MINUTE_US, "something old was kept (O8)"

    def reopen(self, _stream: Stream, _count: int) -> None:
        before = self.seen()
        self.outbox.close()
        self.outbox = self.kind(self.path, TIGHT, "e2", keep_s=KEEP)
        assert self.seen() == before, "a restart changed something (O6)"

    def seen(self) -> Any:
        out = self.outbox
        rows = out._db.execute("SELECT stream, first, last, payload FROM rows ORDER BY stream, first").fetchall()
        lost = out._db.execute("SELECT * FROM lost ORDER BY stream, first").fetchall()
        assert out.bytes == sum(len(row[3]) for row in rows), "the count of bytes is wrong"
        assert out.bytes <= TIGHT, "more than the bound (O2)"
        return out.epoch, dict(out.last), dict(out.acked), rows, lost

    def finish(self) -> None:
        for stream in STREAMS:
            while len(self.queued[stream]) < len(self.accepted[stream]):
                self.send(stream, 5)
            wrong = [
                number
                for number, (got, want) in enumerate(zip(self.queued[stream], self.accepted[stream], strict=True), 1)
                if got not in {None, want}
            ]
            assert not wrong, f"{stream} {wrong} arrived as something else"
        assert self.outbox.waiting() == 0


def check_outbox(kind: type[Outbox], steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checker = Checker(Path(folder), kind)
        try:
            for name, stream, count in steps:
                getattr(checker, name)(stream, count)
                checker.seen()
            checker.finish()
        finally:
            checker.outbox.close()


@FIXED
@given(STEPS)
def test_all_that_was_accepted_is_at_the_hub_or_told_as_lost(steps: list[Step]) -> None:
    check_outbox(Outbox, steps)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@settings(FIXED, max_examples=10_000)
@given(STEPS)
def test_all_that_was_accepted_is_at_the_hub_or_told_as_lost_in_many_runs(steps: list[Step]) -> None:
    check_outbox(Outbox, steps)


# -- seeded bugs ---------------------------------------------------------------------------------------


class LosesSilently(Outbox):
    def _lose(self, stream: Stream, first: int, last: int, reason: str) -> None:
        self._db.execute("DELETE FROM rows WHERE stream=? AND first=?", (stream, first))


class UsesNumbersAgain(Outbox):
    def __init__(self, path: Path, max_bytes: int, new_epoch: str, disk: Any = None, keep_s: Any = None) -> None:
        super().__init__(path, max_bytes, new_epoch, disk, keep_s)
        found = dict(self._db.execute("SELECT stream, max(last) FROM rows GROUP BY stream").fetchall())
        self.last = {stream: found.get(stream, 0) for stream in STREAMS}


class DeletesWhatItReads(Outbox):
    def after(self, stream: Stream, seq: int) -> Row | None:
        row = super().after(stream, seq)
        if row is not None:
            self._db.execute("DELETE FROM rows WHERE stream=? AND last=?", (stream, row.last))
        return row


class GivesUpAlarms(Outbox):
    def _make_room(self, size: int) -> None:
        while self.bytes + size > self._cap:
            victim = next(filter(None, map(self._oldest, STREAMS)))
            self._lose(victim[0], victim[1], victim[2], "evicted")
            self.bytes -= victim[3]


class GivesUpNewest(Outbox):
    def _oldest(self, stream: Stream) -> tuple[Stream, int, int, int] | None:
        query = "SELECT stream, first, last, length(payload) FROM rows WHERE stream=? ORDER BY first DESC LIMIT 1"
        found: tuple[Stream, int, int, int] | None = self._db.execute(query, (stream,)).fetchone()
        if found is not None:
            self.last[stream] = found[1] - 1
        return found


class ForgetsTooMuch(Outbox):
    def forget(self, stream: Stream, upto: int) -> None:
        super().forget(stream, upto + 1)


class NoBound(Outbox):
    def _make_room(self, size: int) -> None:
        pass


class KeepsHalf(Outbox):
    """Stores what it took although it says that it refused."""

    def accept(self, lots: Any, clock: Any, now_us: int = 0) -> None:
        try:
            super().accept(lots, clock, now_us)
        except OutboxFull:
            self.last[lots[0].stream] += 1
            raise


class ExpiresSilently(Outbox):
    def expire(self, now_us: int) -> int:
        where = "expires_us BETWEEN 1 AND ?"
        (size,) = self._db.execute(f"SELECT total(length(payload)) FROM rows WHERE {where}", (now_us,)).fetchone()
        self.bytes -= int(size)
        return self._db.execute(f"DELETE FROM rows WHERE {where}", (now_us,)).rowcount


class ExpiresTooEarly(Outbox):
    def expire(self, now_us: int) -> int:
        return super().expire(now_us + MINUTE_US // 2)


class NeverExpires(Outbox):
    def expire(self, now_us: int) -> int:
        return 0


@pytest.mark.parametrize(
    "bug",
    [
        ExpiresSilently, ExpiresTooEarly, NeverExpires,
        LosesSilently, UsesNumbersAgain, DeletesWhatItReads, GivesUpAlarms, GivesUpNewest, ForgetsTooMuch, NoBound,
        KeepsHalf,
    ],
)  # fmt: skip
def test_the_checker_catches_a_seeded_bug(bug: type[Outbox]) -> None:
    @settings(FIXED, max_examples=300, phases=[Phase.generate], report_multiple_bugs=False)
    @given(STEPS)
    def run(steps: list[Step]) -> None:
        check_outbox(bug, steps)

    with pytest.raises((AssertionError, sqlite3.IntegrityError)):
        run()


def test_an_alarm_round_trips_as_it_is(outbox: Outbox) -> None:
    alarm = Alarm(id="a", metric="cpu.load", kind="high", state="raised", priority="high", t_us=1, value=1.0, limit=0.5)
    outbox.accept([RowBatch(stream="alarm", items=[alarm])], "synced")
    assert batch(outbox.after("alarm", 0)).items[0]["metric"] == "cpu.load"


# -- what a step costs ---------------------------------------------------------------------------------


def instructions(outbox: Outbox, task: Callable[[], object]) -> int:
    """Instructions of SQLite's virtual machine that `task` takes, in hundreds."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    outbox._db.set_progress_handler(tick, 100)
    task()
    outbox._db.set_progress_handler(None, 100)
    return count


def backlog(path: Path, rows: int) -> Outbox:
    """A store with so many telemetry rows, of which every other one expires, and as many lost ranges of events."""
    outbox = Outbox(path, 1_000_000_000, "e1", keep_s={"telemetry": 1000})
    payload = encode(Batch(epoch="e1", first=1, items=[event()]))
    stored = [("telemetry", n, n, payload, zlib.crc32(payload), "", n % 2 * 10**15) for n in range(1, rows + 1)]
    lost = [("event", n, n, ("evicted", "expired")[n % 2]) for n in range(1, rows + 1)]
    with outbox._transaction():
        outbox._db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)", stored)
        outbox._db.executemany("INSERT INTO lost VALUES (?, ?, ?, ?)", lost)
        outbox._db.execute("UPDATE streams SET next=? WHERE stream IN ('telemetry', 'event')", (rows + 1,))
    outbox.close()
    return Outbox(path, 1_000_000_000, "e2", keep_s={"telemetry": 1000})


def lose_one_event(outbox: Outbox) -> None:
    outbox._lose("event", outbox.last["event"] + 1, outbox.last["event"] + 1, "damaged")


MEASURED: dict[str, Callable[[Outbox, int], object]] = {
    "acknowledge a row": lambda outbox, _rows: outbox.forget("telemetry", 1),
    "acknowledge a lost range": lambda outbox, _rows: outbox.forget("event", 1),
    "read a row near the end": lambda outbox, rows: outbox.after("telemetry", rows - 2),
    "read a lost range near the end": lambda outbox, rows: outbox.after("event", rows - 2),
    "accept": lambda outbox, _rows: outbox.accept([lot("telemetry", "a"), lot("alarm", "b")], "synced", 1),
    "expire nothing": lambda outbox, _rows: outbox.expire(5),
    "evict a row": lambda outbox, _rows: outbox._lose("telemetry", 1, 1, "evicted"),
    "lose a range": lambda outbox, _rows: lose_one_event(outbox),
    "count": lambda outbox, _rows: outbox.waiting(),
}


@pytest.mark.parametrize("step", MEASURED)
def test_a_step_costs_no_more_over_a_long_backlog(tmp_path: Path, step: str) -> None:
    cost = {}
    for rows in (100, 5000):
        outbox = backlog(tmp_path / f"{rows}.sqlite", rows)
        cost[rows] = instructions(outbox, lambda outbox=outbox, rows=rows: MEASURED[step](outbox, rows))
        outbox.close()
    assert cost[5000] <= cost[100] + 2
