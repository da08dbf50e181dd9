"""The queue between the MQTT client's thread and the writer's, bounded by messages and bytes.

`put` blocks while the queue is full, and thereby the broker.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """A received message."""

    @property
    def payload(self) -> bytes: ...


T = TypeVar("T", bound=Sized)


class IngestQueue(Generic[T]):
    """A queue of at most `messages` messages and `size` bytes of payload; a larger message is accepted alone."""

    def __init__(self, messages: int, size: int) -> None:
        self._messages, self._size = messages, size
        self._waiting: deque[T] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def queued(self) -> int:
        """The size of the queued payloads in bytes."""
        return self._bytes

    def put(self, message: T) -> None:
        """Add a message, waiting for space. After `close` it is dropped; it has not been acknowledged."""
        size = len(message.payload)
        with self._changed:
            while self._waiting and not self._closed and not self._fits(size):
                self._changed.wait()
            if not self._closed:
                self._waiting.append(message)
                self._bytes += size
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return len(self._waiting) < self._messages and self._bytes + size <= self._size

    def receive(self, most: int, size: int) -> list[T]:
        """Wait for a message, then take at most `most`, ending with the one that exceeds `size` bytes.

        Returns an empty list after `close`, once the queue is empty.
        """
        taken: list[T] = []
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            while self._waiting and len(taken) < most and size > 0:
                taken.append(self._waiting.popleft())
                size -= len(taken[-1].payload)
            self._bytes -= sum(len(message.payload) for message in taken)
            self._changed.notify_all()
        return taken

    def close(self) -> None:
        """Accept no more messages; queued ones can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
