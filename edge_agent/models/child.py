"""The parent's end of an inference child: start it, feed it, notice when it is gone or hangs."""

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

MAX_FLYING = 4
"""Frames on their way to the child; beyond that a frame is skipped, because a camera does not wait."""


class InferenceChild:
    """One child process. `on_message` and `on_end` are called from a reader thread."""

    def __init__(self, bundle: str, on_message: Callable[[WorkerMessage], None], on_end: Callable[[], None]) -> None:
        command = [sys.executable, "-P", "-m", "edge_agent.models.worker", bundle]
        if sys.version_info < (3, 11):
            command.remove("-P")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path("/"))
        self.in_flight: dict[int, Frame] = {}
        self._on_message, self._on_end = on_message, on_end
        self._asks: queue.SimpleQueue[InferenceRequest | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="inference-reader", daemon=True).start()
        threading.Thread(target=self._speak, name="inference-writer", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def _listen(self) -> None:
        assert self._process.stdout is not None
        decoder = msgspec.msgpack.Decoder(WorkerMessage)
        with self._process.stdout as stream:
            while (body := read(stream)) is not None:
                self._on_message(decoder.decode(body))
        self._process.wait()
        self._asks.put(None)  # or the writer would wait for ever, with its pipe
        self._on_end()

    def _speak(self) -> None:
        """Write from a thread of its own: a child that hangs must never block the agent."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError), self._process.stdin as stream:
            while (ask := self._asks.get()) is not None:
                write(stream, ask)

    def submit(self, frame: Frame) -> bool:
        """Hand over one frame; False when the child is behind."""
        if len(self.in_flight) >= MAX_FLYING:
            return False
        self.in_flight[frame.number] = frame
        self._asks.put(InferenceRequest(frame.number, frame.shape, frame.data))
        return True

    def end(self) -> None:
        """Close the pipe and make sure that the process is gone."""
        self._asks.put(None)
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)


__all__ = ["Failed", "InferenceChild", "InferenceResult", "Ready", "WorkerMessage"]
