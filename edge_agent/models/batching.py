"""Dynamic batching in the inference process: requests of several streams are run together.

A batch is run when it is full, when each stream that was active lately has put a request into it, or after
`max_wait_s`. So a single stream never waits.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque

from edge_agent.models.wire import Request, requests

ACTIVE_S = 1.0
"""A stream counts as active for so long after a request."""


class BatchReader:
    """Reads requests from the pipe `fd`."""

    def __init__(self, fd: int, max_batch: int, max_wait_s: float) -> None:
        self._fd, self._max_batch, self._max_wait_s = fd, max_batch, max_wait_s
        self._unpacker = requests()
        self._waiting: deque[Request] = deque()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._seen: dict[int, float] = {}
        self._open = True

    @property
    def waiting(self) -> int:
        """Number of requests that were read and are not in a batch yet."""
        return len(self._waiting)

    def next(self) -> list[Request]:
        """The next batch; empty when the agent has closed the pipe."""
        while not self._waiting and self._open:
            self._read()
        if self._max_batch > 1:
            self._gather()
        size = min(self._max_batch, len(self._waiting))
        return [self._waiting.popleft() for _ in range(size)]

    def _read(self) -> None:
        data = os.read(self._fd, 1 << 16)
        if not data:
            self._open = False
        for request in self._unpacker.feed(data):
            self._waiting.append(request)
            self._seen[request.stream] = time.monotonic()

    def _gather(self) -> None:
        """Wait for requests of other streams, as long as it pays."""
        until = time.monotonic() + self._max_wait_s
        while self._open and len(self._waiting) < self._max_batch:
            now = time.monotonic()
            wait_s = until - now if self._others_expected(now) else 0.0
            if not self._poll.poll(max(wait_s, 0.0) * 1e3):
                return
            self._read()

    def _others_expected(self, now: float) -> bool:
        active = {stream for stream, seen in self._seen.items() if now - seen < ACTIVE_S}
        return bool(active - {request.stream for request in self._waiting})
