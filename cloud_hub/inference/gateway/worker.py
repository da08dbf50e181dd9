"""Background workers of the gateway."""

from __future__ import annotations

from cloud_hub.inference.gateway.service import Gateway
from cloud_hub.runtime.worker import WorkerSpec


def workers(gateway: Gateway | None) -> list[WorkerSpec]:
    """Store usage, records and audit of requests; nothing without a gateway."""
    if gateway is None:
        return []
    return [WorkerSpec(name="inference-records", run_once=gateway.recorder.run_once)]
