"""Device ids, metric names, generated ids (UUIDv7) and trace contexts. Time and randomness are parameters.

Sources: RFC 9562 section 5.7 (UUIDv7), W3C Trace Context level 1 section 3.2 (traceparent).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from functools import lru_cache

DEVICE_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}\Z")
METRIC_NAME = re.compile(r"[a-z0-9_-]+(?:[./][a-z0-9_-]+)*\Z")
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
"""Names of configurations and learning jobs."""
SHADOW_NAME = re.compile(r"[$a-zA-Z0-9:_-]{1,64}\Z")
THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}\Z")
"""Thing names that AWS allows, a superset of device ids; `device_of_thing` maps all others to a device id."""
AWS_DEVICE = "aws--"
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")


def device_id(text: str) -> str:
    """Return `text` when it is a device id, else raise ValueError.

    The same id is thing name, certificate CN, MQTT user and client id; an X.509 CN has at most 64 characters.
    """
    if not DEVICE_ID.match(text):
        raise ValueError(f"'{text[:80]}' is no device id: use 1 to 60 of a-z 0-9 _ - and begin with a letter or digit")
    return text


@lru_cache(4096)
def device_of_thing(thing: str) -> str | None:
    """The device id of an AWS thing: its name if that is a device id, else `aws--` and the name with `_a` for A, `_0`
    for a colon and `__` for an underscore. None if the result is longer than the 60 characters of a device id.
    """
    if not THING_NAME.match(thing):
        return None
    if DEVICE_ID.match(thing) and thing_of_device(thing) == thing:
        return thing
    escaped = re.sub("[A-Z:_]", lambda found: "_" + {":": "0"}.get(found[0], found[0].lower()), thing)
    return f"{AWS_DEVICE}{escaped}" if DEVICE_ID.match(f"{AWS_DEVICE}{escaped}") else None


@lru_cache(4096)
def thing_of_device(device: str) -> str:
    """The AWS thing of a device id: the inverse of `device_of_thing`, defined for every id."""
    rest = device.removeprefix(AWS_DEVICE)
    if rest == device or not re.fullmatch("(?:[a-z0-9-]|_[a-z0_])+", rest):
        return device
    name = re.sub("_([a-z0_])", lambda found: {"0": ":", "_": "_"}.get(found[1], found[1].upper()), rest)
    native = DEVICE_ID.match(name) and thing_of_device(name) == name
    return device if native or not THING_NAME.match(name) else name


@lru_cache(4096)
def metric_name(text: str) -> str:
    """Return `text` when it is a metric name such as `cpu.load` or `line-camera/score`, else raise ValueError."""
    if len(text) > 128 or not METRIC_NAME.match(text):
        raise ValueError(f"'{text[:80]}' is no metric name: use lower-case words joined by . or /")
    return text


def first_duplicate(names: Iterable[str]) -> str | None:
    """The first name that occurs a second time, or None. Linear time, because names come from untrusted peers."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


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
