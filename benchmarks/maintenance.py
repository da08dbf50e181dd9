"""Measures backup, restore and retention of a hub on SQLite, and their effect on ingest latency.

    python -m benchmarks.maintenance [--rows 1000000] [--json FILE]

A second process commits 20 samples every 5 ms, as ingest does, through all of it; the longest of its commits is given.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from benchmarks.report import Row, arguments, publish
from cloud_hub.backup import create as backup
from cloud_hub.backup import restore
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.settings import Retention, Settings
from cloud_hub.telemetry import samples as telemetry
from cloud_hub.telemetry.retention import ROWS, RetentionWorker
from shared.durations import DAY_US
from shared.messages import Sample

NOW = 1_795_000_000_000_000
TOGETHER = 5000


def fill(url: str, rows: int) -> None:
    """Samples of ten devices over a hundred days."""
    db = Database(url)
    with db.write() as session:
        session.add_all(Device(id=f"d{n}") for n in range(10))
    for first in range(0, rows, TOGETHER):
        device = f"d{first // TOGETHER % 10}"
        with db.write(device) as session:
            source = StreamOffsets(session).get((device, "e", "telemetry")).source
            step = 100 * DAY_US // rows
            samples = [(n, Sample(metric=f"m{n % 10}", t_us=NOW - (rows - n) * step, value=float(n)))
                       for n in range(first + 1, first + TOGETHER + 1)]  # fmt: skip
            telemetry.store_samples(session, telemetry.sample_rows(device, source, samples))
    db.close()


def write(url: str, longest: Synchronized[float], stopped: Any) -> None:
    """Commit as ingest does, and record the longest commit, until stopped."""
    db, seq = Database(url), 0
    while not stopped.is_set():
        begun = time.perf_counter()
        with db.write("live") as session:
            source = StreamOffsets(session).get(("live", "e", "telemetry")).source
            samples = [(seq + n, Sample(metric="m", t_us=NOW + seq + n, value=1.0)) for n in range(20)]
            telemetry.store_samples(session, telemetry.sample_rows("live", source, samples))
        seq += 20
        longest.value = max(longest.value, time.perf_counter() - begun)
        time.sleep(0.005)
    db.close()


@contextmanager
def ingest(url: str) -> Iterator[Any]:
    """Another process writes meanwhile; gives its longest commit in seconds, which may be set back."""
    longest: Any = multiprocessing.Value("d", 0.0)
    stopped = multiprocessing.Event()
    process = multiprocessing.Process(target=write, args=(url, longest, stopped))
    process.start()
    time.sleep(2)
    try:
        yield longest
    finally:
        stopped.set()
        process.join()


def main() -> None:
    """Measure and print."""
    options = arguments(str(__doc__), rows=1_000_000)
    rows: list[Row] = []

    def note(method: str, metric: str, value: float, unit: str) -> None:
        rows.append(Row(f"{options.rows:,} samples", method, metric, value, unit))

    with tempfile.TemporaryDirectory() as name:
        hub = Settings(state_dir=f"{name}/state")
        fill(hub.database_url, options.rows)
        note("database", "size", Path(f"{name}/state/hub.sqlite").stat().st_size / 1e6, "MB")
        with ingest(hub.database_url) as longest:
            longest.value = 0.0
            time.sleep(10)
            note("ingest alone, 10 s", "longest commit", longest.value * 1e3, "ms")
            longest.value, begun = 0.0, time.perf_counter()
            backup.create_backup(hub, Path(f"{name}/hub.tar"), NOW, lambda _: None)
            note("backup, read back", "time", time.perf_counter() - begun, "s")
            note("backup, read back", "longest commit of ingest", longest.value * 1e3, "ms")
            db, batches = Database(hub.database_url), 0
            longest.value, begun = 0.0, time.perf_counter()
            sweep = RetentionWorker(db, Retention(telemetry_days=50))
            sweep.run_once(NOW)
            while sweep.run_once(NOW).again:
                batches += 1
                time.sleep(0.05)  # as the hub's loop lingers
            took = time.perf_counter() - begun
            note(f"retention of a half, {ROWS} a batch", "rows", batches * ROWS / took, "1/s")
            note(f"retention of a half, {ROWS} a batch", "longest commit of ingest", longest.value * 1e3, "ms")
            db.close()
        begun = time.perf_counter()
        restore.restore(hub, Path(f"{name}/hub.tar"), NOW, lambda _: None, force=True)
        note("restore, verified", "time", time.perf_counter() - begun, "s")
        begun = time.perf_counter()
        Database(hub.database_url).close()
        note("first opening", "time", time.perf_counter() - begun, "s")
    publish("maintenance", options.seed, rows, options.json)


if __name__ == "__main__":
    main()
