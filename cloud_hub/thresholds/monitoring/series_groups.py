"""Groups of learned series under live monitoring, one score model per group, and the new samples of a group.

New series get groups of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlmodel
from sqlalchemy import func, or_, select
from sqlmodel import Session, col

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, Device, LearnedSeries, LearnedState, LearningJob, TelemetrySample
from cloud_hub.runtime.items import WorkItems
from cloud_hub.thresholds.learning import history as learning_history
from cloud_hub.thresholds.learning import registry as learning_registry
from cloud_hub.thresholds.learning.core import safeguards
from cloud_hub.thresholds.scores import absence
from cloud_hub.thresholds.scores.alarms import Samples, SeriesState
from cloud_hub.thresholds.scores.model import ScoreModel
from cloud_hub.twins.core.reported_values import mapping
from shared.codec import from_plain, plain

GROUP = 200
"""Series of one group."""
WARM = 5000
"""Stored samples that a new series learns from first."""

SOME = 1000
"""Samples of one series in one run."""

_SAMPLES: Any = TelemetrySample.__table__  # type: ignore[attr-defined]
_ALARMS: Any = AlarmRow.__table__  # type: ignore[attr-defined]
_DEVICES: Any = Device.__table__  # type: ignore[attr-defined]
_SERIES: Any = LearnedSeries.__table__  # type: ignore[attr-defined]


def assign_groups(db: Database, now_us: int, items: WorkItems) -> list[tuple[str, int]]:
    """(learning, number) of all monitored groups, after new series were assigned to groups."""
    with db.read() as session:
        watched = [
            row.id
            for row in session.exec(sqlmodel.select(LearningJob).order_by(LearningJob.id))
            if mapping(row.policy).get("monitor")
        ]  # fmt: skip
    for name in watched:
        items.run("learning", name, partial(_add_new_series, db, name, now_us))
    with db.read() as session:
        query = sqlmodel.select(LearnedState.learning, LearnedState.number).where(
            col(LearnedState.learning).in_(watched)
        )
        return [(name, number) for name, number in session.exec(query.order_by(LearnedState.learning))]


def _add_new_series(db: Database, name: str, now_us: int) -> None:
    with db.read() as session:
        new = _ungrouped_series(session, name, now_us)
    for group in new:
        with db.write() as session:
            _add_group(session, name, group, now_us)


def _ungrouped_series(session: Session, name: str, now_us: int) -> list[list[SeriesState]]:
    """The learning's series without a group, split into new groups."""
    groups = session.exec(sqlmodel.select(LearnedState.series).where(LearnedState.learning == name))
    known = {(one.get("device"), one.get("metric")) for group in groups for one in map(mapping, group)}
    query = select(_SERIES.c.device, _SERIES.c.metric).where(_SERIES.c.learning == name)
    found = session.connection().execute(query.order_by(_SERIES.c.device, _SERIES.c.metric)).all()
    ones = [
        SeriesState(device=device, metric=metric, upto_us=_warmup_start(session, device, metric, now_us))
        for device, metric in found
        if (device, metric) not in known
    ]
    return [ones[first : first + GROUP] for first in range(0, len(ones), GROUP)]


def _add_group(session: Session, name: str, ones: list[SeriesState], now_us: int) -> None:
    last = select(func.coalesce(func.max(LearnedState.number), -1)).where(col(LearnedState.learning) == name)
    number = session.connection().execute(last).scalar_one() + 1
    state = ScoreModel(len(ones)).pack()
    row = LearnedState(learning=name, number=number, series=plain(ones), state=state, live_us=now_us)
    session.add(row)


