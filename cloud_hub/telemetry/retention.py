"""What is old goes, a little at a time: no writer waits longer for it than for a batch of its own.

Marks of delivery, lost ranges, alarms, incidents and the audit trail stay for ever: they say what was promised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sqlalchemy import and_, delete, func, select, tuple_
from sqlmodel import Session

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import (
    Command,
    EscalationRow,
    EventRow,
    Job,
    JobDevice,
    RetentionStart,
    Rollup,
    RollupDue,
    SketchRow,
    TelemetrySample,
    TwinChange,
)
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import WorkResult
from cloud_hub.settings import Retention
from shared.times import DAY_US, HOUR_US

Bite = Callable[[Session], int]
"""Deletes one batch; the number of rows, 0 when there is nothing more."""
Part = tuple[str, str, str, Bite]
"""A kind and its item, the device whose rows these are ('' for several), and what deletes them."""

ROWS = 1000
"""Rows of one transaction."""


def _table(kind: Any) -> Any:
    return kind.__table__


class RetentionWorker:
    """One pass over everything, a batch a run. A series, twin or job that cannot be swept holds up no other."""

    def __init__(self, db: Database, days: Retention) -> None:
        self._db, self._days = db, days
        self._work: Iterator[Part] = iter(())
        self._part: Part | None = None

    def run_once(self, now_us: int) -> WorkResult:
        """Delete one batch; `again` until the pass is over. The next run begins another."""
        items = WorkItems(self._db, "retention", now_us)
        return items.result(again=self.step(now_us, items) is not None)

    def step(self, now_us: int, items: WorkItems) -> int | None:
        """Delete one batch: the number of rows, or None at the end of a pass (the next call begins another)."""
        self._part = self._part or next(self._work, None)
        if self._part is None:
            self._work = self._pass(now_us)
            return None
        kind, item, device, bite = self._part
        deleted = items.run(kind, item, partial(self._bite, device, bite)) or 0
        if deleted == 0:
            self._part = None
        return deleted

    def _bite(self, device: str, bite: Bite) -> int:
        with self._db.write(*([device] if device else [])) as session:
            return bite(session)

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
                    yield table.name, "/".join(key), key[0], partial(_old, table, mine, time, before_us)
        yield from self._telemetry(now_us)
        if self._days.history_days:
            before_us = now_us - int(self._days.history_days * DAY_US)
            for device, name in self._series(_table(TwinChange), ("device", "name")):
                yield "twin_changes", f"{device}/{name}", device, partial(_history, device, name, before_us)
        if self._days.jobs_days:
            before_us = now_us - int(self._days.jobs_days * DAY_US)
            for job in self._ended(before_us):
                yield "jobs", job, "", partial(_job, job)
            yield "commands", "", "", partial(_commands, before_us)

    def _telemetry(self, now_us: int) -> Iterator[Part]:
        """Samples, minutes and hours of each series; `kept_from` says from when on all are there."""
        if self._days.telemetry_days:
            before_us = now_us - int(self._days.telemetry_days * DAY_US)
            for device, metric in self._series(_table(TelemetrySample), ("device", "metric")):
                bite = partial(_samples, device=device, metric=metric, before_us=before_us)
                yield "telemetry", f"{device}/{metric}", device, bite
        for days, kind, make in (
            (self._days.minutes_days, "minutes", _minutes),
            (self._days.hours_days, "hours", _hours),
        ):
            if days:
                before_us = now_us - int(days * DAY_US)
                for device, metric in self._series(_table(RetentionStart), ("device", "metric")):
                    bite = partial(make, device=device, metric=metric, before_us=before_us)
                    yield kind, f"{device}/{metric}", device, bite

    def _ended(self, before_us: int) -> Iterator[str]:
        """Jobs that ended before a time, by id."""
        jobs, after = _table(Job), ""
        while True:
            ended = select(jobs.c.id).where(jobs.c.ended_us < before_us, jobs.c.id > after).order_by(jobs.c.id).limit(1)
            with self._db.read() as session:
                found = session.connection().execute(ended).scalar()
            if found is None:
                return
            after = str(found)
            yield after

    def _series(self, table: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        """Each combination of the keys, one look into the index for each: the table may be long."""
        columns = [table.c[name] for name in keys]
        query = select(*columns).order_by(*columns).limit(1)
        with self._db.read() as session:
            found = session.connection().execute(query).first()
        while found is not None:
            yield tuple(found)
            with self._db.read() as session:
                found = session.connection().execute(query.where(tuple_(*columns) > tuple_(*found))).first()


# -- one batch ---------------------------------------------------------------------------------------


def _old(table: Any, mine: Any, time: str, before_us: int, session: Session) -> int:
    """Rows of a series up to a time, found by their index."""
    old = select(table.c[time]).where(mine, table.c[time] < before_us).order_by(table.c[time])
    end = session.connection().execute(old.offset(ROWS - 1).limit(1)).scalar()
    until = table.c[time] < before_us if end is None else table.c[time] <= end
    return _gone(session, delete(table).where(mine, until))


def _history(device: str, name: str, before_us: int, session: Session) -> int:
    """Versions of a twin, up to the newest old one that stands whole: the later ones are told from it."""
    table = _table(TwinChange)
    mine = and_(table.c.device == device, table.c.name == name)
    whole = select(func.max(table.c.version)).where(mine, table.c.t_us < before_us, table.c.state.is_not(None))
    first = session.connection().execute(select(func.min(table.c.version)).where(mine)).scalar()
    last = session.connection().execute(whole).scalar()
    if first is None or last is None or first >= last:
        return 0
    return _gone(session, delete(table).where(mine, table.c.version < min(last, first + ROWS)))


def _job(job: str, session: Session) -> int:
    """Devices of an ended job, then the job."""
    jobs, rows = _table(Job), _table(JobDevice)
    some = select(rows.c.device).where(rows.c.job == job).limit(ROWS)
    deleted = _gone(session, delete(rows).where(rows.c.job == job, rows.c.device.in_(some)))
    return deleted or _gone(session, delete(jobs).where(jobs.c.id == job))


def _commands(before_us: int, session: Session) -> int:
    """Commands that ended before a time."""
    commands = _table(Command)
    some = select(commands.c.id).where(commands.c.done_us < before_us).limit(ROWS)
    return _gone(session, delete(commands).where(commands.c.id.in_(some)))


def _samples(session: Session, *, device: str, metric: str, before_us: int) -> int:
    """A series' oldest whole hours whose rollups are made. The newest stays, however old: it tells the last value."""
    table = _table(TelemetrySample)
    mine = and_(table.c.device == device, table.c.metric == metric)
    newest = session.connection().execute(select(func.max(table.c.t_us)).where(mine)).scalar()
    before_us = _rolled(session, device, min(before_us, newest or 0)) // HOUR_US * HOUR_US
    last = select(table.c.t_us).where(mine, table.c.t_us < before_us).order_by(table.c.t_us).offset(ROWS - 1).limit(1)
    end = session.connection().execute(last).scalar()
    if end is not None:
        before_us = min(before_us, (end // HOUR_US + 1) * HOUR_US)
    deleted = _gone(session, delete(table).where(mine, table.c.t_us < before_us))
    if deleted:
        _keeps(session, device, metric, "raw_us", before_us)
    return deleted


def _minutes(session: Session, *, device: str, metric: str, before_us: int) -> int:
    """Rows of minutes, each of an hour; and sketches of hours, which are as large, of whole days as `_hours` does."""
    hour_us = before_us // HOUR_US * HOUR_US
    deleted = _bite(session, Rollup, 60, device, metric, hour_us)
    if deleted:
        _keeps(session, device, metric, "minute_us", hour_us)
    return deleted + _days_of(session, SketchRow, "sketch_us", device, metric, before_us)


def _hours(session: Session, *, device: str, metric: str, before_us: int) -> int:
    """Rows of hours, each of a day, and what sketches of them there still are."""
    deleted = _days_of(session, SketchRow, "sketch_us", device, metric, before_us)
    return deleted + _days_of(session, Rollup, "hour_us", device, metric, before_us)


def _days_of(session: Session, kind: Any, column: str, device: str, metric: str, before_us: int) -> int:
    """Hours of whole days, of those whose samples went and whose day is made: the day cannot be made of them again."""
    kept = session.get(RetentionStart, (device, metric))
    before_us = _rolled(session, device, min(before_us, kept.raw_us if kept else 0)) // DAY_US * DAY_US
    deleted = _bite(session, kind, 3600, device, metric, before_us)
    if deleted:
        _keeps(session, device, metric, column, before_us)
    return deleted


def _rolled(session: Session, device: str, before_us: int) -> int:
    """Up to `before_us`, or to the first hour of the device that is not rolled up yet."""
    due = _table(RollupDue)
    first = session.connection().execute(select(func.min(due.c.t_us)).where(due.c.device == device)).scalar()
    return before_us if first is None else min(before_us, first)


def _bite(session: Session, kind: Any, step_s: int, device: str, metric: str, before_us: int) -> int:
    """The oldest rows of rollups or sketches of a series before a time, `ROWS` at most."""
    table = _table(kind)
    mine = and_(table.c.step_s == step_s, table.c.device == device, table.c.metric == metric)
    old = select(table.c.t_us).where(mine, table.c.t_us < before_us).order_by(table.c.t_us).limit(ROWS)
    return _gone(session, delete(table).where(mine, table.c.t_us.in_(old)))


def _keeps(session: Session, device: str, metric: str, column: str, since_us: int) -> None:
    """Note from when on everything of a series is there."""
    row = session.get(RetentionStart, (device, metric)) or RetentionStart(device=device, metric=metric)
    setattr(row, column, max(getattr(row, column), since_us))
    session.add(row)


def _gone(session: Session, statement: Any) -> int:
    return int(session.connection().execute(statement).rowcount)
