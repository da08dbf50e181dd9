"""The outbox under any order of events: all that was accepted arrives or is reported as lost."""

from __future__ import annotations

import sqlite3
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from simulators.outbox_world import KEEP, TIGHT, batch, event, lot

from edge_agent.store import outbox as module
from edge_agent.store.outbox import Outbox, OutboxFull, Row, RowBatch
from shared.codec import decode, encode
from shared.durations import MINUTE_US
from shared.messages import STREAMS, Alarm, Batch, Stream

FIXED = settings(max_examples=120, deadline=None, derandomize=True, database=None)


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
