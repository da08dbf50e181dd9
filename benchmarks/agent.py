"""Measures the agent's memory, CPU and time to the first sample, compared with prometheus-node-exporter.

    python -m benchmarks.agent [--seconds 60] [--json FILE]

The agent runs without models, connected and sampling the machine every second. node-exporter (Debian's) is scraped
every second in the same run. Then the same agent with a camera and its inference child, reported as one figure.
Limits: RSS counts shared library pages in full; PSS divides them. Needs Linux (/proc).
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from benchmarks.report import Row, arguments, publish
from cloud_hub.broker.embedded import open_broker
from cloud_hub.demo.world import ASSETS, free_ports

CONFIG = """
[device]
id = "bench-1"
profile = "x86-64"
state_dir = "{state}"
[link]
discover = false
address = "127.0.0.1:{mqtt}"
[[collectors]]
kind = "host"
"""
CAMERA = """
[[collectors]]
kind = "images"
name = "camera"
path = "{frames}"
period_s = 0.05
[[models]]
name = "line-camera"
bundle = "{bundle}"
frames = "camera"
"""
EXPORTER = "prometheus-node-exporter"


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


@contextmanager
def running(command: list[str], log: Path) -> Iterator[psutil.Process]:
    """Run a process for the duration of the block."""
    with log.open("wb") as out:
        process = psutil.Popen(command, stdout=out, stderr=out)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(10)


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def cost(process: psutil.Process, seconds: float, each_second: object = None) -> tuple[float, float, float]:
    """(RSS MB, PSS MB, percent of one core) of a process and its children over `seconds`."""
    before = sum(sum(p.cpu_times()[:2]) for p in _family(process))
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        time.sleep(1)
        if callable(each_second):
            each_second()
    spent = sum(sum(p.cpu_times()[:2]) for p in _family(process)) - before
    memory = [p.memory_full_info() for p in _family(process)]
    took = time.monotonic() - began
    return sum(m.rss for m in memory) / 1e6, sum(m.pss for m in memory) / 1e6, 100 * spent / took


def first_sample_s(state: Path, began: float, wait_s: float = 20) -> float:
    """Seconds from `began` (monotonic) until the first sample is durable in the outbox."""
    file = state / "outbox.sqlite"
    while time.monotonic() - began < wait_s:
        if file.exists():
            try:
                with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
                    row = db.execute("SELECT next FROM streams WHERE stream='telemetry'").fetchone()
                db.close()
                if row and row[0] > 1:
                    return time.monotonic() - began
            except sqlite3.OperationalError:
                pass
        time.sleep(0.005)
    return float("nan")


def agent(folder: Path, mqtt: int, camera: bool, seconds: float) -> list[Row]:
    """The agent's figures, alone or with a camera and its model."""
    state = folder / ("camera" if camera else "plain")
    text = CONFIG.format(state=state, mqtt=mqtt)
    if camera:
        frames = np.random.default_rng(7).integers(0, 255, (500, 8, 8), dtype=np.uint8)
        np.save(folder / "frames.npy", frames)
        text += CAMERA.format(frames=folder / "frames.npy", bundle=ASSETS / "digits-edge")
    file = folder / f"{state.name}.toml"
    file.write_text(text, "utf-8")
    name = "agent + inference child, 20 frames/s" if camera else "agent without models"
    began = time.monotonic()
    with running([_program("tidegate-edge"), "run", "--config", str(file)], folder / f"{state.name}.log") as process:
        start = first_sample_s(state, began)
        time.sleep(8)
        rss, pss, cpu = cost(process, seconds)
    rows = [Row("this machine, 1 s", name, "RSS", rss, "MB"), Row("this machine, 1 s", name, "PSS", pss, "MB")]
    rows.append(Row("this machine, 1 s", name, "processor", cpu, "% of a core"))
    return rows if camera else [*rows, Row("this machine, 1 s", name, "start to first sample", start, "s")]


def exporter(folder: Path, seconds: float) -> list[Row]:
    """node-exporter, scraped every second; empty where it is not installed."""
    if shutil.which(EXPORTER) is None:
        print(f"{EXPORTER} is not installed (apt-get install {EXPORTER}): left out")
        return []
    (port,) = free_ports(1)
    with running([EXPORTER, f"--web.listen-address=127.0.0.1:{port}"], folder / "exporter.log") as process:
        time.sleep(2)
        url = f"http://127.0.0.1:{port}/metrics"
        rss, pss, cpu = cost(process, seconds, lambda: urllib.request.urlopen(url, timeout=5).read())
    figures = (("RSS", rss, "MB"), ("PSS", pss, "MB"), ("processor", cpu, "% of a core"))
    return [
        Row("this machine, 1 s", f"{EXPORTER}, all metrics", metric, value, unit) for metric, value, unit in figures
    ]


HUB = """
state_dir = "{state}"
[rest]
port = {rest}
[mqtt]
address = "127.0.0.1:{mqtt}"
[discovery]
announce = false
"""


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", seconds=60.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mqtt3, mqtt5, rest = free_ports(3)
        hub = folder / "hub.toml"
        hub.write_text(HUB.format(state=folder / "hub", rest=rest, mqtt=mqtt5), "utf-8")
        broker = open_broker(folder, mqtt3, mqtt5).start()
        try:
            with running([_program("tidegate-hub"), "serve", "--config", str(hub)], folder / "hub.log"):
                rows = agent(folder, mqtt5, camera=False, seconds=options.seconds)
                rows += agent(folder, mqtt5, camera=True, seconds=options.seconds / 2)
        finally:
            broker.stop()
        rows += exporter(folder, options.seconds)
    publish("agent", options.seed, rows, options.json)


if __name__ == "__main__":
    main()
