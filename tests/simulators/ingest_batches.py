"""Batches of one device as ingest receives them, and what the writer left of them."""

from __future__ import annotations

from typing import Any

from sqlmodel import col, select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import (
    HighWater,
    TelemetrySample,
)
from cloud_hub.ingest.core.router import DataBatch, IngestMessage
from cloud_hub.ingest.writer import Writer, WriteResults
from shared.protocol.messages import Batch, Lost, Stream

NOW = 1_800_000_000_000_000
DEVICE = "press-3"
ALARM = {"id": "x", "metric": "cpu.load", "kind": "high", "state": "raised", "priority": "low", "t_us": 1,
         "value": 2.0, "limit": 1.0}  # fmt: skip


def sample(seq: int) -> dict[str, Any]:
    return {"metric": "cpu.load", "t_us": NOW + seq, "value": float(seq)}


def batch(first: int, items: list[Any] | None = None, *, epoch: str = "e1", lost: Lost | None = None) -> Batch:
    return Batch(epoch=epoch, first=first, items=items or [], lost=lost)


def samples(first: int, last: int, epoch: str = "e1") -> Batch:
    return batch(first, [sample(seq) for seq in range(first, last + 1)], epoch=epoch)


def data(one: Batch, stream: Stream = "telemetry", device: str = DEVICE) -> DataBatch:
    return DataBatch(device=device, stream=stream, batch=one, size=1000)


def write(db: Database, *said: IngestMessage, writer: Writer | None = None, trace: str = "") -> WriteResults:
    results = WriteResults()
    with db.write() as session:
        (writer or Writer(db.hub_epoch, 32768)).write(session, [(one, trace) for one in said], NOW, results)
    return results


def stored(db: Database, epoch: str = "e1", stream: str = "telemetry") -> tuple[list[int], int]:
    """(sequence numbers as stored, high-water mark) of one stream."""
    with db.read() as session:
        mark = session.exec(select(HighWater).where(HighWater.epoch == epoch, HighWater.stream == stream)).first()
        if mark is None:
            return [], 0
        query = select(TelemetrySample.seq).where(TelemetrySample.source == mark.id).order_by(col(TelemetrySample.seq))
        return list(session.exec(query)), mark.upto


def acked(results: WriteResults, stream: str = "telemetry", epoch: str = "e1") -> int:
    return results.acks[DEVICE, epoch, stream]
