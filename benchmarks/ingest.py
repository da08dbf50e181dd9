"""Measures the samples per second that a hub on one core commits, and its CPU time per sample.

    python -m benchmarks.ingest [--messages 20000] [--batches 2000] [--rounds 3] [--json FILE]

A backlog of 100 devices waits in mosquitto while the hub is stopped (SIGSTOP); the clock runs from the moment it goes
on until its own acknowledgement of the last sample is with an observer: parse, FULL commit, acknowledgement published.
Beside it, in the same run, on the same core and in a process of its own:

- at 1 sample a message: the hub's own MQTT client that only receives and acknowledges;
- at 100 samples a message: `sqlite3` that only inserts the same rows with `executemany`, into a table of the same form,
  FULL commits of as many rows as the hub commits together.

Limits: the broker, the observer and the sender share the other core; everything is on loopback. Medians of all rounds;
quote ratios.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.report import Row, arguments, publish
from benchmarks.twin import House, broker, client
from cloud_hub.database.sessions import Database
from cloud_hub.demo.client import until
from cloud_hub.ingest.listener import MAX_BATCH
from shared.protocol import topics
from shared.protocol.codec import decode, encode
from shared.protocol.messages import Ack, Batch, Sample
from shared.transport.mqtt import Inbound

DEVICES = 100
METRICS = ["cpu.load", "cpu.temperature", "memory.used", "disk.used", "network.received", "network.sent",
           "line/speed", "line/good", "motor/current", "motor/vibration"]  # fmt: skip
PERIOD_US = 1_000_000
BEGAN_US = 1_795_236_000_000_000
TELEMETRY = topics.thing("+", "telemetry")
HUB_CORE = 0
INSERT = "INSERT INTO telemetry (device, metric, t_us, source, seq, value, text, quality) VALUES (?,?,?,?,?,?,?,?)"
EACH, WINDOW = 100, 10


def samples(device: int, first: int, count: int, dice: random.Random) -> list[Sample]:
    """`count` samples of a device from sequence number `first` on: its metrics in turn, once a second."""
    return [
        Sample(metric=METRICS[seq % len(METRICS)], t_us=BEGAN_US + device + seq // len(METRICS) * PERIOD_US,
               value=round(dice.uniform(0, 100), 2))
        for seq in range(first, first + count)
    ]  # fmt: skip


def messages(count: int, each: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(topic, payload) of `count` messages of `each` samples, device after device."""
    dice = random.Random(seed)
    for number in range(count):
        device, first = number % DEVICES, number // DEVICES * each + 1
        batch = Batch(epoch="599eddca0566dc5f", first=first, items=samples(device, first, each, dice))
        yield topics.thing(f"rate-{device}", "telemetry"), encode(batch)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process for the duration of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def fill(port: int, backlog: Iterator[tuple[str, bytes]]) -> int:
    """Publish it; when this returns the broker holds all of it. Returns the bytes of its payloads."""
    size, room = 0, threading.Semaphore(WINDOW)
    with client(port, ["bench/taken"], lambda _inbound: room.release()) as sender:
        for number, (topic, payload) in enumerate(backlog, 1):
            while not sender.publish(topic, payload):
                time.sleep(0.01)
            size += len(payload)
            if number % EACH == 0:  # the client must not queue without bound
                sender.publish("bench/taken", b"")
                room.acquire(timeout=30)
        for _ in range(WINDOW):
            sender.publish("bench/taken", b"")
            room.acquire(timeout=30)
    return size


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used."""
    return float(sum(psutil.Process(pid).cpu_times()[:2]))


def drain(pid: int, port: int, backlog: Iterator[tuple[str, bytes]], done: Callable[[], bool]) -> dict[str, float]:
    """Fill the broker while `pid` is stopped, continue it, and measure until `done`."""
    with stopped(pid):
        size = fill(port, backlog)
        before, began = cpu_s(pid), time.perf_counter()
    until("the backlog is drained", done, 300, 0.005)
    return {"wall_s": time.perf_counter() - began, "cpu_s": cpu_s(pid) - before, "bytes": float(size)}


# -- the hub -----------------------------------------------------------------------------------------


def hub(folder: Path, count: int, each: int, seed: int) -> dict[str, float]:
    """The hub's figures for `count` messages of `each` samples."""
    upto: dict[str, int] = {}

    def acknowledged(inbound: Inbound) -> None:
        upto[inbound.topic] = decode(Ack, inbound.payload).upto

    with broker("mosquitto", folder) as port:
        house = House(folder, port)
        acks = client(port, [topics.thing("+", "acks")], acknowledged, name="bench-observer")
        with house.hub() as process, acks:
            house.http()
            process.cpu_affinity([HUB_CORE])
            found = drain(process.pid, port, messages(count, each, seed), lambda: sum(upto.values()) >= count * each)
        house.db.close()
    db = sqlite3.connect(house.file)
    (rows,) = db.execute("SELECT count(*) FROM telemetry").fetchone()
    db.close()
    if rows != count * each:
        raise RuntimeError(f"{rows} rows of {count * each}")
    return found


