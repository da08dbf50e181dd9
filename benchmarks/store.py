"""Measures the telemetry store: rollups, range queries, top-k devices, size, sketches, matrices.

    python -m benchmarks.store [--nab FILE] [--devices 1000] [--series 10000] [--json FILE]

SQLite, FULL commits, through the hub's own functions. Beside each: what the same rows cost without rollups, in the same
run. `--nab` (series, timestamp, value; Parquet) compares sketches on real series; without it on made ones alone.
Limits: one machine, warm caches, nothing else asks meanwhile; bytes are pages of the file that hold the table.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import datasketches
import numpy as np
from pyarrow import parquet

from benchmarks.ingest import messages
from benchmarks.report import Row, arguments, publish
from cloud_hub.database.sessions import Database
from cloud_hub.ingest.core.router import route
from cloud_hub.ingest.writer import Writer, WriteResults
from cloud_hub.telemetry import samples as telemetry
from cloud_hub.telemetry.rollups.core.buckets import of_samples, pack
from cloud_hub.telemetry.rollups.matrices import columns
from cloud_hub.telemetry.rollups.ranges import query_range
from cloud_hub.telemetry.rollups.store import DAY, HOUR, MINUTE, DeviceRollups
from cloud_hub.telemetry.rollups.top_k import top_devices
from cloud_hub.telemetry.rollups.worker import RollupWorker
from cloud_hub.telemetry.samples import SampleRow
from shared.durations import DAY_US, HOUR_US

START = 1_795_000_000_000_000 // DAY_US * DAY_US
SHARES = (0.5, 0.95, 0.99)
STEPS = (MINUTE, HOUR, DAY)


def opened(folder: Path) -> Iterator[Database]:
    """Fresh databases, one after the other."""
    for number in itertools.count():
        db = Database(f"sqlite:///{folder / str(number)}.sqlite")
        yield db
        db.close()


def samples(device: str, metrics: int, period_s: int, days: float, seed: int) -> list[SampleRow]:
    """Metrics of a device that wander by the hour and shake by the sample."""
    dice = np.random.default_rng([seed, sum(map(ord, device))])
    count = int(days * 86400 / period_s)
    rows: list[SampleRow] = []
    for number in range(metrics):
        slow = np.repeat(dice.gamma(4, 10, count * period_s // 3600 + 1), max(1, 3600 // period_s))[:count]
        values = np.round(slow + dice.gamma(2, 2, len(slow)), 2).tolist()
        rows += [
            (
                device,
                f"group.metric{number}",
                START + n * period_s * 1_000_000,
                1,
                n * metrics + number,
                v,
                None,
                "good",
            )
            for n, v in enumerate(values)
        ]
    return rows


def store(db: Database, rows: list[SampleRow]) -> None:
    """As ingest does, 50,000 in a transaction."""
    for first in range(0, len(rows), 50_000):
        with db.write() as session:
            telemetry.store_samples(session, rows[first : first + 50_000])


def rolled(db: Database, days: float) -> tuple[float, float]:
    """(seconds, processor seconds) until all hours are rolled up."""
    roller, began, before = RollupWorker(db), time.perf_counter(), time.process_time()
    while roller.run_once(START + int((days + 2) * DAY_US)).again:
        pass
    return time.perf_counter() - began, time.process_time() - before


def timed(work: Callable[[], Any], rounds: int = 5) -> float:
    """Median milliseconds of processor time: all of it is one thread, from warm caches."""
    found = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        found.append((time.process_time() - began) * 1e3)
    return median(found)


# -- ingest ----------------------------------------------------------------------------------------


def ingest(dbs: Iterator[Database], seed: int, rounds: int = 9) -> list[Row]:
    """Processor time of parsing and storing 500 messages of 100 samples, and the part of it that notes the hours."""
    db, noted = next(dbs), [0.0]

    def timing(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            before = time.process_time()
            try:
                return work(*given)
            finally:
                noted[0] += time.process_time() - before

        return run

    found = []
    with mock.patch.multiple(telemetry, hours_of=timing(telemetry.hours_of), mark_due=timing(telemetry.mark_due)):
        for number in range(rounds):
            noted[0] = 0.0
            whole = _taken(db, seed, f"e{number}")
            found.append((whole, noted[0]))
    return [
        Row(
            "ingest, 100 a message",
            "as it is",
            "processor",
            median(one for one, _ in found) * 1e6 / 50_000,
            "us/sample",
        ),
        Row("ingest, 100 a message", "noting the hours", "share", median(part / one for one, part in found) * 100, "%"),
    ]


def _taken(db: Database, seed: int, epoch: str) -> float:
    said = [
        (topic, payload.replace(b"599eddca0566dc5f", epoch.encode())) for topic, payload in messages(500, 100, seed)
    ]
    before = time.process_time()
    with db.write() as session:
        parsed = [(route(topic, payload), "") for topic, payload in said]
        Writer(db.hub_epoch, 32768).write(session, parsed, START, WriteResults())
    return time.process_time() - before


# -- rollups ---------------------------------------------------------------------------------------


def rollups(dbs: Iterator[Database], seed: int) -> list[Row]:
    """Samples a second that become rollups, beside the bare reading of the same samples in the same order."""
    db, hours = next(dbs), 3
    for number in range(4):
        store(db, samples(f"dev-{number}", 10, 1, hours / 24, seed))
    count = 4 * 10 * 3600 * hours
    wall, cpu = rolled(db, 1)
    with db.read() as session:
        before = time.process_time()
        session.connection().exec_driver_sql("SELECT t_us, value FROM telemetry").all()
        bare = time.process_time() - before
    name = "4 devices, 10 metrics, 1 s"
    return [
        Row(name, "rolled up", "rate", count / wall, "samples/s"),
        Row(name, "rolled up", "processor", cpu * 1e6 / count, "us/sample"),
        Row(name, "bare SELECT of them", "processor", bare * 1e6 / count, "us/sample"),
    ]


def sizes(dbs: Iterator[Database], seed: int) -> list[Row]:
    """Bytes of a day of a device with 10 metrics: samples, and each kind of rollup."""
    found = []
    for period_s in (1, 10, 60):
        db = next(dbs)
        store(db, samples("dev-0", 10, period_s, 1, seed))
        rolled(db, 1)
        name = f"10 metrics, {period_s} s"
        found += [Row(name, what, "bytes", size, "bytes/device-day") for what, size in _tables(db)]
    return found


def _tables(db: Database) -> Iterator[tuple[str, float]]:
    """(what, bytes of its pages), one after the other taken out of a file without gaps."""
    connection = db.engine.raw_connection()
    run = connection.driver_connection.execute  # type: ignore[union-attr]
    for table, step in [("telemetry", 0), *((table, step) for table in ("rollups", "sketches") for step in STEPS)]:
        pages = f"SELECT sum(pgsize) FROM dbstat WHERE name IN ('{table}', 'sqlite_autoindex_{table}_1')"
        run("VACUUM")
        before = run(pages).fetchone()[0]
        run(f"DELETE FROM {table}" + (f" WHERE step_s = {step}" if step else ""))
        run("VACUUM")
        if size := before - run(pages).fetchone()[0]:
            yield (f"{table} {step} s" if step else "samples"), size
    connection.close()


# -- queries ---------------------------------------------------------------------------------------


def ranges(dbs: Iterator[Database], seed: int) -> list[Row]:
    """One series over 30 days by the hour: from its rollups, and from its samples by the database itself."""
    db = next(dbs)
    store(db, samples("dev-0", 1, 10, 30, seed))
    rolled(db, 30)
    series, end = ("dev-0", "group.metric0"), START + 30 * DAY_US

    def ours(resolution: str, days: int) -> Callable[[], object]:
        def ask() -> object:
            with db.read() as session:
                return query_range(session, *series, end - days * DAY_US, end, points=10_000, resolution=resolution)

        return ask

    def by_sql() -> object:
        query = (
            "SELECT t_us / 3600000000, count(value), min(value), max(value), avg(value) FROM telemetry "
            "WHERE device = 'dev-0' AND metric = 'group.metric0' GROUP BY 1"
        )
        with db.read() as session:
            return session.connection().exec_driver_sql(query).all()

    name = "1 series, 10 s, 30 days"
    return [
        Row(name, "range by the hour", "processor", timed(ours("1h", 30)), "ms"),
        Row(name, "GROUP BY over the samples", "processor", timed(by_sql), "ms"),
        Row(name, "range by 5 minutes", "processor", timed(ours("5m", 30)), "ms"),
        Row("1 series, 10 s, 1 day", "range raw", "processor", timed(ours("raw", 1)), "ms"),
        Row("1 series, 10 s, 1 day", "range by the minute", "processor", timed(ours("1m", 1)), "ms"),
    ]


def highest(dbs: Iterator[Database], devices: int, seed: int) -> list[Row]:
    """The ten highest by the 95% quantile of a week, beside reading all samples; and how far the quantiles are off."""
    db, names = next(dbs), [f"dev-{n}" for n in range(devices)]
    exact: dict[str, Any] = {}
    for first in range(0, devices, 25):
        some = [samples(name, 1, 300, 7, seed) for name in names[first : first + 25]]
        exact |= {rows[0][0]: np.array([row[5] for row in rows]) for rows in some}
        store(db, [row for rows in some for row in rows])
    rolled(db, 7)

    def ask() -> Any:
        with db.read() as session:
            return top_devices(session, names, "group.metric0", START, START + 7 * DAY_US, share=0.95, k=10)

    def by_samples() -> object:
        with db.read() as session:
            read = session.connection().exec_driver_sql
            query = "SELECT value FROM telemetry WHERE device = ? AND metric = 'group.metric0'"
            values = {name: np.array(read(query, (name,)).scalars().all()) for name in names}
        return sorted(names, key=lambda name: -float(np.quantile(values[name], 0.95)))[:10]

    off = [float(abs((exact[rank.device] < rank.value).mean() - 0.95)) for rank in ask().ranks]
    name = f"{devices} devices, 300 s, 7 days"
    return [
        Row(name, "top 10 by p95, sketches", "processor", timed(ask, 3), "ms"),
        Row(name, "all samples, exact", "processor", timed(by_samples, 3), "ms"),
        Row(name, "top 10 by p95, sketches", "largest error of rank", max(off) * 100, "%"),
    ]


def matrices(dbs: Iterator[Database], series: int, seed: int) -> list[Row]:
    """Series x 30 days as the fit reads them: hours; and 5 minutes, of a tenth of the series, sampled so often."""
    db, dice = next(dbs), np.random.default_rng(seed)
    names = [(f"dev-{n // 10}", f"group.metric{n % 10}") for n in range(series)]
    with db.write() as session:
        for device, metric in names:
            rows = DeviceRollups(session, device)
            for day in range(30):
                values = dice.gamma(4, 10, 24 * 12)
                packed = pack(of_samples(np.repeat(np.arange(24), 12), values))
                rows.put("rollups", HOUR, metric, START + day * DAY_US, packed)
            rows.save()
    minute = pack(of_samples(np.arange(0, 60, 5), dice.gamma(4, 10, 12)))
    with db.write() as session:
        for device, metric in names[: series // 10]:
            rows = DeviceRollups(session, device)
            for hour in range(30 * 24):
                rows.put("rollups", MINUTE, metric, START + hour * HOUR_US, minute)
            rows.save()

    def read(some: list[tuple[str, str]], step: int) -> float:
        began = time.process_time()
        with db.read() as session:
            pages = columns(session, some, START, START + 30 * DAY_US, step)
            points = sum(int((page.count > 0).sum()) for page in pages)
        if points != len(some) * 30 * DAY // step:
            raise RuntimeError(f"{points} points")
        return time.process_time() - began

    tenth = names[: series // 10]
    return [
        Row(f"{series} series, 30 days", "columns, 1 h", "processor", median(read(names, HOUR) for _ in range(3)), "s"),
        Row(
            f"{series // 10} series, 30 days",
            "columns, 5 min",
            "processor",
            median(read(tenth, 300) for _ in "abc"),
            "s",
        ),
    ]


# -- sketches --------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[], Any]] = {
    "t-digest 100": lambda: datasketches.tdigest_float(100),
    "t-digest 200 (ours)": lambda: datasketches.tdigest_float(200),
    "KLL 100": lambda: datasketches.kll_floats_sketch(100),
    "KLL 200": lambda: datasketches.kll_floats_sketch(200),
    "REQ 12": lambda: datasketches.req_floats_sketch(12),
}


def sketches(file: str, seed: int) -> list[Row]:
    """Bytes of an hour's sketch and of a day merged from its hours, and how many ranks its quantiles are off."""
    dice = np.random.default_rng(seed)
    made = [dice.gamma(2, 10, DAY) for _ in range(3)] + [np.cumsum(dice.normal(size=DAY)) for _ in range(3)]
    found = _compared("made, 3600 an hour", made, 3600)
    return found + (_compared("NAB, 60 an hour", _real(file), 60) if file else [])


