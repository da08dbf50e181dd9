"""An outbox and the batches that come out of it."""

from __future__ import annotations

from collections.abc import Iterator

from edge_agent.store.outbox import Outbox, Row, RowBatch
from shared.protocol.codec import decode
from shared.protocol.messages import Batch, Event, Stream

ROOMY = 4_000_000
TIGHT = 20_000
"""Room for about ten rows of 1,000 characters."""


def event(text: str = "hello") -> Event:
    return Event(t_us=1, source="test", text=text)


def lot(stream: Stream, *texts: str) -> RowBatch:
    return RowBatch(stream=stream, items=[event(text) for text in texts])


def batch(row: Row | None) -> Batch:
    assert row is not None
    return decode(Batch, row.payload)


def texts(row: Row | None) -> list[str]:
    return [item["text"] for item in batch(row).items]


def waiting(outbox: Outbox, stream: Stream) -> Iterator[Batch]:
    """Everything that would be sent, in order."""
    seq = outbox.acked[stream]
    while (row := outbox.after(stream, seq)) is not None:
        yield batch(row)
        seq = row.last


KEEP: dict[Stream, float] = {"telemetry": 60.0}