# -- its limits --------------------------------------------------------------------------------------


def _receive(port: int, count: int, ready: Any, done: Any) -> None:
    """In a process of its own: the hub's own client and settings, which only receives and acknowledges."""
    os.sched_setaffinity(0, {HUB_CORE})
    got = [0]

    def take(inbound: Inbound) -> None:
        inbound.acknowledge()
        got[0] += 1
        if got[0] == count:
            done.set()

    with client(port, [TELEMETRY], take, name="bench-bare", session_s=600, manual_ack=True, receive_maximum=MAX_BATCH):
        ready.set()
        done.wait(300)
        time.sleep(0.5)


def bare_receive(folder: Path, count: int, seed: int) -> dict[str, float]:
    """What the bare client takes for `count` messages."""
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Event(), spawn.Event()
    with broker("mosquitto", folder) as port:
        child = spawn.Process(target=_receive, args=(port, count, ready, done))
        child.start()
        ready.wait(30)
        found = drain(child.pid or 0, port, messages(count, 1, seed), done.is_set)
        child.join(10)
    return found


def _insert(file: str, count: int, each: int, seed: int, took: Any) -> None:
    """In a process of its own: the rows are made first, then inserted and committed, which is what is timed."""
    os.sched_setaffinity(0, {HUB_CORE})
    rows = []
    for topic, payload in messages(count, each, seed):
        batch, device = decode(Batch, payload), topic.split("/")[3]
        for seq, item in enumerate(batch.items, batch.first):
            rows.append((device, item["metric"], item["t_us"], int(device[5:]), seq, item["value"], None, "good"))
    db = sqlite3.connect(file, isolation_level=None)
    began, before = time.perf_counter(), time.process_time()
    for start in range(0, len(rows), MAX_BATCH * each):
        db.execute("BEGIN IMMEDIATE")
        db.executemany(INSERT, rows[start : start + MAX_BATCH * each])
        db.execute("COMMIT")
    took.put({"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - before})
    db.close()


def bare_insert(folder: Path, count: int, each: int, seed: int) -> dict[str, float]:
    """What the bare `executemany` takes for the rows of `count` messages."""
    file = folder / "bare.sqlite"
    Database(f"sqlite:///{file}").close()
    spawn = multiprocessing.get_context("spawn")
    took = spawn.Queue()
    child = spawn.Process(target=_insert, args=(str(file), count, each, seed, took))
    child.start()
    found: dict[str, float] = took.get(timeout=300)
    child.join(10)
    return found


# -- all of it ---------------------------------------------------------------------------------------

OURS = "hub on one core, durable"


def _folders(parent: Path) -> Iterator[Path]:
    for number in itertools.count():
        (folder := parent / str(number)).mkdir()
        yield folder


Found = dict[str, float]


def told(name: str, rounds: list[tuple[Found, Found]], count: int, limit: str) -> list[Row]:
    """The medians of all rounds of (hub, bare); a ratio is of one round. On a busy machine trust processor time."""

    def middle(value: Callable[[Found, Found], float]) -> float:
        return median(value(ours, bare) for ours, bare in rounds)

    return [
        Row(name, OURS, "rate", middle(lambda ours, _: count / ours["wall_s"]), "samples/s"),
        Row(name, limit, "rate", middle(lambda _, bare: count / bare["wall_s"]), "/s"),
        Row(name, OURS, "ratio of rates", middle(lambda ours, bare: bare["wall_s"] / ours["wall_s"]), ""),
        Row(name, OURS, "processor", middle(lambda ours, _: ours["cpu_s"] * 1e6 / count), "us/sample"),
        Row(name, limit, "processor", middle(lambda _, bare: bare["cpu_s"] * 1e6 / count), "us"),
        Row(name, OURS, "ratio of processor time", middle(lambda ours, bare: bare["cpu_s"] / ours["cpu_s"]), ""),
        Row(name, OURS, "payload", rounds[0][0]["bytes"] / count, "bytes/sample"),
    ]


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", messages=20_000, batches=2000, rounds=3)
    if shutil.which("mosquitto") is None:
        sys.exit("mosquitto is not installed: apt-get install mosquitto")
    one: list[tuple[Found, Found]] = []
    hundred: list[tuple[Found, Found]] = []
    with tempfile.TemporaryDirectory() as name:
        places = _folders(Path(name))
        for seed in range(options.seed, options.seed + options.rounds):
            found = hub(next(places), options.messages, 1, seed)
            one.append((found, bare_receive(next(places), options.messages, seed)))
            found = hub(next(places), options.batches, 100, seed)
            hundred.append((found, bare_insert(next(places), options.batches, 100, seed)))
    rows = told("1 sample a message", one, options.messages, "the hub's client, receives only")
    rows += told("100 samples a message", hundred, options.batches * 100, "sqlite3 executemany only")
    publish("ingest", options.seed, rows, options.json)


if __name__ == "__main__":
    main()
