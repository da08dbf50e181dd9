"""Reads a Sparkplug payload as fields, without interpreting it: statements are about which fields are there.

The decoder of `shared.sparkplug` is not used: it gives values, and hides whether, say, a datatype was left out or two
values were given. Source: the protobuf definition in the specification 3.0, section 6.4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_DEPTH = 16
"""Depth of nested templates and property sets that is read."""
MAX_FIELDS = 400_000
"""Fields of one payload that are read: ten times a birth of 10,000 metrics with four fields."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Unreadable(ValueError):
    """The bytes are not a Sparkplug payload."""


@dataclass(slots=True)
class Message:
    """A protobuf message: the values of each field that is present, by name, in their order."""

    values: dict[str, list[Any]] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether the field is present."""
        return name in self.values

    def get(self, name: str) -> Any:
        """The last value of a field, as protobuf has it; None when absent."""
        found = self.values.get(name)
        return found[-1] if found else None

    def all(self, name: str) -> list[Any]:
        """All values of a repeated field."""
        return self.values.get(name, [])


class Table:
    """The fields of a message type: number -> (name, kind). A kind is 'uint', 'float', 'text' ... or another Table."""

    def __init__(self, fields: dict[int, tuple[str, str]]) -> None:
        self.fields: dict[int, tuple[str, str | Table]] = dict(fields)


_VALUES = {1: "int_value", 2: "long_value", 3: "float_value", 4: "double_value", 5: "boolean_value", 6: "string_value"}
_KINDS = {
    "int_value": "uint", "long_value": "uint", "float_value": "float", "double_value": "double",
    "boolean_value": "uint", "string_value": "text",
}  # fmt: skip


def _values(first: int) -> dict[int, tuple[str, str]]:
    """The six basic members of a `oneof value`, numbered from `first`."""
    return {first - 1 + index: (name, _KINDS[name]) for index, name in _VALUES.items()}


PROPERTY = Table({1: ("type", "uint"), 2: ("is_null", "uint"), **_values(3)})
PROPERTIES = Table({1: ("keys", "text")})
PROPERTIES.fields[2] = ("values", PROPERTY)
PROPERTY.fields[9] = ("propertyset_value", PROPERTIES)
_LIST = Table({})
_LIST.fields[1] = ("propertyset", PROPERTIES)
PROPERTY.fields[10] = ("propertysets_value", _LIST)
_ELEMENT = Table(_values(1))
_ROW = Table({})
_ROW.fields[1] = ("elements", _ELEMENT)
DATASET = Table({1: ("num_of_columns", "uint"), 2: ("columns", "text"), 3: ("types", "uint")})
DATASET.fields[4] = ("rows", _ROW)
_PARAMETER = Table({1: ("name", "text"), 2: ("type", "uint"), **_values(3)})
TEMPLATE = Table({1: ("version", "text"), 4: ("template_ref", "text"), 5: ("is_definition", "uint")})
METRIC = Table({
    1: ("name", "text"), 2: ("alias", "uint"), 3: ("timestamp", "uint"), 4: ("datatype", "uint"),
    5: ("is_historical", "uint"), 6: ("is_transient", "uint"), 7: ("is_null", "uint"), 8: ("metadata", "bytes"),
    **_values(10), 16: ("bytes_value", "bytes"),
})  # fmt: skip
METRIC.fields |= {9: ("properties", PROPERTIES), 17: ("dataset_value", DATASET), 18: ("template_value", TEMPLATE)}
TEMPLATE.fields |= {2: ("metrics", METRIC), 3: ("parameters", _PARAMETER)}
PAYLOAD = Table({1: ("timestamp", "uint"), 3: ("seq", "uint"), 4: ("uuid", "text"), 5: ("body", "bytes")})
PAYLOAD.fields[2] = ("metrics", METRIC)

BASIC_VALUES = tuple(_VALUES.values())
VALUES = (
    *BASIC_VALUES, "bytes_value", "dataset_value", "template_value", "propertyset_value", "propertysets_value",
)  # fmt: skip


def read_payload(data: bytes) -> Message:
    """The fields of a payload. Raises Unreadable, with the place."""
    return _Reader().read(data, PAYLOAD, "payload", 0)


def value_fields(message: Message) -> list[str]:
    """Names of the members of `oneof value` that are present in a metric, property, parameter or DataSet element."""
    return [name for name in VALUES if message.has(name)]


class _Reader:
    def __init__(self) -> None:
        self._count = 0

    def read(self, data: bytes, table: Table, place: str, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise Unreadable(f"{place}: nested deeper than {MAX_DEPTH}")
        message = Message()
        for number, wire, raw in _fields(data, place):
            self._count += 1
            if self._count > MAX_FIELDS:
                raise Unreadable(f"more than {MAX_FIELDS} fields")
            known = table.fields.get(number)
            if known is not None:
                name, kind = known
                here = f"{place}.{name}"
                message.values.setdefault(name, []).extend(self._value(kind, wire, raw, here, depth))
        return message

    def _value(self, kind: str | Table, wire: int, raw: int | bytes, place: str, depth: int) -> list[Any]:
        if isinstance(kind, Table):
            return [self.read(_bytes(wire, raw, place), kind, place, depth + 1)]
        if kind == "uint":
            return list(_packed(raw, place)) if isinstance(raw, bytes) and wire == BYTES else [_uint(wire, raw, place)]
        if kind in ("float", "double"):
            return [_real(kind, wire, raw, place)]
        data = _bytes(wire, raw, place)
        return [data if kind == "bytes" else _text(data, place)]


def _fields(data: bytes, place: str) -> Iterator[tuple[int, int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at, place)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise Unreadable(f"{place}: field number 0")
        if wire == VARINT:
            value, at = _varint(data, at, place)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = _varint(data, at, place)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise Unreadable(f"{place}: wire type {wire} in field {number}")
        if at + size > len(data):
            raise Unreadable(f"{place}: ends inside field {number}")
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: bytes, at: int, place: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise Unreadable(f"{place}: ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise Unreadable(f"{place}: a number of more than ten bytes")


def _uint(wire: int, raw: int | bytes, place: str) -> int:
    if wire != VARINT or not isinstance(raw, int):
        raise Unreadable(f"{place}: is no integer (wire type {wire})")
    return raw


def _packed(data: bytes, place: str) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at, place)
        yield value


def _real(kind: str, wire: int, raw: int | bytes, place: str) -> float:
    if wire != (FIXED32 if kind == "float" else FIXED64) or not isinstance(raw, bytes):
        raise Unreadable(f"{place}: is no {kind} (wire type {wire})")
    value: float = struct.unpack("<f" if kind == "float" else "<d", raw)[0]
    return value


def _bytes(wire: int, raw: int | bytes, place: str) -> bytes:
    if wire != BYTES or not isinstance(raw, bytes):
        raise Unreadable(f"{place}: has no length (wire type {wire})")
    return raw


def _text(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable(f"{place}: is no UTF-8") from None
