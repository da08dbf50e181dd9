"""Reads the clock and makes new ids. Core modules do not call it: they get `now_us` as a parameter."""

from __future__ import annotations

import secrets
import time

from shared.ids import traceparent, uuid7


def now_us() -> int:
    """The current UTC time in microseconds."""
    return time.time_ns() // 1000


def new_id() -> str:
    """A new UUIDv7."""
    return uuid7(now_us(), secrets.randbits(74))


def new_trace() -> str:
    """A new W3C traceparent."""
    return traceparent(secrets.randbits(128), secrets.randbits(64))


def new_span(trace_id: str) -> str:
    """A traceparent that continues the trace with these 32 hex digits; '' for ''."""
    return traceparent(int(trace_id, 16), secrets.randbits(64)) if trace_id else ""
