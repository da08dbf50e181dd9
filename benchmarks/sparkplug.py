"""Measures Sparkplug B: the codec, the hub as a host application, and a birth storm after a broker's restart.

    python -m benchmarks.sparkplug [--nodes 1000] [--metrics 100] [--values 200000] [--rounds 3] [--json FILE]

- **codec**: `benchmarks.sparkplug_codec` (ours, the protobuf runtime, pysparkplug, JSON);
- **ingest**: a tenth of the nodes, then all of them, send `--values` values as fast as they can; from the first message
  until the hub's database (SQLite) holds the last value. Messages of 100 metrics, and of one. Beside it, in the same
  run: `sqlite3` alone that inserts as many rows of the same form;
- **storm**: all nodes are online; mosquitto is killed and started again, and every node that is born sends a value a
  second. From the start until the hub shows every node as born again. Nodes wait for the primary host's STATE, as the
  specification wants it, and then again without that: what they send before the hub is back, no broker keeps. Counted:
  births, rebirths that the hub asked for, values that are missing afterwards.

Limits: nodes (one process), mosquitto and hub share this machine's cores, and everything is on loopback. Sparkplug data
has QoS 0: what a broker drops is gone. Medians of the rounds; quote ratios.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks import sparkplug_codec
from benchmarks.agent import HUB
from benchmarks.fleet import MOSQUITTO
from benchmarks.ingest import INSERT, cpu_s
from benchmarks.report import Row, arguments, publish
from benchmarks.twin import BIN
from cloud_hub.database.sessions import Database
from cloud_hub.demo.client import until
from cloud_hub.demo.world import free_ports

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from simulators.sparkplug_nodes import Fleet

HOST_ID, GROUP = "bench-host", "fleet"
SETTINGS = """
[sparkplug]
host_id = "{host}"
servers = [{{ address = "127.0.0.1:{port}", protocol = "{protocol}" }}]
max_nodes = 20000
"""
PATIENCE_S = 300.0
SENT = "SELECT count(*) FROM (SELECT DISTINCT device, metric, value FROM telemetry WHERE metric LIKE 'metric/%')"
ONLINE = "SELECT count(*) FROM sparkplug_nodes WHERE \"group\" = 'fleet' AND state = 'online' AND born_us > ?"


class Broker:
    """A mosquitto that may be killed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = free_ports(1)
        self._log, file = folder / "mosquitto.log", folder / "mosquitto.conf"
        file.write_text(MOSQUITTO.format(port=self.port), "utf-8")
        self._command = [shutil.which("mosquitto") or "mosquitto", "-c", str(file)]

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        time.sleep(0.3)

    def kill(self) -> None:
        """Power off."""
        self.process.kill()
        self.process.wait(10)


class HubProcess:
    """A `tidegate-hub serve` that is the host application, and a reader of its database."""

    def __init__(self, folder: Path, port: int) -> None:
        (rest,) = free_ports(1)
        file, state = folder / "hub.toml", folder / "hub"
        text = HUB.format(state=state, rest=rest, mqtt=port)
        file.write_text(text + SETTINGS.format(host=HOST_ID, port=port, protocol="5"), "utf-8")
        Database(f"sqlite:///{state / 'hub.sqlite'}").close()
        self._log = folder / "hub.log"
        self._command = [str(BIN / "tidegate-hub"), "serve", "--config", str(file)]
        self._db = sqlite3.connect(f"file:{state / 'hub.sqlite'}?mode=ro", uri=True, check_same_thread=False)

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self.process = psutil.Popen(self._command, stdout=log, stderr=log)

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(60)
        self._db.close()

    def count(self, sql: str, *parameters: Any) -> int:
        """The number that a query gives."""
        return int(self._db.execute(sql, parameters).fetchone()[0] or 0)


@contextmanager
def world() -> Iterator[tuple[Broker, HubProcess]]:
    """A broker and a hub, in a folder that is removed."""
    with tempfile.TemporaryDirectory() as name:
        broker = Broker(Path(name))
        broker.start()
        hub = HubProcess(Path(name), broker.port)
        hub.start()
        try:
            yield broker, hub
        finally:
            hub.stop()
            broker.kill()


async def reached(what: str, done: Callable[[], bool]) -> float:
    """Seconds until `done`; the fleet goes on meanwhile."""
    began = time.perf_counter()
    await asyncio.to_thread(until, what, done, PATIENCE_S, 0.02)
    return time.perf_counter() - began


async def host_online(port: int) -> None:
    """Wait until the hub is online as host application: a node that waits for it is born."""
    probe = Fleet(port, nodes=1, metrics=0, group="probe", primary_host=HOST_ID)
    await probe.start()
    probe.close()


def distinct(fleet: Fleet) -> int:
    """How many different values the fleet has sent, those of the first birth included: each metric counts upwards."""
    return sum(int(value - first) + 1 for first, node in enumerate(fleet.nodes) for value in node.values)


# -- ingest ------------------------------------------------------------------------------------------


async def _ingest(nodes: int, metrics: int, values: int, each: int) -> dict[str, float]:
    with world() as (broker, hub):
        await host_online(broker.port)
        fleet = Fleet(broker.port, nodes=nodes, metrics=metrics, group=GROUP, primary_host=HOST_ID)
        began = time.perf_counter()
        await fleet.start()
        await reached("the births are stored", lambda: hub.count(SENT) >= distinct(fleet))
        births_s, before = time.perf_counter() - began, cpu_s(hub.process.pid)
        began = time.perf_counter()
        while fleet.total("data") < values:
            await fleet.send(each)
        await reached("the values are stored", lambda: hub.count(SENT) >= distinct(fleet))
        took, spent = time.perf_counter() - began, cpu_s(hub.process.pid) - before
        sent, rebirths = fleet.total("data"), fleet.total("rebirths")
        fleet.close()
        await asyncio.sleep(0.1)
    return {"rate": sent / took, "cpu_us": spent / sent * 1e6, "births_s": births_s, "rebirths": rebirths}


