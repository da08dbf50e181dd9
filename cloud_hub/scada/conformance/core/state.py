"""Reads STATE payloads. Source: specification 3.0, section 6.4.26."""

from __future__ import annotations

import json
from dataclasses import dataclass

MAX_STATE = 10_000
"""Bytes of a STATE message that are read."""


@dataclass(frozen=True, slots=True)
class State:
    """A valid STATE message."""

    online: bool
    time_ms: int


def read_state(payload: bytes) -> tuple[State | None, str]:
    """The state, or None and what is wrong."""
    if len(payload) > MAX_STATE:
        return None, f"{len(payload)} bytes"
    try:
        document = json.loads(payload.decode("utf-8"))
    except (ValueError, RecursionError):
        return None, f"no JSON in UTF-8: {payload[:40]!r}"
    if not isinstance(document, dict):
        return None, "no JSON object"
    online, time = document.get("online"), document.get("timestamp")
    if not isinstance(online, bool):
        return None, f"online is {str(online)[:40]!r}, not true or false"
    if isinstance(time, bool) or not isinstance(time, int):
        return None, f"timestamp is {str(time)[:40]!r}, not a whole number"
    return State(online, time), ""
