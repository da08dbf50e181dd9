"""STATE messages of host applications (specification 3.0, section 6.4.28): JSON with `online` and `timestamp`."""

from __future__ import annotations

import msgspec

from shared.errors import WireError

MAX_STATE = 4096
"""Bytes of a STATE message that we read; a conformant one has about 45."""

LATEST = 253_402_300_799_999
"""The last millisecond of the year 9999; a later time is an error of the sender."""


class HostState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Whether a host application is online. `timestamp` (ms, UTC) is when it connected, or disconnected cleanly."""

    online: bool
    timestamp: int


def encode(state: HostState) -> bytes:
    """The payload of a STATE message."""
    return msgspec.json.encode(state)


def parse(payload: bytes) -> HostState:
    """Read a STATE message, ignoring unknown keys. Raises WireError, also for the texts of Sparkplug 2.2."""
    if len(payload) > MAX_STATE:
        raise WireError(f"STATE of {len(payload)} bytes, at most {MAX_STATE} are read")
    if payload in {b"ONLINE", b"OFFLINE"}:
        raise WireError("STATE is the text of Sparkplug 2.2; 3.0 wants JSON with online and timestamp")
    try:
        state = _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"STATE is not the JSON of Sparkplug 3.0: {error}") from None
    if not 0 <= state.timestamp <= LATEST:
        raise WireError(f"the timestamp of STATE, {state.timestamp}, is no time in milliseconds")
    return state


_DECODER = msgspec.json.Decoder(HostState)
