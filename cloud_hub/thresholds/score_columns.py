"""What the anomaly score remembers: n series as columns of a few arrays, and as bytes. No clock, no I/O."""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

CHANNELS = 17
SHAPES = 16
MAGIC, VERSION = b"TGSC", 2
HEADER = struct.Struct("<4sHxxqI")

# Rows of `times`, `wide` (in the unit of the series) and `slim` (told from the slow level, and all without a unit).
FIRST, LAST, COUNT = range(3)
ANCHOR, SLOW, PREVIOUS, WIDE = range(4)
CHANGE, CHANGES = 0, slice(1, 4)
DAY_REST, WEEK_REST = slice(4, 8), slice(8, 12)
WEIGHTS, SCALES = slice(12, 20), slice(20, 34)
LEVELS, LAGS, CENTRE = slice(34, 38), slice(38, 46), 46
PEAK, USUAL_GAP = 47, 48
GAP, GAP_EXCESS, NEWS, NEWS_EXCESS = 49, 50, 51, 52
SLIM = 53
DAY, WEEK, HOURS = 0, 24, 192  # rows of `hours` and `rests`
UNKNOWN, EMPTY = 0x7FC0, 255  # an hour without a value (NaN), a place without a shape
TICK = 3  # `when` counts in steps of 2**3 samples

# Where tails begin before a series has shown its own. A logarithm of sizes: twice the usual size. A gap: ten periods.
# News: a surprise that is what it says, with the exponential's mean excess.
TAIL, GAP_START, NEWS_START, NEWS_EXCESS_START = 2.0, 2.3025851, 2.0, 0.43429448


class ForeignState(ValueError):
    """The bytes are no state of scores, or one of another version, or damaged."""


class Columns(NamedTuple):
    """The state of n series. `tails` are upper and lower quantile, mean excess above and below, and the middle."""

    times: Longs  # [3, n]: microseconds of the first and the last sample, count of samples
    wide: Doubles  # [WIDE, n]
    slim: Singles  # [SLIM, n]
    hours: npt.NDArray[np.uint16]  # [HOURS, n]: usual values from the anchor, the upper half of a 32-bit number
    rests: npt.NDArray[np.uint8]  # [HOURS, n]: eight bits more
    tails: Singles  # [5, CHANNELS, n]
    shapes: npt.NDArray[np.int8]  # [SHAPES, CHANNELS, n], sixteenths
    seen: npt.NDArray[np.uint8]  # [SHAPES, n]: in how many episodes the shape came back, EMPTY: no shape here
    when: npt.NDArray[np.uint16]  # [SHAPES, n]: tick at which it was last met, modulo 65,536

    def take(self, chosen: slice | npt.NDArray[np.intp]) -> Columns:
        """Some of the series: views for a slice, copies for indices."""
        parts: tuple[npt.NDArray[Any], ...] = self
        return Columns._make(part[..., chosen] for part in parts)

    def put(self, chosen: npt.NDArray[np.intp], some: Columns) -> None:
        """Write back what `take` copied."""
        parts: tuple[npt.NDArray[Any], ...] = self
        for part, new in zip(parts, some, strict=True):
            part[..., chosen] = new

    @property
    def nbytes(self) -> int:
        """Bytes of all series together."""
        return sum(part.nbytes for part in self)


def fresh(n: int) -> Columns:
    """The state of n series without a sample."""
    slim = np.zeros((SLIM, n), dtype=np.float32)
    slim[GAP], slim[GAP_EXCESS], slim[NEWS], slim[NEWS_EXCESS] = GAP_START, 1.0, NEWS_START, NEWS_EXCESS_START
    slim[WEIGHTS.start] = 1.0  # the first forecast: the next value is like the last
    tails = np.zeros((5, CHANNELS, n), dtype=np.float32)
    tails[0], tails[1], tails[2:4] = TAIL, -TAIL, 1.0
    return Columns(
        np.zeros((3, n), dtype=np.int64),
        np.zeros((WIDE, n)),
        slim,
        np.full((HOURS, n), UNKNOWN, dtype=np.uint16),
        np.zeros((HOURS, n), dtype=np.uint8),
        tails,
        np.zeros((SHAPES, CHANNELS, n), dtype=np.int8),
        np.full((SHAPES, n), EMPTY, dtype=np.uint8),
        np.zeros((SHAPES, n), dtype=np.uint16),
    )


def pack(columns: Columns) -> bytes:
    """The state as bytes: versioned, with a checksum, little-endian."""
    body = b"".join(np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<")).tobytes() for part in columns)
    return HEADER.pack(MAGIC, VERSION, columns.times.shape[1], zlib.crc32(body)) + body


def unpack(packed: bytes) -> Columns:
    """The state as it was packed. Raises ForeignState for bytes that are not one whole state of this version."""
    if len(packed) < HEADER.size:
        raise ForeignState("too short for a state of scores")
    magic, version, n, check = HEADER.unpack_from(packed)
    if magic != MAGIC or version != VERSION:
        raise ForeignState(f"not a state of scores of version {VERSION}")
    if n < 0 or len(packed) - HEADER.size != n * fresh(1).nbytes or zlib.crc32(packed[HEADER.size :]) != check:
        raise ForeignState("the state of scores is damaged")
    columns, at = fresh(n), HEADER.size
    for part in columns:
        stored: Any = np.frombuffer(packed, part.dtype.newbyteorder("<"), part.size, at)
        part[:] = stored.reshape(part.shape)
        at += part.nbytes
    return columns
