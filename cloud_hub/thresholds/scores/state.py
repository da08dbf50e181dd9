"""State of the score model: n series as columns of a few arrays, and as bytes. No clock, no I/O."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

FEATURES = 17
SHAPES = 16
MAGIC, VERSION = b"TGSC", 2
HEADER = struct.Struct("<4sHxxqI")

# Rows of `times`, `wide` (in the unit of the series) and `slim` (relative to the slow level, and all without a unit).
FIRST, LAST, COUNT = range(3)
ANCHOR, SLOW, PREVIOUS, WIDE = range(4)
CHANGE, CHANGES = 0, slice(1, 4)
DAY_REST, WEEK_REST = slice(4, 8), slice(8, 12)
WEIGHTS, SCALES = slice(12, 20), slice(20, 34)
LEVELS, LAGS, CENTRE = slice(34, 38), slice(38, 46), 46
PEAK, USUAL_GAP = 47, 48
GAP, GAP_EXCESS, NOVELTY, NOVELTY_EXCESS = 49, 50, 51, 52
SLIM = 53
DAY, WEEK, HOURS = 0, 24, 192  # rows of `hours` and `rests`
UNKNOWN, EMPTY = 0x7FC0, 255  # an hour without a value (NaN), an empty slot of a shape
WIDTH = 256  # series of a block, so that its working set fits into the cache
TICK = 3  # `when` counts in steps of 2**3 samples

# Initial start of the tails. For a logarithm of sizes: twice the usual size. For a gap: ten periods.
# Novelty: a calibrated score, with the exponential's mean excess.
TAIL, GAP_START, NOVELTY_START, NOVELTY_EXCESS_START = 2.0, 2.3025851, 2.0, 0.43429448


class InvalidState(ValueError):
    """The bytes are not a state of scores, are damaged, or are of another version."""


class Columns(NamedTuple):
    """State of n series. `tails` has upper and lower quantile, mean excess above and below, and the median."""

    times: Longs  # [3, n]: microseconds of the first and the last sample, count of samples
    wide: Doubles  # [WIDE, n]
    slim: Singles  # [SLIM, n]
    hours: npt.NDArray[np.uint16]  # [HOURS, n]: usual values from the anchor, the upper half of a 32-bit number
    rests: npt.NDArray[np.uint8]  # [HOURS, n]: eight bits more
    tails: Singles  # [5, FEATURES, n]
    shapes: npt.NDArray[np.int8]  # [SHAPES, FEATURES, n], sixteenths
    seen: npt.NDArray[np.uint8]  # [SHAPES, n]: number of episodes in which the shape was matched; EMPTY: no shape here
    when: npt.NDArray[np.uint16]  # [SHAPES, n]: tick at which it was last met, modulo 65,536

    def take(self, chosen: slice | npt.NDArray[np.intp]) -> Columns:
        """Some of the series: views for a slice, copies for indices."""
        parts: tuple[npt.NDArray[Any], ...] = self
        return Columns._make(part[..., chosen] for part in parts)

    def put(self, chosen: slice | npt.NDArray[np.intp], some: Columns) -> None:
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
    slim[GAP], slim[GAP_EXCESS], slim[NOVELTY], slim[NOVELTY_EXCESS] = (
        GAP_START,
        1.0,
        NOVELTY_START,
        NOVELTY_EXCESS_START,
    )
    slim[WEIGHTS.start] = 1.0  # the first forecast: the next value is like the last
    tails = np.zeros((5, FEATURES, n), dtype=np.float32)
    tails[0], tails[1], tails[2:4] = TAIL, -TAIL, 1.0
    return Columns(
        np.zeros((3, n), dtype=np.int64),
        np.zeros((WIDE, n)),
        slim,
        np.full((HOURS, n), UNKNOWN, dtype=np.uint16),
        np.zeros((HOURS, n), dtype=np.uint8),
        tails,
        np.zeros((SHAPES, FEATURES, n), dtype=np.int8),
        np.full((SHAPES, n), EMPTY, dtype=np.uint8),
        np.zeros((SHAPES, n), dtype=np.uint16),
    )


class Blocks:
    """State of n series in blocks of WIDTH (the last one may be smaller), so that a step uses contiguous memory.

    `flat` has the numbers of each part in one dimension, block after block; `each` has views of the blocks.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.flat = Columns._make(np.empty(one.size * n, one.dtype) for one in fresh(1))
        self.each = [self._block(lo, min(lo + WIDTH, n)) for lo in range(0, n, WIDTH)]
        for block in self.each:
            parts: tuple[npt.NDArray[Any], ...] = block
            for part, one in zip(parts, fresh(1), strict=True):
                part[...] = one

    def _block(self, lo: int, hi: int) -> Columns:
        parts: zip[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = zip(self.flat, fresh(1), strict=True)
        return Columns._make(
            part[lo * one.size : hi * one.size].reshape(*one.shape[:-1], hi - lo) for part, one in parts
        )

    def cut(self) -> Iterator[tuple[slice, Columns]]:
        """Iterate over (slice of the series, their block)."""
        for number, block in enumerate(self.each):
            yield slice(number * WIDTH, number * WIDTH + WIDTH), block

    def joined(self, name: str) -> npt.NDArray[Any]:
        """A copy of one part of all series, as columns."""
        return np.concatenate([getattr(block, name) for block in (fresh(0), *self.each)], axis=-1)

    def restart(self, chosen: npt.NDArray[np.intp]) -> None:
        """Reset the chosen series to the initial state."""
        for number in np.unique(chosen // WIDTH):
            here = chosen[chosen // WIDTH == number] % WIDTH
            self.each[number].put(here, fresh(here.size))


def pack(blocks: Blocks) -> bytes:
    """Serialise the state: versioned, with a checksum, little-endian, part after part, independent of the blocks."""
    body = bytearray(blocks.flat.nbytes)
    whole = _columns(body, blocks.n)
    for cut, block in blocks.cut():
        whole.take(cut).put(slice(None), block)
    return HEADER.pack(MAGIC, VERSION, blocks.n, zlib.crc32(body)) + body


def unpack(packed: bytes) -> Blocks:
    """Restore the state from `pack`. Raises InvalidState for bytes that are not a complete state of this version."""
    if len(packed) < HEADER.size:
        raise InvalidState("too short for a state of scores")
    magic, version, n, check = HEADER.unpack_from(packed)
    body = memoryview(packed)[HEADER.size :]
    if magic != MAGIC or version != VERSION:
        raise InvalidState(f"not a state of scores of version {VERSION}")
    if n < 0 or len(body) != n * fresh(1).nbytes or zlib.crc32(body) != check:
        raise InvalidState("the state of scores is damaged")
    blocks, whole = Blocks(n), _columns(body, n)
    for cut, block in blocks.cut():
        block.put(slice(None), whole.take(cut))
    return blocks


def _columns(body: bytearray | memoryview, n: int) -> Columns:
    """Views of the columns in `body`."""
    parts: list[npt.NDArray[Any]] = []
    at = 0
    for one in fresh(1):
        part: npt.NDArray[Any] = np.frombuffer(body, one.dtype.newbyteorder("<"), one.size * n, at)
        parts.append(part.reshape(*one.shape[:-1], n))
        at += part.nbytes
    return Columns._make(parts)
