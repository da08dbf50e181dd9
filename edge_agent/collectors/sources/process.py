"""The agent's side of a source process: starts it, receives frames in a thread, restarts it after a crash or stall."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_agent.clock import monotonic_s
from edge_agent.collectors.sources.protocol import (
    Captured,
    Image,
    Message,
    Note,
    Omitted,
    Remark,
    Request,
    Skipped,
    Spec,
    State,
    receive,
    send,
)
from shared.backoff import Backoff

Arrived = Captured | Skipped | Note | State
Keep = Literal["newest", "all"]
MAX_WAITING = 2
"""With `all`, images that wait in the agent; further ones wait in the source process."""
MAX_REPORTS = 200
BUFFER_BYTES = 1 << 20
STEADY_S = 10.0


@dataclass(slots=True)
class Counts:
    """Since the start: images received, images and notes lost because they were not taken in time, images that the
    producer left out (`max_fps`, `every`), inputs without a usable image, and starts of the process after the first.
    """

    received: int = 0
    dropped: int = 0
    skipped: int = 0
    unusable: int = 0
    restarts: int = 0


class BackgroundSource:
    """A producer in a process of its own. With `newest` an image that was not taken yet is replaced by the next one
    and counted; with `all` the producer waits. A process that says nothing for `stall_s` is killed. `options` is
    called for each start of the process, in another thread. An `interactive` producer takes requests (`ask`).
    """

    def __init__(
        self, producer: str, options: Callable[[], dict[str, Any]], keep: Keep = "newest", stall_s: float = 20.0,
        interactive: bool = False,
    ) -> None:  # fmt: skip
        self._producer, self._options, self._keep, self._stall_s = producer, options, keep, stall_s
        self._interactive = interactive
        self._requests: socket.socket | None = None
        self._changed = threading.Condition()
        self._waiting: deque[Arrived] = deque()
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        self.counts = Counts()

    def start(self) -> None:
        """Start the process, if that has not been done; returns at once."""
        if self._thread is None and not self._closing:
            self._thread = threading.Thread(target=self._run, name="source-reader", daemon=True)
            self._thread.start()

    def take(self) -> list[Arrived]:
        """What has arrived since the last call, in order, at most one image with `newest`; never blocks."""
        with self._changed:
            found = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        return found

    def ask(self, kind: str, data: bytes) -> bool:
        """Send a request to an interactive producer; never blocks. False if its process does not run or reads nothing.

        True does not mean that the request will be carried out: the process may end before.
        """
        with self._changed:
            channel, process = self._requests, self._process
            if channel is None or process is None:
                return False
            try:
                send(channel, Request(kind=kind, data=data))
            except OSError:  # full, or gone: a part may have been sent, so the process must start again
                process.kill()
                return False
        return True

    @property
    def pid(self) -> int | None:
        """Process id of the running source process."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def close(self) -> None:
        """End the process and the thread."""
        with self._changed:
            self._closing = True
            process = self._process
            self._changed.notify_all()
        if process is not None:
            process.kill()
        if self._thread is not None:
            self._thread.join(5)

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff = Backoff(0.5, 30.0, random.random)
        while not self._closing:
            started = monotonic_s()
            reason = self._one_process()
            if reason is None or self._stopped():
                return
            self._add(State(state="lost", text=reason))
            if monotonic_s() - started > STEADY_S:
                backoff.reset()
            with self._changed:
                self._changed.wait_for(lambda: self._closing, backoff.wait())
            self.counts.restarts += 1

    def _stopped(self) -> bool:
        return self._closing

    def _one_process(self) -> str | None:
        """Run one process to its end; returns why it must be started again, or None at the end of the source."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        with ours, ours.dup() as requests:
            requests.setblocking(False)
            with theirs:
                try:
                    process = self._start(theirs)
                except OSError as error:
                    return f"the source process cannot be started ({error})"
            try:
                return self._receive_all(ours, requests, process)
            finally:
                with self._changed:
                    self._requests = None
                process.kill()
                process.wait()

    def _start(self, channel: socket.socket) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "edge_agent.collectors.sources.worker"]
        if sys.version_info < (3, 11):
            command.remove("-P")
        process = subprocess.Popen(command, stdin=channel.fileno(), stdout=subprocess.DEVNULL, cwd=Path("/"))
        with self._changed:
            self._process = process
            if self._closing:
                process.kill()
        return process

    def _receive_all(
        self, channel: socket.socket, requests: socket.socket, process: subprocess.Popen[bytes]
    ) -> str | None:
        channel.settimeout(self._stall_s)
        try:
            send(channel, Spec(producer=self._producer, options=self._options(), interactive=self._interactive))
            with self._changed:
                self._requests = requests if self._interactive else None
            while (got := receive(channel)) is not None:
                if self._handle(*got):
                    return None
        except TimeoutError:
            return f"the source process said nothing for {self._stall_s:g} s"
        except (OSError, ValueError) as error:
            return f"the source process sent nothing usable ({error})"
        return f"the source process ended with {process.wait(5)}; see the log"

    def _handle(self, message: Message, data: memoryview) -> bool:
        """True at the end of the source."""
        if isinstance(message, State):
            self._add(message)
            return message.state == "ended"
        if isinstance(message, Image):
            self.counts.skipped = message.skipped
            self._add(
                Captured(t_us=message.t_us, shape=message.shape, data=data, color=message.color, token=message.token)
            )
            self.counts.received += 1
        elif isinstance(message, Omitted):
            self.counts.unusable += 1
            self._add(Skipped(token=message.token, reason=message.reason))
        elif isinstance(message, Remark):
            self._add(Note(kind=message.kind, data=message.data))
        return False

    def _add(self, item: Arrived) -> None:
        with self._changed:
            if isinstance(item, Captured):
                self._make_room()
            elif len(self._waiting) >= MAX_REPORTS:  # nobody takes them
                self.counts.dropped += isinstance(self._waiting.popleft(), Note)
            self._waiting.append(item)

    def _make_room(self) -> None:
        """Drop the image that waits, with `newest`; else wait until the agent has taken some."""
        if self._keep == "all":
            self._changed.wait_for(lambda: self._closing or self._images() < MAX_WAITING)
        elif self._images():
            self._waiting = deque(old for old in self._waiting if not isinstance(old, Captured))
            self.counts.dropped += 1

    def _images(self) -> int:
        return sum(isinstance(item, Captured) for item in self._waiting)
