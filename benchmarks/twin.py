"""Measures latency and rate of twin changes over real brokers, on loopback.

    python -m benchmarks.twin [--changes 200] [--updates 10000] [--json FILE]

**Round trip.** A real hub and a real agent over mosquitto (where installed) and the embedded broker. A client on MQTT
sends a desired change, once as `shadow/update` and once as a REST PATCH, and waits for the `update/documents` in which
reported has become desired: client -> hub (commit) -> device (commit) -> hub (commit) -> client. Changes come 20 ms
after one another. Beside it: a FULL commit of SQLite on this disk, and a QoS 1 message between two bare clients.

**Rate.** A backlog of reported updates for 100 devices waits in the broker for the hub, which runs on one core; the
rate is that of its durable versions. Beside it, on the same backlog: the hub's own MQTT client that only receives and
acknowledges, and `mosquitto_sub`. Then REST: GET and PATCH of a twin over four connections.

Limits: everything shares this machine, so the clients and the broker take cores from the hub; quote ratios.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.agent import CONFIG, HUB, running
from benchmarks.report import Row, arguments, percentiles, publish
from cloud_hub.access import tokens
from cloud_hub.broker.embedded import open_broker
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.demo.client import until
from cloud_hub.demo.world import free_ports
from cloud_hub.devices import registry as device_registry
from shared import topics
from shared.mqtt import Connection, Inbound, Options

MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 100000
max_inflight_messages 0
"""
BIN = Path(sys.executable).parent
DEVICE = "bench-1"
TWIN = f"/api/v1/devices/{DEVICE}/twin"
PAUSE_S = 0.02


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


@contextmanager
def client(
    port: int, filters: list[str], on_message: Callable[[Inbound], None], name: str = "", **options: Any
) -> Iterator[Connection]:
    """A bare MQTT client, subscribed."""
    up = threading.Event()
    connection = Connection(
        Options(client_id=name or f"bench-{filters[0][-12:].replace('/', '-')}", filters=filters, **options),
        lambda: ("127.0.0.1", port), on_message=on_message, on_up=up.set, on_down=lambda _reason: None,
    )  # fmt: skip
    connection.start()
    up.wait(10)
    try:
        yield connection
    finally:
        connection.stop()


def pings(port: int, count: int = 300) -> list[float]:
    """Milliseconds from publish to receipt at QoS 1 through two bare clients."""
    came, took = threading.Event(), []
    with client(port, ["bench/none"], print) as sender, client(port, ["bench/ping"], lambda _inbound: came.set()):
        for _ in range(count):
            came.clear()
            began = time.perf_counter()
            sender.publish("bench/ping", b"{}")
            came.wait(5)
            took.append((time.perf_counter() - began) * 1e3)
    return took


class Http:
    """One kept connection to REST, without a library's own cost."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: Any = None) -> bytes:
        """One request; raises RuntimeError unless it is a 2xx."""
        self._connection.request(method, path, None if body is None else json.dumps(body), self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:200]!r}")
        return content


@dataclass
class House:
    """A hub and what it needs, with its database made before it starts."""

    folder: Path
    port: int

    def __post_init__(self) -> None:
        (self.rest,) = free_ports(1)
        text = HUB.format(state=self.folder / "hub", rest=self.rest, mqtt=self.port)
        (self.folder / "hub.toml").write_text(text, "utf-8")
        (self.folder / "edge.toml").write_text(CONFIG.format(state=self.folder / "edge", mqtt=self.port), "utf-8")
        self.file = self.folder / "hub" / "hub.sqlite"
        self.db = Database(f"sqlite:///{self.file}")
        with self.db.write() as session:
            self.token = tokens.create(session, "bench", "operator", now_us(), "bench")

    def hub(self) -> Any:
        """The hub's process."""
        return running([str(BIN / "tidegate-hub"), "serve", "--config", str(self.folder / "hub.toml")],
                       self.folder / "hub.log")  # fmt: skip

    def edge(self) -> Any:
        """The agent's process."""
        return running([str(BIN / "tidegate-edge"), "run", "--config", str(self.folder / "edge.toml")],
                       self.folder / "edge.log")  # fmt: skip

    def http(self) -> Http:
        """A connection, once REST answers."""

        def connected() -> Http | None:
            try:
                return Http(self.rest, self.token)
            except OSError:
                return None

        return until("REST answers", connected, 30)


