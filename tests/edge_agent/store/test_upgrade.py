"""State folders of older agents: `tests/vectors/state/<store>-<schema>.sqlite` are opened by today's."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge_agent.store.disk import Disk
from edge_agent.store.outbox import SCHEMA_VERSION as OUTBOX
from edge_agent.store.outbox import Outbox, RowBatch
from edge_agent.store.statestore import SCHEMA_VERSION as KEPT
from edge_agent.store.statestore import StateStore, schema_mark
from shared.protocol.codec import decode
from shared.protocol.messages import Batch, Event

STATE = Path(__file__).parents[2] / "vectors" / "state"


def test_an_outbox_of_schema_1_goes_on_where_it_stood(tmp_path: Path) -> None:
    path, disk = tmp_path / "outbox.sqlite", Disk(tmp_path, reserve=0)
    shutil.copy(STATE / "outbox-1.sqlite", path)
    outbox = Outbox(path, 200_000, "new", disk)
    assert (outbox.epoch, outbox.last["event"], outbox.acked["event"]) == ("0123456789abcdef", 6, 2)
    outbox.accept([RowBatch(stream="event", items=[Event(t_us=7, source="new", text="e7")])], "synced")
    seq, texts = 2, []
    while (row := outbox.after("event", seq)) is not None:
        texts += [item["text"] for item in decode(Batch, row.payload).items]
        seq = row.last
    assert texts == ["e3", "e4", "e5", "e6", "e7"]
    assert outbox.after("telemetry", 0) is not None
    assert disk.damaged == {}
    outbox.close()


def test_what_was_kept_by_schema_2_is_read_and_gets_its_checksums(tmp_path: Path) -> None:
    path, disk = tmp_path / "kept.sqlite", Disk(tmp_path, reserve=0)
    shutil.copy(STATE / "kept-2.sqlite", path)
    for _ in range(2):
        keep = StateStore(path, disk)
        assert (keep.get("boot"), keep.get("hub_epoch")) == (4, "h1")
        assert keep.below("twin:") == {"": {"version": 3, "desired": {"settings": {"period_s": 2}}, "reported": {}}}
        keep.put("more", 1)
        (found,) = keep._db.execute("PRAGMA user_version").fetchone()
        assert found == KEPT
        keep.close()
    assert disk.damaged == {}


def test_every_schema_that_was_ever_written_is_here() -> None:
    """A new schema brings its file along, made by the code before it."""
    known = {file.stem for file in STATE.glob("*.sqlite")}
    assert {f"outbox-{n}" for n in range(1, OUTBOX)} | {f"kept-{n}" for n in range(2, KEPT)} <= known
    assert schema_mark(Path("a/kept.sqlite"), KEPT) != schema_mark(Path("a/kept.sqlite"), KEPT + 1)
