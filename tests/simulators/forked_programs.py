"""Starts the project's own programs by fork from a process that has imported them: a hub costs 0.1 s of CPU, not 2.

What runs is a process of its own in a session of its own, with its own log and environment, as after exec. That the
console scripts themselves start is tested in `cloud_hub/cli/test_main.py`.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = {"tidegate-hub": "cloud_hub.__main__", "tidegate-edge": "edge_agent.__main__"}
PRELOADED = (
    "cloud_hub.app",
    "cloud_hub.__main__",
    "cloud_hub.cli.local",
    "edge_agent.__main__",
    "edge_agent.cli.status",
)


@dataclass
class ForkedProgram:
    """A running program, with the part of `subprocess.Popen` that the tests use."""

    pid: int
    _pidfd: int
    _server: ForkServer
    returncode: int | None = None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self.returncode is None and select.select([self._pidfd], [], [], 0)[0]:
            self._ended()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; returns the exit code, negative for a signal. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._pidfd], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self._ended()
        assert self.returncode is not None
        return self.returncode

    def _ended(self) -> None:
        self.returncode = self._server.ask({"wait": self.pid})
        os.close(self._pidfd)


class ForkServer:
    """The process that has imported the programs; it ends with the test process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen([sys.executable, __file__], stdin=theirs.fileno(), cwd=Path.cwd())
        theirs.close()
        self._channel = ours.makefile("rw")
        ours.close()
        atexit.register(self._close)

    def start(self, program: str, arguments: list[str], log: Path, env: dict[str, str]) -> ForkedProgram:
        """Start `program` with its output appended to `log`."""
        pid = self.ask({"program": program, "arguments": arguments, "log": str(log), "env": env})
        return ForkedProgram(pid, os.pidfd_open(pid), self)

    def _close(self) -> None:
        self._channel.close()
        self._process.wait(10)

    def ask(self, request: dict[str, Any]) -> int:
        """Send one request and wait for its answer."""
        self._channel.write(json.dumps(request) + "\n")
        self._channel.flush()
        return int(self._channel.readline())


@functools.cache
def fork_server() -> ForkServer:
    """The server of this test process."""
    return ForkServer()


def _run(request: dict[str, Any]) -> None:
    """In the child: become the program; never returns."""
    code = 1
    try:
        os.setsid()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.closerange(3, 64)
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv = [request["program"], *request["arguments"]]
        module = sys.modules[PROGRAMS[request["program"]]]
        code = module.main(request["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - shown as the interpreter would
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    import gc
    import importlib

    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=0).makefile("rw") as channel:
        for line in channel:
            request = json.loads(line)
            if "wait" in request:
                _, status = os.waitpid(request["wait"], 0)
                answer = os.waitstatus_to_exitcode(status)
            else:
                answer = os.fork()
                if answer == 0:
                    _run(request)
            channel.write(f"{answer}\n")
            channel.flush()


if __name__ == "__main__":
    _serve()
