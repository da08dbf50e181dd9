"""Debian's own servers for tests, each alone and on loopback."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from simulators.brokers import until


@contextmanager
def serving(command: Sequence[str], folder: Path, port: int) -> Iterator[str]:
    """Run a server whose `/-/ready` tells when it is; gives its address. Its words go to `folder`/log."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        until(f"{command[0]} is ready", lambda: process.poll() is not None or _ready(url), 60)
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
