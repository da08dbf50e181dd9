"""The agent's side of an inference process: starts it, sends frames and receives results."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_agent.collectors import Frame
from edge_agent.models.worker import Failed, InferenceRequest, InferenceResult, Ready, WorkerMessage, read, write

MAX_IN_FLIGHT = 4
"""Maximum frames in flight; further frames are skipped, because a camera does not wait."""


class InferenceChild:
    """An inference process. `on_message` and `on_end` are called from a reader thread."""

    def __init__(self, bundle: str, on_message: Callable[[WorkerMessage], None], on_end: Callable[[], None]) -> None:
        command = [sys.executable, "-P", "-m", "edge_agent.models.worker", bundle]
        if sys.version_info < (3, 11):
            command.remove("-P")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path("/"))
        self.in_flight: dict[int, Frame] = {}
        self._on_message, self._on_end = on_message, on_end
        self._requests: queue.SimpleQueue[InferenceRequest | None] = queue.SimpleQueue()
        threading.Thread(target=self._read_results, name="inference-reader", daemon=True).start()
        threading.Thread(target=self._write_requests, name="inference-writer", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def _read_results(self) -> None:
        assert self._process.stdout is not None
        decoder = msgspec.msgpack.Decoder(WorkerMessage)
        with self._process.stdout as stream:
            while (body := read(stream)) is not None:
                self._on_message(decoder.decode(body))
        self._process.wait()
        self._requests.put(None)  # ends the writer thread
        self._on_end()

    def _write_requests(self) -> None:
        """Write requests from a separate thread, so that a hanging process never blocks the agent."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError), self._process.stdin as stream:
            while (request := self._requests.get()) is not None:
                write(stream, request)

    def submit(self, frame: Frame) -> bool:
        """Queue a frame; False if too many frames are in flight."""
        if len(self.in_flight) >= MAX_IN_FLIGHT:
            return False
        self.in_flight[frame.number] = frame
        self._requests.put(InferenceRequest(frame.number, frame.shape[:2], bytes(frame.data)))
        return True

    def end(self) -> None:
        """Close the pipe; kill the process if it does not exit."""
        self._requests.put(None)
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)


__all__ = ["Failed", "InferenceChild", "InferenceResult", "Ready", "WorkerMessage"]
