"""Estimates the cost of a device message for rate limits; the unit is a message of one sample.

Pure. The figures are ratios of processor time, rounded up; tests/cloud_hub/ingest/test_cost.py compares hostile input
with ordinary input.
"""

from __future__ import annotations

from cloud_hub.ingest.core.router import DataBatch, DeviceMessage, IngestMessage, ShadowRequest, TelemetryBatch
from shared.protocol.messages import InferenceRequest, Stream

BYTES = 4096
"""Bytes, inflated or published, that cost one unit."""
VALUES = 256
"""JSON values that cost one unit, outside the fast path."""
UPDATE = 4
"""The factor for a value of a twin update: it is merged, timestamped, owned, compared and published."""
ITEM: dict[Stream, float] = {"telemetry": 0.02, "event": 0.1, "alarm": 3.0, "escalation": 3.0}
ALARM_ROWS = 50
"""How many samples could be written in the time of an alarm or an escalation."""
SLOW_ITEM = 0.1
"""The cost of an item outside the fast path."""
INCIDENT = 20.0
"""The cost of opening an incident: finding its page, and waking workers."""
QUESTION = 50.0
"""The cost of a question to a language model: queueing, redaction, the request to the engine, records."""


def of_message(message: IngestMessage | None, payload: bytes) -> float:
    """The cost of an inflated message beyond its first unit, as far as parsing shows it."""
    cost = len(payload) / BYTES
    fast = isinstance(message, DataBatch) and isinstance(message.batch, TelemetryBatch)
    if not fast:
        times = UPDATE if isinstance(message, ShadowRequest) and message.verb == "update" else 1
        cost += sum(map(payload.count, (b",", b"[", b"{"))) * times / VALUES
    if isinstance(message, DeviceMessage) and isinstance(message.message, InferenceRequest):
        cost += QUESTION
    if isinstance(message, DataBatch) and message.batch.lost is None and not message.invalid:
        cost += len(message.batch.items) * (ITEM[message.stream] + (0.0 if fast else SLOW_ITEM))
    return cost


def rows(message: IngestMessage | None) -> int:
    """The cost of writing a message, in rows of samples."""
    if not isinstance(message, DataBatch) or message.invalid:
        return 1
    return max(1, len(message.batch.items)) * (1 if message.stream in {"telemetry", "event"} else ALARM_ROWS)
