"""Computes rollups of the hours that ingest marked as due; each is written in one transaction with its due mark.

An hour whose samples are all stored is recomputed from them: late, repeated and backfilled samples correct it, and the
operation is idempotent. If retention deleted the samples of an hour, late samples are added to its rollup and deleted
in the same transaction, so they are not added twice. A day is computed from its hours once it is over. After a crash,
an unfinished transaction has no effect.

Samples are read before the transaction, so writers do not wait. `changes` shows whether the hour changed meanwhile; it
then stays due.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby

from sqlalchemy import ColumnElement, delete, tuple_
from sqlmodel import Session, col, select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import RetentionStart, RollupDue, TelemetrySample
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import WorkResult
from cloud_hub.telemetry.rollups.aggregate import Hour, hour, metrics
from cloud_hub.telemetry.rollups.core.buckets import Buckets, concat, empty, pack
from cloud_hub.telemetry.rollups.core.sketches import Sketch, merge_sketches
from cloud_hub.telemetry.rollups.store import DAY, HOUR, MINUTE, DeviceRollups
from cloud_hub.telemetry.samples import mark_due
from shared.durations import DAY_US, HOUR_US, MINUTE_US

GRACE_US = 2 * MINUTE_US
"""Delay after the end of an hour, because its last samples may still arrive."""
SAMPLES, HOURS = 20_000, 100
"""Approximate number of samples and hours of one run."""
METRICS, MOST_METRICS = 500, 100_000
"""Metrics of a device per transaction, and the maximum of a device; further metrics get no rollups."""

Made = dict[str, Hour]
"""An hour of a device, by metric."""
Work = tuple[str, int, list[tuple[RollupDue, Made]]]
"""A device, a day, and hours of that day."""


class RollupWorker:
    """Background worker; processes due hours in rounds, so that a busy device does not delay others."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._after = ("", -1)
        self._large: dict[tuple[str, int], tuple[RollupDue, list[str]]] = {}
        """Hours of more than METRICS metrics, with those that are not rolled up yet."""

    def run_once(self, now_us: int) -> WorkResult:
        """Roll up some hours; `again` until all were processed, then the next run starts from the first."""
        items = WorkItems(self._db, "rollups", now_us)
        days, looked = self._read(now_us, items)
        items.batch("day", days, lambda some: self._roll(some, now_us), key=_key)
        for place in list(self._large):
            items.run("hour", f"{place[0]}/{place[1]}", partial(self._roll_part, place, now_us))
        return items.result(again=looked or bool(self._large))

    def _roll(self, days: Sequence[Work], now_us: int) -> bool:
        """Write these days in one transaction."""
        with self._db.write(*{device for device, _, _ in days}) as session:
            for device, day_us, hours in days:
                made = {due.t_us: made for due, made in hours if _take(session, due)}
                if made:
                    roll_up(session, device, day_us, made, now_us)
        return True

    def _roll_part(self, place: tuple[str, int], now_us: int) -> None:
        """Write some metrics of a large hour; it is done with the last of them. A failed hour starts again."""
        due, names = self._large.pop(place)
        some, left = names[:METRICS], names[METRICS:]
        with self._db.read() as session:
            made, _ = hour(session, due.device, due.t_us, some)
        with self._db.write(due.device) as session:
            if not (_unchanged(session, due) if left else _take(session, due)):
                return
            roll_up(session, due.device, _day(due.t_us), {due.t_us: made}, now_us, only=some)
        if left:
            self._large[place] = due, left

    def _read(self, now_us: int, items: WorkItems) -> tuple[list[Work], bool]:
        """(Some hours by device and day, whether there was any)."""
        work: list[tuple[RollupDue, Made]] = []
        read = 0
        with self._db.read() as session:
            due_hours = self._due(session, now_us)
        for due in due_hours:
            self._after = (due.device, due.t_us)
            waits = not items.due("day", _key((due.device, _day(due.t_us), [])))
            if waits or (due.device, due.t_us) in self._large:
                continue
            one = items.run("hour", f"{due.device}/{due.t_us}", partial(self._hour, due))
            if one is not None:
                work.append((due, one[0]))
                read += one[1]
            if read >= SAMPLES:
                break
        if not due_hours:
            self._after = ("", -1)
        days = groupby(work, lambda one: (one[0].device, _day(one[0].t_us)))
        return [(device, day_us, list(hours)) for (device, day_us), hours in days], bool(due_hours)

    def _hour(self, due: RollupDue) -> tuple[Made, int] | None:
        """(The hour, its number of samples); None for a large one, which is rolled up in parts."""
        with self._db.read() as session:
            names = stored = metrics(session, due.device, MOST_METRICS)
            last = due.t_us - _day(due.t_us) == DAY_US - HOUR_US
            if last:  # this also computes the day from all rolled-up hours
                mine = select(RetentionStart.metric).where(RetentionStart.device == due.device)
                names = sorted({*names, *session.exec(mine)})
            if len(names) > METRICS:
                self._large[due.device, due.t_us] = due, names
                return None
            return hour(session, due.device, due.t_us, stored)

    def _due(self, session: Session, now_us: int) -> list[RollupDue]:
        key = (col(RollupDue.device), col(RollupDue.t_us))
        over = select(RollupDue).where(col(RollupDue.t_us) <= now_us - HOUR_US - GRACE_US)
        return list(session.exec(over.where(tuple_(*key) > tuple_(*self._after)).order_by(*key).limit(HOURS)))


