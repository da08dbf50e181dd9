"""What has come in and is not stored yet, between the client's thread and the writer's: bounded by messages and bytes.

Who puts more than there is room for waits, and the broker with it.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """A message as received."""

    @property
    def payload(self) -> bytes: ...


T = TypeVar("T", bound=Sized)


class IngestQueue(Generic[T]):
    """At most `messages`, and `size` bytes of payload; one that is larger than that comes in alone."""

    def __init__(self, messages: int, size: int) -> None:
        self._messages, self._size = messages, size
        self._waiting: deque[T] = deque()
        self._held = 0
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def queued(self) -> int:
        """Bytes of all payloads that wait."""
        return self._held

    def put(self, message: T) -> None:
        """Add one, when there is room; after `close` it is dropped: nobody has acknowledged it."""
        size = len(message.payload)
        with self._changed:
            while self._waiting and not self._closed and not self._fits(size):
                self._changed.wait()
            if not self._closed:
                self._waiting.append(message)
                self._held += size
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return len(self._waiting) < self._messages and self._held + size <= self._size

    def take(self, most: int, size: int) -> list[T]:
        """Wait for one, then all that are there: at most so many, ending with the one that passes `size` bytes.
        Empty after `close`, when nothing waits any more."""
        taken: list[T] = []
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            while self._waiting and len(taken) < most and size > 0:
                taken.append(self._waiting.popleft())
                size -= len(taken[-1].payload)
            self._held -= sum(len(one.payload) for one in taken)
            self._changed.notify_all()
        return taken

    def close(self) -> None:
        """Nothing more comes; what waits may still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
