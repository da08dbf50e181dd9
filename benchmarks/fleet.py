"""Load test of a fleet on one machine: a real hub, a real mosquitto, and devices that run the agent's own cores.

    python -m benchmarks.fleet --devices 10000 [--json FILE] [--hostile]

Each device has a connection of its own, a twin with desired settings, and telemetry (one row of `--samples` samples
every `--period` seconds of its own clock). What is measured:

- **first birth**: from the first connection until every device has been answered and its first row is durable;
- **hub restart**: the hub is killed with -9 while rows flow and desired state changes; from the start command of the
  next one until every device has nothing left to send and has reported what is desired now;
- **one-hour outage**: the same after an hour without a hub on the devices' virtual clock: they collect 3600 s of rows,
  send births and look for another connection as real ones would, while the machine's clock moves less;
- **memory** of a device (client side: cores, outbox and connection, in CPython) and of a device at the hub;
- **loss**: rows of the hub's database counted by (device, epoch, stream, seq) against what was accepted. Must be 0;
- `--hostile`: one device sends at 100 times the others' rate; their time from sending to the hub's acknowledgement.

Limits: devices, broker and hub share this machine's cores, so times are those of all three together. 10,000 devices
need 10,000 file descriptors for the devices and as many for the broker (`ulimit -n`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.agent import HUB
from benchmarks.fleet_devices import Device
from benchmarks.report import Row, arguments, percentiles, publish
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.demo.world import free_ports
from cloud_hub.twins import service as twins
from shared.protocol.codec import encode

MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 100000
max_inflight_messages 0
"""
STEP_S = 10.0
AT_ONCE = 100
HOUR_S = 3600.0
ROUNDS = 3


class Fleet:
    """All devices in one event loop. `ahead_s` is how far their clock is ahead of the machine's."""

    def __init__(self, count: int, port: int, seed: int) -> None:
        rng = random.Random(seed)
        self.ahead_s = 0.0
        self.devices = [Device(f"d{number:05d}", port, self.clock, rng) for number in range(count)]

    def clock(self) -> float:
        return time.monotonic() + self.ahead_s

    async def connect(self, devices: list[Device]) -> None:
        """Connect them, some at a time: a listening socket has a short queue."""
        for start in range(0, len(devices), AT_ONCE):
            await asyncio.gather(*(device.connect() for device in devices[start : start + AT_ONCE]))

    async def begin(self, samples: int) -> None:
        """Give each device a first row, and connect all."""
        for device in self.devices:
            device.accept(samples, now_us())
        await self.connect(self.devices)

    @property
    def reconnects(self) -> int:
        """Number of reconnections since the start."""
        return sum(device.reconnects for device in self.devices)

    async def tick(self) -> None:
        """Tick every device; devices without a connection reconnect."""
        wanted = []
        for number, device in enumerate(self.devices):
            if device.tick():
                wanted.append(device)
            if number % 200 == 0:
                await asyncio.sleep(0)
        await self.connect(wanted)

    async def pings(self) -> None:
        """Send MQTT keep-alives during the other phases."""
        while True:
            for number, device in enumerate(self.devices):
                device.ping()
                if number % 200 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(15)

    async def until(self, done: Callable[[Device], bool], patience_s: float) -> int:
        """Wait until `done` holds for every device; returns the number of devices left after `patience_s`."""
        began = ticked = time.monotonic()
        while (left := sum(not done(device) for device in self.devices)) and time.monotonic() - began < patience_s:
            if time.monotonic() - ticked > 1:
                ticked = time.monotonic()
                await self.tick()
            await asyncio.sleep(0.05)
        return left

    async def outage(self, seconds: float, period_s: float, samples: int) -> None:
        """Simulate this much device time without a hub: devices collect, tick and reconnect."""
        until, due = self.clock() + seconds, self.clock() + period_s
        while self.clock() < until:
            self.ahead_s += STEP_S
            if self.clock() >= due:
                due += period_s
                for device in self.devices:
                    device.accept(samples, now_us())
            await self.tick()


