"""Rate control of a stream: the newest input waits, older ones are dropped and counted."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class RateControl(Generic[T]):
    """Lets at most `max_fps` inputs a second pass (0: as many as come); `now` is in seconds on a monotonic clock."""

    def __init__(self, max_fps: float) -> None:
        self._period_s = 1.0 / max_fps if max_fps > 0 else 0.0
        self._due_s = 0.0
        self._waiting: T | None = None
        self.dropped = 0

    def offer(self, item: T) -> None:
        """An input has come. One that still waits is dropped: it is older."""
        self.dropped += self._waiting is not None
        self._waiting = item

    def take(self, now_s: float) -> T | None:
        """The waiting input if it is due, else None."""
        if self._waiting is None or now_s < self._due_s:
            return None
        item, self._waiting = self._waiting, None
        late = now_s - self._due_s > self._period_s
        self._due_s = (now_s if late else self._due_s) + self._period_s
        return item

    def drop(self) -> T | None:
        """Take out the waiting input, due or not."""
        item, self._waiting = self._waiting, None
        return item
