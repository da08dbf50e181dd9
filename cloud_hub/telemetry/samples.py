"""Stores samples and events in bulk, and reads them by metric and time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

import sqlalchemy
from sqlalchemy import func, insert, text
from sqlmodel import Session, col, select

from cloud_hub.database.tables import EventRow, TelemetrySample
from shared.durations import HOUR_US
from shared.ids import trace_id
from shared.protocol.messages import Event

PAGE = 50_000
"""Samples in memory at a time, however fast a device sends."""


def _paged(columns: str, condition: str = "") -> tuple[Any, Any]:
    """(query of a page, query of the key of its last row); the latter is used only if the page is full."""
    span = (
        "FROM telemetry WHERE device = :device AND metric = :metric AND t_us < :end AND (t_us, source, seq) > "
        f"(:t_us, :source, :seq) {condition} ORDER BY t_us, source, seq"
    )
    return text(f"SELECT {columns} {span} LIMIT :page"), text(
        f"SELECT t_us, source, seq {span} LIMIT 1 OFFSET :page - 1"
    )


_SAMPLES = _paged("t_us, value, text, quality")
_NUMBERS = _paged("t_us, value", "AND value IS NOT NULL AND quality <> 'bad'")

SampleRow = tuple[str, str, int, int, int, float | None, str | None, str]
"""A row of the table: device, metric, t_us, source, seq, value, text, quality."""

_SAMPLE: Any = TelemetrySample.__table__  # type: ignore[attr-defined]


class StoredSample(NamedTuple):
    """A sample as read from the database; ORM objects take seven times as long (measured)."""

    t_us: int
    value: float | None
    text: str | None
    quality: str
    seq: int


_DUE = (
    "INSERT INTO rollup_due (device, t_us, changes) VALUES (?, ?, 1) "
    "ON CONFLICT (device, t_us) DO UPDATE SET changes = rollup_due.changes + 1"
)
TOGETHER = 100
"""Rows per statement; databases limit the number of parameters."""

_INSERT = "INSERT INTO telemetry (device, metric, t_us, source, seq, value, text, quality) VALUES "
_REPLACE = (
    " ON CONFLICT (device, metric, t_us, source, seq) DO UPDATE SET value = excluded.value, text = excluded.text, "
    "quality = excluded.quality"
)


class SampleView(Protocol):
    """A sample, independent of its class."""

    @property
    def metric(self) -> str: ...
    @property
    def t_us(self) -> int: ...
    @property
    def value(self) -> float | str | None: ...
    @property
    def quality(self) -> str: ...


def sample_rows(device: str, source: int, numbered: Iterable[tuple[int, SampleView]]) -> list[SampleRow]:
    """Rows of samples with their delivery identity (source, seq)."""
    return [
        (device, sample.metric, sample.t_us, source, seq, None, value, sample.quality)
        if isinstance(value := sample.value, str)
        else (device, sample.metric, sample.t_us, source, seq, value, None, sample.quality)
        for seq, sample in numbered
    ]


def store_samples(session: Session, rows: Iterable[SampleRow], *, replace: bool = False) -> None:
    """Insert any number of rows in key order, with many rows per driver statement, which is faster than `executemany`.

    Their hours are marked as due for rollup in the same transaction, so none can be missed. The rows have distinct
    keys; with `replace`, one whose key is in the table already takes its place.
    """
    ordered = sorted(rows)
    if not ordered:
        return
    connection = session.connection()
    mark = "%s" if connection.dialect.name == "postgresql" else "?"
    row, end = f"({', '.join([mark] * 8)})", _REPLACE if replace else ""
    full = len(ordered) // TOGETHER * TOGETHER
    for start in range(0, full, TOGETHER):
        values = tuple(chain.from_iterable(ordered[start : start + TOGETHER]))
        connection.exec_driver_sql(_INSERT + ", ".join([row] * TOGETHER) + end, values)
    if rest := ordered[full:]:
        connection.exec_driver_sql(_INSERT + row + end, rest)
    mark_due(session, hours_of(ordered))


def mark_due(session: Session, hours: Sequence[tuple[str, int]]) -> None:
    """Mark hours of devices as due, so that the rollup worker processes them (again)."""
    connection = session.connection()
    mark = "%s" if connection.dialect.name == "postgresql" else "?"
    connection.exec_driver_sql(_DUE.replace("?", mark), list(hours))


def hours_of(rows: Sequence[SampleRow]) -> list[tuple[str, int]]:
    """(device, start of the hour) of each hour that contains a row, in order."""
    times = [row[2] for row in rows]
    first, last = min(times) // HOUR_US, max(times) // HOUR_US
    if first == last:  # the usual case, without a division per row
        return [(device, first * HOUR_US) for device in sorted({row[0] for row in rows})]
    return sorted({(row[0], row[2] // HOUR_US * HOUR_US) for row in rows})


def store_events(session: Session, device: str, source: int, numbered: Sequence[tuple[int, Event]], trace: str) -> None:
    """Insert events with their delivery identity (source, seq)."""
    rows: list[dict[str, Any]] = [
        {
            "source": source, "seq": seq, "device": device, "t_us": event.t_us, "origin": event.source,
            "level": event.level, "text": event.text, "fields": event.fields, "trace_id": trace_id(trace),
        }
        for seq, event in numbered
    ]  # fmt: skip
    session.connection().execute(insert(EventRow), rows)


def series(
    session: Session, device: str, metric: str, start_us: int = 0, end_us: int | None = None, limit: int = 10_000
) -> list[StoredSample]:
    """Samples of one metric in order of time, the newest `limit` of start_us..end_us."""
    table = _SAMPLE.c
    query = sqlalchemy.select(*(table[name] for name in StoredSample._fields)).where(
        table.device == device, table.metric == metric, table.t_us >= start_us
    )
    if end_us is not None:
        query = query.where(table.t_us < end_us)
    key = (table.t_us, table.source, table.seq)
    rows = session.connection().execute(query.order_by(*(column.desc() for column in key)).limit(limit)).all()
    return [StoredSample(*row) for row in reversed(rows)]


def pages(
    session: Session, device: str, metric: str, start_us: int, end_us: int, *, numbers: bool = False
) -> Iterator[Sequence[Any]]:
    """Samples of one metric of start_us..end_us in order of time, `PAGE` at a time: (t_us, value, text, quality).

    With `numbers`, only (t_us, value) of numeric samples whose quality is not bad.
    """
    connection = session.connection()
    page, last = _NUMBERS if numbers else _SAMPLES
    asked = {"device": device, "metric": metric, "end": end_us, "page": PAGE, "t_us": start_us, "source": -1, "seq": -1}
    while rows := connection.execute(page, asked).all():
        yield rows
        if len(rows) < PAGE:
            return
        asked |= connection.execute(last, asked).mappings().one()


def stream_counts(session: Session, source: int) -> tuple[int, int, int]:
    """(rows, distinct sequence numbers, highest) of a telemetry stream: all equal if nothing is lost or duplicated."""
    query = select(
        func.count(), func.count(func.distinct(TelemetrySample.seq)), func.coalesce(func.max(TelemetrySample.seq), 0)
    ).where(TelemetrySample.source == source)
    rows, distinct, highest = session.exec(query).one()
    return rows, distinct, highest


def events(session: Session, device: str, since_us: int = 0, limit: int = 100) -> list[EventRow]:
    """The newest events of a device first."""
    query = select(EventRow).where(EventRow.device == device, col(EventRow.t_us) >= since_us)
    key = (EventRow.t_us, EventRow.source, EventRow.seq)
    return list(session.exec(query.order_by(*(col(column).desc() for column in key)).limit(limit)))
