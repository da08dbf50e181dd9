"""Queued requests in the database: created, listed, cancelled, run once through restarts, told to a webhook.

A task may be sent to an engine again after a restart, but its result is stored once, and its webhook is told until it
answers 2xx; repeated deliveries carry the same id.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlmodel import Session, col, or_, select

from cloud_hub.audit import trail
from cloud_hub.clock import new_id, now_us
from cloud_hub.database.scopes import covers, session_scope
from cloud_hub.database.sessions import Database, is_content_error
from cloud_hub.database.tables import InferenceTask
from cloud_hub.errors import HubError
from cloud_hub.inference.engines import ChatRequest
from cloud_hub.inference.gateway.calls import Call, GatewayRefused, Outcome
from cloud_hub.inference.gateway.core.classes import MAX_DEADLINE_S
from cloud_hub.inference.gateway.core.refusals import Refusal
from cloud_hub.inference.gateway.service import Gateway
from cloud_hub.runtime.worker import WorkResult
from shared.errors import NotReady, WireError

log = logging.getLogger(__name__)

MAX_RUNNING = 32
MAX_OPEN = 10_000
"""Open tasks of one actor."""
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 300.0
OPEN = ("queued", "running")
LATER = frozenset({"queue_full", "unavailable", "deadline", "budget", "replaced", "stopping"})
"""Refusals after which a task waits and is tried again, until its deadline."""


# -- for routes ----------------------------------------------------------------------------------------


def create(session: Session, task: InferenceTask, now: int) -> InferenceTask:
    """Queue a task; raises HubError 422 for a body that no engine would take, 429 for too many."""
    try:
        ChatRequest.from_body(task.body)
    except WireError as error:
        raise HubError(422, "Invalid request", error.reason) from None
    if task.body.get("stream"):
        raise HubError(422, "Invalid request", "stream: a task is not streamed; leave it out")
    opened = select(InferenceTask.id).where(InferenceTask.actor == task.actor, col(InferenceTask.state).in_(OPEN))
    if len(session.exec(opened.limit(MAX_OPEN)).all()) >= MAX_OPEN:
        raise HubError(429, "Too many tasks", f"{MAX_OPEN} tasks are open: wait for their ends", retry_after_s="60")
    task.id, task.created_us, task.next_us = new_id(), now, now
    task.webhook_state = "pending" if task.webhook else ""
    session.add(task)
    trail.add(session, now, task.actor, "inference.task-created", task.id, trace=task.traceparent,
              request_class=task.request_class, deadline_us=task.deadline_us, webhook=task.webhook)  # fmt: skip
    return task


def get(session: Session, task_id: str, actor: str) -> InferenceTask:
    """A task of the actor within the session's scope; HubError 404."""
    task = session.get(InferenceTask, task_id)
    if task is None or task.actor != actor or not covers(session_scope(session), task.scope):
        raise HubError(404, "No such task", f"'{task_id[:80]}' is no task of yours")
    return task


def list_newest(session: Session, actor: str, state: str, limit: int) -> list[InferenceTask]:
    """The actor's tasks, the newest first; `state` '' is every state."""
    query = select(InferenceTask).where(InferenceTask.actor == actor).order_by(col(InferenceTask.id).desc())
    rows = session.exec((query.where(InferenceTask.state == state) if state else query).limit(limit))
    return [row for row in rows if covers(session_scope(session), row.scope)]


def cancel(session: Session, task_id: str, actor: str, now: int, trace: str) -> InferenceTask:
    """End an open task; HubError 409 if it has ended."""
    task = get(session, task_id, actor)
    if task.state not in OPEN:
        raise HubError(409, "Has ended", f"task {task.id} is {task.state}")
    _end(task, "cancelled", now, reason="cancelled by its owner")
    session.add(task)
    trail.add(session, now, actor, "inference.task-cancelled", task.id, trace=trace)
    return task


# -- running ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Result:
    task_id: str
    answer: dict[str, Any] | None = None
    outcome: Outcome | None = None
    refusal: Refusal | None = None