class HubProcess:
    """A real `tidegate-hub serve`, killed and started at will."""

    def __init__(self, folder: Path, port: int) -> None:
        (rest,) = free_ports(1)
        self._health = f"http://127.0.0.1:{rest}/healthz"
        self._file, self._log = folder / "hub.toml", folder / "hub.log"
        self._file.write_text(HUB.format(state=folder / "hub", rest=rest, mqtt=port), "utf-8")
        self.database = folder / "hub" / "hub.sqlite"

    def start(self) -> None:
        with self._log.open("ab") as log:
            command = [str(Path(sys.executable).parent / "tidegate-hub"), "serve", "--config", str(self._file)]
            self.process = psutil.Popen(command, stdout=log, stderr=log)

    async def serving(self) -> float:
        """Seconds until it answers and is at its broker."""
        began = time.monotonic()
        while not await asyncio.to_thread(self._serves):
            await asyncio.sleep(0.05)
        return time.monotonic() - began

    def _serves(self) -> bool:
        try:
            with urllib.request.urlopen(self._health, timeout=5) as answer:
                return bool(json.load(answer)["broker"])
        except OSError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def rss(self) -> float:
        found: float = self.process.memory_info().rss
        return found

    def desire(self, devices: list[Device], settings: dict[str, Any]) -> None:
        """Write desired state as a REST change would, while no hub is running to notify devices."""
        db = Database(f"sqlite:///{self.database}")
        payload = encode({"state": {"desired": {"settings": settings}}})
        for start in range(0, len(devices), 500):
            with db.write() as session:
                for device in devices[start : start + 500]:
                    twins.handle_request(
                        session, device.id, "", "update", payload, now_us(), actor="bench", max_bytes=32768
                    )
        db.close()


def counted(file: Path) -> dict[tuple[str, str], tuple[int, int, int]]:
    """(device, epoch) -> (rows, distinct sequence numbers, high-water mark) of telemetry in the hub's database."""
    query = """SELECT h.device, h.epoch, count(t.seq), count(DISTINCT t.seq), h.upto FROM high_water h
               LEFT JOIN telemetry t ON t.source = h.id WHERE h.stream = 'telemetry' GROUP BY h.id"""
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        return {(device, epoch): (rows, distinct, upto) for device, epoch, rows, distinct, upto in db.execute(query)}


def lost(fleet: Fleet, file: Path) -> tuple[int, int]:
    """(accepted items that are missing, items stored twice)."""
    held = counted(file)
    missing = twice = 0
    for device in fleet.devices:
        rows, distinct, _ = held.get((device.id, device.epoch), (0, 0, 0))
        missing, twice = missing + device.accepted - distinct, twice + rows - distinct
    return missing, twice


