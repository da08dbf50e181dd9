"""Bytes to messages and back. JSON, so that a person can read it with mosquitto_sub.

Every way in which foreign bytes can be wrong ends in WireError: not UTF-8, not JSON, too deep,
NaN, out of range, of the wrong type, or larger than the limit.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec

from shared.errors import WireError
from shared.messages import Alarm, Escalation, Event, Sample, Stream

T = TypeVar("T")

MAX_PAYLOAD = 1 << 20
"""Bytes of one message that either side reads; mosquitto and the embedded broker are set to the same."""

ITEM_TYPE: dict[Stream, type[Any]] = {"alarm": Alarm, "escalation": Escalation, "event": Event, "telemetry": Sample}

_encoder = msgspec.json.Encoder()


def encode(message: Any) -> bytes:
    """JSON bytes of a wire message."""
    return _encoder.encode(message)


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode(kind: type[T], payload: bytes, topic: str = "") -> T:
    """Read `payload` as one `kind`; raises WireError naming the topic and the place in the payload."""
    if len(payload) > MAX_PAYLOAD:
        raise WireError(f"{len(payload)} bytes are more than the {MAX_PAYLOAD} allowed", topic)
    try:
        result: T = _decoder(kind).decode(payload)  # type: ignore[arg-type]
    except RecursionError:
        raise WireError("JSON is nested too deeply", topic) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WireError(f"not a valid {kind.__name__}: {error}", topic) from error
    return result


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
    """The opposite of `plain`; raises ValueError saying what is wrong and where."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
