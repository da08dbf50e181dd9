"""Exports telemetry as a Parquet file, streamed with one row group in memory at a time.

Samples have the columns device, metric, t, value, text, quality; rollups device, metric, t, count, low, high, mean.
`t` is a timestamp in microseconds, UTC. Rows go by device, metric and time.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

from sqlmodel import Session

from cloud_hub.database.sessions import Database
from cloud_hub.errors import HubError
from cloud_hub.telemetry.rollups.aggregate import metrics
from cloud_hub.telemetry.rollups.matrices import columns, source_of
from cloud_hub.telemetry.rollups.store import DeviceRollups, extent
from cloud_hub.telemetry.samples import pages

GROUP = 100_000
"""A row group is written when it has so many rows; a page of samples more at most."""


class _Sink(io.RawIOBase):
    """Buffers the bytes that the writer wrote since the last `drain`."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def drain(self) -> bytes:
        """Return and clear the buffer."""
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def parquet(
    db: Database, devices: Sequence[str], metric: str | None, start_us: int, end_us: int, resolution_s: int
) -> Iterator[bytes]:  # fmt: skip
    """The bytes of the file, piece by piece; `resolution_s` 0 are the samples. Raises HubError 501 without pyarrow."""
    arrow, writing = _arrow()
    schema = _schema(arrow, resolution_s)
    rows = _samples if resolution_s == 0 else _buckets

    def pieces() -> Iterator[bytes]:
        sink = _Sink()
        with writing(sink, schema, compression="zstd") as writer:
            waiting: list[Any] = []

            def group() -> bytes:
                table = arrow.concat_tables(waiting)
                writer.write_table(table, len(table))
                waiting.clear()
                return sink.drain()

            for device, name, found in rows(db, devices, metric, start_us, end_us, resolution_s):
                waiting.append(_table(arrow, schema, device, name, found))
                if sum(map(len, waiting)) >= GROUP:
                    yield group()
            if waiting:
                yield group()
        yield sink.drain()

    return pieces()


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as arrow  # noqa: PLC0415 - an extra
        from pyarrow.parquet import ParquetWriter  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise HubError(501, "Not installed", "Parquet needs pyarrow: pip install 'tidegate[parquet]'") from error
    return arrow, ParquetWriter


def _schema(arrow: Any, resolution_s: int) -> Any:
    head = [("device", arrow.string()), ("metric", arrow.string()), ("t", arrow.timestamp("us", tz="UTC"))]
    number, text = arrow.float64(), arrow.string()
    if resolution_s == 0:
        return arrow.schema([*head, ("value", number), ("text", text), ("quality", text)])
    return arrow.schema([*head, ("count", arrow.int64()), ("low", number), ("high", number), ("mean", number)])


def _table(arrow: Any, schema: Any, device: str, metric: str, rows: Sequence[Any]) -> Any:
    """Columns of one series, from `t` on, as a table."""
    size = len(rows[0])
    whole = [[device] * size, [metric] * size, *rows]
    return arrow.table([arrow.array(part, field.type) for part, field in zip(whole, schema, strict=True)], schema)


def _samples(
    db: Database, devices: Sequence[str], metric: str | None, start_us: int, end_us: int, _step: int
) -> Iterator[tuple[str, str, Sequence[Any]]]:  # fmt: skip
    for device in devices:
        with db.read() as session:
            names = metrics(session, device) if metric is None else [metric]
        for name in names:
            with db.read() as session:
                for page in pages(session, device, name, start_us, end_us):
                    yield device, name, list(zip(*page, strict=True))


def _buckets(
    db: Database, devices: Sequence[str], metric: str | None, start_us: int, end_us: int, step_s: int
) -> Iterator[tuple[str, str, Sequence[Any]]]:  # fmt: skip
    for device in devices:
        with db.read() as session:
            names = sorted(DeviceRollups(session, device).kept()) if metric is None else [metric]
            for name in names:
                for first_us, last_us in _pieces(session, device, name, start_us, end_us, step_s):
                    (page,) = columns(session, [(device, name)], first_us, last_us, step_s)
                    there = page.count[0] > 0
                    if there.any():
                        found = (page.count[0], page.low[0], page.high[0], page.mean[0])
                        yield device, name, [page.t_us[there], *(column[there] for column in found)]


def _pieces(
    session: Session, device: str, metric: str, start_us: int, end_us: int, step_s: int
) -> Iterator[tuple[int, int]]:
    """The part of the range that has rollups, in pieces of a row group."""
    place = ((device, metric), source_of(step_s))
    first, last = extent(session, *place)
    step_us = step_s * 1_000_000
    start_us, end_us = max(start_us, first) // step_us * step_us, min(end_us, last)
    for piece_us in range(start_us, end_us, GROUP * step_us):
        yield piece_us, min(end_us, piece_us + GROUP * step_us)