def _warmup_start(session: Session, device: str, metric: str, now_us: int) -> int:
    """The time of the stored sample after which a new series begins to learn."""
    table = _SAMPLES.c
    mine = select(table.t_us).where(table.device == device, table.metric == metric, table.t_us < now_us)
    found = session.connection().execute(mine.order_by(table.t_us.desc()).offset(WARM).limit(1)).scalar()
    return int(found or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInput:
    """Input of one run on a group: new samples of each series, and since when absence may be judged (`since_us`).

    `behind`: more samples are stored. The learning allows `pages` per shift; its other groups have `others` samples a
    day. `false` counts the anomalies of each series that were judged false.
    """

    row: LearnedState
    series: list[SeriesState]
    samples: list[Samples]
    since_us: dict[int, int]
    behind: bool
    pages: float
    others: float
    false: list[int]


def read_group(session: Session, name: str, number: int, awake_us: int, now_us: int) -> GroupInput | None:
    """Read the input of one group; None if there is nothing to judge."""
    row, learning = session.get(LearnedState, (name, number)), session.get(LearningJob, name)
    if row is None or learning is None:
        return None
    series = [from_plain(SeriesState, one) for one in row.series]
    samples = learning_history.new_samples(session, [(one.device, one.metric, one.upto_us) for one in series], SOME)
    behind = any(t_us.size >= SOME for t_us, _ in samples)
    samples = _ordinary(session, series, samples, row.live_us)
    since_us = {} if behind else _heard_since(session, series, awake_us, now_us)
    if not since_us and not any(t_us.size for t_us, _ in samples):
        return None
    fleet = (
        session.exec(sqlmodel.select(func.sum(LearnedState.per_day)).where(LearnedState.learning == name)).one() or 0.0
    )
    false = _false_verdicts(session, {one.device for one in series})
    return GroupInput(
        row=row, series=series, samples=samples, since_us=since_us, behind=behind, others=fleet - row.per_day,
        pages=learning_registry.policy_of(learning).pages_per_shift,
        false=[false.get((one.device, one.metric), 0) for one in series],
    )  # fmt: skip


def _ordinary(session: Session, series: list[SeriesState], samples: list[Samples], live_us: int) -> list[Samples]:
    """The samples without history inside alarms that nobody judged false: the model would learn the fault.

    The last sample of each series is kept, so that it continues after it. Live samples are always judged.
    """
    early = [t_us[0] for t_us, _ in samples if t_us.size and t_us[0] < live_us]
    if not early:
        return samples
    devices = sorted({one.device for one in series})
    alarms = learning_history.unjudged(session, devices, int(min(early)), live_us)
    found = []
    for one, (t_us, values) in zip(series, samples, strict=True):
        keep = safeguards.ordinary(t_us, alarms.get((one.device, one.metric), ())) | (t_us >= live_us)
        keep[-1:] = True
        found.append((t_us[keep], values[keep]))
    return found


def _heard_since(session: Session, series: list[SeriesState], awake_us: int, now_us: int) -> dict[int, int]:
    """The series that may be absent, by index, each with the time since when the hub could receive all its samples.

    Devices that never report their presence (Prometheus writes for them) count as online.
    """
    quiet = [index for index, one in enumerate(series) if absence.silence_us(one, awake_us, now_us)]
    devices = sorted({series[index].device for index in quiet})
    if not devices:
        return {}
    connection, table = session.connection(), _DEVICES.c
    there = or_(table.state != "offline", table.born_us == 0)
    born: dict[str, int] = dict(
        connection.execute(select(table.id, table.born_us).where(table.id.in_(devices), there)).all()
    )
    raised = select(_ALARMS.c.device, _ALARMS.c.metric).where(
        _ALARMS.c.device.in_(devices), _ALARMS.c.state == "raised", _ALARMS.c.about != "forecast"
    )
    standing = {(device, metric) for device, metric in connection.execute(raised)}
    return {
        index: max(awake_us, born[one.device])
        for index in quiet
        if (one := series[index]).device in born and (one.device, one.metric) not in standing
    }


def _false_verdicts(session: Session, devices: set[str]) -> dict[tuple[str, str], int]:
    """Anomalies that people judged false, by series."""
    query = select(_ALARMS.c.device, _ALARMS.c.metric, func.count()).where(
        _ALARMS.c.device.in_(devices), _ALARMS.c.about == "anomaly", _ALARMS.c.verdict == "false-alarm"
    )  # fmt: skip
    found = session.connection().execute(query.group_by(_ALARMS.c.device, _ALARMS.c.metric))
    return {(device, metric): count for device, metric, count in found}
