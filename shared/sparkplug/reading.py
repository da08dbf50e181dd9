"""What all readers of a payload share: the message with its limits, texts, and the fields of values."""

from __future__ import annotations

import struct

from shared.errors import WireError
from shared.sparkplug import values
from shared.sparkplug.datatypes import BY_CODE, DataType
from shared.sparkplug.limits import Limits
from shared.sparkplug.payload import Property, Untyped, Value
from shared.sparkplug.wire import FIXED32, FIXED64, LENGTH, VARINT, Refused, unexpected

_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")
_WIRE_TYPES = (VARINT, VARINT, FIXED32, FIXED64, VARINT, LENGTH)
"""Wire types of the kinds of value fields INT to STRING, which all four messages with values have."""
NO_KIND = -1
"""No value field."""


class Context:
    """The message that is read, its limits, and how many items it may still hold."""

    __slots__ = ("data", "left", "limits", "properties", "time", "time_bytes")

    def __init__(self, data: bytes, limits: Limits) -> None:
        self.data, self.limits, self.left = data, limits, limits.max_items
        self.time, self.time_bytes = 0, b"\0"
        """The last time read, and its bytes: most metrics of a message have the same."""
        self.properties: dict[bytes, Property] = {}
        """Short property values by their bytes: the metrics of a birth share units, ranges and qualities."""

    def count(self, items: int = 1) -> None:
        """Take items off what is left. Raises Refused when nothing is left."""
        self.left -= items
        if self.left < 0:
            raise Refused(f"the message holds more than {self.limits.max_items} items")

    def enter(self, depth: int) -> int:
        """The depth below `depth`. Raises Refused if that is too deep."""
        if depth >= self.limits.max_depth:
            raise Refused(f"it is nested more than {self.limits.max_depth} deep")
        return depth + 1

    def name(self, start: int, stop: int) -> str:
        """A name, key or other label. Raises WireError if it is too long, UnicodeDecodeError if it is no UTF-8."""
        if stop - start > self.limits.max_name:
            raise WireError(f"a name has {stop - start} bytes, at most {self.limits.max_name} are allowed")
        return self.data[start:stop].decode()

    def text(self, start: int, stop: int) -> str:
        """A string value. Raises Refused if it is too long or no UTF-8."""
        if stop - start > self.limits.max_text:
            raise Refused(f"the string has {stop - start} bytes, at most {self.limits.max_text} are allowed")
        try:
            return self.data[start:stop].decode()
        except UnicodeDecodeError:
            raise Refused("the string is no UTF-8") from None

    def blob(self, start: int, stop: int) -> bytes:
        """A bytes value. Raises Refused if it is too long."""
        if stop - start > self.limits.max_blob:
            raise Refused(f"the value has {stop - start} bytes, at most {self.limits.max_blob} are allowed")
        return self.data[start:stop]


def datatype(code: int) -> DataType:
    """The datatype of a code. Raises Refused if there is none."""
    found = BY_CODE.get(code)
    if found is None:
        raise Refused(f"there is no datatype {code}")
    return found


def scalar(context: Context, tag: int, start: int, stop: int, first: int) -> tuple[int, Value]:
    """(kind, raw) of a value field whose numbers begin with `first`; (NO_KIND, None) if it is none."""
    kind = (tag >> 3) - first
    if not 0 <= kind <= values.STRING:
        return NO_KIND, None
    if tag & 7 != _WIRE_TYPES[kind]:
        unexpected(tag, tag >> 3)
    if kind == values.INT:
        return kind, start & 0xFFFF_FFFF
    if kind == values.LONG:
        return kind, start
    if kind == values.FLOAT:
        return kind, _FLOAT.unpack_from(context.data, start)[0]
    if kind == values.DOUBLE:
        return kind, _DOUBLE.unpack_from(context.data, start)[0]
    if kind == values.BOOLEAN:
        return kind, start != 0
    return kind, context.text(start, stop)


def judged(of_type: DataType | None, kind: int, raw: Value) -> Value:
    """The value of a property or parameter: `Untyped` without a type. Raises Refused."""
    if kind == NO_KIND:
        return None
    if of_type is None:
        return Untyped(values.FIELDS[kind], raw)
    return values.read(of_type, kind, raw)
