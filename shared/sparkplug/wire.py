"""Protobuf's wire format, as far as Sparkplug needs it: varints, length-delimited and fixed fields.

Source: https://protobuf.dev/programming-guides/encoding/. Reading beyond the buffer raises IndexError, which `decode`
turns into WireError.
"""

from __future__ import annotations

from collections.abc import Iterator

from shared.errors import WireError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_GROUPS = (3, 4)
_LONGEST_TAG = 5
_64_BITS = 1 << 64

SMALL = tuple(bytes((n,)) for n in range(128))
"""Varints of one byte."""


class Refused(ValueError):
    """A value breaks a rule of Sparkplug or a limit; the rest of the message stands. Becomes `Invalid`."""


def varint(data: bytes, pos: int) -> tuple[int, int]:
    """(number, position after it) of the varint at `pos`."""
    number = data[pos]
    if number < 0x80:
        return number, pos + 1
    byte = data[pos + 1]
    number &= 0x7F
    if byte < 0x80:
        return number | byte << 7, pos + 2
    number |= (byte & 0x7F) << 7
    pos += 1
    for shift in range(14, 70, 7):
        pos += 1
        byte = data[pos]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >= _64_BITS:
                break
            return number, pos + 1
    raise WireError("a varint has more than 64 bits")


def field(data: bytes, pos: int, end: int) -> tuple[int, int, int, int]:
    """(tag, start, stop, position after it) of the field at `pos` of a message that ends at `end`.

    The tag is `number << 3 | wire type`. For a varint `start` is its value, and `stop` 0.
    """
    begin = pos
    tag, pos = varint(data, pos)
    if pos - begin > _LONGEST_TAG:
        raise WireError(f"a tag has more than {_LONGEST_TAG} bytes")
    kind = tag & 7
    if kind == VARINT:
        number, pos = varint(data, pos)
        if pos > end:
            raise too_long()
        return tag, number, 0, pos
    if kind == LENGTH:
        size, pos = varint(data, pos)
    elif kind == FIXED32:
        size = 4
    elif kind == FIXED64:
        size = 8
    else:
        raise WireError("a field is a group" if kind in _GROUPS else f"a field has the unknown wire type {kind}")
    if size > end - pos:
        raise too_long()
    return tag, pos, pos + size, pos + size


def fields(data: bytes, pos: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(tag, start, stop) of each field of the message from `pos` to `end`, see `field`."""
    while pos < end:
        tag, start, stop, pos = field(data, pos, end)
        yield tag, start, stop


def too_long() -> WireError:
    """The error for a field that reaches beyond its message."""
    return WireError("a field is longer than its message")


def unexpected(tag: int, known: int) -> None:
    """Judge a field that no branch took: fields up to number `known` have a wrong wire type, others are extensions."""
    number = tag >> 3
    if not 0 < number < 1 << 29:
        raise WireError(f"there is no field number {number}")
    if number <= known:
        raise WireError(f"field {number} has the wrong wire type {tag & 7}")


def write_varint(number: int) -> bytes:
    """The varint of a number of 0 to 2**64 - 1."""
    if number < 0x80:
        return SMALL[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
