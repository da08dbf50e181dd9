"""The registry of learning jobs: the series that they cover, their policies, and their hits and misses.

Hits, misses and false alarms are counted here from alarms and people's verdicts. Alarms arrive exactly once and
verdicts live in the hub only, so a device that lost its disk loses no count.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlmodel
from sqlalchemy import Integer, and_, cast, delete, exists, func, or_, select
from sqlmodel import Session, col

from cloud_hub import query
from cloud_hub.audit import trail
from cloud_hub.database import scopes
from cloud_hub.database.tables import (
    AlarmRow,
    AppliedRow,
    LearnedSeries,
    LearnedState,
    LearningJob,
    MissedFault,
    PeerState,
    Rollout,
    RolloutDevice,
)
from cloud_hub.errors import HubError
from cloud_hub.thresholds.learning.core.policy import LimitPolicy
from cloud_hub.thresholds.limits import standing as limits_standing
from cloud_hub.thresholds.rollouts import service as rollout_service
from cloud_hub.thresholds.rollouts.twin_writes import DOCUMENT, HOLDING
from shared.codec import from_plain

LIMIT = 100
REASONS = 20
"""The number of devices left out of the peer comparison whose reason is shown."""
_PEERS: Any = PeerState.__table__  # type: ignore[attr-defined]
_SERIES: Any = LearnedSeries.__table__  # type: ignore[attr-defined]
_MEMBERS: Any = RolloutDevice.__table__  # type: ignore[attr-defined]
_ROLLOUTS: Any = Rollout.__table__  # type: ignore[attr-defined]
_APPLIED: Any = AppliedRow.__table__  # type: ignore[attr-defined]
_ALARMS: Any = AlarmRow.__table__  # type: ignore[attr-defined]
_MISSED_FAULTS: Any = MissedFault.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """`alarms` of learned limits, `hits` judged real, `false` judged false; `faults` reported, some of them `missed`.

    Alarms about anything else are not included. `anomalies` are alarms of live monitoring and of the peer
    comparison, `false_anomalies` those judged false.
    """

    alarms: int = 0
    hits: int = 0
    false: int = 0
    faults: int = 0
    missed: int = 0
    anomalies: int = 0
    false_anomalies: int = 0


def policy_of(row: LearningJob) -> LimitPolicy:
    """The policy as an object."""
    return from_plain(LimitPolicy, row.policy)


def get(session: Session, name: str, *, lock: bool = False) -> LearningJob:
    """The learning, or HubError 404."""
    row = session.get(LearningJob, name, with_for_update=lock)
    if row is None or not scopes.covers(scopes.session_scope(session), row.scope):
        raise HubError(404, "No such learning job", f"'{name}' is not known")
    return row


def list_all(session: Session) -> list[LearningJob]:
    """All learning jobs in the session's scope, by name."""
    scope = scopes.session_scope(session)
    return [
        row
        for row in session.exec(sqlmodel.select(LearningJob).order_by(LearningJob.id))
        if scopes.covers(scope, row.scope)
    ]


def put(session: Session, row: LearningJob, trace: str) -> tuple[LearningJob, bool]:
    """Create a learning job, or change its target and policy; a refit starts at once. Returns (row, is new)."""
    query.condition(row.target)
    old = session.get(LearningJob, row.id, with_for_update=True)
    if old is not None and not scopes.covers(scopes.session_scope(session), old.scope):
        raise HubError(409, "Name is taken", f"'{row.id}' is the name of a learning job beyond this token's scope")
    if old is None and session.exec(sqlmodel.select(func.count()).select_from(LearningJob)).one() >= LIMIT:
        raise HubError(409, "Too many learning jobs", f"at most {LIMIT} are allowed: delete one that is not needed")
    trail.add(
        session,
        row.created_us,
        row.actor,
        "learning.changed" if old else "learning.created",
        row.id,
        trace=trace,
        target=row.target,
        policy=row.policy,
    )
    if old is None:
        session.add(row)
        return row, True
    old.target, old.policy, old.due_us, old.refit = row.target, row.policy, row.created_us, None
    session.add(old)
    session.connection().execute(delete(LearnedState).where(col(LearnedState.learning) == row.id))
    return old, False


