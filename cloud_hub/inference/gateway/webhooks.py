"""Tells the webhook of a task that the task has ended. Webhooks are addresses of the settings, never of a request."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import partial
from typing import Any

import httpx
import msgspec

from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import InferenceTask
from cloud_hub.inference.gateway import tasks
from cloud_hub.runtime.http_request import send_request
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import WorkResult
from cloud_hub.security import secret_files
from cloud_hub.security.core.webhook_signature import SIGNATURE, sign
from cloud_hub.settings.inference import TaskWebhook
from shared.errors import ConfigError

BATCH = 100
MAX_REPLY = 1 << 16


class WebhookDelivery:
    """The background worker. A webhook that fails is tried again, at last parked like every failed item."""

    def __init__(self, db: Database, webhooks: Mapping[str, TaskWebhook]) -> None:
        self._db, self._webhooks = db, webhooks
        self._trust = {name: _trust(name, webhook) for name, webhook in webhooks.items()}

    def run_once(self) -> WorkResult:
        """Deliver what waits, one by one."""
        now = now_us()
        items = WorkItems(self._db, "inference-webhooks", now)
        with self._db.read() as session:
            waiting = tasks.waiting_webhooks(session, now, BATCH)
        for task in waiting:
            items.run("task", task.id, partial(self._deliver, task))
        return items.result()

    def _deliver(self, task: InferenceTask) -> bool:
        webhook = self._webhooks.get(task.webhook)
        if webhook is not None:
            self._send(webhook, self._trust[task.webhook], task)
        with self._db.write() as session:
            row = session.get(InferenceTask, task.id)
            if row is not None:
                row.webhook_state = "delivered" if webhook is not None else "failed"
                session.add(row)
        return True

    def _send(self, webhook: TaskWebhook, trust: ssl.SSLContext, task: InferenceTask) -> None:
        """POST the task; raises OSError with a reason that shows no address."""
        content = msgspec.json.encode(task_message(task))
        headers = {"Content-Type": "application/json", "User-Agent": "tidegate-hub", "traceparent": task.traceparent}
        if webhook.secret_file:
            secret = secret_files.read(f"inference.webhooks.{task.webhook}.secret_file", webhook.secret_file)
            headers[SIGNATURE] = sign(secret, content, now_us() // 1_000_000)
        try:
            answer = send_request(
                "POST", webhook.url, headers=headers, content=content, trust=trust, timeout_s=webhook.timeout_s,
                max_bytes=MAX_REPLY, cut=True,
            )  # fmt: skip
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise OSError(f"webhook '{task.webhook}' cannot be reached ({type(error).__name__})") from None
        if not 200 <= answer.status < 300:
            raise OSError(f"webhook '{task.webhook}' answers HTTP {answer.status}")


def task_message(task: InferenceTask) -> dict[str, Any]:
    """What a webhook is told."""
    return {
        "version": 1, "id": task.id, "state": task.state, "reason": task.reason, "answer": task.answer,
        "created_us": task.created_us, "ended_us": task.ended_us,
    }  # fmt: skip


def _trust(name: str, webhook: TaskWebhook) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=webhook.ca_file or None)
    except OSError as error:
        place = f"inference.webhooks.{name}.ca_file"
        raise ConfigError(place, f"cannot be used ({error.strerror})", "Name a readable PEM file") from None
