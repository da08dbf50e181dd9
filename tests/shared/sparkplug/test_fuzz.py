"""The decoder on hostile bytes: WireError or a payload within all limits, and what Google's runtime reads too.

Seeded bugs show that the search finds what it is for.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from simulators.sparkplug_payloads import hostile, mutated

from benchmarks.sparkplug_codec import birth, data
from benchmarks.sparkplug_protobuf import MESSAGE
from shared.errors import WireError
from shared.sparkplug import decode as decoder
from shared.sparkplug import wire
from shared.sparkplug.datatypes import BASIC, FLOATS, TEXTS, DataType, check
from shared.sparkplug.encode import encode
from shared.sparkplug.limits import Limits
from shared.sparkplug.payload import (
    DataSet,
    Invalid,
    MetaData,
    Metric,
    Parameter,
    Payload,
    Property,
    Template,
    Untyped,
    Value,
)
from shared.sparkplug.reading import Context

LIMITS = Limits(max_bytes=4096, max_metrics=8, max_items=60, max_depth=3, max_text=64, max_name=40, max_blob=64)


VALUES: list[tuple[DataType, Value]] = [
    (DataType.Int8, -5), (DataType.Int64, -1), (DataType.UInt64, 1 << 63), (DataType.Float, 1.5),
    (DataType.Double, 0.1),
    (DataType.Boolean, True), (DataType.String, "Füllstand"), (DataType.String, "x" * 80), (DataType.DateTime, 1 << 40),
    (DataType.UUID, "123e4567-e89b-12d3-a456-426614174000"), (DataType.Bytes, bytes(9)), (DataType.File, bytes(70)),
    (DataType.Int16Array, (-1, 2, 3)), (DataType.BooleanArray, (True, False) * 40), (DataType.StringArray, ("a", "é")),
    (DataType.DoubleArray, (0.5,)), (DataType.DateTimeArray, (1, 2)), (DataType.Int32, None),
]  # fmt: skip


def nested(depth: int) -> Metric:
    """A Template in a Template and so on, with properties nested alike."""
    inner = Metric(name="m", datatype=DataType.Int8, value=1)
    properties: dict[str, Property] = {"k": Property(DataType.Int8, 1)}
    for _ in range(depth):
        members = (inner, Metric(name="n", datatype=DataType.Float, value=2.0))
        parameters = (Parameter(name="p", type=DataType.Double, value=1.0),)
        template = Template(is_definition=True, version="1", metrics=members, parameters=parameters)
        properties = {"s": Property(DataType.PropertySet, properties), "Quality": Property(DataType.Int32, 192)}
        inner = Metric(name="m", datatype=DataType.Template, value=template, properties=properties)
    return inner


TABLE = DataSet(
    columns=tuple(one.name for one in sorted(BASIC)[:6]),
    types=tuple(sorted(BASIC)[:6]),
    rows=((1, 2, 3, None, 5, 6),) * 3,
)
PLAIN = [Metric(name="m", alias=n, timestamp=n, datatype=kind, value=value) for n, (kind, value) in enumerate(VALUES)]
FLAGGED = Metric(name="m", datatype=DataType.DataSet, value=TABLE, is_historical=True, is_transient=True,
                 metadata=MetaData(size=1, file_name="f", is_multi_part=True))  # fmt: skip
LONG = msgspec.structs.replace(FLAGGED, value=msgspec.structs.replace(TABLE, rows=TABLE.rows * 9))
CORPUS = [
    *(encode(Payload(timestamp=5, seq=3, metrics=(one,))) for one in [*PLAIN, FLAGGED, LONG, *map(nested, (1, 2, 5))]),
    *(encode(Payload(metrics=tuple(PLAIN[n : n + 6])), with_datatypes=False) for n in (0, 6, 12)),
    encode(birth(4)), encode(data(8, aliases=True), with_datatypes=False),
    encode(Payload(timestamp=1, seq=1, uuid="u", body=b"x", metrics=(PLAIN[0],))),
]  # fmt: skip
"""Valid messages with every kind of field; some are beyond LIMITS."""


TRIES = 15_000


class Broken(AssertionError):
    """The decoder did what it must not."""


def judge(data: bytes) -> None:
    """Decode `data`; raise Broken unless the outcome is one that `decode` promises."""
    try:
        found = decoder.decode(data, LIMITS)
    except WireError:
        return
    except Exception as error:
        raise Broken(f"{type(error).__name__} instead of WireError") from error
    Survey().payload(found)
    compare(found, data)


class Survey:
    """Walks a payload and checks that each part is within the limits, and of its type."""

    def __init__(self) -> None:
        self.items = 0

    def payload(self, found: Payload) -> None:
        self.number(found.timestamp, found.seq)
        demand(len(found.metrics) <= LIMITS.max_metrics, "too many metrics")
        for metric in found.metrics:
            self.metric(metric, 0)
        demand(self.items <= LIMITS.max_items, "too many items")

    def metric(self, metric: Metric, depth: int) -> None:
        self.number(metric.timestamp, metric.alias)
        self.name(metric.name)
        self.value(metric.datatype, metric.value, depth)
        if metric.properties is not None:
            self.properties(metric.properties, 0)

    def properties(self, found: Mapping[str, Property], depth: int) -> None:
        demand(depth < LIMITS.max_depth, "nested too deep")
        for key, one in found.items():
            self.items += 1
            self.name(key)
            self.value(one.type, one.value, depth + 1)

    def value(self, datatype: DataType | None, value: Any, depth: int) -> None:
        if isinstance(value, Untyped):
            demand(datatype is None, "a datatype, but no value of it")
            value = value.raw
        if isinstance(value, DataSet):
            self.items += sum(map(len, value.rows))
            for row in value.rows:
                for column, cell in zip(value.types, row, strict=True):
                    self.value(column, cell, depth)
        elif isinstance(value, Template):
            demand(depth < LIMITS.max_depth, "nested too deep")
            self.items += len(value.metrics)
            for metric in value.metrics:
                self.metric(metric, depth + 1)
        elif isinstance(value, Mapping):
            self.properties(value, depth)
        elif value is not None and not isinstance(value, Invalid):
            self.scalar(datatype, value)

    def scalar(self, datatype: DataType | None, value: Any) -> None:
        if isinstance(value, str | bytes):
            demand(len(value.encode() if isinstance(value, str) else value) <= LIMITS.max_text, "too long")
        elif isinstance(value, tuple):
            self.items += len(value)
        elif datatype is None:
            demand(isinstance(value, float) or 0 <= value < 1 << 64, "no 64 bit")
        if datatype is not None and datatype not in FLOATS | TEXTS and datatype is not DataType.PropertySetList:
            try:
                check(datatype, value)
            except ValueError as error:
                raise Broken(str(error)) from None

    def number(self, *numbers: int | None) -> None:
        demand(all(one is None or 0 <= one < 1 << 64 for one in numbers), "a number beyond 64 bits")

    def name(self, text: str | None) -> None:
        if text is not None:
            demand(len(text.encode()) <= LIMITS.max_name or len(text) < 128, "a name is too long")


def demand(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(what)


def compare(found: Payload, data: bytes) -> None:
    """What we accept, the protobuf runtime accepts, and reads the same from it.

    Of a value that is refused the rest is not read, so that it may be malformed.
    """
    if found.uuid == decoder.COMPRESSED:
        return
    try:
        peer = MESSAGE.FromString(data)
    except DecodeError as error:
        if "Invalid(" in repr(found):
            return
        raise Broken(f"the runtime refuses what we accept: {error}") from None
    demand(len(peer.metrics) == len(found.metrics), "another number of metrics")
    for theirs, ours in zip(peer.metrics, found.metrics, strict=True):
        for field in ("name", "alias", "timestamp"):
            expected = getattr(theirs, field) if theirs.HasField(field) else None
            demand(getattr(ours, field) == expected, f"another {field}")
        demand((theirs.is_historical, theirs.is_transient) == (ours.is_historical, ours.is_transient), "other flags")
        value = ours.value.raw if isinstance(ours.value, Untyped) else ours.value
        if isinstance(value, bool | float | bytes) or (
            isinstance(ours.value, Untyped) and isinstance(value, int | str)
        ):
            expected = getattr(theirs, theirs.WhichOneof("value"))
            demand(value in (expected, value if value != value and expected != expected else expected), "another value")


@settings(max_examples=2_000)
@given(hostile(CORPUS))
def test_hostile_bytes_give_a_payload_within_the_limits_or_a_wire_error(content: bytes) -> None:
    judge(content)


def search(tries: int) -> None:
    """Judge this many damaged messages, always the same ones."""
    dice = random.Random(7)
    for content in CORPUS:
        judge(content)
    for _ in range(tries):
        judge(mutated(dice.choice(CORPUS), dice))


def test_a_search_of_damaged_messages_finds_nothing() -> None:
    search(TRIES)


@pytest.mark.nightly
def test_a_long_search_of_damaged_messages_finds_nothing() -> None:
    search(TRIES * 50)


def _unchecked_message(data: bytes, pos: int, end: int) -> tuple[int, int]:
    size, pos = decoder.varint(data, pos)
    return pos, pos + size


def _boundless_varint(data: bytes, pos: int) -> tuple[int, int]:
    number = shift = 0
    while data[pos] > 0x7F:
        number |= (data[pos] & 0x7F) << shift
        pos, shift = pos + 1, shift + 7
    return number | data[pos] << shift, pos + 1


def _same_value(context: Any, datatype: DataType, code: int, kind: int, raw: Any) -> Any:
    return raw


def _nothing(*_: object) -> None:
    """In place of a check."""


@pytest.mark.parametrize(
    ("place", "name", "bug"),
    [
        (decoder, "_message", _unchecked_message),
        (wire, "varint", _boundless_varint),
        (decoder, "_value", _same_value),
        (decoder, "unexpected", _nothing),
        (decoder, "_FLOAT", struct.Struct("<d").unpack_from),
        (Context, "count", _nothing),
        (Context, "enter", lambda _, depth: depth),
        (Context, "text", lambda self, start, stop: self.data[start:stop].decode()),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_the_search_finds_a_seeded_bug(
    monkeypatch: pytest.MonkeyPatch, place: object, name: str, bug: Callable[..., Any]
) -> None:
    monkeypatch.setattr(place, name, bug)
    with pytest.raises(Broken):
        search(TRIES)
