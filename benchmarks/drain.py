"""Measures how fast a backlog leaves the outbox, by its number of rows, compared with bare SQLite on the same disk.

    python -m benchmarks.drain [--rows 1000000] [--drained 2000] [--json FILE]

For each size up to `--rows` the store is filled, then `--drained` rows leave it as the link takes them out: `after`
reads the next row, `forget` deletes it. The rate has to be the same at every size, acknowledged one by
one or 16 at once (the largest window of the link). Baseline, in the same run and file: `SELECT` and `DELETE` by key
alone, each delete in a FULL commit. Filling too: `accept` beside one bare INSERT a commit. Limits: no network, no hub.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.report import Row, arguments, publish
from edge_agent.link.core.stream_window import WINDOW_ROWS
from edge_agent.store.outbox import Outbox, RowBatch
from shared.protocol.codec import encode
from shared.protocol.messages import Batch, Sample

ITEMS = [Sample(metric=f"bench.{n}", t_us=1_700_000_000_000_000, value=n * 1.5) for n in range(11)]
"""What the host collector gives each second: one row of the outbox."""
ROOMY = 1 << 40
SIZES = (1_000, 10_000, 100_000, 1_000_000)
TOGETHER = 10_000


def _rows(first: int, count: int) -> Iterator[tuple[str, int, int, bytes, int, str, int]]:
    for number in range(first, first + count):
        start = number * len(ITEMS) + 1
        payload = encode(Batch(epoch="bench", first=start, items=list(ITEMS)))
        yield "telemetry", start, start + len(ITEMS) - 1, payload, zlib.crc32(payload), "", 0


def filled(path: Path, rows: int) -> Outbox:
    """A store with so many rows, inserted with `executemany`, as `accept` would have done one by one."""
    Outbox(path, ROOMY, "bench").close()
    db = sqlite3.connect(path)
    for first in range(0, rows, TOGETHER):
        with db:
            db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)", _rows(first, min(TOGETHER, rows - first)))
    with db:
        db.execute("UPDATE streams SET next=? WHERE stream='telemetry'", (rows * len(ITEMS) + 1,))
    db.close()
    return Outbox(path, ROOMY, "bench")


def drain(outbox: Outbox, rows: int, window: int) -> None:
    """Send and delete this many rows, acknowledged `window` at a time."""
    seq = outbox.acked["telemetry"]
    for number in range(1, rows + 1):
        row = outbox.after("telemetry", seq)
        if row is None:
            raise SystemExit("the store is empty: give fewer --drained")
        seq = row.last
        if number % window == 0 or number == rows:
            outbox.forget("telemetry", seq)


def bare(path: Path, rows: int) -> Callable[[], None]:
    """The same rows of the same file, read and deleted by their key by nothing but sqlite3."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA synchronous=FULL")
    found = db.execute("SELECT first FROM rows WHERE stream='telemetry' ORDER BY first LIMIT ?", (rows,)).fetchall()

    def run() -> None:
        for key in found:
            db.execute("SELECT payload FROM rows WHERE stream='telemetry' AND first=?", key).fetchone()
            db.execute("DELETE FROM rows WHERE stream='telemetry' AND first=?", key)
        db.close()

    return run


def rate(rows: int, task: Callable[[], None]) -> tuple[float, float]:
    """(rows a second, processor microseconds a row)."""
    began, busy = time.perf_counter(), time.process_time()
    task()
    return rows / (time.perf_counter() - began), (time.process_time() - busy) / rows * 1e6


def accepting(folder: Path, rows: int) -> Iterator[Row]:
    """Filling: `accept` of one row in a FULL commit, beside one bare INSERT in one."""
    outbox = Outbox(folder / "accept.sqlite", ROOMY, "bench")

    def accept() -> None:
        for _ in range(rows):
            outbox.accept([RowBatch(stream="telemetry", items=ITEMS)], "synced")

    yield from figures("empty", "accept", rate(rows, accept))
    outbox.close()
    Outbox(folder / "bare.sqlite", ROOMY, "bench").close()
    db = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
    db.execute("PRAGMA synchronous=FULL")
    made = list(_rows(0, rows))

    def insert() -> None:
        for row in made:
            db.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    yield from figures("empty", "bare INSERT", rate(rows, insert))
    db.close()


def draining(folder: Path, size: int, drained: int) -> Iterator[Row]:
    """The rates at one size."""
    path, dataset, count = folder / f"{size}.sqlite", f"{size:,} rows", min(drained, size // 4)
    outbox = filled(path, size)
    for window in (1, WINDOW_ROWS):
        found = rate(count, partial(drain, outbox, count, window))
        yield from figures(dataset, f"outbox, {window} acknowledged at once", found)
    outbox.close()
    yield from figures(dataset, "bare SELECT and DELETE by key", rate(count, bare(path, count)))
    path.unlink()


def figures(dataset: str, method: str, found: tuple[float, float]) -> list[Row]:
    """Two rows of the report."""
    return [Row(dataset, method, "rows", found[0], "/s"), Row(dataset, method, "processor", found[1], "us a row")]


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", rows=1_000_000, drained=2000)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows += accepting(folder, options.drained)
        for size in SIZES:
            if size <= options.rows:
                rows += draining(folder, size, options.drained)
    publish("drain", options.seed, rows, options.json)


if __name__ == "__main__":
    main()
