"""The outbox on files that are damaged, newer, or cannot be written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from simulators.outbox_world import ROOMY, batch, lot

from edge_agent.store import outbox as module
from edge_agent.store.outbox import Outbox
from edge_agent.store.statestore import schema_mark
from shared.errors import ConfigError


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
