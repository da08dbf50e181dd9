"""Identities: device ids, generated ids (UUIDv7) and trace contexts. Pure: time and randomness come in.

Sources: RFC 9562 section 5.7 (UUIDv7), W3C Trace Context level 1 section 3.2 (traceparent).
"""

from __future__ import annotations

import re
import uuid
from functools import lru_cache

DEVICE_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}\Z")
METRIC_NAME = re.compile(r"[a-z0-9_-]+(?:[./][a-z0-9_-]+)*\Z")
SHADOW_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,64}\Z")
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")


def device_id(text: str) -> str:
    """Return `text` when it is a device id, else raise ValueError.

    One id is thing name, certificate CN, MQTT user and client id; an X.509 CN ends at 64.
    """
    if not DEVICE_ID.match(text):
        raise ValueError(f"'{text[:80]}' is no device id: use 1 to 60 of a-z 0-9 _ - and begin with a letter or digit")
    return text


@lru_cache(4096)
def metric_name(text: str) -> str:
    """Return `text` when it is a metric name such as `cpu.load` or `line-camera/score`, else raise ValueError."""
    if len(text) > 128 or not METRIC_NAME.match(text):
        raise ValueError(f"'{text[:80]}' is no metric name: use lower-case words joined by . or /")
    return text


def uuid7(now_us: int, entropy: int) -> str:
    """A UUIDv7 from a UTC time in microseconds and 74 random bits; sorts by time."""
    ms = (now_us // 1000) & ((1 << 48) - 1)
    rand_a, rand_b = (entropy >> 62) & 0xFFF, entropy & ((1 << 62) - 1)
    return str(uuid.UUID(int=(ms << 80) | (0x7 << 76) | (rand_a << 64) | (0b10 << 62) | rand_b))


def traceparent(trace_bits: int, span_bits: int) -> str:
    """A W3C traceparent from 128 random bits for the trace and 64 for the span."""
    trace, span = trace_bits & ((1 << 128) - 1) or 1, span_bits & ((1 << 64) - 1) or 1
    return f"00-{trace:032x}-{span:016x}-01"


def trace_id(parent: str | None) -> str:
    """The 32 hex digits of a traceparent's trace, or '' when there is none or it is malformed."""
    return parent[3:35] if parent and TRACEPARENT.match(parent) else ""
