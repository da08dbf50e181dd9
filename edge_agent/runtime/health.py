"""Health of the agent: its own metrics, clock quality, and notifications to systemd."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, cast

import psutil

from edge_agent.store.outbox import Outbox
from shared.protocol.messages import ClockQuality, Metric, Sample

METRICS = [
    Metric(name="agent.rss", unit="By", description="resident memory of the agent itself"),
    Metric(name="agent.cpu", unit="%", description="of one core, by the agent itself"),
    Metric(name="outbox.waiting", unit="1", description="items not yet acknowledged by the hub"),
    Metric(name="outbox.bytes", unit="By"),
]

TIME_ERROR = 5


def clock_quality() -> ClockQuality:
    """Whether the kernel's clock is synchronized by NTP or PTP (adjtimex(2)); 'unsynced' if that is unknown."""
    if (adjtimex := _adjtimex()) is None:
        return "unsynced"
    return "synced" if adjtimex(ctypes.create_string_buffer(512)) not in {-1, TIME_ERROR} else "unsynced"


@cache
def _adjtimex() -> Callable[[Any], int] | None:
    try:
        return cast("Callable[[Any], int]", ctypes.CDLL(None).adjtimex)
    except (OSError, AttributeError):
        return None


class Health:
    """Provides the agent's own metrics."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox, self._process = outbox, psutil.Process()
        self._process.cpu_percent()

    def samples(self, now_us: int) -> Iterator[Sample]:
        """Yield a sample of each metric in METRICS."""
        values = {
            "agent.rss": self._process.memory_info().rss, "agent.cpu": self._process.cpu_percent(),
            "outbox.waiting": self._outbox.waiting(), "outbox.bytes": self._outbox.bytes,
        }  # fmt: skip
        for metric, value in values.items():
            yield Sample(metric=metric, t_us=now_us, value=float(value))


def notify(state: str) -> None:
    """Send `READY=1`, `WATCHDOG=1` or `STOPPING=1` to systemd (sd_notify(3)); does nothing without systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(state.encode())


def watchdog_period_s() -> float | None:
    """Half of systemd's WatchdogSec, or None if it is not set."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdigit() else None
