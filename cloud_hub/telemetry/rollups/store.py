"""Reads rows of rollups and sketches by series and time, and writes them in bulk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import CursorResult, func, select, text
from sqlmodel import Session

from cloud_hub.database.tables import RetentionStart, Rollup, SketchRow
from cloud_hub.telemetry.rollups.core.buckets import Buckets, unpack

MINUTE, HOUR, DAY = 60, 3600, 86400
"""Steps in seconds. A row holds the minutes of an hour, the hours of a day, or one day."""
SPAN_US = {MINUTE: HOUR * 1_000_000, HOUR: DAY * 1_000_000, DAY: DAY * 1_000_000}
"""Time covered by one row."""
TOGETHER = 500
"""Metrics of one query; databases limit the number of parameters."""

_PUT = {
    table: text(
        f"INSERT INTO {table} (step_s, device, metric, t_us, {column}) "  # noqa: S608 - names of ours
        f"VALUES (:step_s, :device, :metric, :t_us, :packed) "
        f"ON CONFLICT (step_s, device, metric, t_us) DO UPDATE SET {column} = excluded.{column}"
    )
    for table, column in (("rollups", "buckets"), ("sketches", "sketch"))
}

Place = tuple[str, int]
"""(metric, t_us) of a row of one device."""


class DeviceRollups:
    """Rows of one device with pending changes; `save` writes them together."""

    def __init__(self, session: Session, device: str) -> None:
        self._session, self._device = session, device
        self._puts: dict[str, list[dict[str, Any]]] = {table: [] for table in _PUT}

    def buckets(self, step_s: int, metrics: Sequence[str], start_us: int, end_us: int) -> dict[Place, Buckets]:
        """Rollups of start_us..end_us."""
        return {place: unpack(row) for place, row in self._read(Rollup, "buckets", step_s, metrics, start_us, end_us)}

    def sketches(self, step_s: int, metrics: Sequence[str], start_us: int, end_us: int) -> dict[Place, bytes]:
        """Sketches of start_us..end_us, packed, in order of time."""
        return dict(self._read(SketchRow, "sketch", step_s, metrics, start_us, end_us))

    def kept(self, metrics: Sequence[str] | None = None) -> dict[str, RetentionStart]:
        """The retention start of each rolled-up series: of all metrics of the device, or of these."""
        by_metric: dict[str, RetentionStart] = {}
        query = select(RetentionStart).where(RetentionStart.device == self._device)  # type: ignore[arg-type]
        for some in [None] if metrics is None else _some(metrics):
            asked = query if some is None else query.where(RetentionStart.metric.in_(some))  # type: ignore[attr-defined]
            by_metric |= {row.metric: row for row in self._session.execute(asked).scalars()}
        return by_metric

    def put(self, table: str, step_s: int, metric: str, t_us: int, packed: bytes) -> None:
        """Insert or replace a row of `rollups` or `sketches`."""
        key = {"step_s": step_s, "device": self._device, "metric": metric, "t_us": t_us}
        self._puts[table].append(key | {"packed": packed})

    def save(self) -> None:
        """Write the pending rows."""
        for table, puts in self._puts.items():
            if puts:
                self._session.connection().execute(_PUT[table], puts)
                puts.clear()

    def _read(
        self, kind: Any, column: str, step_s: int, metrics: Sequence[str], start_us: int, end_us: int
    ) -> Iterator[tuple[Place, bytes]]:
        c = kind.__table__.c
        query = select(c.metric, c.t_us, c[column]).where(
            c.step_s == step_s, c.device == self._device, c.t_us >= start_us, c.t_us < end_us
        )
        for some in _some(metrics):
            rows = self._session.connection().execute(query.where(c.metric.in_(some)).order_by(c.metric, c.t_us))
            for metric, t_us, packed in rows:
                yield (metric, t_us), bytes(packed)


def of_series(
    session: Session, kind: Any, column: str, series: Sequence[tuple[str, str]], step_s: int, start_us: int, end_us: int
) -> CursorResult[Any]:
    """(number of the series, t_us, packed) of rows of start_us..end_us, in this order; of some thousand series."""
    connection = session.connection()
    marks = ", ".join(["(?, ?, ?)"] * len(series))
    # A join, because SQLite reads the whole table for (a, b) IN (VALUES ...).
    query = (
        f"WITH wanted (number, device, metric) AS (VALUES {marks}) "  # noqa: S608 - placeholders, and names of ours
        f"SELECT w.number, r.t_us, r.{column} FROM wanted w CROSS JOIN {kind.__tablename__} r WHERE r.step_s = ? "
        "AND r.device = w.device AND r.metric = w.metric AND r.t_us >= ? AND r.t_us < ? ORDER BY w.number, r.t_us"
    )
    if connection.dialect.name == "postgresql":
        query = query.replace("(?, ?, ?)", "(%s::int, %s, %s)").replace("?", "%s")
    wanted = [part for number, (device, metric) in enumerate(series) for part in (number, device, metric)]
    return connection.exec_driver_sql(query, (*wanted, step_s, start_us, end_us))


def extent(session: Session, series: tuple[str, str], step_s: int) -> tuple[int, int]:
    """(start, end) of the rollups of a series; (0, 0) if there are none."""
    row: Any = Rollup
    mine = (row.step_s == step_s, row.device == series[0], row.metric == series[1])
    first, last = session.connection().execute(select(func.min(row.t_us), func.max(row.t_us)).where(*mine)).one()
    return (0, 0) if first is None else (int(first), int(last) + SPAN_US[step_s])


def _some(metrics: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(metrics), TOGETHER):
        yield metrics[start : start + TOGETHER]
