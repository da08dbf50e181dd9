"""The agent's side of an inference process: starts it, sends inputs and receives results."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_agent.clock import monotonic_s
from edge_agent.collectors import Frame, ModelInput
from edge_agent.models.frame_ring import SLOT_BYTES, FrameWriter
from edge_agent.models.wire import ModelSpec, Request, WorkerMessage, messages, pack

END_S = 2.0
"""A process that was asked to end and has not ended after so long is killed."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """An input that was submitted and not answered yet. `submitted_s` is from before its copy."""

    stream: int
    input: ModelInput
    offset: int
    submitted_s: float


def command(module: str, *arguments: str) -> list[str]:
    """The command line of a Python module; `-P` keeps the working directory out of the import path."""
    safe = ["-P"] if sys.version_info >= (3, 11) else []
    return [sys.executable, *safe, "-m", module, *arguments]


def exit_reason(code: int) -> str:
    """What ended a process: its exit code or the name of the signal."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def read_messages(fd: int, on_messages: Callable[[list[WorkerMessage]], None]) -> None:
    """Read messages from a pipe to its end."""
    unpacker = messages()
    while data := os.read(fd, 1 << 16):
        if found := unpacker.feed(data):
            on_messages(found)


class InferenceChild:
    """An inference process. `on_messages` and `on_end(exit code)` are called from a reader thread."""

    def __init__(
        self, spec: ModelSpec, on_messages: Callable[[list[WorkerMessage]], None], on_end: Callable[[int], None]
    ) -> None:
        self._ring = FrameWriter()
        arguments = command("edge_agent.models.worker", msgspec.json.encode(spec).decode(), str(self._ring.fd))
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path("/"), pass_fds=[self._ring.fd]
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self.in_flight: dict[int, InFlight] = {}
        self._last_id = 0
        self._on_messages, self._on_end = on_messages, on_end
        threading.Thread(target=self._read, name="inference-reader", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def rss_mb(self) -> float:
        """Resident memory in MB; 0 when it has ended."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1])
        except (OSError, IndexError, ValueError):
            return 0.0
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            read_messages(stream.fileno(), self._on_messages)
        self._on_end(self._process.wait())

    def submit(self, stream: int, item: ModelInput) -> bool:
        """Copy the input into shared memory and send its header; False if there is no room for it now."""
        size = len(item.data) if isinstance(item.data, bytes) else item.data.nbytes
        if size > SLOT_BYTES:
            raise ValueError(f"input of {size} bytes, at most {SLOT_BYTES} are possible")
        submitted_s = monotonic_s()  # not after the send: the model may have run before this thread goes on
        offset = self._ring.put(item.data)
        if offset is None:
            return False
        self._last_id += 1
        dtype, color = ("uint8", item.color) if isinstance(item, Frame) else ("float32", "gray")
        request = Request(self._last_id, stream, offset, size, item.shape, dtype, color)  # type: ignore[arg-type]
        if not self._send(pack(request)):
            self._ring.release(offset)
            return False
        self.in_flight[request.id] = InFlight(stream, item, offset, submitted_s)
        return True

    def _send(self, data: bytes) -> bool:
        """Write to the pipe without waiting. A header is shorter than PIPE_BUF, so it is written whole or not at all.

        A process that has just ended is noticed by the reader thread: then the input counts as sent.
        """
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), data)
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            pass
        return True

    def answered(self, request_id: int) -> InFlight | None:
        """Free the slot of a request and return it; None if it is unknown."""
        found = self.in_flight.pop(request_id, None)
        if found is not None:
            self._ring.release(found.offset)
        return found

    def take_all(self) -> Sequence[InFlight]:
        """Take out all that is in flight."""
        found = list(self.in_flight.values())
        self.in_flight.clear()
        return found

    def kill(self) -> None:
        """Kill the process; `on_end` follows."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def end(self, wait_s: float = 0.0) -> None:
        """Ask the process to end, and kill it if it does not; waits at most `wait_s` for it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._ring.close()
        if wait_s:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(wait_s)
                return
            self._process.kill()
            self._process.wait(5)
            return
        killer = threading.Timer(END_S, self._process.kill)
        killer.daemon = True
        killer.start()
