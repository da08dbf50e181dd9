"""From the value of a simple or array datatype to the content of its protobuf field, and the fields' tags."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, TypeAlias

from shared.sparkplug import arrays
from shared.sparkplug.datatypes import BLOBS, ELEMENTS, FLOATS, RANGES, TEXTS, DataType, check
from shared.sparkplug.values import (
    BOOLEAN,
    BYTES,
    DATASET,
    DOUBLE,
    FLOAT,
    INT,
    LONG,
    PROPERTYSET,
    PROPERTYSETS,
    STRING,
    TEMPLATE,
)
from shared.sparkplug.wire import FIXED32, FIXED64, LENGTH, SMALL, VARINT, write_varint

Writer: TypeAlias = Callable[[Any], bytes]
"""Content of a value field, after the tag. Raises ValueError for a value that is not of the datatype."""
Tags: TypeAlias = "dict[int, bytes]"
"""Tag of each kind of value field that a message has."""

_WIRE_TYPES = {INT: VARINT, LONG: VARINT, FLOAT: FIXED32, DOUBLE: FIXED64, BOOLEAN: VARINT}
_LONG_TYPES = {DataType.Int64, DataType.UInt64, DataType.DateTime}

KIND: dict[DataType, int] = {
    **{one: LONG if one in _LONG_TYPES else INT for one in RANGES},
    **dict.fromkeys(TEXTS, STRING),
    **dict.fromkeys(BLOBS, BYTES),
    **dict.fromkeys(ELEMENTS, BYTES),
    DataType.Float: FLOAT, DataType.Double: DOUBLE, DataType.Boolean: BOOLEAN, DataType.DataSet: DATASET,
    DataType.Template: TEMPLATE, DataType.PropertySet: PROPERTYSET, DataType.PropertySetList: PROPERTYSETS,
}  # fmt: skip
"""Kind of value field of each datatype (specification 3.0, section 6.4.16)."""


def _tags(first: int, *kinds: int) -> Tags:
    """Tags of consecutive fields from number `first` on."""
    return {kind: write_varint(number << 3 | _WIRE_TYPES.get(kind, LENGTH)) for number, kind in enumerate(kinds, first)}


_SCALARS = (INT, LONG, FLOAT, DOUBLE, BOOLEAN, STRING)
METRIC_TAGS = _tags(10, *_SCALARS, BYTES, DATASET, TEMPLATE)
PROPERTY_TAGS = _tags(3, *_SCALARS, PROPERTYSET, PROPERTYSETS)
PARAMETER_TAGS = _tags(3, *_SCALARS)
CELL_TAGS = _tags(1, *_SCALARS)


def sized(content: bytes) -> bytes:
    """The content with its length before it."""
    size = len(content)
    return (SMALL[size] if size < 0x80 else write_varint(size)) + content


def _integer(datatype: DataType) -> Writer:
    low, high = RANGES[datatype]
    modulus = 1 << 64 if datatype in _LONG_TYPES else 1 << 32

    def write_integer(value: Any) -> bytes:
        if value.__class__ is not int or not low <= value <= high:
            check(datatype, value)
        if 0 <= value < 0x80:
            return SMALL[int(value)]
        return write_varint(value if value >= 0 else value + modulus)

    return write_integer


def _floating(datatype: DataType) -> Writer:
    pack: Writer = struct.Struct("<f" if datatype is DataType.Float else "<d").pack

    def write_float(value: Any) -> bytes:
        try:
            if value.__class__ is float:
                return pack(value)
        except OverflowError:  # larger than a Float; check names the cure
            pass
        check(datatype, value)
        return pack(value)

    return write_float


def _text(datatype: DataType) -> Writer:
    def write_text(value: Any) -> bytes:
        if datatype is DataType.UUID or value.__class__ is not str or not value.isascii():
            check(datatype, value)
        return sized(value.encode())

    return write_text


def _blob(datatype: DataType) -> Writer:
    def write_blob(value: Any) -> bytes:
        check(datatype, value)
        return sized(value)

    return write_blob


def _array(datatype: DataType) -> Writer:
    def write_array(value: Any) -> bytes:
        check(datatype, value)
        return sized(arrays.pack(datatype, value))

    return write_array


def _boolean(value: Any) -> bytes:
    if value is True:
        return b"\x01"
    check(DataType.Boolean, value)
    return b"\x00"


WRITERS: dict[DataType, Writer] = {
    **{one: _integer(one) for one in RANGES},
    **{one: _floating(one) for one in FLOATS},
    **{one: _text(one) for one in TEXTS},
    **{one: _blob(one) for one in BLOBS},
    **{one: _array(one) for one in ELEMENTS},
    DataType.Boolean: _boolean,
}
"""The writer of every datatype except DataSet, Template and property sets."""