def remove(session: Session, name: str, now_us: int, actor: str, trace: str) -> None:
    """Delete a learning job. Limits that it pushed stay in force on their devices until somebody sets others."""
    row = get(session, name, lock=True)
    active = sqlmodel.select(Rollout.id).where(Rollout.learning == name, col(Rollout.state).in_(rollout_service.ACTIVE))
    if (found := session.exec(active).first()) is not None:
        raise HubError(
            409, "A rollout is being monitored", f"rollout {found} of '{name}' has not ended; wait until it has"
        )
    for table in (LearnedSeries, LearnedState):
        session.connection().execute(delete(table).where(col(table.learning) == name))
    session.delete(row)
    trail.add(session, now_us, actor, "learning.deleted", name, trace=trace)


def refit_now(session: Session, name: str, now_us: int, actor: str, trace: str) -> LearningJob:
    """Start a refit at once; a running one continues."""
    row = get(session, name, lock=True)
    row.due_us = now_us
    session.add(row)
    trail.add(session, now_us, actor, "learning.refit", name, trace=trace)
    return row


def release(
    session: Session, name: str, device: str, metrics: Collection[str], now_us: int, actor: str, trace: str
) -> list[str]:
    """Let the learning job replace limits that somebody set by hand on this device; returns the metrics.

    From now on the limits on the device count as pushed by the learning job.
    """
    get(session, name)
    there = {one["metric"]: one for one in limits_standing.desired(session, device)}
    mine = sqlmodel.select(LearnedSeries).where(LearnedSeries.learning == name, LearnedSeries.device == device)
    rows = [row for row in session.exec(mine) if not metrics or row.metric in metrics]
    if not rows:
        raise HubError(404, "Nothing to release", f"'{name}' learns none of these on '{device}'")
    for row in rows:
        row.pushed = there.get(row.metric)
        session.add(row)
    found = sorted(row.metric for row in rows)
    trail.add(session, now_us, actor, "learning.released", name, device=device, trace=trace, metrics=found)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSummary:
    """A metric in the peer comparison: judged up to `upto_us` on `servers` servers of `services` services.

    `left_out` devices have the metric and are not judged; `reasons` are given for the first few. `standing` are its
    active alarms.
    """

    metric: str
    servers: int
    services: int
    left_out: int
    reasons: dict[str, str]
    standing: list[dict[str, Any]]
    upto_us: int


def peer_summaries(session: Session, name: str) -> list[PeerSummary]:
    """The learning's peer comparison, by metric."""
    columns = [_PEERS.c[one] for one in ("metric", "devices", "services", "left_out", "standing", "upto_us")]
    found = session.connection().execute(select(*columns).where(_PEERS.c.learning == name).order_by(_PEERS.c.metric))
    return [
        PeerSummary(metric=metric, servers=len(devices), services=len(set(services)), left_out=len(left_out),
               reasons=dict(sorted(left_out.items())[:REASONS]), standing=standing, upto_us=upto_us)
        for metric, devices, services, left_out, standing, upto_us in found
    ]  # fmt: skip


def budget_correction(session: Session, name: str) -> float:
    """Decades by which monitoring has raised its threshold above the budget's, in the group with the most."""
    most = select(func.coalesce(func.max(LearnedState.raised), 0.0)).where(col(LearnedState.learning) == name)
    return float(session.connection().execute(most).scalar_one())


# -- results ---------------------------------------------------------------------------------------


def _count(condition: Any) -> Any:
    """The SQL expression that counts rows that meet the condition."""
    return func.coalesce(func.sum(cast(condition, Integer)), 0)


