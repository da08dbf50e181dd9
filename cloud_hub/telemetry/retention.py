"""Deletes old rows in small batches, so that other writers do not wait long.

High-water marks, lost ranges, the audit trail and the cases of incidents are never deleted here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sqlalchemy import and_, delete, func, or_, select, tuple_
from sqlmodel import Session

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import (
    Action,
    AlarmRow,
    AskTurn,
    Command,
    EscalationRow,
    EventRow,
    Incident,
    IncidentEvidence,
    InferenceTask,
    Job,
    JobDevice,
    Notification,
    RetentionStart,
    Rollup,
    RollupDue,
    ScaleDecision,
    SketchRow,
    TelemetrySample,
    TwinChange,
)
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import WorkResult
from cloud_hub.settings import Retention
from shared.durations import DAY_US, HOUR_US

DeleteBatch = Callable[[Session], int]
"""Deletes one batch; returns the number of rows, 0 at the end."""
Part = tuple[str, str, str, DeleteBatch]
"""A kind and item, the device of the rows ('' for several), and the function that deletes a batch."""

ROWS = 1000
"""Rows of one transaction."""
QUESTIONS = 200_000
"""Questions with their answers that are kept at most, about 1 GB: anyone who reads may ask as often as the hub can."""


def _table(kind: Any) -> Any:
    return kind.__table__


class RetentionWorker:
    """Background worker; one pass over all tables, a batch per run. A failing series, twin or job stops no other."""

    def __init__(self, db: Database, days: Retention) -> None:
        self._db, self._days = db, days
        self._work: Iterator[Part] = iter(())
        self._part: Part | None = None

    def run_once(self, now_us: int) -> WorkResult:
        """Delete one batch; `again` until the end of the pass. The next run starts another pass."""
        items = WorkItems(self._db, "retention", now_us)
        return items.result(again=self.delete_next(now_us, items) is not None)

    def delete_next(self, now_us: int, items: WorkItems) -> int | None:
        """Delete one batch; returns the number of rows, or None at the end of a pass (the next call starts another)."""
        self._part = self._part or next(self._work, None)
        if self._part is None:
            self._work = self._pass(now_us)
            return None
        kind, item, device, delete_batch = self._part
        deleted = items.run(kind, item, partial(self._delete_batch, device, delete_batch)) or 0
        if deleted == 0:
            self._part = None
        return deleted

    def _delete_batch(self, device: str, delete_batch: DeleteBatch) -> int:
        with self._db.write(*([device] if device else [])) as session:
            return delete_batch(session)

    def _pass(self, now_us: int) -> Iterator[Part]:
        series = (
            (_table(EventRow), ("device",), "t_us", self._days.events_days),
            (_table(EscalationRow), ("device", "model"), "received_us", self._days.escalations_days),
        )
        for table, keys, time, days in series:
            if days:
                before_us = now_us - int(days * DAY_US)
                for key in self._series(table, keys):
                    mine = and_(*(table.c[name] == value for name, value in zip(keys, key, strict=True)))
                    yield table.name, "/".join(key), key[0], partial(_old_rows, table, mine, time, before_us)
        yield from self._telemetry(now_us)
        if self._days.history_days:
            before_us = now_us - int(self._days.history_days * DAY_US)
            for device, name in self._series(_table(TwinChange), ("device", "name")):
                yield "twin_changes", f"{device}/{name}", device, partial(_history, device, name, before_us)
        if self._days.jobs_days:
            before_us = now_us - int(self._days.jobs_days * DAY_US)
            for job in self._ended(before_us):
                yield "jobs", job, "", partial(_job, job)
            yield "commands", "", "", partial(_ended_rows, _table(Command), "done_us", before_us)
        if self._days.tasks_days:
            before_us = now_us - int(self._days.tasks_days * DAY_US)
            yield "inference_tasks", "", "", partial(_ended_rows, _table(InferenceTask), "ended_us", before_us)
        if self._days.questions_days:
            before_us = now_us - int(self._days.questions_days * DAY_US)
            yield "ask_turns", "", "", partial(_ended_rows, _table(AskTurn), "t_us", before_us)
            yield "ask_turns", "oldest", "", partial(_beyond, _table(AskTurn), QUESTIONS)
        for name, days, held in (("changes", self._days.scaling_days, False),
                                 ("holds", self._days.scaling_holds_days, True)):  # fmt: skip
            if days:
                delete_decisions = partial(_decisions, now_us - int(days * DAY_US), held)
                yield "autoscale_decisions", name, "", delete_decisions
        if self._days.incidents_days:
            yield "incidents", "", "", partial(_incidents, now_us - int(self._days.incidents_days * DAY_US))

    def _telemetry(self, now_us: int) -> Iterator[Part]:
        """Samples, minutes and hours of each series; `RetentionStart` records the oldest time that is complete."""
        if self._days.telemetry_days:
            before_us = now_us - int(self._days.telemetry_days * DAY_US)
            for device, metric in self._series(_table(TelemetrySample), ("device", "metric")):
                delete_batch = partial(_samples, device=device, metric=metric, before_us=before_us)
                yield "telemetry", f"{device}/{metric}", device, delete_batch
        for days, kind, make in (
            (self._days.minutes_days, "minutes", _minutes),
            (self._days.hours_days, "hours", _hours),
        ):
            if days:
                before_us = now_us - int(days * DAY_US)
                for device, metric in self._series(_table(RetentionStart), ("device", "metric")):
                    delete_batch = partial(make, device=device, metric=metric, before_us=before_us)
                    yield kind, f"{device}/{metric}", device, delete_batch

    def _ended(self, before_us: int) -> Iterator[str]:
        """Jobs that ended before a time, by id."""
        jobs, after = _table(Job), ""
        while True:
            ended = select(jobs.c.id).where(jobs.c.ended_us < before_us, jobs.c.id > after).order_by(jobs.c.id).limit(1)
            with self._db.read() as session:
                count = session.connection().execute(ended).scalar()
            if count is None:
                return
            after = str(count)
            yield after

    def _series(self, table: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        """Each combination of the keys, by one index lookup each, because the table may be large."""
        columns = [table.c[name] for name in keys]
        query = select(*columns).order_by(*columns).limit(1)
        with self._db.read() as session:
            row = session.connection().execute(query).first()
        while row is not None:
            yield tuple(row)
            with self._db.read() as session:
                row = session.connection().execute(query.where(tuple_(*columns) > tuple_(*row))).first()


# -- one batch ---------------------------------------------------------------------------------------


def _old_rows(table: Any, mine: Any, time: str, before_us: int, session: Session) -> int:
    """Delete rows of a series before a time."""
    old = select(table.c[time]).where(mine, table.c[time] < before_us).order_by(table.c[time])
    end = session.connection().execute(old.offset(ROWS - 1).limit(1)).scalar()
    until = table.c[time] < before_us if end is None else table.c[time] <= end
    return _execute_delete(session, delete(table).where(mine, until))


def _history(device: str, name: str, before_us: int, session: Session) -> int:
    """Delete versions of a twin before the newest old full version, which later versions are stored relative to."""
    table = _table(TwinChange)
    mine = and_(table.c.device == device, table.c.name == name)
    full = select(func.max(table.c.version)).where(mine, table.c.t_us < before_us, table.c.state.is_not(None))
    first = session.connection().execute(select(func.min(table.c.version)).where(mine)).scalar()
    last = session.connection().execute(full).scalar()
    if first is None or last is None or first >= last:
        return 0
    return _execute_delete(session, delete(table).where(mine, table.c.version < min(last, first + ROWS)))


def _job(job: str, session: Session) -> int:
    """Delete the devices of an ended job, then the job."""
    jobs, rows = _table(Job), _table(JobDevice)
    some = select(rows.c.device).where(rows.c.job == job).limit(ROWS)
    deleted = _execute_delete(session, delete(rows).where(rows.c.job == job, rows.c.device.in_(some)))
    return deleted or _execute_delete(session, delete(jobs).where(jobs.c.id == job))


def _ended_rows(table: Any, ended: str, before_us: int, session: Session) -> int:
    """Delete rows that ended before a time; those that have not ended have no such time."""
    some = select(table.c.id).where(table.c[ended] < before_us).limit(ROWS)
    return _execute_delete(session, delete(table).where(table.c.id.in_(some)))


def _decisions(before_us: int, held: bool, session: Session) -> int:
    """Delete decisions of the autoscaler before a time: those that held, or those that changed a target."""
    rows = _table(ScaleDecision)
    kind = rows.c.action == "hold" if held else rows.c.action.in_(("out", "in", "retry"))
    some = select(rows.c.id).where(kind, rows.c.t_us < before_us).limit(ROWS)
    return _execute_delete(session, delete(rows).where(rows.c.id.in_(some)))


def _beyond(table: Any, most: int, session: Session) -> int:
    """Delete the oldest rows of a table whose ids are in the order of time, so that it keeps `most`."""
    last = session.connection().execute(select(table.c.id).order_by(table.c.id.desc()).offset(most).limit(1)).scalar()
    if last is None:
        return 0
    some = select(table.c.id).where(table.c.id <= last).order_by(table.c.id).limit(ROWS)
    return _execute_delete(session, delete(table).where(table.c.id.in_(some)))


def _incidents(before_us: int, session: Session) -> int:
    """Delete a group of incidents that all were resolved before a time, and whose cases are closed.

    Their alarms, actions, evidence and notifications go with them.
    """
    incidents = _table(Incident)
    young = incidents.alias()
    left = select(young.c.id).where(
        young.c.page == incidents.c.page,
        or_(young.c.state != "resolved", young.c.resolved_us >= before_us, young.c.case_us.is_(None)),
    )  # fmt: skip
    old = select(incidents.c.page).where(incidents.c.opened_us < before_us, ~left.exists())
    page = session.connection().execute(old.order_by(incidents.c.opened_us, incidents.c.id).limit(1)).scalar()
    if page is None:
        return 0
    ids = select(incidents.c.id).where(incidents.c.page == page).order_by(incidents.c.id).limit(ROWS)
    some = list(session.connection().execute(ids).scalars())
    for table, column in ((AlarmRow, "incident"), (Action, "incident"), (IncidentEvidence, "incident"),
                          (Notification, "page")):  # fmt: skip
        rows = _table(table)
        _execute_delete(session, delete(rows).where(rows.c[column].in_(some)))
    return _execute_delete(session, delete(incidents).where(incidents.c.id.in_(some)))


def _samples(session: Session, *, device: str, metric: str, before_us: int) -> int:
    """Delete a series' oldest full hours that are rolled up. The newest sample is kept, as the last value."""
    table = _table(TelemetrySample)
    mine = and_(table.c.device == device, table.c.metric == metric)
    newest = session.connection().execute(select(func.max(table.c.t_us)).where(mine)).scalar()
    before_us = _rolled_up_before(session, device, min(before_us, newest or 0)) // HOUR_US * HOUR_US
    last = select(table.c.t_us).where(mine, table.c.t_us < before_us).order_by(table.c.t_us).offset(ROWS - 1).limit(1)
    end = session.connection().execute(last).scalar()
    if end is not None:
        before_us = min(before_us, (end // HOUR_US + 1) * HOUR_US)
    deleted = _execute_delete(session, delete(table).where(mine, table.c.t_us < before_us))
    if deleted:
        _record_start(session, device, metric, "raw_us", before_us)
    return deleted


def _minutes(session: Session, *, device: str, metric: str, before_us: int) -> int:
    """Delete rows of minutes, each of an hour; and sketches of hours, which are as large, in full days as `_hours`."""
    hour_us = before_us // HOUR_US * HOUR_US
    deleted = _delete_rollups(session, Rollup, 60, device, metric, hour_us)
    if deleted:
        _record_start(session, device, metric, "minute_us", hour_us)
    return deleted + _days_of(session, SketchRow, "sketch_us", device, metric, before_us)


def _hours(session: Session, *, device: str, metric: str, before_us: int) -> int:
    """Delete rows of hours, each of a day, and their remaining sketches."""
    deleted = _days_of(session, SketchRow, "sketch_us", device, metric, before_us)
    return deleted + _days_of(session, Rollup, "hour_us", device, metric, before_us)


def _days_of(session: Session, kind: Any, column: str, device: str, metric: str, before_us: int) -> int:
    """Delete hours of full days whose samples are deleted and whose day is rolled up."""
    kept = session.get(RetentionStart, (device, metric))
    before_us = _rolled_up_before(session, device, min(before_us, kept.raw_us if kept else 0)) // DAY_US * DAY_US
    deleted = _delete_rollups(session, kind, 3600, device, metric, before_us)
    if deleted:
        _record_start(session, device, metric, column, before_us)
    return deleted


def _rolled_up_before(session: Session, device: str, before_us: int) -> int:
    """`before_us`, or the first hour of the device that is not rolled up yet, if earlier."""
    due = _table(RollupDue)
    first = session.connection().execute(select(func.min(due.c.t_us)).where(due.c.device == device)).scalar()
    return before_us if first is None else min(before_us, first)


def _delete_rollups(session: Session, kind: Any, step_s: int, device: str, metric: str, before_us: int) -> int:
    """Delete the oldest rows of rollups or sketches of a series before a time, at most `ROWS`."""
    table = _table(kind)
    mine = and_(table.c.step_s == step_s, table.c.device == device, table.c.metric == metric)
    old = select(table.c.t_us).where(mine, table.c.t_us < before_us).order_by(table.c.t_us).limit(ROWS)
    return _execute_delete(session, delete(table).where(mine, table.c.t_us.in_(old)))


def _record_start(session: Session, device: str, metric: str, column: str, since_us: int) -> None:
    """Record the time from which the data of a series are complete."""
    row = session.get(RetentionStart, (device, metric)) or RetentionStart(device=device, metric=metric)
    setattr(row, column, max(getattr(row, column), since_us))
    session.add(row)


def _execute_delete(session: Session, statement: Any) -> int:
    return int(session.connection().execute(statement).rowcount)
