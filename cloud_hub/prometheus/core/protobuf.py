"""A strict reader of prometheus.WriteRequest (remote write 1.0).

Written by hand because it refuses wrong wire types and stops at its limits while it reads, which the protobuf library
does not (docs/adr/0018-what-is-written-by-hand.md). Fields that are not used (metadata, exemplars, native
histograms) are skipped, but must be well formed.

Source: https://prometheus.io/docs/specs/prw/remote_write_spec/ and prompb/types.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_LABELS = 1000
"""Labels of one series; a request with more is rejected."""
MOST_FIELDS = 40
"""Maximum fields of a request per allowed sample: a sample and its series with ten labels are 34."""
_DOUBLE = struct.Struct("<d")


Field = tuple[int, int, int | bytes]
"""(number, wire type, value); the value is an integer for varints, else its bytes."""


class Malformed(ValueError):
    """The bytes are not a WriteRequest."""


@dataclass(slots=True)
class Written:
    """One series of a request: its labels as sent, and (milliseconds, value) of its samples; NaN keeps its bits."""

    labels: list[tuple[str, str]] = field(default_factory=list)
    samples: list[tuple[int, float]] = field(default_factory=list)


def read(content: bytes, most_samples: int) -> list[Written]:
    """The series of a request. Raises Malformed, also beyond `most_samples` samples or as many series."""
    return _Reader(most_samples).read(content)


class _Reader:
    """Reads one request, and counts what it holds while it is read: a field may be as short as two bytes."""

    def __init__(self, most_samples: int) -> None:
        self._most = most_samples
        self._samples, self._left = 0, most_samples * MOST_FIELDS

    def read(self, content: bytes) -> list[Written]:
        return [self._series(_bytes(kind, value)) for number, kind, value in self._fields(content) if number == 1]

    def _series(self, content: bytes) -> Written:
        series = Written()
        self._count(1)
        for number, kind, value in self._fields(content):
            if number == 1:
                if len(series.labels) >= MAX_LABELS:
                    raise Malformed(f"a series has more than {MAX_LABELS} labels")
                series.labels.append(self._label(_bytes(kind, value)))
            elif number == 2:
                self._count(1 if series.samples else 0)
                series.samples.append(_sample(self._fields(_bytes(kind, value))))
        return series

    def _label(self, content: bytes) -> tuple[str, str]:
        texts = ["", ""]
        for number, kind, value in self._fields(content):
            if number in (1, 2):
                try:
                    texts[number - 1] = _bytes(kind, value).decode("utf-8")
                except UnicodeDecodeError:
                    raise Malformed("a label is no UTF-8") from None
        return texts[0], texts[1]

    def _count(self, samples: int) -> None:
        self._samples += samples
        if self._samples > self._most:
            raise Malformed(f"more than {self._most} samples or series in one request")

    def _fields(self, content: bytes) -> Iterator[Field]:
        for entry in _fields(content):
            self._left -= 1
            if self._left < 0:
                raise Malformed(f"more than {self._most * MOST_FIELDS} fields in one request")
            yield entry


def _sample(fields: Iterable[Field]) -> tuple[int, float]:
    t_ms, number_value = 0, 0.0
    for number, kind, value in fields:
        if number == 1:
            if kind != FIXED64 or not isinstance(value, bytes):
                raise Malformed("a sample's value is no double")
            number_value = _DOUBLE.unpack(value)[0]
        elif number == 2:
            if not isinstance(value, int):
                raise Malformed("a sample's time is no integer")
            t_ms = value - (1 << 64) if value >= 1 << 63 else value
    return t_ms, number_value


def _bytes(kind: int, value: int | bytes) -> bytes:
    if kind != BYTES or not isinstance(value, bytes):
        raise Malformed(f"a message or a text stands as wire type {kind}")
    return value


def _fields(content: bytes) -> Iterator[Field]:
    """Each field of a message."""
    place, end = 0, len(content)
    while place < end:
        key = content[place]
        place += 1
        if key >= 0x80:
            key, place = varint(content, place - 1)
        number, kind = key >> 3, key & 7
        if not 1 <= number < 1 << 29:
            raise Malformed(f"field number {number}")
        if kind == VARINT:
            value, place = varint(content, place)
            yield number, kind, value
            continue
        if kind == BYTES:
            if place < end and content[place] < 0x80:
                size = content[place]
                place += 1
            else:
                size, place = varint(content, place)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise Malformed(f"wire type {kind}")
        if size > end - place:
            raise Malformed("a field is longer than its message")
        yield number, kind, content[place : place + size]
        place += size


def varint(content: bytes, place: int) -> tuple[int, int]:
    """(number, the place after it) of the varint at `place`; raises Malformed."""
    value = shift = 0
    while place < len(content) and shift < 70:
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, place
        shift += 7
    raise Malformed("a number is cut off or too long")