class TaskRunner:
    """The background worker: starts what is due, stores what has ended."""

    def __init__(self, db: Database, gateway: Gateway, notify: Callable[[], None]) -> None:
        self._db, self._gateway, self._notify = db, gateway, notify
        self._running: dict[str, Any] = {}
        self._results: queue.SimpleQueue[_Result] = queue.SimpleQueue()

    def run_once(self) -> WorkResult:
        """One round; a task that fails costs no other."""
        ended = self._store_results()
        ended += self._expire()
        self._drop_cancelled()
        try:
            self._start_due()
        except NotReady as error:
            return WorkResult(not_ready=error, wake=["inference-webhooks"] if ended else ())
        return WorkResult(wake=["inference-webhooks"] if ended else ())

    def _start_due(self) -> None:
        room = MAX_RUNNING - len(self._running)
        now = now_us()
        query = (
            select(InferenceTask)
            .where(col(InferenceTask.state).in_(OPEN), InferenceTask.next_us <= now, InferenceTask.deadline_us > now,
                   col(InferenceTask.id).not_in(self._running))
            .order_by(col(InferenceTask.deadline_us)).limit(room)
        )  # fmt: skip
        with self._db.read() as session:
            due = list(session.exec(query)) if room > 0 else []
        for task in due:
            self._running[task.id] = self._gateway.submit(lambda task=task: self._ask(task, now))  # type: ignore[misc]
        if due:
            with self._db.write() as session:
                for task in due:
                    row = session.get(InferenceTask, task.id)
                    if row is not None and row.state in OPEN:
                        row.state, row.attempts = "running", row.attempts + 1
                        session.add(row)

    async def _ask(self, task: InferenceTask, now: int) -> None:
        """In the gateway's loop: ask, and queue the result for the worker."""
        call = Call(
            body=task.body, tenant=task.actor, sites=None if task.scope is None else tuple(task.scope),
            request_class=task.request_class,  # type: ignore[arg-type]
            deadline_s=min(MAX_DEADLINE_S, (task.deadline_us - now) / 1e6), trace=task.traceparent,
        )  # fmt: skip
        try:
            body, outcome = await self._gateway.complete(call)
            result = _Result(task.id, msgspec.json.decode(body), outcome)
        except GatewayRefused as error:
            result = _Result(task.id, refusal=error.refusal)
        except Exception as error:
            log.exception("inference.task_failed", extra={"fields": {"task": task.id}})
            result = _Result(task.id, refusal=Refusal(code="invalid", reason=type(error).__name__))
        self._results.put(result)
        self._notify()

    def _store_results(self) -> int:
        ended = 0
        while not self._results.empty():
            result = self._results.get()
            try:
                with self._db.write() as session:
                    ended += _store(session, result, now_us())
            except NotReady:
                self._results.put(result)
                raise
            except Exception as error:
                if not is_content_error(error):
                    raise
                reason = "the database cannot hold the answer"
                with self._db.write() as session:
                    failed = _Result(result.task_id, refusal=Refusal(code="invalid", reason=reason))
                    ended += _store(session, failed, now_us())
            self._running.pop(result.task_id, None)
        return ended

    def _expire(self) -> int:
        now = now_us()
        late = select(InferenceTask).where(col(InferenceTask.state).in_(OPEN), InferenceTask.deadline_us <= now)
        with self._db.read() as session:
            if session.exec(late.limit(1)).first() is None:
                return 0
        with self._db.write() as session:
            tasks = session.exec(late.limit(1000)).all()
            for task in tasks:
                _end(task, "expired", now, reason=task.reason or "the deadline passed")
                session.add(task)
        return len(tasks)

    def _drop_cancelled(self) -> None:
        """Cancel requests whose tasks have ended otherwise."""
        if not self._running:
            return
        query = select(InferenceTask.id).where(col(InferenceTask.id).in_(self._running),
                                               col(InferenceTask.state).not_in(OPEN))  # fmt: skip
        with self._db.read() as session:
            ended = list(session.exec(query))
        for task_id in ended:
            self._running.pop(task_id).cancel()


def _store(session: Session, result: _Result, now: int) -> int:
    """Store a result, if the task is still open; 1 if it ended."""
    task = session.get(InferenceTask, result.task_id)
    if task is None or task.state not in OPEN:
        return 0
    session.add(task)
    if result.answer is not None and result.outcome is not None:
        task.answer, task.pool = result.answer, result.outcome.pool
        return _end(task, "succeeded", now)
    refusal = result.refusal or Refusal(code="invalid", reason="no answer")
    task.reason = refusal.reason[:500]
    if refusal.code not in LATER:
        return _end(task, "failed", now, reason=task.reason)
    wait_s = max(refusal.retry_after_s or 0.0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(task.attempts, 10)))
    task.state, task.next_us = "queued", now + int(wait_s * 1e6)
    return 0


def _end(task: InferenceTask, state: str, now: int, reason: str = "") -> int:
    task.state, task.ended_us, task.reason = state, now, reason
    return 1


def waiting_webhooks(session: Session, now: int, limit: int) -> list[InferenceTask]:
    """Ended tasks whose webhooks are to be told."""
    query = select(InferenceTask).where(
        InferenceTask.webhook_state == "pending", col(InferenceTask.state).not_in(OPEN),
        or_(col(InferenceTask.ended_us).is_(None), col(InferenceTask.ended_us) <= now),
    )  # fmt: skip
    return list(session.exec(query.order_by(InferenceTask.id).limit(limit)))
