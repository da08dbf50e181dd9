"""Runs the child process and keeps it running: a watchdog starts it again when it dies or hangs."""

from __future__ import annotations

import logging
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import random
from typing import IO, cast

import msgspec

from cloud_hub.inference.engines.llama.child import Serve, Served
from shared.backoff import Backoff
from shared.errors import ConfigError, NotReady, TidegateError

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-I", "-m", "cloud_hub.inference.engines.llama.child")
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 60.0
POLL_S, RESPONDS_S = 0.1, 4.0
STOP_S = 1.0
STDERR_LINES = 20


@dataclass(frozen=True, slots=True)
class Child:
    """A child that serves."""

    url: str
    key: str
    pid: int

    def __repr__(self) -> str:
        return f"Child({self.url}, {self.pid})"


class LlamaProcess:
    """Starts at the first `current`. `responds` asks a child whether its main loop still answers."""

    def __init__(
        self, place: str, serve: Callable[[str], Serve], responds: Callable[[Child, float], bool], *,
        ready_s: float, hang_s: float, check_s: float = 5.0,
    ) -> None:  # fmt: skip
        self._place, self._serve, self._responds = place, serve, responds
        self._ready_s, self._hang_s, self._check_s = ready_s, hang_s, check_s
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._child: Child | None = None
        self._error: TidegateError | None = None
        self.starts = 0

    def current(self) -> Child | None:
        """The child, or None while it starts; raises what the last start failed with."""
        with self._lock:
            if self._thread is None:
                self._stopping.clear()
                self._thread = threading.Thread(target=self._supervise, name="llama", daemon=True)
                self._thread.start()
        if (error := self._error) is not None:
            raise error
        return self._child

    def stop(self) -> None:
        """End the child, and wait for it. `current` would start it again."""
        with self._lock:
            self._stopping.set()
            thread, self._thread = self._thread, None
        if thread is not None:
            if (process := self._process) is not None:
                _end(process)
            thread.join(STOP_S)

    def _supervise(self) -> None:
        backoff = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S, random)
        while not self._stopping.is_set():
            reason = self._run_child(backoff)
            self._child = None
            if self._stopping.is_set():
                return
            wait_s = backoff.wait()
            self._error = self._error or NotReady(f"{self._place}: the model's process {reason}", wait_s)
            log.warning("llama.ended", extra={"fields": {"reason": str(self._error), "wait_s": round(wait_s, 1)}})
            self._stopping.wait(wait_s)

    def _run_child(self, backoff: Backoff) -> str:
        """Start a child and watch it to its end; why it ended."""
        key = secrets.token_urlsafe(32)
        self.starts += 1
        with subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path("/"), env={}
        ) as process:
            self._process, tail = process, _drained(process.stderr)
            try:
                served = self._started(process, key)
                if isinstance(served, TidegateError):
                    self._error = served
                    return "did not start"
                self._child, self._error = Child(f"{served.address}/v1", key, process.pid), None
                backoff.reset()
                log.info("llama.started", extra={"fields": {"place": self._place, "child": process.pid}})
                reason = self._watch(process, self._child)
            finally:
                _end(process)
        log.debug("llama.output", extra={"fields": {"lines": list(tail)}})
        return reason

    def _started(self, process: subprocess.Popen[bytes], key: str) -> Served | TidegateError:
        line: list[bytes] = []
        try:
            _stdin(process).write(msgspec.json.encode(self._serve(key)) + b"\n")
            _stdin(process).flush()
        except OSError:
            return NotReady(f"{self._place}: the model's process ended at once", 5.0)
        reader = threading.Thread(target=lambda: line.append(_readline(process.stdout)), daemon=True)
        reader.start()
        end = time.monotonic() + self._ready_s
        while reader.is_alive() and time.monotonic() < end and not self._stopping.is_set():
            reader.join(POLL_S)
        return self._served(line[0] if line else b"")

    def _served(self, line: bytes) -> Served | TidegateError:
        if not line:
            reason = f"the model was not ready within {self._ready_s:g} s, or its process died"
            return NotReady(f"{self._place}: {reason}", 5.0)
        served = msgspec.json.decode(line, type=Served)
        if not served.error:
            return served
        return ConfigError(self._place, served.error, "Correct path, sha256 or the installation")

    def _watch(self, process: subprocess.Popen[bytes], child: Child) -> str:
        answered = checked = time.monotonic()
        while not self._stopping.wait(POLL_S):
            if (status := process.poll()) is not None:
                return f"died ({_status(status)})"
            now = time.monotonic()
            if now - checked < self._check_s:
                continue
            checked = now
            if self._responds(child, min(RESPONDS_S, self._hang_s)):
                answered = time.monotonic()
            elif time.monotonic() - answered > self._hang_s:
                return f"did not respond for {self._hang_s:g} s"
        return "was stopped"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close its input, which it ends with; kill what does not."""
    with suppress(OSError):
        _stdin(process).close()
    try:
        process.wait(STOP_S if process.poll() is None else 0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _stdin(process: subprocess.Popen[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", process.stdin)


def _drained(stream: IO[bytes] | None) -> deque[str]:
    """The last lines of a stream, which is read so that the child never waits for it."""
    tail: deque[str] = deque(maxlen=STDERR_LINES)

    def drain() -> None:
        for line in stream or ():
            tail.append(line.decode("utf-8", "replace").strip()[:300])

    threading.Thread(target=drain, daemon=True).start()
    return tail


def _readline(stream: IO[bytes] | None) -> bytes:
    return stream.readline() if stream is not None else b""


def _status(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit {status}"