def _key(work: Work) -> str:
    return f"{work[0]}/{work[1]}"


def _day(t_us: int) -> int:
    return t_us // DAY_US * DAY_US


def _same(due: RollupDue) -> tuple[ColumnElement[bool], ...]:
    return col(RollupDue.device) == due.device, col(RollupDue.t_us) == due.t_us, col(RollupDue.changes) == due.changes


def _take(session: Session, due: RollupDue) -> bool:
    """Remove the due mark; False if the hour changed since its samples were read, or another hub processed it."""
    return session.connection().execute(delete(RollupDue).where(*_same(due))).rowcount == 1


def _unchanged(session: Session, due: RollupDue) -> bool:
    """Whether the hour is unchanged since its samples were read."""
    return session.exec(select(RollupDue.t_us).where(*_same(due)).with_for_update()).first() is not None


def roll_up(
    session: Session, device: str, day_us: int, hours: dict[int, Made], now_us: int, only: Sequence[str] | None = None
) -> None:  # fmt: skip
    """Write the rollups of hours of one day of a device; `only` restricts them to some of its metrics."""
    rows = DeviceRollups(session, device)
    kept = _kept(session, rows, device, sorted({metric for made in hours.values() for metric in made}))
    whole = [metric for metric, line in kept.items() if line.hour_us <= day_us]
    standing = rows.buckets(HOUR, whole, day_us, day_us + DAY_US)
    for metric, line in kept.items():
        mine = {hour_us: made[metric] for hour_us, made in sorted(hours.items()) if metric in made}
        if metric in whole:
            _hours(session, rows, line, standing.get((metric, day_us), empty()), day_us, mine)
        else:
            _onto_day(session, rows, line, day_us, mine)
    rows.save()
    last_us = day_us + DAY_US - HOUR_US
    if now_us < day_us + DAY_US + GRACE_US:
        mark_due(session, [(device, last_us)])  # it computes the day, with or without samples
        return
    if last_us in hours:
        kept = rows.kept(only)
        whole = [metric for metric, line in kept.items() if line.hour_us <= day_us]
    _make_day(rows, whole, [metric for metric in whole if kept[metric].sketch_us <= day_us], day_us)
    rows.save()