def bare_insert(count: int, each: int = 10_000) -> float:
    """Rows a second of `sqlite3` alone: rows of the same form, FULL commits of as many as the hub commits together."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "bare.sqlite"
        Database(f"sqlite:///{file}").close()
        rows = [(f"fleet-node-{at % 100}", f"metric/{at // 100 % 100}", 1_795_236_000_000_000 + at, at % 100, at,
                 float(at), None, "good") for at in range(count)]  # fmt: skip
        db = sqlite3.connect(file, isolation_level=None)
        db.execute("PRAGMA synchronous = FULL")
        began = time.perf_counter()
        for start in range(0, count, each):
            db.execute("BEGIN IMMEDIATE")
            db.executemany(INSERT, rows[start : start + each])
            db.execute("COMMIT")
        took = time.perf_counter() - began
        db.close()
    return count / took


def ingest(nodes: int, metrics: int, values: int, rounds: int) -> list[Row]:
    """Rows of the ingest, for a tenth of the nodes and for all of them."""
    rows = []
    for count, each in ((nodes // 10, metrics), (nodes, metrics), (nodes // 10, 1)):
        number = values if each > 1 else values // 10
        found = [asyncio.run(_ingest(count, metrics, number, each)) for _ in range(rounds)]
        case = f"{count} nodes x {metrics}"
        method = f"{each} metrics a message"
        rows += [
            Row(case, method, "ingest", median(one["rate"] for one in found), "metrics/s"),
            Row(case, method, "CPU of the hub", median(one["cpu_us"] for one in found), "us/metric"),
            Row(case, method, "first births stored", median(one["births_s"] for one in found), "s"),
            Row(case, method, "rebirths asked for", max(one["rebirths"] for one in found), "in all rounds, most"),
        ]
    bare = median(bare_insert(values) for _ in range(rounds))
    return [*rows, Row("sqlite3 alone", "executemany", "insert", bare, "rows/s")]


# -- storm -------------------------------------------------------------------------------------------


async def _sending(fleet: Fleet, stop: asyncio.Event) -> None:
    """Every node sends a value a second, and keeps its connection."""
    while not stop.is_set():
        await fleet.send(1)
        fleet.ping()
        await asyncio.sleep(1)


async def _storm(nodes: int, metrics: int, primary_host: str) -> dict[str, float]:
    with world() as (broker, hub):
        await host_online(broker.port)
        fleet = Fleet(broker.port, nodes=nodes, metrics=metrics, group=GROUP, primary_host=primary_host)
        await fleet.start()
        await reached("the births are stored", lambda: hub.count(SENT) >= distinct(fleet))
        births, asked = fleet.total("births"), fleet.total("rebirths")
        broker.kill()
        await asyncio.sleep(1)
        stop = asyncio.Event()
        sender = asyncio.create_task(_sending(fleet, stop))
        now_us = time.time_ns() // 1000
        began = time.perf_counter()
        broker.start()
        await reached("every node is born again", lambda: hub.count(ONLINE, now_us) >= nodes)
        reborn_s = time.perf_counter() - began
        await asyncio.sleep(10)  # a rebirth loop would show
        stop.set()
        await sender
        missing = await _missing(hub, fleet)
        found = {"reborn_s": reborn_s, "births": fleet.total("births") - births, "missing": float(missing),
                 "rebirths": fleet.total("rebirths") - asked, "sent": fleet.total("data")}  # fmt: skip
        fleet.close()
        await asyncio.sleep(0.1)
    return found


async def _missing(hub: HubProcess, fleet: Fleet, patience_s: float = 10.0) -> int:
    """Values sent that the hub does not hold, once nothing more arrives."""
    deadline = time.monotonic() + patience_s
    while (left := distinct(fleet) - hub.count(SENT)) and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    return left


def storm(nodes: int, metrics: int, rounds: int) -> list[Row]:
    """Rows of the birth storm, for a tenth of the nodes and for all of them."""
    rows = []
    for count in (nodes // 10, nodes):
        for host in (HOST_ID, ""):
            found = [asyncio.run(_storm(count, metrics, host)) for _ in range(rounds)]
            case = f"storm of {count} x {metrics}"
            method = "nodes wait for STATE" if host else "nodes wait for no host"
            rows += [
                Row(case, method, "all born again", median(one["reborn_s"] for one in found), "s"),
                Row(case, method, "births", max(one["births"] for one in found) / count, "a node, most"),
                Row(case, method, "rebirths asked for", max(one["rebirths"] for one in found) / count, "a node, most"),
                Row(case, method, "values missing", max(one["missing"] for one in found), "most"),
            ]
    return rows


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", nodes=1000, metrics=100, values=200_000, rounds=3, only="")
    rows: list[Row] = []
    if options.only in ("", "codec"):
        rows += sparkplug_codec.measure()
    if options.only in ("", "ingest"):
        rows += ingest(options.nodes, options.metrics, options.values, options.rounds)
    if options.only in ("", "storm"):
        rows += storm(options.nodes, options.metrics, options.rounds)
    publish("sparkplug", options.seed, rows, options.json, "loopback; nodes, broker and hub share the cores")


if __name__ == "__main__":
    main()
