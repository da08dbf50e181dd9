"""A desired change over REST until the device's report of it is visible over REST, on loopback.

    python -m benchmarks.twin [--changes 200] [--json FILE]

A real hub and a real agent over each broker: mosquitto (where installed) and the embedded one. Beside it, in the
same run: a FULL commit of SQLite on this disk (the path holds at least three: desired, the device's own twin,
reported) and a QoS 1 round trip between two bare clients on the same broker.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.agent import CONFIG, HUB, running
from benchmarks.report import Row, arguments, percentiles, publish
from cloud_hub import tokens
from cloud_hub.broker import open_broker
from cloud_hub.clock import now_us
from cloud_hub.db import Database
from cloud_hub.demo.client import ActFailed, Client, until
from cloud_hub.demo.world import free_ports
from shared.mqtt import Connection, Options

MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 100000
"""


@contextmanager
def broker(kind: str, folder: Path) -> Iterator[int]:
    """A broker on loopback; gives its MQTT 5 port."""
    mqtt3, mqtt5 = free_ports(2)
    if kind == "embedded":
        embedded = open_broker(folder, mqtt3, mqtt5).start()
        try:
            yield mqtt5
        finally:
            embedded.stop()
        return
    file = folder / "mosquitto.conf"
    file.write_text(MOSQUITTO.format(port=mqtt5), "utf-8")
    with running([shutil.which("mosquitto") or "mosquitto", "-c", str(file)], folder / "mosquitto.log"):
        time.sleep(0.5)
        yield mqtt5


def full_commits(folder: Path, count: int = 200) -> list[float]:
    """Milliseconds of single FULL commits on this disk."""
    db = sqlite3.connect(folder / "commits.sqlite", isolation_level=None)
    db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    took = []
    for number in range(count):
        began = time.perf_counter()
        db.execute("INSERT INTO t VALUES (?, ?)", (number, "x" * 500))
        took.append((time.perf_counter() - began) * 1e3)
    db.close()
    return took


def round_trips(port: int, count: int = 300) -> list[float]:
    """Milliseconds from publish to receipt at QoS 1 through two bare clients."""
    came, up = threading.Event(), threading.Barrier(3)

    def arrived() -> None:
        up.wait(10)

    def client(name: str, filters: list[str]) -> Connection:
        connection = Connection(
            Options(client_id=name, filters=filters), lambda: ("127.0.0.1", port),
            on_message=lambda _inbound: came.set(), on_up=arrived, on_down=lambda _reason: None,
        )  # fmt: skip
        connection.start()
        return connection

    sender, receiver = client("bench-a", ["bench/none"]), client("bench-b", ["bench/ping"])
    up.wait(10)
    took = []
    for _ in range(count):
        came.clear()
        began = time.perf_counter()
        sender.publish("bench/ping", b"{}")
        came.wait(5)
        took.append((time.perf_counter() - began) * 1e3)
    sender.stop()
    receiver.stop()
    return took


def changes(client: Client, count: int) -> tuple[list[float], list[float]]:
    """(until reported, of the PATCH alone) in milliseconds, for `count` desired changes one after another."""
    reported, patched = [], []
    path = "/devices/bench-1/twin"
    for number in range(count):
        period = 3000.0 + number
        began = time.perf_counter()
        client.call("PATCH", path, {"desired": {"settings": {"period_s": period}}})
        patched.append((time.perf_counter() - began) * 1e3)
        while client.reported("bench-1")["settings"]["period_s"] != period:
            if time.perf_counter() - began > 10:
                raise ActFailed("a change was not reported within 10 s")
        reported.append((time.perf_counter() - began) * 1e3)
    return reported, patched


def measure(kind: str, folder: Path, count: int) -> list[Row]:
    """All figures over one broker."""
    bin_folder = Path(sys.executable).parent
    (rest,) = free_ports(1)
    with broker(kind, folder) as port:
        pings = round_trips(port)
        (folder / "hub.toml").write_text(HUB.format(state=folder / "hub", rest=rest, mqtt=port), "utf-8")
        (folder / "edge.toml").write_text(CONFIG.format(state=folder / "edge", mqtt=port), "utf-8")
        db = Database(f"sqlite:///{folder / 'hub' / 'hub.sqlite'}")
        with db.write() as session:
            token = tokens.create(session, "bench", "operator", now_us(), "bench")
        db.close()
        hub = [str(bin_folder / "tidegate-hub"), "serve", "--config", str(folder / "hub.toml")]
        edge = [str(bin_folder / "tidegate-edge"), "run", "--config", str(folder / "edge.toml")]
        with running(hub, folder / "hub.log"), running(edge, folder / "edge.log"):
            client = Client(f"http://127.0.0.1:{rest}", token)
            until("the device reports", lambda: client.reported("bench-1").get("settings"), 30)
            reported, patched = changes(client, count)
            client.close()
    rows = []
    for name, values in (
        ("QoS 1, two bare clients", pings),
        ("PATCH alone", patched),
        ("desired -> reported", reported),
    ):
        median, p99 = percentiles(values)
        rows += [Row(kind, name, "p50", median, "ms"), Row(kind, name, "p99", p99, "ms")]
    return rows


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", changes=200)
    kinds = ["mosquitto", "embedded"] if shutil.which("mosquitto") else ["embedded"]
    if len(kinds) == 1:
        print("mosquitto is not installed (apt-get install mosquitto): left out")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        median, p99 = percentiles(full_commits(Path(name)))
        rows += [Row("this disk", "SQLite FULL commit", "p50", median, "ms")]
        rows += [Row("this disk", "SQLite FULL commit", "p99", p99, "ms")]
        for kind in kinds:
            folder = Path(name) / kind
            folder.mkdir()
            rows += measure(kind, folder, options.changes)
    publish("twin", options.seed, rows, options.json)


if __name__ == "__main__":
    main()
