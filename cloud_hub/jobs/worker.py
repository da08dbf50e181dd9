"""The background worker of jobs."""

from __future__ import annotations

from cloud_hub.clock import now_us
from cloud_hub.jobs import service
from cloud_hub.runtime.context import HubContext
from cloud_hub.runtime.worker import WorkerSpec


def workers(context: HubContext) -> list[WorkerSpec]:
    """Carry jobs out, device by device."""
    return [WorkerSpec(name="jobs", run_once=lambda: service.run_once(context.db, now_us(), context.max_twin_bytes))]
