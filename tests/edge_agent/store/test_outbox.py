"""The outbox: rows come out as they went in, once, over restarts."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from simulators.outbox_world import ROOMY, TIGHT, batch, event, lot, texts, waiting

from edge_agent.store.outbox import Outbox, RowBatch, status
from shared.errors import NotReady


def spoil(path: Path, statement: str, *arguments: Any) -> None:
    db = sqlite3.connect(path)
    with db:
        assert db.execute(statement, arguments).rowcount == 1
    db.close()


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


@pytest.mark.parametrize("made", ["", "CREATE TABLE meta (epoch); CREATE TABLE streams (x); CREATE TABLE lost (x)"])
def test_the_status_of_a_file_that_is_being_made_is_not_ready(tmp_path: Path, made: str) -> None:
    db = sqlite3.connect(tmp_path / "outbox.sqlite")
    db.executescript(made)
    db.close()
    with pytest.raises(NotReady, match="being made"):
        status(tmp_path / "outbox.sqlite")
