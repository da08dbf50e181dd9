"""Damaged stores: whatever became of the files, the agent opens, works on, tells, and never takes noise for data."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from simulators.disks import HARMS

from edge_agent.store import outbox as outbox_module
from edge_agent.store import statestore
from edge_agent.store.disk import Disk, found_damage
from edge_agent.store.outbox import Outbox, RowBatch, find_inconsistency
from edge_agent.store.statestore import StateStore
from shared.errors import WireError
from shared.protocol.codec import decode
from shared.protocol.messages import STREAMS, Batch, Event, Stream

SEEDS = 80
NIGHTLY = 20_000


def event(text: str) -> Event:
    return Event(t_us=1, source="test", text=text)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder as a killed agent leaves it: files and logs, half of it acknowledged, some of it evicted."""
    live = tmp_path_factory.mktemp("live")
    outbox = Outbox(live / "outbox.sqlite", 300_000, "e1")
    for number in range(160):
        stream = STREAMS[number % 4]
        items = [event(f"{stream} {outbox.last[stream] + 1 + k} " + "x" * (number % 5 * 300)) for k in range(3)]
        outbox.accept([RowBatch(stream=stream, items=items)], "synced")
    outbox._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for stream in STREAMS:
        outbox.forget(stream, 30)
    keep = StateStore(live / "kept.sqlite")
    for number in range(60):
        keep.put(f"twin:{number % 20}", {"version": number, "state": "y" * number * 20})
        if number == 50:
            keep._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    kept = tmp_path_factory.mktemp("image")
    for file in live.iterdir():
        shutil.copy(file, kept / file.name)
    outbox.close()
    keep.close()
    return kept


def harmed(image: Path, folder: Path, name: str, rng: random.Random) -> Disk:
    """A copy of the image in which something went wrong with one file of the store."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(image, folder)
    victim = folder / rng.choice([name, name, f"{name}-wal"])
    if rng.random() < 0.1:  # the log of another store
        other = "kept" if name.startswith("outbox") else "outbox"
        shutil.copy(image / f"{other}.sqlite-wal", folder / f"{name}-wal")
    elif rng.random() < 0.1:
        (folder / f"{name}-wal").unlink()
    else:
        rng.choice(HARMS)(victim, rng)
    return Disk(folder, reserve=0)


def drained(outbox: Outbox, stream: Stream) -> list[tuple[int, str]]:
    """(number, text or reason) of all that would be sent; each number just once, in order, without a gap."""
    seq, found, epoch = outbox.acked[stream], [], outbox.epoch
    while (row := outbox.after(stream, seq)) is not None:
        batch = decode(Batch, row.payload)
        assert batch.epoch == outbox.epoch
        assert batch.first <= seq + 1 <= row.last == batch.last, "a gap"
        if batch.lost:
            found += [(number, batch.lost.reason) for number in range(batch.first, row.last + 1)]
        else:
            texts = [item["text"].rstrip("x").rstrip() for item in batch.items]
            found += list(enumerate(texts, batch.first))
        seq = row.last
    if outbox.epoch != epoch:  # damage was met in the midst of it: what the new store holds counts
        return drained(outbox, stream)
    assert seq == outbox.last[stream]
    return found


def outbox_survives(image: Path, folder: Path, seed: int) -> str:
    """Open, send, accept, forget; returns what became of it."""
    rng = random.Random(seed)
    disk = harmed(image, folder, "outbox.sqlite", rng)
    outbox = Outbox(folder / "outbox.sqlite", 300_000, "new", disk)
    try:
        for stream in STREAMS:
            for number, text in drained(outbox, stream):
                assert text in {f"{stream} {number}", "evicted", "damaged"}, "noise was taken for data"
        before = outbox.epoch
        outbox.accept([RowBatch(stream="alarm", items=[event("fire")])], "synced")
        assert drained(outbox, "alarm")[-1][1] == "fire"
        for stream in STREAMS:
            outbox.forget(stream, outbox.last[stream])
        assert outbox.waiting() == 0
        if outbox.epoch != "e1":
            assert disk.damaged or before == "new", "given up without a word"
        return "anew" if outbox.epoch != "e1" else "kept"
    finally:
        outbox.close()


def keep_survives(image: Path, folder: Path, seed: int) -> str:
    rng = random.Random(seed)
    disk = harmed(image, folder, "kept.sqlite", rng)
    keep = StateStore(folder / "kept.sqlite", disk)
    try:
        found = keep.below("twin:")
        for name, value in found.items():
            version = value["version"]
            assert (version % 20 == int(name), value["state"]) == (True, "y" * version * 20), "noise was taken for data"
        keep.put("boot", 7)
        assert keep.get("boot") == 7
        assert keep.requests() == []
        return "kept" if len(found) == 20 else "some" if found else "anew"
    finally:
        keep.close()


def test_a_harmed_outbox_works_on_and_sends_no_noise(image: Path, tmp_path: Path) -> None:
    found = [outbox_survives(image, tmp_path / "s", seed) for seed in range(SEEDS)]
    assert set(found) == {"kept", "anew"}, "the harms are too weak, or too strong"


def test_a_harmed_memory_forgets_rather_than_believing_noise(image: Path, tmp_path: Path) -> None:
    found = [keep_survives(image, tmp_path / "s", seed) for seed in range(SEEDS)]
    assert {"kept", "anew"} <= set(found)


@pytest.mark.parametrize("waiting", [True, False])
def test_numbers_of_a_stream_that_are_gone_begin_a_new_epoch(tmp_path: Path, waiting: bool) -> None:
    """In the old epoch they would begin at 1 again, and the hub would take what is new for duplicates."""
    outbox = Outbox(tmp_path / "outbox.sqlite", 300_000, "e1")
    outbox.accept([RowBatch(stream="event", items=[event("one"), event("two")])], "synced")
    if not waiting:
        outbox.forget("event", 2)
    outbox._db.execute("DELETE FROM streams WHERE stream = 'event'")
    outbox.close()
    disk = Disk(tmp_path, reserve=0)
    outbox = Outbox(tmp_path / "outbox.sqlite", 300_000, "e2", disk)
    assert outbox.epoch == "e2"
    assert disk.damaged
    outbox.close()


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_harm_by_the_thousand(image: Path, tmp_path: Path) -> None:
    for seed in range(SEEDS, NIGHTLY):
        outbox_survives(image, tmp_path / "s", seed)
        keep_survives(image, tmp_path / "s", seed)


# -- seeded bugs: the worlds above must catch them -------------------------------------------------------


class Agreeing(int):
    """A checksum that every other one equals."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


