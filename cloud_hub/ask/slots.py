"""Bounds the questions that a hub answers at the same time: each holds a thread of REST while a model thinks."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from cloud_hub.errors import HubError

MOST, EACH = 12, 3
"""Questions under way: in the hub, and of one caller."""


class QuestionSlots:
    """Counts questions under way, by caller. Used by several threads."""

    def __init__(self, most: int = MOST, each: int = EACH) -> None:
        self._most, self._each = most, each
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()

    @contextmanager
    def hold(self, actor: str) -> Iterator[None]:
        """A place for one question; HubError 429 if the caller, or the hub, has too many under way."""
        with self._lock:
            if self._running[actor] >= self._each or self._running.total() >= self._most:
                reason = f"{self._running[actor]} questions of yours are under way, {self._running.total()} in all"
                raise HubError(429, "Too many questions", f"{reason}: ask again in a moment", retry_after_s="2")
            self._running[actor] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[actor] -= 1
                self._running += Counter()  # forget callers without questions
