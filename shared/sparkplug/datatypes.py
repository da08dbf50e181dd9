"""Sparkplug B datatypes (specification 3.0, section 6.4.16): their codes, widths, and which Python values they take.

| datatype | Python value |
|---|---|
| Int8 .. Int64, UInt8 .. UInt64 | int within the range of the type; never bool |
| Float, Double | float, or an int; NaN and infinities are allowed, as in IEEE 754 |
| Boolean | bool |
| String, Text, UUID | str; a UUID as 8-4-4-4-12 hexadecimal digits |
| DateTime | int, milliseconds since 1970 in UTC |
| Bytes, File | bytes |
| arrays | tuple of the values of its elements |
| DataSet, Template | `payload.DataSet`, `payload.Template` |
| PropertySet, PropertySetList | dict of `payload.Property`, tuple of such dicts; only as values of properties |
"""

from __future__ import annotations

import re
import struct
from enum import IntEnum


class DataType(IntEnum):
    """Codes of datatypes, named as in the specification."""

    Unknown = 0
    Int8 = 1
    Int16 = 2
    Int32 = 3
    Int64 = 4
    UInt8 = 5
    UInt16 = 6
    UInt32 = 7
    UInt64 = 8
    Float = 9
    Double = 10
    Boolean = 11
    String = 12
    DateTime = 13
    Text = 14
    UUID = 15
    DataSet = 16
    Bytes = 17
    File = 18
    Template = 19
    PropertySet = 20
    PropertySetList = 21
    Int8Array = 22
    Int16Array = 23
    Int32Array = 24
    Int64Array = 25
    UInt8Array = 26
    UInt16Array = 27
    UInt32Array = 28
    UInt64Array = 29
    FloatArray = 30
    DoubleArray = 31
    BooleanArray = 32
    StringArray = 33
    DateTimeArray = 34


BY_CODE: dict[int, DataType] = {int(one): one for one in DataType}

SIGNED: dict[DataType, int] = {DataType.Int8: 8, DataType.Int16: 16, DataType.Int32: 32, DataType.Int64: 64}
"""Width in bits of the signed integers."""
UNSIGNED: dict[DataType, int] = {
    DataType.UInt8: 8, DataType.UInt16: 16, DataType.UInt32: 32, DataType.UInt64: 64, DataType.DateTime: 64,
}  # fmt: skip
"""Width in bits of the unsigned integers; a DateTime is one."""

RANGES: dict[DataType, tuple[int, int]] = {
    **{one: (-(1 << bits - 1), (1 << bits - 1) - 1) for one, bits in SIGNED.items()},
    **{one: (0, (1 << bits) - 1) for one, bits in UNSIGNED.items()},
}
"""Smallest and largest value of each integer type."""

FLOATS = frozenset({DataType.Float, DataType.Double})
TEXTS = frozenset({DataType.String, DataType.Text, DataType.UUID})
BLOBS = frozenset({DataType.Bytes, DataType.File})

ELEMENTS: dict[DataType, DataType] = {
    DataType.Int8Array: DataType.Int8, DataType.Int16Array: DataType.Int16, DataType.Int32Array: DataType.Int32,
    DataType.Int64Array: DataType.Int64, DataType.UInt8Array: DataType.UInt8, DataType.UInt16Array: DataType.UInt16,
    DataType.UInt32Array: DataType.UInt32, DataType.UInt64Array: DataType.UInt64, DataType.FloatArray: DataType.Float,
    DataType.DoubleArray: DataType.Double, DataType.BooleanArray: DataType.Boolean,
    DataType.StringArray: DataType.String, DataType.DateTimeArray: DataType.DateTime,
}  # fmt: skip
"""Type of the elements of each array type."""

BASIC = frozenset(DataType(code) for code in range(1, 16))
"""The basic types: the only ones of DataSet columns and Template parameters, and with two more of properties."""
PROPERTY = BASIC | {DataType.PropertySet, DataType.PropertySetList}
"""Types of property values."""
METRIC = frozenset(DataType) - {DataType.Unknown, DataType.PropertySet, DataType.PropertySetList}
"""Types of metrics."""
NUMERIC = frozenset(RANGES) - {DataType.DateTime} | FLOATS
"""Types whose value is a number (a DateTime is a time)."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_LARGEST_FLOAT: float = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]


def check(datatype: DataType, value: object) -> None:
    """Raise ValueError, saying what is wrong, unless `value` is a value of this simple or array type.

    None is a value of every type (is_null). DataSets, Templates and property sets are checked by `encode`.
    """
    if value is None:
        return
    element = ELEMENTS.get(datatype)
    if element is None:
        _check_one(datatype, value)
    elif not isinstance(value, tuple):
        raise ValueError(f"{datatype.name} takes a tuple, not {type(value).__name__}")
    else:
        for one in value:
            _check_one(element, one)


def _check_one(datatype: DataType, value: object) -> None:
    if datatype in RANGES:
        _check_int(datatype, value)
    elif datatype in FLOATS:
        _check_float(datatype, value)
    elif datatype in TEXTS:
        _check_text(datatype, value)
    elif datatype is DataType.Boolean:
        _check_class(datatype, value, bool)
    elif datatype in BLOBS:
        _check_class(datatype, value, bytes)
    elif datatype is DataType.Unknown:
        raise ValueError("datatype Unknown (0) has no values; give the metric's datatype")


def _check_class(datatype: DataType, value: object, wanted: type) -> None:
    if not isinstance(value, wanted):
        raise ValueError(f"{datatype.name} takes {wanted.__name__}, not {type(value).__name__}")


def _check_int(datatype: DataType, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{datatype.name} takes int, not {type(value).__name__}")
    low, high = RANGES[datatype]
    if not low <= value <= high:
        raise ValueError(f"{datatype.name} is {low} to {high}, not {value}")


def _check_float(datatype: DataType, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{datatype.name} takes float, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{datatype.name} cannot hold an int of {value.bit_length()} bits") from None  # type: ignore[union-attr]
    if datatype is DataType.Float and _LARGEST_FLOAT < abs(number) < float("inf"):
        raise ValueError(f"Float is up to {_LARGEST_FLOAT:.6g}, not {value}; use Double")


def _check_text(datatype: DataType, value: object) -> None:
    _check_class(datatype, value, str)
    text = str(value)
    if datatype is DataType.UUID and not _UUID.fullmatch(text):
        raise ValueError("UUID takes 8-4-4-4-12 hexadecimal digits")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{datatype.name} holds half of a surrogate pair, which UTF-8 cannot encode") from None