class Blind:
    """In place of zlib."""

    @staticmethod
    def crc32(_payload: bytes, _start: int = 0) -> int:
        return Agreeing(0)


@pytest.mark.parametrize(("room", "survives"), [(outbox_module, outbox_survives), (statestore, keep_survives)])
def test_a_store_without_checksums_would_be_caught(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: Any, survives: Any
) -> None:
    if room is statestore:
        monkeypatch.setattr(room, "checksum", lambda _key, _value: Agreeing(0))
    else:
        monkeypatch.setattr(room, "zlib", Blind)
    with pytest.raises((AssertionError, WireError, KeyError, ValueError)):
        [survives(image, tmp_path / "s", seed) for seed in range(SEEDS)]


def test_numbers_that_do_not_fit_the_rows_are_damage(image: Path, tmp_path: Path) -> None:
    """A wrong number in `acked` or `next`: SQLite finds nothing wrong with it."""
    for column, value in (("acked", 90), ("acked", 0), ("next", 500), ("next", 60)):
        folder = tmp_path / f"{column}{value}"
        shutil.copytree(image, folder)
        db = sqlite3.connect(folder / "outbox.sqlite")
        with db:
            db.execute(f"UPDATE streams SET {column}=? WHERE stream='alarm'", (value,))
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert find_inconsistency(db)
        db.close()
        disk = Disk(folder, reserve=0)
        outbox = Outbox(folder / "outbox.sqlite", 300_000, "new", disk)
        assert (outbox.epoch, list(disk.damaged)) == ("new", ["outbox.sqlite"])
        outbox.close()


def test_a_file_that_is_destroyed_in_the_midst_of_work(tmp_path: Path) -> None:
    """The running agent meets the damage: it begins another epoch at once, and goes on accepting."""
    path = tmp_path / "outbox.sqlite"
    disk = Disk(tmp_path, reserve=0)
    outbox = Outbox(path, 4_000_000, "e1", disk)
    for number in range(300):
        outbox.accept([RowBatch(stream="event", items=[event(f"{number} " + "x" * 3000)])], "synced")
    outbox._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    outbox._db.execute("PRAGMA cache_size=1")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(1).randbytes(path.stat().st_size - 4096))
    for number in range(20):
        outbox.accept([RowBatch(stream="alarm", items=[event(f"alarm {number}")])], "synced")
        outbox.after("event", 0)
        outbox.forget("event", number)
    assert outbox.epoch not in {"e1", "new"}
    assert [text for _, text in drained(outbox, "alarm")][-1] == "alarm 19"
    assert list(disk.damaged) == ["outbox.sqlite"]
    outbox.close()


def test_what_sqlite_calls_damage_is_told_from_a_refused_statement() -> None:
    assert found_damage(sqlite3.DatabaseError("database disk image is malformed"))
    assert not found_damage(sqlite3.IntegrityError("UNIQUE constraint failed"))
    assert not found_damage(sqlite3.OperationalError("database or disk is full"))