def _real(file: str) -> list[Any]:
    table = parquet.read_table(file, columns=["series", "value"])
    names, values = np.array(table["series"].to_pylist()), table["value"].to_numpy()
    return [values[names == name] for name in sorted(set(names.tolist()))]


def _compared(name: str, series: list[Any], hourly: int) -> list[Row]:
    days = [day for one in series for day in one[: len(one) // (24 * hourly) * 24 * hourly].reshape(-1, 24, hourly)]
    rows = []
    for kind, make in KINDS.items():
        hours: list[int] = []
        whole: list[int] = []
        off: list[list[float]] = []
        for day in days:
            values, day_sketch = day.astype(np.float32), make()
            for hour in values:
                one = make()
                one.update(hour)
                hours.append(len(one.serialize()))
                day_sketch.merge(one)
            whole.append(len(day_sketch.serialize()))
            off.append([_ranks_off(values, day_sketch.get_quantile(share), share) for share in SHARES])
        rows.append(Row(name, kind, "bytes of an hour", float(np.mean(hours)), "bytes"))
        rows.append(Row(name, kind, "bytes of a day", float(np.mean(whole)), "bytes"))
        for number, share in enumerate(SHARES):
            errors = [one[number] * 100 for one in off]
            rows.append(Row(name, kind, f"error at {share:.0%}, mean", float(np.mean(errors)), "% of ranks"))
            rows.append(Row(name, kind, f"error at {share:.0%}, largest", max(errors), "% of ranks"))
    return rows


def _ranks_off(values: Any, found: float, share: float) -> float:
    return float(max(0.0, (values < found).mean() - share, share - (values <= found).mean()))


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", nab="", devices=1000, series=10_000)
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as name:
        dbs = opened(Path(name))
        rows = ingest(dbs, options.seed) + rollups(dbs, options.seed) + sizes(dbs, options.seed)
        rows += ranges(dbs, options.seed) + highest(dbs, options.devices, options.seed)
        rows += matrices(dbs, options.series, options.seed)
        dbs.close()  # type: ignore[attr-defined]
    publish("store", options.seed, rows + sketches(options.nab, options.seed), options.json)


if __name__ == "__main__":
    main()
