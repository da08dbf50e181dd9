"""Rate control of a stream: the newest inputs wait, older ones are dropped and counted."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class RateControl(Generic[T]):
    """Lets at most `max_fps` inputs a second pass (0: as many as come). At most `room` inputs wait.

    `now_s` is the time of a monotonic clock in seconds.
    """

    def __init__(self, max_fps: float, room: int = 1) -> None:
        self._period_s = 1.0 / max_fps if max_fps > 0 else 0.0
        self._due_s = 0.0
        self._room = room
        self._waiting: deque[T] = deque()
        self.dropped = 0

    def offer(self, item: T) -> None:
        """An input has come. When there is no room for it, the oldest one that waits is dropped."""
        if len(self._waiting) >= self._room:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(item)

    def next(self, now_s: float) -> T | None:
        """The oldest waiting input if it is due, else None. It goes on waiting until `passed`."""
        return self._waiting[0] if self._waiting and now_s >= self._due_s else None

    def passed(self, now_s: float) -> None:
        """The input that `next` returned has passed."""
        self._waiting.popleft()
        late = now_s - self._due_s > self._period_s
        self._due_s = (now_s if late else self._due_s) + self._period_s

    def clear(self) -> list[T]:
        """Take out all that waits."""
        found = list(self._waiting)
        self._waiting.clear()
        return found
