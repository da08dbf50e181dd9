"""Stores the high-water mark of each (device, epoch, stream): the last sequence number that is durable here.

`StreamOffsets` is the unit of work of one transaction: marks are read together, raised in memory and written by `save`.
Call `save` before the transaction is committed, and before anything else reads the table inside of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import bindparam, insert, update
from sqlmodel import Session, col

from cloud_hub.database.tables import HighWater

Key = tuple[str, str, str]
"""(device, epoch, stream)"""

BATCH_SIZE = 500
"""Keys of one query; databases limit the number of parameters."""

_RAISE = update(HighWater).where(col(HighWater.id) == bindparam("b_id")).values(upto=bindparam("b_upto"))

_MAKE = insert(HighWater).returning(col(HighWater.id), sort_by_parameter_order=True)


@dataclass(slots=True)
class StreamOffset:
    """A mark. `source` is the number under which the stream's rows are stored; `saved` is the value in the table."""

    source: int
    upto: int
    saved: int


class StreamOffsets:
    """The marks of one transaction."""

    def __init__(self, session: Session) -> None:
        self._connection = session.connection()
        self._marks: dict[Key, StreamOffset] = {}
        self._loaded: set[Key] = set()

    def load(self, keys: Iterable[Key]) -> None:
        """Read the marks that exist; a missing one is created by its first `get`."""
        missing = sorted(set(keys) - self._loaded)
        self._loaded.update(missing)
        for start in range(0, len(missing), BATCH_SIZE):
            self._read(missing[start : start + BATCH_SIZE])

    def get(self, key: Key) -> StreamOffset:
        """The mark of one stream; a new one starts at 0."""
        if key not in self._marks:
            self.create([key])
        return self._marks[key]

    def any(self, keys: Iterable[Key]) -> bool:
        """Whether any of them exists."""
        keys = list(keys)
        self.load(keys)
        return any(key in self._marks for key in keys)

    def create(self, keys: Iterable[Key]) -> None:
        """Create missing marks at 0 with one statement."""
        keys = list(keys)
        self.load(keys)
        new = [key for key in keys if key not in self._marks]
        if new:
            rows = [dict(zip(("device", "epoch", "stream"), key, strict=True)) | {"upto": 0} for key in new]
            for key, source in zip(new, self._connection.execute(_MAKE, rows).scalars(), strict=True):
                self._marks[key] = StreamOffset(source=source or 0, upto=0, saved=0)

    def save(self) -> None:
        """Write the marks that were raised."""
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
        rows = self._connection.exec_driver_sql(query, tuple(part for key in keys for part in key))
        for source, device, epoch, stream, upto in rows:
            self._marks[device, epoch, stream] = StreamOffset(source=source, upto=upto, saved=upto)
