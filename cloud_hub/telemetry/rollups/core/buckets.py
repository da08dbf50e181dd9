"""Time buckets: count, lowest, highest and mean of the samples in each, as NumPy columns. No I/O.

All aggregation uses `merge_neighbours`: samples into minutes, minutes into hours, old into new. Count, lowest and
highest do not depend on order and grouping; the mean does so only by rounding.
Packed, a row is a bitmap of the slots that have samples and their columns, 28 bytes a slot; 8 bytes where every slot
has one sample only, as of a device that samples once a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SLOTS = 60
"""Slots of a row at most; the four highest bits of its bitmap are the version of the form, 0."""
_SLOT_BITS = np.uint64((1 << SLOTS) - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Buckets:
    """Columns of equal length, `slot` ascending without repetition: the bucket's number, int64; `count` int64 > 0;
    `low`, `high` and `mean` float64, finite, low <= mean <= high."""

    slot: Ints
    count: Ints
    low: Floats
    high: Floats
    mean: Floats

    def __len__(self) -> int:
        return len(self.slot)

    def part(self, chosen: Any) -> Buckets:
        """The buckets of a slice or mask."""
        return Buckets(self.slot[chosen], self.count[chosen], self.low[chosen], self.high[chosen], self.mean[chosen])

    def shifted(self, by: int | Ints) -> Buckets:
        """The same under slots that are `by` higher, all of them or each."""
        return Buckets(self.slot + by, self.count, self.low, self.high, self.mean)

    def coarsen(self, slots: int) -> Buckets:
        """Each `slots` neighbours as one, numbered slot // slots."""
        return merge_neighbours(self.slot // slots, self.count, self.low, self.high, self.mean)


def empty() -> Buckets:
    """No buckets."""
    none, nothing = np.zeros(0, np.int64), np.zeros(0)
    return Buckets(none, none, nothing, nothing, nothing)


def of_samples(slot: Ints, values: Floats) -> Buckets:
    """Samples, `slot` ascending with repetitions, values finite."""
    return merge_neighbours(slot, np.ones(len(slot), np.int64), values, values, values)


def concat(parts: Sequence[Buckets]) -> Buckets:
    """All of them as one; buckets of one slot are gathered, in the order of the parts."""
    slot = np.concatenate([part.slot for part in parts])
    order = np.argsort(slot, kind="stable")
    columns = [np.concatenate([getattr(part, name) for part in parts])[order] for name in Buckets.__slots__[1:]]
    return merge_neighbours(slot[order], *columns)


def merge_neighbours(slot: Ints, count: Ints, low: Floats, high: Floats, mean: Floats) -> Buckets:
    """Neighbours of one slot as one bucket; `slot` ascending with repetitions."""
    if not len(slot):
        return empty()
    first = np.flatnonzero(np.concatenate([[True], slot[1:] != slot[:-1]]))
    total, lowest, highest = (
        np.add.reduceat(count, first),
        np.minimum.reduceat(low, first),
        np.maximum.reduceat(high, first),
    )
    with np.errstate(over="ignore", invalid="ignore"):
        middle = np.add.reduceat(mean * count, first) / total
    if not np.isfinite(middle).all():  # the sum is beyond a float64, the mean is not
        share = count / np.repeat(total, np.diff(np.append(first, len(slot))))
        middle = np.add.reduceat(mean * share, first)
    return Buckets(slot[first], total, lowest, highest, np.clip(middle, lowest, highest))


# -- packed ----------------------------------------------------------------------------------------


def pack(buckets: Buckets) -> bytes:
    """A row of the table; slots below `SLOTS`."""
    present = np.bitwise_or.reduce(np.left_shift(np.uint64(1), buckets.slot.astype(np.uint64)), initial=np.uint64(0))
    head: bytes = present.astype("<u8").tobytes()
    if (buckets.count == 1).all():
        return b"".join([head, buckets.mean.astype("<f8").tobytes()])
    count = np.zeros(len(buckets) + len(buckets) % 2, "<u4")
    count[: len(buckets)] = np.minimum(buckets.count, np.iinfo(np.uint32).max)
    columns = np.concatenate([buckets.low, buckets.high, buckets.mean]).astype("<f8")
    return b"".join([head, columns.tobytes(), count.tobytes()])


def unpack(row: bytes) -> Buckets:
    """The inverse of `pack`."""
    return unpack_all([row])[1]


def unpack_all(rows: Sequence[bytes]) -> tuple[Ints, Buckets]:
    """(row that each bucket is of, buckets by row and slot); ValueError for a row of an unknown form."""
    words = np.frombuffer(b"".join(rows), "<f8")
    sizes = np.fromiter(map(len, rows), np.int64, len(rows)) // 8
    starts = np.cumsum(sizes) - sizes
    heads = words.view("<u8")[starts]
    if (heads & ~_SLOT_BITS).any():
        raise ValueError("a rollup has a newer format than this hub supports")
    bits = np.unpackbits(heads.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    row, slot = np.nonzero(bits)
    length = bits.sum(axis=1, dtype=np.int64)
    if len(rows) and (sizes == sizes[0]).all() and (length == length[0]).all():
        return row, Buckets(slot, *_even(words.reshape(len(rows), -1), int(length[0])))
    rank = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    wide = np.where(sizes == 1 + length, 0, length)[row]
    at = starts[row] + 1 + rank
    count = np.ones(len(row), np.int64)
    several = wide > 0
    places = 2 * (starts[row] + 1 + 3 * wide) + rank
    count[several] = words.view("<u4")[places[several]]
    return row, Buckets(slot, count, words[at], words[at + wide], words[at + 2 * wide])


def _even(words: Floats, length: int) -> tuple[Ints, Floats, Floats, Floats]:
    """Count, low, high and mean of rows that are all of one form, which is nearly always so: ten times as fast."""
    if words.shape[1] == 1 + length:
        mean = words[:, 1:].ravel()
        return np.ones(len(mean), np.int64), mean, mean, mean
    low, high, mean = (words[:, 1 + part * length :][:, :length].ravel() for part in range(3))
    counts = np.ascontiguousarray(words[:, 1 + 3 * length :]).view("<u4")[:, :length]
    return counts.astype(np.int64).ravel(), low, high, mean