@contextmanager
def mosquitto(folder: Path) -> Iterator[tuple[int, psutil.Process]]:
    """A real broker; gives its port and its process."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        sys.exit("mosquitto is not installed: apt-get install mosquitto")
    (port,) = free_ports(1)
    file = folder / "mosquitto.conf"
    file.write_text(MOSQUITTO.format(port=port), "utf-8")
    process = psutil.Popen([program, "-c", str(file)], stdout=-3, stderr=-3)
    time.sleep(0.5)
    try:
        yield port, process
    finally:
        process.terminate()
        process.wait(20)


def born(device: Device) -> bool:
    """Whether its birth is answered and its first row durable."""
    return not device.waiting and device.session.accepted


def converged_to(version: float) -> Callable[[Device], bool]:
    """Whether nothing is waiting and the desired state is reported."""
    return lambda device: not device.waiting and device.reported == {"period_s": version}


class Figures:
    """The results so far; each is printed at once, so that an aborted run shows them."""

    def __init__(self, dataset: str) -> None:
        self._dataset, self.rows = dataset, list[Row]()

    def tell(self, method: str, metric: str, value: float, unit: str) -> None:
        """One figure."""
        self.rows.append(Row(self._dataset, method, metric, value, unit))
        print(f"  {method}: {metric} {value:.4g} {unit}", flush=True)

    async def converged(self, fleet: Fleet, method: str, done: Callable[[Device], bool], patience_s: float) -> bool:
        """Wait for every device; report how long it took, or how many did not converge."""
        began = time.monotonic()
        left = await fleet.until(done, patience_s)
        if left:
            self.tell(method, "devices that did not get there", left, f"in {patience_s:.0f} s")
            self.tell(method, "of them with rows that wait", sum(bool(one.waiting) for one in fleet.devices), "devices")
        self.tell(method, "gave up after" if left else "time to convergence", time.monotonic() - began, "s")
        return not left


def memory(hub: HubProcess, broker: psutil.Process) -> dict[str, float]:
    """Resident bytes of the three processes."""
    mine: float = psutil.Process().memory_info().rss
    return {"client side": mine, "hub": hub.rss(), "broker": broker.memory_info().rss}


async def run(options: Any, folder: Path) -> list[Row]:
    """Run all phases; after one that does not converge in `--patience` seconds only the loss is counted."""
    figures = Figures(f"{options.devices} devices")
    with mosquitto(folder) as (port, broker):
        hub = HubProcess(folder, port)
        hub.start()
        await asyncio.sleep(5)
        before = memory(hub, broker)
        fleet = Fleet(options.devices, port, options.seed)
        pinging = asyncio.create_task(fleet.pings())
        await phases(options, figures, fleet, hub, broker, before)
        pinging.cancel()
        for device in fleet.devices:
            device.close()
        hub.stop()
        missing, twice = lost(fleet, hub.database)
        accepted, waiting = (sum(getattr(one, name) for one in fleet.devices) for name in ("accepted", "waiting"))
        figures.tell("loss", "accepted in all", accepted, "items")
        figures.tell("loss", "still at the devices", waiting, "items")
        figures.tell("loss", "accepted and not at the hub", missing, "items")
        figures.tell("loss", "at the hub twice", twice, "items")
    return figures.rows


async def phases(
    options: Any, figures: Figures, fleet: Fleet, hub: HubProcess, broker: psutil.Process, before: dict[str, float]
) -> None:
    """Run first births, memory, hub restart and one-hour outage."""
    tell, kib = figures.tell, options.devices * 1024
    connecting = asyncio.create_task(fleet.begin(options.samples))
    if not await figures.converged(fleet, "first birth", born, options.patience):
        return
    await connecting
    for actor, rss in memory(hub, broker).items():
        tell("memory", f"a device, {actor}", (rss - before[actor]) / kib, "KiB")
    if options.hostile:
        await hostile(fleet, options, tell)
    for method, away_s, version in (("hub restart", 0.0, 2.0), ("one-hour outage", options.outage, 3.0)):
        for device in fleet.devices:
            device.accept(options.samples, now_us())
        hub.kill()
        hub.desire(fleet.devices, {"period_s": version})
        anew = fleet.reconnects
        await fleet.outage(away_s, options.period, options.samples)
        tell(method, "items that waited", sum(device.waiting for device in fleet.devices), "items")
        tell(method, "connections made anew meanwhile", (fleet.reconnects - anew) / options.devices, "a device")
        hub.start()
        serving = asyncio.create_task(hub.serving())
        if not await figures.converged(fleet, method, converged_to(version), options.patience):
            return
        tell(method, "start command until it serves", await serving, "s")
        tell("memory", f"a device, hub after {method}", hub.rss() / kib, "KiB")
    tell("memory", "a device, broker at the end", broker.memory_info().rss / kib, "KiB")


async def hostile(fleet: Fleet, options: Any, tell: Callable[[str, str, float, str], None]) -> None:
    """Everybody at the same rate, in turn with one device that sends at 100 times of it and waits for nobody: how long
    the others' rows take to the hub's acknowledgement. Medians of all rounds, and of the rounds' ratios."""
    calm, flooded = [], []
    for _ in range(ROUNDS):
        calm.append(await _round(fleet, options, 0))
        flooded.append(await _round(fleet, options, 100))
    for number, name in enumerate(("p50", "p99")):
        for method, found in (("everybody alike", calm), ("one at 100 times its rate", flooded)):
            tell(method, f"row to acknowledgement, {name}", median(one[number] for one in found), "ms")
        ratio = median(bad[number] / good[number] for bad, good in zip(flooded, calm, strict=True))
        tell("one at 100 times its rate", f"ratio of {name}", ratio, "")


async def _round(fleet: Fleet, options: Any, times: int) -> tuple[float, float]:
    """(p50, p99) of the others in milliseconds, while the first device sends `times` as many rows as each of them."""
    bad, others = fleet.devices[0], fleet.devices[1:]
    for device in others:
        device.late_us.clear()
    period_s = len(fleet.devices) / options.rate
    began = time.monotonic()
    while time.monotonic() - began < options.seconds:
        slice_began = time.monotonic()
        for number, device in enumerate(others):
            device.accept(1, now_us())
            for _ in range(times * (number + 1) // len(others) - times * number // len(others)):
                bad.flood(now_us())
            ahead = number / len(others) * period_s - (time.monotonic() - slice_began)
            await asyncio.sleep(max(0.0, ahead))
    await fleet.until(lambda device: not device.waiting, options.patience)
    return percentiles([one / 1e3 for device in others for one in device.late_us])


def main() -> None:
    """Run it."""
    options = arguments(
        __doc__ or "",
        devices=1000,
        samples=10,
        period=600.0,
        outage=HOUR_S,
        hostile=0,
        rate=500.0,
        seconds=20.0,
        patience=300.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(run(options, Path(folder)))
    publish("fleet", options.seed, rows, options.json)


if __name__ == "__main__":
    main()
