"""The live watch: new telemetry of learned series steps their score model; what surprises raises an alarm of the hub.

One group of series a step: read, judged outside of any transaction, and written with its alarms in one. A restart
goes on behind the last sample that was judged. A series that has a standing alarm already gets no second one.

Silence is judged too, by how long the hub heard nothing while it could: not of devices known to be offline, whose
presence says it all, and anew from when the hub was away, as then samples come late.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import func, or_, select
from sqlmodel import Session, col
from sqlmodel import select as rows_of

from cloud_hub.clock import new_id, new_trace
from cloud_hub.db import Database
from cloud_hub.tables import AlarmRow, Device, LearnedSeries, LearnedState, Learning, TelemetrySample
from cloud_hub.thresholds import budget, learnings, stored, surprise
from cloud_hub.thresholds.scores import Scores
from cloud_hub.thresholds.surprise import Change, One
from cloud_hub.thresholds.telling import Tell
from shared.messages import Alarm

GROUP = 200
"""Series of one group."""
SOME = 1000
"""Samples of one series in one step."""
WARM = 5000
"""A new series first learns from so many stored samples."""
HOLE_US = surprise.GRACE_US // 2
"""Looks further apart than this: the hub was away."""

_SAMPLES: Any = TelemetrySample.__table__  # type: ignore[attr-defined]
_ALARMS: Any = AlarmRow.__table__  # type: ignore[attr-defined]
_DEVICES: Any = Device.__table__  # type: ignore[attr-defined]
_SERIES: Any = LearnedSeries.__table__  # type: ignore[attr-defined]


class Watch:
    """The loop's state: the groups that are still to be looked at in this round."""

    def __init__(self, db: Database, tell: Tell) -> None:
        self._db, self._tell = db, tell
        self._left: list[tuple[str, int]] = []
        self._awake_us = self._last_us = 0

    def step(self, now_us: int, hears: bool = True) -> tuple[bool, bool]:
        """Look at one group: (whether more of this round wait, whether alarms changed).

        `hears`: whether the hub hears its devices at all.
        """
        if not hears or not 0 <= now_us - self._last_us <= HOLE_US:
            self._awake_us = now_us
        self._last_us = now_us
        if not self._left:
            self._left = self._round(now_us)
            ended = end_forgotten(self._db, now_us, self._tell)
            if ended or not self._left:
                return bool(self._left), ended
        behind, changed = look(self._db, *self._left[0], now_us, self._tell, self._awake_us)
        if not behind:
            del self._left[0]
        return bool(self._left), changed

    def _round(self, now_us: int) -> list[tuple[str, int]]:
        """All groups, after new series have got theirs."""
        with self._db.read() as session:
            watched = [row for row in session.exec(rows_of(Learning).order_by(Learning.id)) if row.terms.get("watch")]
            new = [(row.id, group) for row in watched for group in _new(session, row.id, now_us)]
        for name, group in new:
            with self._db.write() as session:
                _gather(session, name, group, now_us)
        with self._db.read() as session:
            query = rows_of(LearnedState.learning, LearnedState.number).where(
                col(LearnedState.learning).in_([row.id for row in watched])
            )
            return [(name, number) for name, number in session.exec(query.order_by(LearnedState.learning))]


def end_forgotten(db: Database, now_us: int, tell: Tell) -> bool:
    """Clear alarms whose learning was changed or removed: nobody watches for their end any more. Whether there were."""
    with db.read() as session:
        mine = (col(AlarmRow.about) == "anomaly") & (col(AlarmRow.state) == "raised")
        standing = session.exec(rows_of(AlarmRow).where(mine)).all()
        groups = session.exec(rows_of(LearnedState.series)) if standing else ()
        known = {one["alarm"] for group in groups for one in group}
        ends = [(row.device, _end(row, now_us)) for row in standing if row.id not in known]
    if ends:
        with db.write() as session:
            for device, alarm in ends:
                tell(session, device, alarm, now_us, new_trace())
    return bool(ends)


def _end(row: AlarmRow, now_us: int) -> Alarm:
    return Alarm(
        id=row.id, metric=row.metric, kind=row.kind, state="cleared", priority="medium",  # type: ignore[arg-type]
        t_us=now_us, value=row.value, limit=row.limit, about="anomaly",
    )  # fmt: skip


def _new(session: Session, name: str, now_us: int) -> list[list[One]]:
    """Groups of the learning's series that have none yet."""
    groups = session.exec(rows_of(LearnedState.series).where(LearnedState.learning == name))
    known = {(one["device"], one["metric"]) for group in groups for one in group}
    query = select(_SERIES.c.device, _SERIES.c.metric).where(_SERIES.c.learning == name)
    found = session.connection().execute(query.order_by(_SERIES.c.device, _SERIES.c.metric)).all()
    ones = [
        One(device=device, metric=metric, upto_us=_warm(session, device, metric, now_us))
        for device, metric in found
        if (device, metric) not in known
    ]
    return [ones[first : first + GROUP] for first in range(0, len(ones), GROUP)]


def _gather(session: Session, name: str, ones: list[One], now_us: int) -> None:
    last = select(func.coalesce(func.max(LearnedState.number), -1)).where(col(LearnedState.learning) == name)
    number = session.connection().execute(last).scalar_one() + 1
    state = Scores(len(ones)).pack()
    row = LearnedState(learning=name, number=number, series=[asdict(one) for one in ones], state=state, live_us=now_us)
    session.add(row)


