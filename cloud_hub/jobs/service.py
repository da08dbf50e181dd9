"""Creates, runs and cancels jobs: one change or command for every device that a condition finds.

The set of devices is fixed when the job starts. A row of `JobDevice` is the outcome of one device and is written in the
transaction of its change, so a restarted hub continues where it stopped and changes no device twice. `jobs.handlers`
changes the devices.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any

import sqlmodel
from sqlalchemy import ColumnElement, and_, bindparam, func, insert, literal, or_, select, update
from sqlmodel import Session, col

from cloud_hub import query
from cloud_hub.audit import trail
from cloud_hub.clock import new_id
from cloud_hub.database import scopes
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Job, JobDevice
from cloud_hub.errors import HubError
from cloud_hub.jobs import handlers
from cloud_hub.jobs.handlers import JobProgress, Outcome
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import NOTHING, WorkResult
from shared.errors import NotReady

log = logging.getLogger(__name__)

BATCH_SIZE = 200
"""Devices changed in one transaction; bounds how long other writers wait."""

ACTIVE_STATES = ("scheduled", "running")

_ROWS: Any = JobDevice.__table__  # type: ignore[attr-defined]
_OUTCOME = (
    update(_ROWS)
    .where(and_(_ROWS.c.job == bindparam("b_job"), _ROWS.c.device == bindparam("b_device")))
    .values({name: bindparam(name) for name in ("state", "reason", "version", "command", "t_us")})
)


# -- operations -----------------------------------------------------------------------------------


def create(session: Session, job: Job, max_bytes: int) -> Job:
    """Store a job; the worker starts it at `start_us`. Raises HubError if its query or content is invalid."""
    query.condition(job.query)
    handlers.check(job, max_bytes)
    job.id = new_id()
    session.add(job)
    trail.add(session, job.created_us, job.actor, "job.created", job.id, trace=job.traceparent, job=job.kind,
              query=job.query, document=job.document, content=job.content)  # fmt: skip
    return job


def cancel(session: Session, number: str, now_us: int, actor: str) -> Job:
    """Stop before the next device. Changes stay, and sent commands are not cancelled."""
    job = get(session, number, lock=True)
    if job.state not in ACTIVE_STATES:
        raise HubError(409, "Nothing to cancel", f"the job is already {job.state}")
    return _end(session, job, "cancelled", f"by {actor}", now_us, actor)


def get(session: Session, number: str, *, lock: bool = False) -> Job:
    """The job, or HubError 404."""
    row = session.get(Job, number, with_for_update=lock)
    if row is None or not scopes.covers(scopes.session_scope(session), row.scope):
        raise HubError(404, "No such job", f"'{number}' is not known")
    return row


def list_newest(session: Session, state: str, limit: int) -> list[Job]:
    """The newest jobs first; only jobs whose scope is within the session's."""
    chosen = sqlmodel.select(Job).order_by(col(Job.id).desc())
    chosen = chosen.where(Job.state == state) if state else chosen
    if (scope := scopes.session_scope(session)) is None:
        return list(session.exec(chosen.limit(limit)))
    found = session.exec(chosen.where(col(Job.scope).is_not(None)).execution_options(yield_per=BATCH_SIZE))
    with closing(found):
        return list(islice((job for job in found if scopes.covers(scope, job.scope)), limit))


def counts(session: Session, numbers: Sequence[str]) -> dict[str, dict[str, int]]:
    """Devices in each state, by job."""
    chosen = select(_ROWS.c.job, _ROWS.c.state, func.count()).where(_ROWS.c.job.in_(numbers))
    found: dict[str, dict[str, int]] = {number: {} for number in numbers}
    for number, state, count in session.connection().execute(chosen.group_by(_ROWS.c.job, _ROWS.c.state)):
        found[number][state] = count
    return found


def devices(session: Session, number: str, *, state: str, after: str, limit: int) -> list[JobDevice]:
    """The outcomes of its devices by id, in pages."""
    chosen = sqlmodel.select(JobDevice).where(JobDevice.job == number, JobDevice.device > after)
    chosen = scopes.restrict(session, chosen, col(JobDevice.device))
    if state:
        chosen = chosen.where(JobDevice.state == state)
    return list(session.exec(chosen.order_by(JobDevice.device).limit(limit)))


# -- the worker ------------------------------------------------------------------------------------


