"""The clock of timers and deadlines: it starts at the wall clock and goes on steadily.

A wall clock that is set while the hub runs moves no timer. It includes the time that the machine is suspended. A
restarted hub begins at the wall clock of then; a timer never waits longer than was meant (`core.machine`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cloud_hub.clock import now_us


def _boot_ns() -> int:
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class SteadyClock:
    """`now_us()` in microseconds since 1970."""

    def __init__(self, wall_us: Callable[[], int] = now_us, elapsed_ns: Callable[[], int] = _boot_ns) -> None:
        self._elapsed_ns = elapsed_ns
        self._start_us = wall_us() - elapsed_ns() // 1000

    def now_us(self) -> int:
        """The time now."""
        return self._start_us + self._elapsed_ns() // 1000


steady = SteadyClock()
"""The clock of this process."""
