"""Sparkplug libraries of others, run as programs of the environment `.venv-interop` (tests/interop/)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloud_hub.demo.peer import Peer as Driver

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".venv-interop"
DRIVERS = ROOT / "tests" / "interop" / "drivers"
DEMO = ROOT / "cloud_hub" / "demo"
WAIT_S = 60.0
"""A busy machine may take this long to start a program."""


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


@contextmanager
def driver(*command: str) -> Iterator[Driver]:
    """A running driver; stopped at the end."""
    with Driver(command, os.environ | {"NODE_PATH": str(HOME / "node_modules")}) as running:
        yield running


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
        running.wait_for("connected", WAIT_S)
        yield running


@contextmanager
def pysparkplug_node(port: int, group: str, node: str, device: str) -> Iterator[Driver]:
    """An edge node with a device made with pysparkplug (cloud_hub/demo/scada_node.py), started."""
    names = ("--group", group, "--node", node, "--device", device)
    with driver(python(), str(DEMO / "scada_node.py"), "--port", str(port), *names) as running:
        running.wait_for("started", WAIT_S)
        yield running


@contextmanager
def sparkplug_client_node(port: int, group: str, name: str, device: str) -> Iterator[Driver]:
    """An edge node with a device made with npm sparkplug-client, started."""
    with driver(node(), str(DRIVERS / "sparkplug_client.js"), str(port), group, name, device) as running:
        running.wait_for("started", WAIT_S)
        yield running
