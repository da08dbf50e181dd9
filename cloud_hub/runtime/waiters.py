"""Wakes requests that wait for a named event, from any thread.

A notification without a waiter is lost, so a waiter checks the database first and again from time to time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class WaiterRegistry:
    """Waiting requests by name, each with its event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}

    @contextmanager
    def register(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set each time `name` is notified."""
        entry = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiting.setdefault(name, []).append(entry)
        try:
            yield entry[1]
        finally:
            with self._lock:
                self._waiting[name].remove(entry)
                if not self._waiting[name]:
                    del self._waiting[name]

    def notify(self, name: str) -> None:
        """Wake the requests that wait for `name`. From any thread."""
        with self._lock:
            for loop, event in self._waiting.get(name, []):
                loop.call_soon_threadsafe(event.set)
