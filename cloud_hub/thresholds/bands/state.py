"""State of the bands: NumPy columns, and their packed form.

A series takes 8 + 8 bytes for its clock and level, 4 for each row of LAYOUT and of its three tables: about 1.3 KB.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Small = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

DAY_SLOTS, WEEK_SLOTS, HOURS = 96, 168, 24
NEVER: Final = int(np.iinfo(np.int64).min)
"""The clock of a series without samples."""
VERSION: Final = 1
_HEAD = struct.Struct("<4sHHQ7dI")
_MAGIC = b"TGBD"

LAYOUT: Final[dict[str, int]] = {
    "seen": 1, "period": 1, "late": 1, "days": 1,
    "scale": 1, "lift": 1, "low": 1, "high": 1, "low_rate": 1, "high_rate": 1,
    "slow": 3, "fast": 3, "error": 6,
    "trend": 1, "ahead_error": 3, "ahead_scale": 1, "ahead_run": 1,
    "ahead_low": 1, "ahead_high": 1, "low_excess": 1, "high_excess": 1,
    "slot_sum": 1, "slot_count": 1, "hour_sum": 1, "hour_count": 1, "hour_size": 1, "day_sum": 1, "day_count": 1,
}  # fmt: skip
"""The float32 rows of each name, in the order in which they are packed."""
ROWS: Final = sum(LAYOUT.values())


class Columns:
    """Series as columns: `last` int64 [n] (UTC microseconds), `level` float64 [n], `rows` float32 [ROWS, n].

    Each name of LAYOUT is a view into `rows`: [n], or [k, n] where it has k rows.
    """

    seen: Small
    period: Small
    late: Small
    days: Small
    scale: Small
    lift: Small
    low: Small
    high: Small
    low_rate: Small
    high_rate: Small
    slow: Small
    fast: Small
    error: Small
    trend: Small
    ahead_error: Small
    ahead_scale: Small
    ahead_run: Small
    ahead_low: Small
    ahead_high: Small
    low_excess: Small
    high_excess: Small
    slot_sum: Small
    slot_count: Small
    hour_sum: Small
    hour_count: Small
    hour_size: Small
    day_sum: Small
    day_count: Small

    def __init__(self, last: Ints, level: Floats, rows: Small) -> None:
        self.last, self.level, self.rows = last, level, rows
        start = 0
        for name, count in LAYOUT.items():
            setattr(self, name, rows[start] if count == 1 else rows[start : start + count])
            start += count

    @classmethod
    def new(cls, n: int, width: float) -> Columns:
        """Columns of n series without samples; bands start with `width` scales."""
        made = cls(np.full(n, NEVER), np.zeros(n), np.zeros((ROWS, n), np.float32))
        made.lift[:] = made.low_excess[:] = made.high_excess[:] = 1
        for edge in (made.low, made.high):
            edge[:] = width
        for edge in (made.ahead_low, made.ahead_high):
            edge[:] = width / 2
        return made

    def take(self, who: Ints) -> Columns:
        """A copy of some series."""
        return Columns(self.last[who], self.level[who], self.rows.take(who, axis=1))  # contiguous rows

    def put(self, who: Ints, part: Columns) -> None:
        """Write back a copy made by `take`."""
        self.last[who], self.level[who], self.rows[:, who] = part.last, part.level, part.rows


class Tables:
    """The shape of each series: `day` [96, n], `week` [168, n] and `spread` [24, n], all float32.

    `day` holds deviations from the level by quarter of an hour, NaN where there is no sample yet; `week` corrections to
    it by hour of the week (from Thursday 00:00 UTC, the start of the epoch); `spread` the scale of each hour of the day
    relative to the overall one.
    """

    def __init__(self, day: Small, week: Small, spread: Small) -> None:
        self.day, self.week, self.spread = day, week, spread

    @classmethod
    def new(cls, n: int) -> Tables:
        """Tables of n series that have no shape yet."""
        day, week = np.full((DAY_SLOTS, n), np.nan, np.float32), np.zeros((WEEK_SLOTS, n), np.float32)
        return cls(day, week, np.ones((HOURS, n), np.float32))


def pack(columns: Columns, tables: Tables, settings: tuple[float, ...]) -> bytes:
    """Serialise all series, little-endian, with version and checksum: about 1.3 KB a series."""
    parts = (columns.last, columns.level, columns.rows, tables.day, tables.week, tables.spread)
    body = b"".join(part.astype(part.dtype.newbyteorder("<"), copy=False).tobytes() for part in parts)
    head = _HEAD.pack(_MAGIC, VERSION, ROWS, columns.last.size, *settings, 0)
    return head[:-4] + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body


def unpack(data: bytes) -> tuple[Columns, Tables, tuple[float, ...]]:
    """The inverse of `pack`. Raises ValueError for another version or damaged bytes."""
    if len(data) < _HEAD.size or data[:4] != _MAGIC:
        raise ValueError("these bytes are not a packed band; fit it again from history")
    _, version, rows, n, *settings, checksum = _HEAD.unpack_from(data)
    if (version, rows) != (VERSION, ROWS):
        raise ValueError(f"the band is packed as {version}.{rows}, this hub reads {VERSION}.{ROWS}; fit it again")
    head, body = data[: _HEAD.size - 4] + bytes(4), data[_HEAD.size :]
    shapes = [((n,), "<i8"), ((n,), "<f8"), *(((k, n), "<f4") for k in (ROWS, DAY_SLOTS, WEEK_SLOTS, HOURS))]
    sizes = [math.prod(shape) * int(kind[2]) for shape, kind in shapes]
    if len(body) != sum(sizes) or zlib.crc32(body, zlib.crc32(head)) != checksum:
        raise ValueError("the packed band is damaged (length or checksum is wrong); fit it again from history")
    parts: list[npt.NDArray[np.generic]] = []
    for (shape, kind), size in zip(shapes, sizes, strict=True):
        part, body = np.frombuffer(body[:size], kind).reshape(shape), body[size:]
        parts.append(part.astype(part.dtype.newbyteorder("=")))
    return Columns(*parts[:3]), Tables(*parts[3:]), tuple(settings)  # type: ignore[arg-type]