def round_trips(house: House, count: int) -> dict[str, list[float]]:
    """Milliseconds until reported is what was desired, by the way in; and of REST's answers alone."""
    took: dict[str, list[float]] = {"desired by MQTT -> reported": [], "desired by PATCH -> reported": [],
                                    "PATCH alone": [], "GET alone": []}  # fmt: skip
    done, wanted = threading.Event(), [3000.0]

    def seen(inbound: Inbound) -> None:
        reported = json.loads(inbound.payload)["current"]["state"].get("reported", {})
        if reported.get("settings", {}).get("period_s") == wanted[0]:
            done.set()

    def change(way: str, send: Callable[[dict[str, Any]], object]) -> None:
        wanted[0] += 1
        done.clear()
        time.sleep(PAUSE_S)
        began = time.perf_counter()
        send({"desired": {"settings": {"period_s": wanted[0]}}})
        sent = time.perf_counter()
        if not done.wait(10):
            raise RuntimeError("a change was not reported within 10 s")
        took[f"desired by {way} -> reported"].append((time.perf_counter() - began) * 1e3)
        if way == "PATCH":
            took["PATCH alone"].append((sent - began) * 1e3)

    documents, update = (topics.shadow(DEVICE, "", verb) for verb in ("update/documents", "update"))
    with client(house.port, [documents], seen) as observer:
        rest = house.http()
        until("the agent reports", lambda: b"settings" in _get(rest), 30)
        for _ in range(count):
            change("MQTT", lambda state: observer.publish(update, json.dumps({"state": state}).encode()))
            change("PATCH", lambda state: rest.call("PATCH", TWIN, state))
        for _ in range(count):
            time.sleep(PAUSE_S / 4)
            began = time.perf_counter()
            rest.call("GET", TWIN)
            took["GET alone"].append((time.perf_counter() - began) * 1e3)
    return took


def _get(rest: Http) -> bytes:
    try:
        return rest.call("GET", TWIN)
    except RuntimeError:
        return b""


# -- rate --------------------------------------------------------------------------------------------

DEVICES = 100


def backlog(port: int, count: int, session: str, filters: list[str]) -> None:
    """Open a session that the broker keeps, leave it, and fill its queue with `count` reported updates."""
    with client(port, filters, print, session_s=600, name=session):
        pass
    left = threading.Semaphore(0)
    with client(port, ["bench/filled"], lambda _inbound: left.release()) as sender:
        for number in range(count):
            state = {"reported": {"line": {"speed": number, "good": number * 7, "state": "running", "load": 0.5}}}
            topic = topics.shadow(f"rate-{number % DEVICES}", "", "update")
            while not sender.publish(topic, json.dumps({"state": state}).encode()):
                time.sleep(0.01)
        sender.publish("bench/filled", b"")
        left.acquire(timeout=60)


def bare_receive(port: int, count: int) -> float:
    """Messages a second of the hub's own client that does nothing but receive and acknowledge."""
    filters = [topics.thing("+", "shadow/update")]
    backlog(port, count, "bench-bare", filters)
    times: list[float] = []

    def take(inbound: Inbound) -> None:
        inbound.acknowledge()
        times.append(time.perf_counter())

    with client(port, filters, take, session_s=600, name="bench-bare", manual_ack=True):
        until("all are received", lambda: len(times) >= count, 120)
    return (len(times) - 1) / (times[-1] - times[0])


def mosquitto_sub(port: int, count: int) -> float | None:
    """Messages a second of mosquitto_sub on the same backlog; None where it is not installed."""
    program = shutil.which("mosquitto_sub")
    if program is None:
        return None
    topic = topics.thing("+", "shadow/update")
    backlog(port, count, "bench-sub", [topic])
    command = [program, "-p", str(port), "-V", "5", "-c", "-x", "600", "-i", "bench-sub", "-q", "1", "-t", topic]
    began = time.perf_counter()
    subprocess.run([*command, "-C", str(count)], stdout=subprocess.DEVNULL, check=True, timeout=120)
    return count / (time.perf_counter() - began)


