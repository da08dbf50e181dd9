"""High-water marks: up to where each (device, epoch, stream) is durable here, kept for ever.

`StreamOffsets` holds those that one transaction needs: read together, raised in memory, written together. `save` must
be called before the transaction is committed; who reads the table inside of it, before that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import bindparam, insert, update
from sqlmodel import Session, col

from cloud_hub.database.tables import HighWater

Key = tuple[str, str, str]
"""(device, epoch, stream)"""

TOGETHER = 500
"""Keys of one query: a database allows some ten thousand parameters."""

_RAISE = update(HighWater).where(col(HighWater.id) == bindparam("b_id")).values(upto=bindparam("b_upto"))

_MAKE = insert(HighWater).returning(col(HighWater.id), sort_by_parameter_order=True)


@dataclass(slots=True)
class StreamOffset:
    """`source` is its number, under which rows are stored; `saved` is what the table says."""

    source: int
    upto: int
    saved: int


class StreamOffsets:
    """The marks of one transaction."""

    def __init__(self, session: Session) -> None:
        self._connection = session.connection()
        self._marks: dict[Key, StreamOffset] = {}
        self._asked: set[Key] = set()

    def load(self, keys: Iterable[Key]) -> None:
        """Read those that are there; one that is not is made by its first `get`."""
        missing = sorted(set(keys) - self._asked)
        self._asked.update(missing)
        for start in range(0, len(missing), TOGETHER):
            self._read(missing[start : start + TOGETHER])

    def get(self, key: Key) -> StreamOffset:
        """The mark of one stream, made at 0 when it is new."""
        if key not in self._marks:
            self.create([key])
        return self._marks[key]

    def any(self, keys: Iterable[Key]) -> bool:
        """Whether one of them is there."""
        keys = list(keys)
        self.load(keys)
        return any(key in self._marks for key in keys)

    def create(self, keys: Iterable[Key]) -> None:
        """Make those at 0 that are new, by one statement."""
        keys = list(keys)
        self.load(keys)
        new = [key for key in keys if key not in self._marks]
        if new:
            rows = [dict(zip(("device", "epoch", "stream"), key, strict=True)) | {"upto": 0} for key in new]
            for key, source in zip(new, self._connection.execute(_MAKE, rows).scalars(), strict=True):
                self._marks[key] = StreamOffset(source=source or 0, upto=0, saved=0)

    def save(self) -> None:
        """Write those that were raised."""
        raised = [mark for mark in self._marks.values() if mark.upto != mark.saved]
        if raised:
            self._connection.execute(_RAISE, [{"b_id": mark.source, "b_upto": mark.upto} for mark in raised])
        for mark in raised:
            mark.saved = mark.upto

    def _read(self, keys: list[Key]) -> None:
        marks = ", ".join(["(?, ?, ?)"] * len(keys))
        if self._connection.dialect.name == "postgresql":
            marks = marks.replace("?", "%s")
        # A join, because SQLite reads the whole table for (a, b, c) IN (VALUES ...).
        query = (
            f"WITH wanted (device, epoch, stream) AS (VALUES {marks}) "  # noqa: S608 - placeholders alone
            "SELECT h.id, h.device, h.epoch, h.stream, h.upto FROM wanted w CROSS JOIN high_water h "
            "WHERE h.device = w.device AND h.epoch = w.epoch AND h.stream = w.stream"
        )
        found = self._connection.exec_driver_sql(query, tuple(part for key in keys for part in key))
        for source, device, epoch, stream, upto in found:
            self._marks[device, epoch, stream] = StreamOffset(source=source, upto=upto, saved=upto)
