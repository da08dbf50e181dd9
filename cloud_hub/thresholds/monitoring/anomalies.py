"""Live monitoring: new telemetry of learned series updates their score model, and anomalies raise alarms of the hub.

Each run handles one group of series: read, judged outside of any transaction, and written with its alarms in one. A
restart continues after the last judged sample. A series with an active alarm gets no second one.

Absence of data is judged too, by how long the hub received nothing while it could. Offline devices are excluded, since
their presence shows it, and the time starts again after the hub was down, because samples then arrive late.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import sqlmodel
from sqlalchemy import select
from sqlmodel import Session, col

from cloud_hub.clock import new_id, new_trace
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, LearnedState
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import WorkResult
from cloud_hub.thresholds.monitoring import series_groups
from cloud_hub.thresholds.monitoring.alarm_sink import AlarmSink
from cloud_hub.thresholds.monitoring.series_groups import GroupInput
from cloud_hub.thresholds.scores import absence, alarm_budget
from cloud_hub.thresholds.scores import alarms as score_alarms
from cloud_hub.thresholds.scores.alarms import AlarmTransition, SeriesState
from cloud_hub.thresholds.scores.model import ScoreModel
from cloud_hub.twins.core.reported_values import mapping
from shared.codec import plain
from shared.messages import Alarm

HOLE_US = absence.GRACE_US // 2
"""If the pause between two runs is longer than this, the hub was down."""

_ALARMS: Any = AlarmRow.__table__  # type: ignore[attr-defined]


class AnomalyMonitor:
    """Background worker; holds the groups not yet judged in this round."""

    def __init__(self, db: Database, alarm_sink: AlarmSink) -> None:
        self._db, self._alarm_sink = db, alarm_sink
        self._left: list[tuple[str, int]] = []
        self._awake_us = self._last_us = 0

    def run_once(self, now_us: int, connected: bool = True) -> WorkResult:
        """Judge one group; `again` while this round is not finished.

        `connected`: whether the hub receives from its devices at all.
        """
        if not connected or not 0 <= now_us - self._last_us <= HOLE_US:
            self._awake_us = now_us
        self._last_us = now_us
        items = WorkItems(self._db, "anomalies", now_us)
        if not self._left:
            self._left = series_groups.assign_groups(self._db, now_us, items)
            ended = clear_orphaned_alarms(self._db, now_us, self._alarm_sink, items)
            if ended or not self._left:
                return items.result(again=bool(self._left), wake=["diagnosis"] if ended else ())
        name, number = self._left[0]
        group = partial(judge_group, self._db, name, number, now_us, self._alarm_sink, self._awake_us)
        behind, changed = items.run("group", f"{name}/{number}", group) or (False, False)
        if not behind and items.not_ready is None:
            del self._left[0]
        return items.result(again=bool(self._left), wake=["diagnosis"] if changed else ())


def clear_orphaned_alarms(db: Database, now_us: int, alarm_sink: AlarmSink, items: WorkItems) -> bool:
    """Clear alarms whose learning job was changed or removed; returns whether there were any."""
    with db.read() as session:
        mine = (col(AlarmRow.about) == "anomaly") & (col(AlarmRow.state) == "raised")
        standing = session.exec(sqlmodel.select(AlarmRow).where(mine)).all()
        groups = session.exec(sqlmodel.select(LearnedState.series)) if standing else ()
        known = {mapping(one).get("alarm") for group in groups for one in group}
    ends = [row for row in standing if row.id not in known]
    done = [items.run("alarm", row.id, partial(_end, db, row, now_us, alarm_sink)) for row in ends]
    return any(done)


def _end(db: Database, row: AlarmRow, now_us: int, alarm_sink: AlarmSink) -> bool:
    alarm = Alarm(
        id=row.id, metric=row.metric, kind=row.kind, state="cleared", priority="medium",  # type: ignore[arg-type]
        t_us=now_us, value=row.value, limit=row.limit, about="anomaly",
    )  # fmt: skip
    with db.write() as session:
        alarm_sink(session, row.device, alarm, now_us, new_trace())
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedGroup:
    """Result of judging a group: state of the model and the budget, and alarm transitions with their limits."""

    scores: ScoreModel
    series: list[SeriesState]
    per_day: float
    raised: float
    paged_us: int
    changes: list[tuple[AlarmTransition, float]]


def judge_group(
    db: Database, name: str, number: int, now_us: int, alarm_sink: AlarmSink, awake_us: int
) -> tuple[bool, bool]:
    """Judge new and absent samples of one group: (whether there are more, whether alarms changed).

    The hub has received from its devices since `awake_us`.
    """
    with db.read() as session:
        seen = series_groups.read_group(session, name, number, awake_us, now_us)
    if seen is None:
        return False, False
    judged = _judged(seen, now_us)
    if not judged.changes and not any(t_us.size for t_us, _ in seen.samples):
        return False, False
    with db.write() as session:
        kept = session.get(LearnedState, (name, number), with_for_update=True)
        if kept is None or kept.live_us != seen.row.live_us:  # the learning job was changed meanwhile
            return False, False
        series = _raise_alarms(session, judged, alarm_sink, now_us)
        kept.series, kept.state, kept.per_day = plain(series), judged.scores.pack(), judged.per_day
        kept.raised, kept.paged_us = judged.raised, judged.paged_us
        session.add(kept)
    return seen.behind, bool(judged.changes)


def _judged(seen: GroupInput, now_us: int) -> JudgedGroup:
    row, samples = seen.row, seen.samples
    per_day = score_alarms.samples_per_day(samples, row.per_day)
    usual = score_alarms.budget_threshold(seen.pages, seen.others + per_day)
    paging = usual + row.raised
    limits = [paging + score_alarms.feedback_margin(count) for count in seen.false]
    silences = [absence.absence_threshold(limit, count) for limit, count in zip(limits, seen.false, strict=True)]
    scores = score_alarms.unpack_scores(row.state, len(seen.series))
    series, changes, begun = score_alarms.advance(scores, seen.series, samples, limits, paging, row.live_us, now_us)
    series, silent = absence.find_absent(
        scores, series, list(zip(limits, silences, strict=True)), seen.since_us, now_us
    )
    came, paged_us = alarm_budget.count_episodes(begun, row.paged_us)
    promised = sum(t_us.size for t_us, _ in samples) / 10**usual
    return JudgedGroup(
        scores=scores, series=series, per_day=per_day, raised=alarm_budget.corrected(row.raised, promised, came),
        paged_us=paged_us,
        changes=[(one, limits[one.index]) for one in changes] + [(one, silences[one.index]) for one in silent],
    )  # fmt: skip


def _raise_alarms(session: Session, judged: JudgedGroup, alarm_sink: AlarmSink, now_us: int) -> list[SeriesState]:
    """Raise and clear the alarms; returns the series with their active alarms."""
    series = list(judged.series)
    for change, limit in judged.changes:
        one = series[change.index]
        if alarm := _alarm(session, one, change, limit):
            alarm_sink(session, one.device, alarm, now_us, new_trace())
            session.flush()
            session.get_one(AlarmRow, alarm.id).about = "anomaly"
            series[change.index] = replace(one, alarm=alarm.id if alarm.state == "raised" else "")
    return series


def _alarm(session: Session, one: SeriesState, change: AlarmTransition, limit: float) -> Alarm | None:
    """The alarm of a transition; None where the series has another alarm already."""
    if _stands(session, one) if change.state == "raised" else not one.alarm:
        return None
    return Alarm(
        id=new_id() if change.state == "raised" else one.alarm, metric=one.metric, kind=change.kind, state=change.state,
        priority="medium", t_us=change.t_us, value=change.score, limit=limit, about="anomaly",
    )  # fmt: skip


def _stands(session: Session, one: SeriesState) -> bool:
    """Whether the series has an active alarm. Forecast warnings do not count."""
    query = select(_ALARMS.c.id).where(
        _ALARMS.c.device == one.device, _ALARMS.c.metric == one.metric, _ALARMS.c.state == "raised",
        _ALARMS.c.about != "forecast",
    )  # fmt: skip
    return session.connection().execute(query.limit(1)).first() is not None