def durable(house: House, count: int) -> float:
    """Twin versions a second, from the first to the last commit of the backlog, with the hub on one core."""
    with house.db.write() as session:
        for number in range(DEVICES):
            device_registry.register(session, f"rate-{number}", now_us(), actor="bench")
    backlog(house.port, count, "tidegate-hub", topics.hub_filters())
    with house.hub() as process:
        process.cpu_affinity([0])

        def stored() -> bool:
            (number,) = _query(house, "SELECT count(*) FROM twin_changes WHERE device LIKE 'rate-%'")
            return int(number) >= count

        until("all are durable", stored, 300, 0.5)
    sql = "SELECT min(t_us), max(t_us) FROM twin_changes WHERE device LIKE 'rate-%'"
    first, last = _query(house, sql)
    return (count - 1) * 1e6 / float(last - first)


def _query(house: House, sql: str) -> Any:
    db = sqlite3.connect(house.file, timeout=30)
    try:
        return db.execute(sql).fetchone()
    finally:
        db.close()


def rest_rates(house: House, seconds: float = 3.0, connections: int = 4) -> dict[str, float]:
    """GET and PATCH a second."""
    rates = {}
    house.http()
    for method in ("GET", "PATCH"):
        counts = [0] * connections
        end = time.monotonic() + seconds

        def work(own: int, method: str = method, counts: list[int] = counts, end: float = end) -> None:
            rest, path = house.http(), f"/api/v1/devices/rate-{own}/twin"
            while time.monotonic() < end:
                body = {"desired": {"n": counts[own]}} if method == "PATCH" else None
                rest.call(method, path, body)
                counts[own] += 1

        threads = [threading.Thread(target=work, args=(own,)) for own in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rates[method] = sum(counts) / seconds
    return rates


# -- all of it ---------------------------------------------------------------------------------------


def latencies(kind: str, folder: Path, count: int) -> list[Row]:
    """The round trip over one broker."""
    rows = []
    with broker(kind, folder) as port:
        house = House(folder, port)
        found = {"QoS 1, two bare clients": pings(port)}
        with house.hub(), house.edge():
            found |= round_trips(house, count)
        house.db.close()
    for name, values in found.items():
        median, p99 = percentiles(values)
        rows += [Row(kind, name, "p50", median, "ms"), Row(kind, name, "p99", p99, "ms")]
    return rows


def rates(folder: Path, count: int) -> list[Row]:
    """The rates over mosquitto."""
    with broker("mosquitto", folder) as port:
        house = House(folder, port)
        sub, bare, ours = mosquitto_sub(port, count), bare_receive(port, count), durable(house, count)
        with house.hub():
            rest = rest_rates(house)
        house.db.close()
    rows = [] if sub is None else [Row("mosquitto", "mosquitto_sub, receives only", "rate", sub, "msg/s")]
    rows += [
        Row("mosquitto", "the hub's client, receives only", "rate", bare, "msg/s"),
        Row("mosquitto", "twin updates, durable, one core", "rate", ours, "updates/s"),
        Row("mosquitto", "twin updates, durable, one core", "ratio to bare receive", ours / bare, ""),
        Row("REST, 4 connections", "GET twin", "rate", rest["GET"], "requests/s"),
        Row("REST, 4 connections", "PATCH twin", "rate", rest["PATCH"], "requests/s"),
    ]
    return rows


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", changes=200, updates=10_000)
    kinds = ["mosquitto", "embedded"] if shutil.which("mosquitto") else ["embedded"]
    if len(kinds) == 1:
        print("mosquitto is not installed (apt-get install mosquitto): left out, and the rates with it")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        median, p99 = percentiles(full_commits(Path(name)))
        rows += [Row("this disk", "SQLite FULL commit", "p50", median, "ms")]
        rows += [Row("this disk", "SQLite FULL commit", "p99", p99, "ms")]
        for kind in kinds:
            folder = Path(name) / kind
            folder.mkdir()
            rows += latencies(kind, folder, options.changes)
        if len(kinds) > 1:
            (folder := Path(name) / "rates").mkdir()
            rows += rates(folder, options.updates)
    publish("twin", options.seed, rows, options.json)


if __name__ == "__main__":
    main()