def _kept(session: Session, rows: DeviceRollups, device: str, metrics: Sequence[str]) -> dict[str, RetentionStart]:
    """The retention start of each metric; a new metric has all data."""
    kept = rows.kept(metrics)
    new = {metric: RetentionStart(device=device, metric=metric) for metric in metrics if metric not in kept}
    session.add_all(new.values())
    session.flush()
    return kept | new


def _hours(
    session: Session, rows: DeviceRollups, line: RetentionStart, standing: Buckets, day_us: int, hours: dict[int, Hour]
) -> None:  # fmt: skip
    """Write minutes and sketches of these hours, and update the row of the day's hours."""
    for hour_us, made in hours.items():
        slot = (hour_us - day_us) // HOUR_US
        minutes, sketch = made.minutes, made.sketch
        if hour_us >= line.raw_us:
            standing = standing.part(standing.slot != slot)
        else:
            minutes, sketch = _added(rows, line.metric, hour_us, made)
            _forget(session, line, hour_us)
        standing = concat([standing, made.total.shifted(slot)])
        if hour_us >= min(line.raw_us, line.minute_us):
            rows.put("rollups", MINUTE, line.metric, hour_us, pack(minutes))
        if day_us >= line.sketch_us:
            rows.put("sketches", HOUR, line.metric, hour_us, sketch.pack())
    rows.put("rollups", HOUR, line.metric, day_us, pack(standing))
    if day_us < line.sketch_us:
        _onto_sketch(rows, line.metric, day_us, hours)


def _added(rows: DeviceRollups, metric: str, hour_us: int, made: Hour) -> tuple[Buckets, Sketch]:
    """Add late samples to the stored rollup of an hour whose samples were deleted."""
    minutes = [*rows.buckets(MINUTE, [metric], hour_us, hour_us + 1).values(), made.minutes]
    sketches = [*rows.sketches(HOUR, [metric], hour_us, hour_us + 1).values(), made.sketch.pack()]
    return concat(minutes), merge_sketches(sketches)


def _onto_day(session: Session, rows: DeviceRollups, line: RetentionStart, day_us: int, hours: dict[int, Hour]) -> None:
    """Add hours to a day whose hours were deleted."""
    days = [*rows.buckets(DAY, [line.metric], day_us, day_us + 1).values(), *(made.total for made in hours.values())]
    for hour_us in hours:
        _forget(session, line, hour_us)
    rows.put("rollups", DAY, line.metric, day_us, pack(concat(days)))
    _onto_sketch(rows, line.metric, day_us, hours)


def _onto_sketch(rows: DeviceRollups, metric: str, day_us: int, hours: dict[int, Hour]) -> None:
    """Add hours to the sketch of a day whose hourly sketches were deleted."""
    sketches = [*rows.sketches(DAY, [metric], day_us, day_us + 1).values()]
    sketches += [made.sketch.pack() for made in hours.values()]
    rows.put("sketches", DAY, metric, day_us, merge_sketches(sketches).pack())


def _forget(session: Session, line: RetentionStart, hour_us: int) -> None:
    """Delete late samples older than the retention start, which were added and must not be added again."""
    sample = TelemetrySample
    mine = (col(sample.device) == line.device, col(sample.metric) == line.metric)
    span = (col(sample.t_us) >= hour_us, col(sample.t_us) < hour_us + HOUR_US)
    session.connection().execute(delete(sample).where(*mine, *span))


def _make_day(rows: DeviceRollups, metrics: Sequence[str], sketched: Sequence[str], day_us: int) -> None:
    """Compute days from their hours, and their sketches if the hourly ones are stored."""
    for (metric, _), hours in rows.buckets(HOUR, metrics, day_us, day_us + DAY_US).items():
        rows.put("rollups", DAY, metric, day_us, pack(hours.coarsen(24)))
    sketches = rows.sketches(HOUR, sketched, day_us, day_us + DAY_US)
    for metric, some in groupby(sketches, lambda place: place[0]):
        rows.put("sketches", DAY, metric, day_us, merge_sketches(sketches[place] for place in some).pack())
