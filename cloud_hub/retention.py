"""What is old goes, a little at a time: no writer waits longer for it than for a batch of its own.

Marks of delivery, lost ranges, alarms, incidents and the audit trail stay for ever: they say what was promised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sqlalchemy import and_, delete, func, select, tuple_
from sqlmodel import Session

from cloud_hub.db import Database
from cloud_hub.settings import Retention
from cloud_hub.tables import (
    Command,
    EscalationRow,
    EventRow,
    Job,
    JobDevice,
    KeptFrom,
    Rollup,
    RollupDue,
    SketchRow,
    TelemetrySample,
    TwinChange,
)
from cloud_hub.telemetry import HOUR_US

ROWS = 1000
"""Rows of one transaction."""
DAY_US = 86_400_000_000


def _table(kind: Any) -> Any:
    return kind.__table__


class Sweep:
    """One pass over everything; `step` deletes one batch and says whether there may be more."""

    def __init__(self, db: Database, days: Retention) -> None:
        self._db, self._days = db, days
        self._work: Iterator[int] = iter(())

    def step(self, now_us: int) -> int | None:
        """Delete one batch: the number of rows, or None at the end of a pass (the next call begins another)."""
        done = next(self._work, None)
        if done is None:
            self._work = self._pass(now_us)
        return done

    def _pass(self, now_us: int) -> Iterator[int]:
        series = (
            (_table(EventRow), ("device",), "t_us", self._days.events_days),
            (_table(EscalationRow), ("device", "model"), "received_us", self._days.escalations_days),
        )
        for table, keys, time, days in series:
            if days:
                yield from self._old(table, keys, time, now_us - int(days * DAY_US))
        yield from self._telemetry(now_us)
        if self._days.history_days:
            yield from self._history(now_us - int(self._days.history_days * DAY_US))
        if self._days.jobs_days:
            yield from self._jobs(now_us - int(self._days.jobs_days * DAY_US))

    # -- telemetry ---------------------------------------------------------------------------------

    def _telemetry(self, now_us: int) -> Iterator[int]:
        """Samples, minutes and hours of each series; `kept_from` says from when on all are there."""
        if self._days.telemetry_days:
            before_us = now_us - int(self._days.telemetry_days * DAY_US)
            for device, metric in self._series(_table(TelemetrySample), ("device", "metric")):
                yield from self._bites(partial(_samples, device=device, metric=metric, before_us=before_us), device)
        for days, bite in ((self._days.minutes_days, _minutes), (self._days.hours_days, _hours)):
            if days:
                before_us = now_us - int(days * DAY_US)
                for device, metric in self._series(_table(KeptFrom), ("device", "metric")):
                    yield from self._bites(partial(bite, device=device, metric=metric, before_us=before_us), device)

    def _bites(self, bite: Callable[[Session], int], device: str) -> Iterator[int]:
        """Transactions of a device, as long as there is something to delete."""
        deleted = 1
        while deleted:
            with self._db.write(device) as session:
                deleted = bite(session)
            yield deleted

    def _old(self, table: Any, keys: tuple[str, ...], time: str, before_us: int) -> Iterator[int]:
        """Rows of each series up to a time, found by their index."""
        for key in self._series(table, keys):
            mine = and_(*(table.c[name] == value for name, value in zip(keys, key, strict=True)))
            old = select(table.c[time]).where(mine, table.c[time] < before_us).order_by(table.c[time])
            deleted = ROWS
            while deleted >= ROWS:
                with self._db.write(key[0]) as session:
                    end = session.connection().execute(old.offset(ROWS - 1).limit(1)).scalar()
                    until = table.c[time] < before_us if end is None else table.c[time] <= end
                    deleted = _gone(session, delete(table).where(mine, until))
                yield deleted

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

    def _history(self, before_us: int) -> Iterator[int]:
        """Versions of twins, up to the newest old one that stands whole: the later ones are told from it."""
        table = _table(TwinChange)
        for device, name in self._series(table, ("device", "name")):
            mine = and_(table.c.device == device, table.c.name == name)
            whole = select(func.max(table.c.version)).where(mine, table.c.t_us < before_us, table.c.state.is_not(None))
            deleted = ROWS
            while deleted >= ROWS:
                with self._db.write(device) as session:
                    first = session.connection().execute(select(func.min(table.c.version)).where(mine)).scalar()
                    last = session.connection().execute(whole).scalar()
                    if first is None or last is None or first >= last:
                        break
                    deleted = _gone(session, delete(table).where(mine, table.c.version < min(last, first + ROWS)))
                yield deleted

    def _jobs(self, before_us: int) -> Iterator[int]:
        """Ended jobs with their devices, and ended commands."""
        jobs, rows, commands = _table(Job), _table(JobDevice), _table(Command)
        while True:
            with self._db.write() as session:
                ended = select(jobs.c.id).where(jobs.c.ended_us < before_us).limit(1)
                job = session.connection().execute(ended).scalar()
                if job is None:
                    break
                some = select(rows.c.device).where(rows.c.job == job).limit(ROWS)
                deleted = _gone(session, delete(rows).where(rows.c.job == job, rows.c.device.in_(some)))
                if deleted < ROWS:
                    deleted += _gone(session, delete(jobs).where(jobs.c.id == job))
            yield deleted
        deleted = ROWS
        while deleted >= ROWS:
            with self._db.write() as session:
                some = select(commands.c.id).where(commands.c.done_us < before_us).limit(ROWS)
                deleted = _gone(session, delete(commands).where(commands.c.id.in_(some)))
            yield deleted


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
    kept = session.get(KeptFrom, (device, metric))
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
    row = session.get(KeptFrom, (device, metric)) or KeptFrom(device=device, metric=metric)
    setattr(row, column, max(getattr(row, column), since_us))
    session.add(row)


def _gone(session: Session, statement: Any) -> int:
    return int(session.connection().execute(statement).rowcount)
