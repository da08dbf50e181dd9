"""A real Alertmanager (Debian's) for tests, alone and on loopback, with a route that sends to nobody."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from simulators.brokers import free_port
from simulators.servers import serving

CONFIG = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"


@contextmanager
def alertmanager(folder: Path) -> Iterator[str]:
    """Its address."""
    program = shutil.which("prometheus-alertmanager")
    if program is None:
        pytest.skip("Alertmanager is not installed: apt-get install prometheus-alertmanager")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "alertmanager.yml").write_text(CONFIG, "utf-8")
    port = free_port()
    command = [
        program, "--config.file=alertmanager.yml", f"--storage.path={folder}", "--cluster.listen-address=",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with serving(command, folder, port) as url:
        yield url
