"""Background workers of telemetry: rollups, and retention if it is configured."""

from __future__ import annotations

from cloud_hub.clock import now_us
from cloud_hub.runtime.context import HubContext
from cloud_hub.runtime.worker import BURST_S, WorkerSpec
from cloud_hub.telemetry.retention import RetentionWorker
from cloud_hub.telemetry.rollups.worker import RollupWorker

ROLLUPS_S = 60.0
"""Period of the rollup of finished hours."""
RETENTION_S = 600.0
"""Period of the deletion of old rows."""


def workers(context: HubContext) -> list[WorkerSpec]:
    """Returns the workers that roll up finished hours and delete old rows."""
    rollups, retention = RollupWorker(context.db), RetentionWorker(context.db, context.settings.retention)
    specs = [
        WorkerSpec(name="rollups", run_once=lambda: rollups.run_once(now_us()), period_s=ROLLUPS_S, linger_s=BURST_S)
    ]
    if any(context.settings.retention.model_dump().values()):
        run_once = lambda: retention.run_once(now_us())  # noqa: E731
        specs.append(WorkerSpec(name="retention", run_once=run_once, period_s=RETENTION_S, linger_s=BURST_S))
    return specs
