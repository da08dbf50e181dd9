"""Array values: packed little-endian elements in a bytes field (specification 3.0, section 6.4.16.4)."""

from __future__ import annotations

import struct
from itertools import chain

from shared.sparkplug.datatypes import DataType
from shared.sparkplug.wire import Refused

MAX_ELEMENTS = 65_536
"""Elements of one array that are read or written."""

_FORMATS: dict[DataType, tuple[str, int]] = {
    DataType.Int8Array: ("b", 1), DataType.Int16Array: ("h", 2), DataType.Int32Array: ("i", 4),
    DataType.Int64Array: ("q", 8), DataType.UInt8Array: ("B", 1), DataType.UInt16Array: ("H", 2),
    DataType.UInt32Array: ("I", 4), DataType.UInt64Array: ("Q", 8), DataType.FloatArray: ("f", 4),
    DataType.DoubleArray: ("d", 8), DataType.DateTimeArray: ("Q", 8),
}  # fmt: skip
"""Format of `struct`, and bytes of an element."""
_BITS = tuple(tuple(digit == "1" for digit in f"{byte:08b}") for byte in range(256))
"""The bits of each byte, most significant first."""


def unpack(datatype: DataType, content: bytes) -> tuple[int | float | bool | str, ...]:
    """The elements. Raises Refused for a content that is no such array."""
    if datatype is DataType.StringArray:
        return _unpack_strings(content)
    if datatype is DataType.BooleanArray:
        return _unpack_booleans(content)
    letter, size = _FORMATS[datatype]
    count, rest = divmod(len(content), size)
    if rest:
        raise Refused(f"{datatype.name} has elements of {size} bytes, {len(content)} bytes are no multiple")
    _check_count(datatype, count)
    return struct.unpack(f"<{count}{letter}", content)


def pack(datatype: DataType, values: tuple[int | float | bool | str, ...]) -> bytes:
    """The bytes of an array of values that `datatypes.check` accepts. Raises ValueError."""
    _check_count(datatype, len(values))
    if datatype is DataType.StringArray:
        return _pack_strings(values)
    if datatype is DataType.BooleanArray:
        return _pack_booleans(values)
    return struct.pack(f"<{len(values)}{_FORMATS[datatype][0]}", *values)


def _check_count(datatype: DataType, count: int) -> None:
    if count > MAX_ELEMENTS:
        raise Refused(f"{datatype.name} has {count} elements, at most {MAX_ELEMENTS} are allowed")


def _unpack_strings(content: bytes) -> tuple[str, ...]:
    _check_count(DataType.StringArray, content.count(0))
    if content and content[-1]:
        raise Refused("StringArray ends without NUL")
    try:
        return tuple(content.decode().split("\0")[:-1])
    except UnicodeDecodeError:
        raise Refused("StringArray is no UTF-8") from None


def _pack_strings(values: tuple[object, ...]) -> bytes:
    if any("\0" in str(one) for one in values):
        raise ValueError("a string of a StringArray contains NUL, which ends strings there; remove it")
    return "".join(f"{one}\0" for one in values).encode()


def _unpack_booleans(content: bytes) -> tuple[bool, ...]:
    count = int.from_bytes(content[:4], "little")
    if len(content) != 4 + (count + 7) // 8:
        raise Refused(f"BooleanArray of {len(content)} bytes does not fit its count of {count}")
    _check_count(DataType.BooleanArray, count)
    return tuple(list(chain.from_iterable(map(_BITS.__getitem__, content[4:])))[:count])


def _pack_booleans(values: tuple[object, ...]) -> bytes:
    digits = "".join("1" if one else "0" for one in values)
    size = (len(digits) + 7) // 8
    return len(values).to_bytes(4, "little") + int(digits.ljust(size * 8, "0") or "0", 2).to_bytes(
        size, "little" if not size else "big"
    )
