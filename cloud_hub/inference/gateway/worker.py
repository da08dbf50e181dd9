"""Background workers of the gateway."""

from __future__ import annotations

from collections.abc import Callable

from cloud_hub.database.sessions import Database
from cloud_hub.inference.gateway.service import Gateway
from cloud_hub.inference.gateway.tasks import TaskRunner
from cloud_hub.inference.gateway.webhooks import WebhookDelivery
from cloud_hub.runtime.worker import WorkerSpec
from cloud_hub.settings.inference import Inference


def workers(
    db: Database, gateway: Gateway | None, settings: Inference, notify: Callable[[str], None]
) -> list[WorkerSpec]:  # fmt: skip
    """Store usage, records and audit; run tasks and tell their webhooks. Nothing without a gateway."""
    if gateway is None:
        return []
    runner = TaskRunner(db, gateway, lambda: notify("inference-tasks"))
    delivery = WebhookDelivery(db, settings.webhooks)
    return [
        WorkerSpec(name="inference-records", run_once=gateway.recorder.run_once),
        WorkerSpec(name="inference-tasks", run_once=runner.run_once),
        WorkerSpec(name="inference-webhooks", run_once=delivery.run_once, period_s=5.0),
    ]
