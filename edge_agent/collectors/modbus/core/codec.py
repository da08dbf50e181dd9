"""Values in 16-bit registers: integers, floats, text and bits, in any order of words and bytes.

Registers travel most significant byte first (MODBUS Application Protocol V1.1b3, 4.2). How values of several registers
are ordered is left to the device: `word_order` "big" puts the most significant register at the lowest address;
`byte_order` "little" swaps the two bytes of each register.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Literal

from edge_agent.collectors.plant.core.steps import whole

Type = Literal[
    "auto", "bool", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "string"
]  # fmt: skip
Order = Literal["big", "little"]
Value = float | str | bool
_FORMATS = {
    "int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "int64": ">q", "uint64": ">Q",
    "float32": ">f", "float64": ">d",
}  # fmt: skip
FLOATS = frozenset({"float32", "float64"})


def registers_of(kind: Type, length: int) -> int:
    """Registers that a value of this type fills; `length` is that of a text."""
    if kind == "string":
        return length
    return struct.calcsize(_FORMATS[kind]) // 2 if kind in _FORMATS else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a value lies in its registers. `bit` 0 is the least significant one, of a `bool` in a register."""

    type: Type
    count: int
    bit: int | None = None
    word_order: Order = "big"
    byte_order: Order = "big"
    scale: float = 1.0
    offset: float = 0.0


class Codec:
    """Decodes and encodes the values of one layout."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._format = struct.Struct(_FORMATS.get(layout.type, ">H"))
        order = _order(layout)
        self._order = None if order == list(range(len(order))) else order
        self._linear = (layout.scale, layout.offset) != (1.0, 0.0)

    def decode(self, data: bytes, at: int = 0) -> float | str:
        """The value in `data`, registers as they travel, from byte `at` on. A float may be NaN or infinite."""
        layout = self._layout
        if self._order is not None or layout.type == "string":
            data, at = self._reordered(data[at : at + 2 * layout.count]), 0
        if layout.type == "string":
            return _text(data)
        raw = self._format.unpack_from(data, at)[0]
        if layout.bit is not None:
            return float(raw >> layout.bit & 1)
        return raw * layout.scale + layout.offset if self._linear else float(raw)

    def encode(self, value: Value) -> bytes:
        """The registers of `value`; raises ValueError with a reason for a person. Not for bits."""
        layout = self._layout
        data = _padded(value, 2 * layout.count) if layout.type == "string" else self._packed(self._raw(value))
        return self._reordered(data)

    def matches(self, value: Value, read: float | str) -> bool:
        """Whether `read` is `value` as far as the registers can hold it."""
        if isinstance(value, str) or isinstance(read, str):
            return value == read
        wanted = self.decode(self.encode(value)) if self._layout.bit is None else float(bool(value))
        return wanted == read

    def _raw(self, value: Value) -> float:
        if isinstance(value, str):
            raise ValueError(f"'{value[:40]}' is text, the tag is {self._layout.type}")
        if not math.isfinite(value):
            raise ValueError(f"{value} is no finite number")
        return (float(value) - self._layout.offset) / self._layout.scale

    def _packed(self, raw: float) -> bytes:
        kind = self._layout.type
        if not math.isfinite(raw):  # by the scale
            raise ValueError(f"{raw:g} does not fit into {kind}")
        try:
            return self._format.pack(raw if kind in FLOATS else whole(raw, kind))
        except (struct.error, OverflowError) as error:
            raise ValueError(f"{raw:g} does not fit into {kind}") from error

    def _reordered(self, data: bytes) -> bytes:
        """Swapping words and bytes is its own inverse."""
        return bytes(map(data.__getitem__, self._order)) if self._order is not None else data


def _order(layout: Layout) -> list[int]:
    """For each byte of the value in big-endian order, where it is in the registers."""
    words = range(layout.count)
    if layout.word_order == "little" and layout.type != "string":
        words = words[::-1]
    low, high = (0, 1) if layout.byte_order == "big" else (1, 0)
    return [2 * word + byte for word in words for byte in (low, high)]


def _text(data: bytes) -> str:
    """Text up to the first NUL, without padding. Bytes that are no UTF-8 become U+FFFD."""
    text = data.split(b"\0", 1)[0].decode("utf-8", "replace").rstrip(" ")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _padded(value: Value, size: int) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{value} is no text")
    data = value.encode("utf-8")
    if len(data) > size:
        raise ValueError(f"the text has {len(data)} bytes, the registers hold {size}")
    return data.ljust(size, b"\0")