def _warm(session: Session, device: str, metric: str, now_us: int) -> int:
    """Behind which stored sample a new series begins to learn."""
    table = _SAMPLES.c
    mine = select(table.t_us).where(table.device == device, table.metric == metric, table.t_us < now_us)
    found = session.connection().execute(mine.order_by(table.t_us.desc()).offset(WARM).limit(1)).scalar()
    return int(found or 0)


def look(db: Database, name: str, number: int, now_us: int, tell: Tell, awake_us: int) -> tuple[bool, bool]:
    """Judge what is new of one group, and what is missing: (whether there is more, whether alarms changed).

    The hub hears its devices since `awake_us`.
    """
    with db.read() as session:
        row, learning = session.get(LearnedState, (name, number)), session.get(Learning, name)
        if row is None or learning is None:
            return False, False
        series = [One(**one) for one in row.series]
        samples = [stored.newer(session, (one.device, one.metric), one.upto_us, most=SOME) for one in series]
        behind = any(t_us.size >= SOME for t_us, _ in samples)
        since_us = {} if behind else _since(session, series, awake_us, now_us)
        if not since_us and not any(t_us.size for t_us, _ in samples):
            return False, False
        fleet = session.exec(rows_of(func.sum(LearnedState.per_day)).where(LearnedState.learning == name)).one() or 0.0
        false = _false(session, name, {one.device for one in series})
    per_day = surprise.per_day(samples, row.per_day)
    pages = learnings.terms(learning).pages_per_shift
    wrong = [false.get((one.device, one.metric), 0) for one in series]
    usual = surprise.usual(pages, fleet - row.per_day + per_day)
    paging = usual + row.raised
    limits = [paging + surprise.higher(count) for count in wrong]
    silence = [surprise.silence_limit(limit, count) for limit, count in zip(limits, wrong, strict=True)]
    scores = surprise.unpacked(row.state, len(series))
    series, changes, begun = surprise.step(scores, series, samples, limits, paging, row.live_us, now_us)
    came, paged_us = budget.troubles(begun, row.paged_us)
    raised = budget.raised(row.raised, sum(t_us.size for t_us, _ in samples) / 10**usual, came)
    series, silences = surprise.silent(scores, series, list(zip(limits, silence, strict=True)), since_us, now_us)
    changes += silences
    if not changes and not any(t_us.size for t_us, _ in samples):
        return False, False
    with db.write() as session:
        kept = session.get(LearnedState, (name, number), with_for_update=True)
        if kept is None or kept.live_us != row.live_us:  # its learning was changed meanwhile
            return False, False
        for change in changes:
            one = series[change.index]
            if alarm := _alarm(session, one, change, (silence if change.kind == "no-data" else limits)[change.index]):
                tell(session, one.device, alarm, now_us, new_trace())
                session.flush()
                session.get_one(AlarmRow, alarm.id).about = "anomaly"
                series[change.index] = replace(one, alarm=alarm.id if alarm.state == "raised" else "")
        kept.series, kept.state, kept.per_day = [asdict(one) for one in series], scores.pack(), per_day
        kept.raised, kept.paged_us = raised, paged_us
        session.add(kept)
    return behind, bool(changes)


def _since(session: Session, series: list[One], awake_us: int, now_us: int) -> dict[int, int]:
    """Series that may have fallen silent, by number: from when on all that they said would have been heard.

    Devices that never tell their presence (Prometheus writes for them) are there as long as nobody says otherwise.
    """
    quiet = [index for index, one in enumerate(series) if surprise.quiet_us(one, awake_us, now_us)]
    devices = sorted({series[index].device for index in quiet})
    if not devices:
        return {}
    connection, table = session.connection(), _DEVICES.c
    there = or_(table.state != "offline", table.born_us == 0)
    born: dict[str, int] = dict(
        connection.execute(select(table.id, table.born_us).where(table.id.in_(devices), there)).all()
    )
    raised = select(_ALARMS.c.device, _ALARMS.c.metric).where(
        _ALARMS.c.device.in_(devices), _ALARMS.c.state == "raised"
    )
    standing = {(device, metric) for device, metric in connection.execute(raised)}
    return {
        index: max(awake_us, born[one.device])
        for index in quiet
        if (one := series[index]).device in born and (one.device, one.metric) not in standing
    }


def _false(session: Session, name: str, devices: set[str]) -> dict[tuple[str, str], int]:
    """Anomalies that people judged false, by series."""
    query = select(_ALARMS.c.device, _ALARMS.c.metric, func.count()).where(
        _ALARMS.c.device.in_(devices), _ALARMS.c.about == "anomaly", _ALARMS.c.verdict == "false-alarm"
    )  # fmt: skip
    found = session.connection().execute(query.group_by(_ALARMS.c.device, _ALARMS.c.metric))
    return {(device, metric): count for device, metric, count in found}


def _alarm(session: Session, one: One, change: Change, limit: float) -> Alarm | None:
    """What to tell; nothing where the series has an alarm of its device's own already."""
    if _stands(session, one) if change.state == "raised" else not one.alarm:
        return None
    return Alarm(
        id=new_id() if change.state == "raised" else one.alarm, metric=one.metric, kind=change.kind, state=change.state,
        priority="medium", t_us=change.t_us, value=change.surprise, limit=limit, about="anomaly",
    )  # fmt: skip


def _stands(session: Session, one: One) -> bool:
    query = select(_ALARMS.c.id).where(
        _ALARMS.c.device == one.device, _ALARMS.c.metric == one.metric, _ALARMS.c.state == "raised"
    )  # fmt: skip
    return session.connection().execute(query.limit(1)).first() is not None
