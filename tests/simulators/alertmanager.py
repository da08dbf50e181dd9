"""A real Alertmanager (Debian's) for tests, alone and on loopback, with a route that sends to nobody."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from simulators.brokers import free_port, until

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
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        until("the Alertmanager is ready", lambda: process.poll() is not None or _ready(url), 60)
        assert process.poll() is None, (folder / "log").read_text("utf-8")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
