"""Parquet: what another program reads is what was stored, whatever its size, and in pieces."""

from __future__ import annotations

import io
import sys
from datetime import datetime, timezone
from typing import Any

import pytest
from pyarrow import parquet as reader

from cloud_hub.database.sessions import Database
from cloud_hub.errors import HubError
from cloud_hub.telemetry import samples
from cloud_hub.telemetry.rollups import export
from cloud_hub.telemetry.rollups.worker import RollupWorker
from shared.durations import DAY_US, HOUR_US

START = 1_800_000_000_000_000 // DAY_US * DAY_US
END = START + DAY_US


@pytest.fixture
def full(db: Database, monkeypatch: pytest.MonkeyPatch) -> tuple[Database, list[tuple[Any, ...]]]:
    """Two devices, numbers and texts, in pages and row groups of a few rows."""
    monkeypatch.setattr(samples, "PAGE", 7)
    monkeypatch.setattr(export, "GROUP", 25)
    rows: list[Any] = []
    for device in ("a", "b"):
        for n in range(50):
            t_us = START + n * 20 * 60_000_000 + 1
            rows.append((device, "door", t_us, 1, 2 * n, None, "open" if n % 3 else None, "good" if n % 3 else "bad"))
            rows.append((device, "cpu.load", t_us, 1, 2 * n + 1, n / 3, None, "uncertain"))
    with db.write() as session:
        samples.store_samples(session, rows)
    return db, rows


def read(pieces: Any) -> tuple[Any, int]:
    """(the file as pyarrow reads it, how many pieces it came in)."""
    parts = [part for part in pieces if part]
    return reader.ParquetFile(io.BytesIO(b"".join(parts))), len(parts)


def when(t_us: int) -> datetime:
    return datetime.fromtimestamp(t_us // 1_000_000, timezone.utc).replace(microsecond=t_us % 1_000_000)


def test_samples_come_back_as_they_were(full: tuple[Database, list[tuple[Any, ...]]]) -> None:
    db, rows = full
    file, pieces = read(export.parquet(db, ["a", "b"], None, START, END, 0))
    wanted = sorted((d, m, when(t), v, words, quality) for d, m, t, _, _, v, words, quality in rows if t < END)
    found = [tuple(row.values()) for row in file.read().to_pylist()]
    assert found == sorted(found, key=lambda row: row[:3])
    assert found == wanted
    assert file.schema_arrow.names == ["device", "metric", "t", "value", "text", "quality"]
    assert str(file.schema_arrow.field("t").type) == "timestamp[us, tz=UTC]"
    assert file.num_row_groups == pieces - 1 > 4
    assert max(file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)) < 25 + 7


def test_only_the_metric_and_the_span_that_was_asked_for(full: tuple[Database, list[tuple[Any, ...]]]) -> None:
    file, _ = read(export.parquet(full[0], ["b"], "cpu.load", START + HOUR_US, START + 2 * HOUR_US, 0))
    found = file.read().to_pydict()
    assert (set(found["device"]), set(found["metric"])) == ({"b"}, {"cpu.load"})
    assert found["value"] == [3 / 3, 4 / 3, 5 / 3]


@pytest.mark.parametrize("step", [60, 3600, 86400])
def test_rollups_come_back_as_they_are(full: tuple[Database, list[tuple[Any, ...]]], step: int) -> None:
    db, rows = full
    roller = RollupWorker(db)
    while roller.run_once(END + DAY_US).again:
        pass
    file, _ = read(export.parquet(db, ["a", "b"], None, 0, 1 << 61, step))
    found = file.read().to_pylist()
    assert file.schema_arrow.names == ["device", "metric", "t", "count", "low", "high", "mean"]
    assert {row["metric"] for row in found} == {"cpu.load"}
    assert sum(row["count"] for row in found) == 100
    for row in found:
        start = int(row["t"].timestamp()) * 1_000_000
        values = [
            r[5] for r in rows if r[:2] == (row["device"], row["metric"]) and start <= r[2] < start + step * 10**6
        ]
        assert (row["count"], row["low"], row["high"]) == (len(values), min(values), max(values))
        assert row["mean"] == pytest.approx(sum(values) / len(values), rel=1e-12)


def test_of_nothing_there_is_a_file_without_rows(db: Database) -> None:
    file, _ = read(export.parquet(db, ["nobody"], None, START, END, 0))
    assert (file.metadata.num_rows, file.schema_arrow.names[0]) == (0, "device")


def test_without_pyarrow_it_says_what_to_install(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(HubError, match=r"pip install 'tidegate\[parquet\]'"):
        export.parquet(db, ["a"], None, START, END, 0)