def counts(session: Session, name: str, series: limits_standing.Series | None = None) -> Counts:
    """Counts since its limits were pushed to the devices: of the whole learning, or of one series."""
    mine = [_SERIES.c.learning == name]
    if series is not None:
        mine += [_SERIES.c.device == series[0], _SERIES.c.metric == series[1]]
    met = and_(_ALARMS.c.device == _SERIES.c.device, _ALARMS.c.metric == _SERIES.c.metric)
    judged = (_ALARMS.c.about == "") & (_ALARMS.c.received_us >= _SERIES.c.pushed_us)
    anomaly = _ALARMS.c.about.in_(["anomaly", "peers", "service"])

    false, real = _ALARMS.c.verdict == "false-alarm", _ALARMS.c.verdict == "real"
    row = session.connection().execute(
        select(_count(judged), _count(judged & real), _count(judged & false), _count(anomaly), _count(anomaly & false))
        .where(met, *mine)
    ).one()  # fmt: skip
    reported = and_(
        _MISSED_FAULTS.c.device == _SERIES.c.device, _MISSED_FAULTS.c.metric == _SERIES.c.metric,
        _MISSED_FAULTS.c.start_us >= _SERIES.c.pushed_us,
    )  # fmt: skip
    alarm = _ALARMS.alias()
    detected = exists().where(
        alarm.c.device == _MISSED_FAULTS.c.device, alarm.c.metric == _MISSED_FAULTS.c.metric, alarm.c.about == "",
        alarm.c.raised_us <= _MISSED_FAULTS.c.end_us,
        func.coalesce(alarm.c.cleared_us, _MISSED_FAULTS.c.start_us) >= _MISSED_FAULTS.c.start_us,
    )  # fmt: skip
    faults, missed = session.connection().execute(
        select(func.count(), _count(~detected)).select_from(_MISSED_FAULTS.join(_SERIES, reported)).where(*mine)
    ).one()  # fmt: skip
    return Counts(alarms=row[0], hits=row[1], false=row[2], faults=faults, missed=missed, anomalies=row[3],
                  false_anomalies=row[4])  # fmt: skip


def series(session: Session, name: str, device: str, after: str, limit: int) -> list[LearnedSeries]:
    """Its series by device and metric; `after` is `device/metric` of the last one of the page before."""
    mine = sqlmodel.select(LearnedSeries).where(LearnedSeries.learning == name)
    mine = scopes.restrict(session, mine, col(LearnedSeries.device))
    if device:
        mine = mine.where(LearnedSeries.device == device)
    if after:
        first, _, last = after.partition("/")
        beyond = (_SERIES.c.device > first) | ((_SERIES.c.device == first) & (_SERIES.c.metric > last))
        mine = mine.where(beyond)
    return list(session.exec(mine.order_by(LearnedSeries.device, LearnedSeries.metric).limit(limit)))


def status_counts(session: Session, name: str, now_us: int, stale_s: float) -> dict[str, int]:
    """How many series it has, and how many are fitted, pushed, stale, and in force as reported by the device."""
    table = _SERIES.c
    old = now_us - int(stale_s * 1e6)

    pushed = table.pushed_us.is_not(None)
    row = session.connection().execute(
        select(func.count(), _count(table.limits.is_not(None)), _count(pushed),
               _count(pushed & (table.fitted_us < old)), _count(pushed & table.device.in_(_confirmed(name))))
        .where(table.learning == name)
    ).one()  # fmt: skip
    return dict(zip(("series", "fitted", "pushed", "stale", "in_force"), row, strict=True))


def _confirmed(name: str) -> Any:
    """Devices that have reported the newest limits of this learning job as in force."""
    newest = (
        select(_MEMBERS.c.device, func.max(_MEMBERS.c.version).label("version"))
        .join(_ROLLOUTS, _ROLLOUTS.c.id == _MEMBERS.c.rollout)
        .where(_ROLLOUTS.c.learning == name, _MEMBERS.c.state.in_(HOLDING))
        .group_by(_MEMBERS.c.device)
        .subquery()
    )
    then = exists().where(
        _MEMBERS.c.device == newest.c.device, _MEMBERS.c.version == newest.c.version, _MEMBERS.c.state == "verified"
    )
    path = _APPLIED.c.path
    since = exists().where(
        _APPLIED.c.device == newest.c.device, _APPLIED.c.shadow == DOCUMENT, _APPLIED.c.state == "verified",
        _APPLIED.c.version >= newest.c.version, or_(path == "limits", path.like("limits.%")),
    )  # fmt: skip
    return select(newest.c.device).where(or_(then, since))
