"""Parses topic and payload into a typed device message. Pure; raises WireError for anything invalid."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from cloud_hub.ingest.core import lenient
from shared.errors import WireError
from shared.ids import metric_name
from shared.protocol import topics
from shared.protocol.codec import MAX_ITEMS, MAX_PAYLOAD, decode, encode, from_plain
from shared.protocol.messages import (
    Applied,
    Batch,
    Birth,
    ClockQuality,
    CommandResult,
    Heartbeat,
    InferenceRequest,
    Quality,
    Stream,
)
from shared.protocol.text_rules import holds_nul
from shared.protocol.topics import TOPIC_STREAM

SHADOW_VERBS = frozenset({"get", "update", "delete"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DataBatch:
    """A batch of one stream. Raw items are validated when they are stored. `nul`: some text contains NUL.

    `invalid` is the reason if none of its items can be stored.
    """

    device: str
    stream: Stream
    batch: Batch | TelemetryBatch
    size: int
    nul: bool = False
    invalid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableBatch:
    """A batch with an invalid head: its items are unknown, so its stream stalls."""

    device: str
    stream: Stream
    reason: str


class TelemetryItem(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A complete, valid sample as agents write it; it decodes in a third of the time of a Sample."""

    metric: str
    t_us: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    value: float | str | None
    quality: Quality


class TelemetryBatch(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A complete batch of such samples."""

    epoch: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    first: Annotated[int, msgspec.Meta(ge=1, lt=1 << 62)]
    clock: ClockQuality
    items: Annotated[list[TelemetryItem], msgspec.Meta(min_length=1, max_length=MAX_ITEMS)]
    lost: None

    @property
    def last(self) -> int:
        """The number of the last item, as in Batch."""
        return self.first + len(self.items) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowRequest:
    """A get, update or delete of a twin document, with the raw payload; `prefix` is the topic prefix of the answer."""

    device: str
    name: str
    verb: str
    payload: bytes
    prefix: str = topics.PREFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMessage:
    """A birth, a progress message, the result of a command or a question to a language model."""

    device: str
    message: Birth | Applied | CommandResult | InferenceRequest


IngestMessage = DataBatch | UnreadableBatch | ShadowRequest | DeviceMessage


def route(topic: str, payload: bytes, alias: bool = False) -> IngestMessage:
    """Parse a device message; raises WireError for an invalid topic or payload. `alias`: `$aws/...` is served."""
    aws = topic.startswith(f"{topics.AWS}/")
    if aws and not alias:  # an old subscription that the broker still keeps
        raise WireError("the alias is off. To serve it, set twins.aws_alias", topic)
    parts = topics.split(topic, topics.AWS) if aws else topics.split(topic)
    if parts is None:
        raise WireError("is no topic of a device", topic)
    device, rest = parts
    if aws:
        return _shadow(device, topics.split_shadow(rest) or ("", rest), payload, topic, topics.AWS)
    if rest in TOPIC_STREAM:
        nul = holds_nul(payload)
        batch = _batch(rest, payload, topic, nul)
        if nul and "\0" in batch.epoch:
            raise WireError("the epoch holds NUL", topic)
        count = len(batch.items)
        invalid = f"{count} items are more than the {MAX_ITEMS} of a batch" if count > MAX_ITEMS else ""
        return DataBatch(
            device=device, stream=TOPIC_STREAM[rest], batch=batch, size=len(payload), nul=nul, invalid=invalid
        )
    shadow = topics.split_shadow(rest)
    if shadow is not None:
        return _shadow(device, shadow, payload, topic, topics.PREFIX)
    if holds_nul(payload):  # only SQLite can store it
        raise WireError("a text holds NUL", topic)
    return DeviceMessage(device=device, message=_parse_message(device, rest, payload, topic))


def _batch(rest: str, payload: bytes, topic: str, nul: bool) -> Batch | TelemetryBatch:
    """Valid telemetry by the fast path; otherwise raw items, so that a bad item does not affect others."""
    if rest == "telemetry" and not nul and len(payload) <= MAX_PAYLOAD:
        with suppress(ValueError, RecursionError):
            return _fast_telemetry(payload)
    try:
        return decode(Batch, payload, topic)
    except WireError as error:
        try:
            return lenient.read_batch(payload, topic)
        except WireError:
            raise error from None


def unreadable(topic: str, reason: str) -> UnreadableBatch | None:
    """The replacement for a message that `route` refused on a topic of a stream; None for other topics."""
    device, rest = topics.split(topic) or ("", "")
    stream = TOPIC_STREAM.get(rest)
    return stream and UnreadableBatch(device=device, stream=stream, reason=reason)


_FAST = msgspec.json.Decoder(TelemetryBatch)
_NAMES, _NAMES_OF_ITEM = len(TelemetryBatch.__struct_fields__), len(TelemetryItem.__struct_fields__)


def _fast_telemetry(payload: bytes) -> TelemetryBatch:
    """Decode ordinary telemetry; raises ValueError for anything else, which the slow path handles."""
    batch = _FAST.decode(payload)
    # Each name occurs at least once; if the total is no more than that, none occurs twice.
    if payload.count(b'":') != _NAMES + _NAMES_OF_ITEM * len(batch.items):
        raise ValueError("a name too many")
    for metric in {item.metric for item in batch.items}:
        metric_name(metric)
    if any(item.value is None and item.quality != "bad" for item in batch.items):
        raise ValueError("a sample without a value")
    return batch


def heartbeat(topic: str, payload: bytes) -> Heartbeat:
    """Decode a heartbeat, which is answered and not stored; raises WireError."""
    return decode(Heartbeat, payload, topic)


def _shadow(device: str, shadow: tuple[str, str], payload: bytes, topic: str, prefix: str) -> ShadowRequest:
    name, verb = shadow
    if verb not in SHADOW_VERBS:
        raise WireError(f"a device has no say in '{verb}'", topic)
    if len(payload) > MAX_PAYLOAD:
        raise WireError(f"{len(payload)} bytes are more than the {MAX_PAYLOAD} allowed", topic)
    return ShadowRequest(device=device, name=name, verb=verb, payload=payload, prefix=prefix)


def _parse_message(
    device: str, rest: str, payload: bytes, topic: str
) -> Birth | Applied | CommandResult | InferenceRequest:
    if rest == "birth":
        birth = decode(Birth, payload, topic)
        if birth.device != device:
            raise WireError(f"the birth is of '{birth.device[:60]}'", topic)
        return birth
    if rest == "applied":
        return decode(Applied, payload, topic)
    if rest == "inference/request":
        return decode(InferenceRequest, payload, topic)
    if rest.startswith("commands/") and rest.endswith("/response"):
        result = decode(CommandResult, payload, topic)
        if rest != f"commands/{result.id}/response":
            raise WireError("the result is of another command", topic)
        return result
    raise WireError("is no topic that a device sends on", topic)


def validate_items(
    kind: type[Any], items: Iterable[tuple[int, Any]], nul: bool = False
) -> tuple[list[tuple[int, Any]], list[tuple[int, str]]]:
    """Validate numbered raw items: (good items of `kind`, bad items with the reason)."""
    good: list[tuple[int, Any]] = []
    bad: list[tuple[int, str]] = []
    for seq, item in items:
        try:
            if isinstance(item, lenient.InvalidItem):
                raise ValueError(item.reason)
            if nul and holds_nul(encode(item)):
                raise ValueError("a text holds NUL")
            good.append((seq, from_plain(kind, item)))
        except ValueError as error:
            bad.append((seq, str(error)))
    return good, bad
