"""Sparkplug libraries of others, run as programs of the environment `.venv-interop` (tests/interop/)."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import PATIENCE

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".venv-interop"
DRIVERS = ROOT / "tests" / "interop" / "drivers"
DEMO = ROOT / "cloud_hub" / "demo"
Json = dict[str, Any]


def python() -> str:
    """The interpreter that has pysparkplug; skips the test where there is none."""
    interpreter = HOME / "bin" / "python"
    if not (HOME / ".pip").exists():
        pytest.skip("pysparkplug is not installed: make .venv-interop/.pip")
    return str(interpreter)


def node() -> str:
    """The node program, with sparkplug-client installed; skips the test where one is missing."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed: apt install nodejs npm; make .venv-interop/.npm")
    if not (HOME / "node_modules" / "sparkplug-client").is_dir():
        pytest.skip("sparkplug-client is not installed: make .venv-interop/.npm")
    return program


class Driver:
    """A driver's process: writes JSON lines to it, reads JSON lines from it."""

    def __init__(self, command: list[str]) -> None:
        environment = os.environ | {"NODE_PATH": str(HOME / "node_modules")}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._lines: queue.Queue[Json | None] = queue.Queue()
        self.seen: list[Json] = []
        """All lines read so far."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def send(self, **request: Any) -> None:
        """Write one request."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def read(self, wait_s: float = 20.0) -> Json:
        """The next line; fails the test if none comes, or the process has ended."""
        try:
            line = self._lines.get(timeout=wait_s * PATIENCE)
        except queue.Empty:
            pytest.fail(f"the driver said nothing for {wait_s * PATIENCE:g} s; before: {self.seen[-5:]}")
        if line is None:
            pytest.fail(f"the driver ended with code {self._process.wait(5)}; before: {self.seen[-5:]}")
        self.seen.append(line)
        return line

    def ask(self, **request: Any) -> Json:
        """One request and its answer."""
        self.send(**request)
        return self.read()

    def wait_for(self, event: str, wait_s: float = 20.0, **fields: Any) -> Json:
        """The next line whose `event` and `fields` are these; passes over others."""
        while True:
            line = self.read(wait_s)
            if line.get("event") == event and all(line.get(key) == value for key, value in fields.items()):
                return line

    def stop(self) -> None:
        """Close its input, on which a driver ends; kill it if it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
        self._reader.join(10)
        self._process.stdin.close()
        self._process.stdout.close()

    def kill(self) -> None:
        """Power off."""
        self._process.kill()
        self._process.wait(10)


@contextmanager
def driver(*command: str) -> Iterator[Driver]:
    """A running driver; stopped at the end."""
    running = Driver(list(command))
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def pysparkplug_codec() -> Iterator[Driver]:
    """pysparkplug's encoder and decoder."""
    with driver(python(), str(DRIVERS / "pysparkplug_codec.py")) as running:
        yield running


@contextmanager
def sparkplug_payload() -> Iterator[Driver]:
    """The encoder and decoder of npm sparkplug-payload."""
    with driver(node(), str(DRIVERS / "sparkplug_payload.js")) as running:
        yield running


@contextmanager
def pysparkplug_host(port: int, host_id: str = "scada") -> Iterator[Driver]:
    """A host application made with pysparkplug (cloud_hub/demo/scada_host.py), connected."""
    with driver(python(), str(DEMO / "scada_host.py"), "--port", str(port), "--host-id", host_id) as running:
        running.wait_for("connected")
        yield running


@contextmanager
def pysparkplug_node(port: int, group: str, node: str, device: str) -> Iterator[Driver]:
    """An edge node with a device made with pysparkplug (cloud_hub/demo/scada_node.py), started."""
    names = ("--group", group, "--node", node, "--device", device)
    with driver(python(), str(DEMO / "scada_node.py"), "--port", str(port), *names) as running:
        running.wait_for("started")
        yield running


@contextmanager
def sparkplug_client_node(port: int, group: str, name: str, device: str) -> Iterator[Driver]:
    """An edge node with a device made with npm sparkplug-client, started."""
    with driver(node(), str(DRIVERS / "sparkplug_client.js"), str(port), group, name, device) as running:
        running.wait_for("started")
        yield running
