"""Clocks of the device, and ids made from them. Modules in `core/` do not use it; they take `now_us` as a parameter."""

from __future__ import annotations

import secrets
import time

from shared.ids import traceparent, uuid7


def now_us() -> int:
    """UTC now in microseconds."""
    return time.time_ns() // 1000


def new_id() -> str:
    """A new UUIDv7."""
    return uuid7(now_us(), secrets.randbits(74))


def new_trace() -> str:
    """A new W3C traceparent."""
    return traceparent(secrets.randbits(128), secrets.randbits(64))


def monotonic_s() -> float:
    """Seconds on the monotonic clock, for intervals."""
    return time.monotonic()


def boottime_s() -> float:
    """Seconds on a clock that includes time in which the machine is asleep, for intervals of hours and days."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
