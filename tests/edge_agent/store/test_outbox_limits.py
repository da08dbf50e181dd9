"""The outbox when it is full or its rows are too old."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from simulators.outbox_world import KEEP, ROOMY, TIGHT, event, lot, texts, waiting

from edge_agent.store.outbox import ROW_BYTES, Outbox, OutboxFull, RowBatch, status
from shared.codec import MAX_PAYLOAD
from shared.durations import MINUTE_US
from shared.messages import STREAMS, Stream


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