def run_once(db: Database, now_us: int, max_bytes: int) -> WorkResult:
    """Process one batch of the job that has waited longest; other writers get the database between batches."""
    items = WorkItems(db, "jobs", now_us)
    with db.read() as session:
        due = sqlmodel.select(Job.id).where(_due(now_us), items.ready("job", Job.id))
        number = session.exec(due.order_by(col(Job.start_us), Job.id).limit(1)).first()
    if number is None:
        return NOTHING
    done = items.run("job", number, partial(_piece, db, number, now_us, max_bytes)) or JobProgress()
    return items.result(again=True, messages=done.messages, changed=done.outcomes)


def _piece(db: Database, number: str, now_us: int, max_bytes: int) -> JobProgress:
    """Process the next batch of one job."""
    with db.read() as session:
        job = session.get(Job, number)
        if job is None or job.state not in ACTIVE_STATES:
            return JobProgress()
        some = _pending(session, job)
    if job.state == "running" and some and now_us < job.deadline_us:
        return _carry_out(db, job.id, some, now_us, max_bytes)
    with db.write() as session:
        job = get(session, job.id, lock=True)
        if job.state == "scheduled" and now_us < job.deadline_us:
            _begin(session, job, now_us)
        elif job.state in ACTIVE_STATES and now_us >= job.deadline_us:
            _end(session, job, "failed", "not done by its deadline", now_us, "hub")
        elif job.state == "running" and not _pending(session, job):
            _end(session, job, "completed", "", now_us, "hub")
    return JobProgress()


def _due(now_us: int) -> ColumnElement[bool]:
    return or_(col(Job.state) == "running", and_(col(Job.state) == "scheduled", col(Job.start_us) <= now_us))


def _pending(session: Session, job: Job) -> list[str]:
    limit = max(1, BATCH_SIZE // 4) if job.kind == "command" else BATCH_SIZE  # each command also writes an audit row
    chosen = select(_ROWS.c.device).where(_ROWS.c.job == job.id, _ROWS.c.state == "pending")
    return list(session.connection().execute(chosen.order_by(_ROWS.c.device).limit(limit)).scalars())


def _begin(session: Session, job: Job, now_us: int) -> None:
    """Store the set of devices of the job."""
    found = query.matching(session, job.query, job.scope).subquery()
    values = {"job": literal(job.id), "device": found.c.id, "state": literal("pending"), "reason": literal(""),
              "command": literal(""), "t_us": literal(now_us)}  # fmt: skip
    rows = select(*(value.label(name) for name, value in values.items()))
    session.connection().execute(insert(_ROWS).from_select(list(values), rows))
    job.state = "running"
    session.add(job)


def _carry_out(db: Database, number: str, some: list[str], now_us: int, max_bytes: int) -> JobProgress:
    """Change these devices; if that fails, change each separately, so that one bad device affects no other."""
    try:
        with db.write() as session:
            job = get(session, number, lock=True)
            if job.state != "running":  # cancelled meanwhile
                return JobProgress()
            done = handlers.execute(session, job, some, now_us, max_bytes)
            _record(session, number, done.outcomes, now_us)
            return done
    except NotReady:
        raise
    except Exception as error:
        if len(some) > 1:
            whole = JobProgress()
            for device in some:
                whole.add(_carry_out(db, number, [device], now_us, max_bytes))
            return whole
        log.exception("job.device_failed", extra={"fields": {"job": number, "device": some[0]}})
        failed = {some[0]: Outcome(state="refused", reason=f"the hub failed: {type(error).__name__}; see its log")}
        with db.write() as session:
            _record(session, number, failed, now_us)
        return JobProgress()


def _record(session: Session, number: str, outcomes: dict[str, Outcome], now_us: int) -> None:
    rows = [
        {"b_job": number, "b_device": device, "state": one.state, "reason": one.reason, "version": one.version,
         "command": one.command, "t_us": now_us}
        for device, one in outcomes.items()
    ]  # fmt: skip
    session.connection().execute(_OUTCOME, rows)


def _end(session: Session, job: Job, state: str, reason: str, now_us: int, actor: str) -> Job:
    left = update(_ROWS).where(_ROWS.c.job == job.id, _ROWS.c.state == "pending")
    session.connection().execute(left.values(state="cancelled", reason=reason, t_us=now_us))
    job.state, job.reason, job.ended_us = state, reason, now_us
    session.add(job)
    trail.add(session, now_us, actor, f"job.{state}", job.id, trace=job.traceparent,
              devices=counts(session, [job.id])[job.id])  # fmt: skip
    return job
