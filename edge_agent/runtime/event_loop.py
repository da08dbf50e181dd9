"""The agent's event loop: runs posted tasks and timers in one thread."""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
from collections.abc import Callable

from edge_agent.clock import monotonic_s

log = logging.getLogger(__name__)

Task = Callable[[], object]


class Timer:
    """A task that runs every `period_s` seconds; the period may be changed at any time."""

    def __init__(self, period_s: float, task: Task) -> None:
        self.period_s, self.task = period_s, task


class EventLoop:
    """Runs posted tasks in order and timers when they are due. An exception in a task is logged and ignored."""

    def __init__(self) -> None:
        self._posted: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._due: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def post(self, task: Task) -> None:
        """Run `task` soon, in the loop's thread. May be called from any thread."""
        self._posted.put(task)

    def stop(self) -> None:
        """End `run` after the tasks already posted. May be called from any thread or a signal handler."""
        self._posted.put(None)

    def every(self, period_s: float, task: Task) -> Timer:
        """Run `task` every `period_s` seconds from now on, without drift."""
        timer = Timer(period_s, task)
        heapq.heappush(self._due, (monotonic_s() + period_s, next(self._order), timer))
        return timer

    def run(self) -> None:
        """Run tasks until `stop`."""
        while True:
            wait = max(0.0, self._due[0][0] - monotonic_s()) if self._due else None
            try:
                task = self._posted.get(timeout=wait)
            except queue.Empty:
                self._run_due()
                continue
            if task is None:
                return
            self._guard(task)
            if self._due and self._due[0][0] <= monotonic_s():
                self._run_due()

    def _run_due(self) -> None:
        when, _, timer = heapq.heappop(self._due)
        self._guard(timer.task)
        # Missed runs after a stall are skipped.
        following = max(when + timer.period_s, monotonic_s())
        heapq.heappush(self._due, (following, next(self._order), timer))

    @staticmethod
    def _guard(task: Task) -> None:
        try:
            task()
        except Exception:  # the agent must survive a bug in any part
            log.exception("task.failed")
