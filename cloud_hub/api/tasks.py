"""/api/v1/tasks: queued requests to language models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from cloud_hub.api.dependencies import Asker, TheHub
from cloud_hub.api.inference import LIMIT, require_class, require_gateway
from cloud_hub.api.request_guard import declare
from cloud_hub.clock import now_us
from cloud_hub.database.tables import InferenceTask
from cloud_hub.errors import HubError
from cloud_hub.inference.gateway import tasks
from cloud_hub.inference.gateway.core.classes import RequestClass

router = APIRouter(prefix="/api/v1", tags=["tasks"])
declare("POST", "/api/v1/tasks", LIMIT)

State = Literal["queued", "running", "succeeded", "failed", "expired", "cancelled"]
Prompt = Annotated[str, Field(min_length=1, max_length=1_000_000)]


class TaskBody(BaseModel):
    """A task: a `prompt`, or a whole OpenAI `body`. It is answered within `deadline_s`, or expires.

    `webhook` names one of the settings, which is told when the task has ended.
    """

    model_config = ConfigDict(extra="forbid")
    prompt: Prompt | None = None
    body: dict[str, Any] | None = None
    request_class: RequestClass = "low"
    deadline_s: float = Field(default=86_400.0, gt=0, le=30 * 86_400)
    webhook: str = Field(default="", max_length=64)

    def chat_body(self) -> dict[str, Any]:
        """The OpenAI body; HubError 422 unless exactly one of prompt and body is given."""
        if (self.prompt is None) == (self.body is None):
            raise HubError(422, "Invalid request", "body: give either 'prompt' or 'body'")
        return self.body or {"messages": [{"role": "user", "content": self.prompt}]}


@router.post("/tasks", status_code=202)
def create(body: TaskBody, hub: TheHub, caller: Asker) -> InferenceTask:
    """Queue a request: 202 with its id. It survives restarts of the hub."""
    require_gateway(hub.gateway)
    require_class(hub, caller, body.request_class)
    known = hub.settings.inference.webhooks
    if body.webhook and body.webhook not in known:
        reason = f"body.webhook: '{body.webhook}' is none of those in the settings: {', '.join(known) or 'none'}"
        raise HubError(422, "Invalid request", reason)
    now = now_us()
    task = InferenceTask(
        id="", actor=caller.actor, scope=None if caller.scope is None else list(caller.scope), body=body.chat_body(),
        request_class=body.request_class, webhook=body.webhook, created_us=now, next_us=now,
        deadline_us=now + int(body.deadline_s * 1e6), traceparent=caller.trace,
    )  # fmt: skip
    with hub.db.write() as session:
        task = tasks.create(session, task, now)
    hub.notify("inference-tasks")
    return task


@router.get("/tasks")
def list_tasks(hub: TheHub, caller: Asker, state: State | None = None, limit: int = 100) -> list[InferenceTask]:
    """The caller's own tasks, the newest first."""
    with hub.db.read(scope=caller.scope) as session:
        return tasks.list_newest(session, caller.actor, state or "", min(max(limit, 1), 1000))


@router.get("/tasks/{task_id}")
def task(task_id: str, hub: TheHub, caller: Asker) -> InferenceTask:
    """One of the caller's tasks; `answer` is there when it has succeeded."""
    with hub.db.read(scope=caller.scope) as session:
        return tasks.get(session, task_id, caller.actor)


@router.post("/tasks/{task_id}/cancel", status_code=202)
def cancel(task_id: str, hub: TheHub, caller: Asker) -> InferenceTask:
    """End a task that has not ended; 409 if it has."""
    with hub.db.write(scope=caller.scope) as session:
        row = tasks.cancel(session, task_id, caller.actor, now_us(), caller.trace)
    hub.notify("inference-tasks")
    return row
