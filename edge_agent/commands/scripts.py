"""Command `script <name>`: runs a script that this device's configuration names. The hub sends only the name.

A script runs without arguments, with an empty standard input and the agent's rights. It ends with the command: a
cancelled or overdue one is killed with what it started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from edge_agent.commands.service import Progress, Verb, Work, take_args
from shared.protocol.messages import CommandRequest

LOOK_S = 0.2
LONGEST_S = 3600.0
TAIL_BYTES = 1000


def script_verbs(scripts: Mapping[str, str]) -> dict[tuple[str, str], Verb]:
    """The commands of the scripts of the configuration: paths by name."""
    return {("script", name): partial(_start, path) for name, path in scripts.items()}


def _start(path: str, request: CommandRequest) -> Work:
    take_args(request)
    if not os.access(path, os.X_OK):
        raise ValueError(f"{path} is no executable file on this device")
    return _run(path)


def _run(path: str) -> Work:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [path], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            cwd=Path(path).parent,
        )  # fmt: skip
        try:
            begun_s = time.monotonic()
            while process.poll() is None:
                if time.monotonic() - begun_s > LONGEST_S:
                    raise RuntimeError(f"it did not end within {LONGEST_S:g} s")
                yield Progress(fraction=0.0, text="it runs", wait_s=LOOK_S)
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0, os.SEEK_END)
        output.seek(max(0, output.tell() - TAIL_BYTES))
        text = output.read().decode("utf-8", "replace")
    if process.returncode != 0:
        raise RuntimeError(f"it ended with code {process.returncode}: {text[-300:]}")
    return {"code": 0.0, "output": text}
