"""What a message of a device costs the hub, in messages of one sample: that is what a device's rate limit counts.

A core without I/O. The figures are ratios of processor time, rounded up; tests/cloud_hub/ingest/test_cost.py holds
hostile input against honest input by them.
"""

from __future__ import annotations

from cloud_hub.ingest.core.router import DataBatch, IngestMessage, ShadowRequest, TelemetryBatch
from shared.messages import Stream

BYTES = 4096
"""Bytes, inflated or published, that cost as much as a message."""
VALUES = 256
"""Values of JSON that cost as much as a message, where they are not read the quick way."""
UPDATE = 4
"""A value of a twin update costs so many: it is merged, dated, owned, compared and told."""
ITEM: dict[Stream, float] = {"telemetry": 0.02, "event": 0.1, "alarm": 3.0, "escalation": 3.0}
ALARM_ROWS = 50
"""Samples that are written in the time of an alarm or an escalation."""
SLOW_ITEM = 0.1
"""An item that is not as agents write it, or that cannot be read."""
INCIDENT = 20.0
"""An incident that is opened: its page is looked for, and others are woken."""


def of_message(said: IngestMessage | None, payload: bytes) -> float:
    """The cost beyond its first unit of a message, inflated, as far as reading it tells."""
    cost = len(payload) / BYTES
    quick = isinstance(said, DataBatch) and isinstance(said.batch, TelemetryBatch)
    if not quick:
        times = UPDATE if isinstance(said, ShadowRequest) and said.verb == "update" else 1
        cost += sum(map(payload.count, (b",", b"[", b"{"))) * times / VALUES
    if isinstance(said, DataBatch) and said.batch.lost is None and not said.invalid:
        cost += len(said.batch.items) * (ITEM[said.stream] + (0.0 if quick else SLOW_ITEM))
    return cost


def rows(said: IngestMessage | None) -> int:
    """How many samples' rows a message may cost to write."""
    if not isinstance(said, DataBatch) or said.invalid:
        return 1
    return max(1, len(said.batch.items)) * (1 if said.stream in {"telemetry", "event"} else ALARM_ROWS)
