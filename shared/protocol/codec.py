"""Encodes and decodes wire messages: JSON, readable with mosquitto_sub. Telemetry is also deflated if the hub
supports it.

Every kind of invalid input raises WireError: not UTF-8, not JSON, nested too deeply, NaN, out of range, of the wrong
type, a duplicate name in an object, or larger than the limit.
"""

from __future__ import annotations

import json
import zlib
from functools import cache
from typing import Any, TypeVar

import msgspec

from shared.errors import WireError
from shared.ids import first_duplicate
from shared.protocol.messages import Alarm, Escalation, Event, Sample, Stream
from shared.suggestions import explained

T = TypeVar("T")

MAX_PAYLOAD = 1 << 20
"""Maximum bytes of one message; mosquitto and the embedded broker have the same limit."""

MAX_ITEMS = 200
"""Maximum items of one batch: an agent writes no more, a hub stores no more."""

ITEM_TYPE: dict[Stream, type[Any]] = {"alarm": Alarm, "escalation": Escalation, "event": Event, "telemetry": Sample}

JSON = "application/json"
DEFLATED = "application/json+zlib"
"""Content types (MQTT 5.0 section 3.3.2.3.9); the second is JSON in zlib format (RFC 1950)."""

WORTHWHILE = 300
"""Smaller payloads (a batch of two samples) are not deflated: it saves nothing."""

_encoder = msgspec.json.Encoder()


def encode(message: Any) -> bytes:
    """JSON bytes of a wire message."""
    return _encoder.encode(message)


def deflate(payload: bytes) -> tuple[bytes, str]:
    """(bytes, content type) to send: deflated if that is shorter."""
    if len(payload) >= WORTHWHILE and len(packed := zlib.compress(payload)) < len(payload):
        return packed, DEFLATED
    return payload, JSON


def inflate(payload: bytes, content_type: str, topic: str = "") -> bytes:
    """The opposite of `deflate`; never allocates more than MAX_PAYLOAD bytes. Raises WireError."""
    if content_type != DEFLATED:
        return payload
    reader = zlib.decompressobj()
    try:
        found = reader.decompress(payload, MAX_PAYLOAD + 1)
    except zlib.error as error:
        raise WireError(f"cannot be inflated: {error}", topic) from None
    if len(found) > MAX_PAYLOAD:
        raise WireError(f"inflates to more than the {MAX_PAYLOAD} bytes allowed", topic)
    if not reader.eof or reader.unused_data:
        raise WireError("cannot be inflated: it ends too early, or something follows", topic)
    return found


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode(kind: type[T], payload: bytes, topic: str = "") -> T:
    """Read `payload` as one `kind`; raises WireError naming the topic and the place in the payload."""
    if len(payload) > MAX_PAYLOAD:
        raise WireError(f"{len(payload)} bytes are more than the {MAX_PAYLOAD} allowed", topic)
    try:
        result: T = _decoder(kind).decode(payload)  # type: ignore[arg-type]
        json.loads(
            payload.decode(), object_pairs_hook=_no_duplicates
        )  # msgspec keeps the last of two, other parsers the first
    except RecursionError:
        raise WireError("JSON is nested too deeply", topic) from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise WireError(f"not a valid {kind.__name__}: {explained(error, kind)}", topic) from error
    return result


def _no_duplicates(pairs: list[tuple[str, Any]]) -> None:
    twice = first_duplicate(name for name, _ in pairs)
    if twice is not None:
        raise ValueError(f"the name '{twice[:60]}' is there twice")


def plain(message: Any) -> Any:
    """A message as twin state: builtins only, without absent (None) fields, which a twin reads as deletions."""
    return _without_none(msgspec.to_builtins(message))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(inner) for inner in value]
    return value


def from_plain(kind: type[T], value: Any) -> T:
    """The opposite of `plain`; raises ValueError that names the reason and the place."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(explained(error, kind)) from None
