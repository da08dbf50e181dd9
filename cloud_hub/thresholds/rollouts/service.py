"""Rolls limits out: pushed to canaries, observed, widened to the rest and confirmed, or rolled back automatically.

`core.rules` decides, `twin_writes` changes the twins, and this module reads and writes the rollout in the database. A
rollback restores desired state, so an offline device never applies the bad limits, or drops them when it reconnects.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import sqlmodel
from sqlalchemy import func, insert, or_, select
from sqlmodel import Session, col

from cloud_hub.audit import trail
from cloud_hub.clock import new_id
from cloud_hub.database import scopes
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, AppliedRow, LearnedSeries, Rollout, RolloutDevice
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.runtime.worker import NOTHING, WorkResult
from cloud_hub.thresholds.rollouts import twin_writes
from cloud_hub.thresholds.rollouts.core import rules as rollout_rules
from cloud_hub.thresholds.rollouts.core.rules import Bounds, RolloutStatus, Stage
from cloud_hub.thresholds.rollouts.twin_writes import DOCUMENT, HOLDING
from shared.codec import plain
from shared.thresholds import Limits

ACTIVE = ("watching", "taking-back")

_ROWS: Any = RolloutDevice.__table__  # type: ignore[attr-defined]
_PROGRESS: Any = AppliedRow.__table__  # type: ignore[attr-defined]
_ALARMS: Any = AlarmRow.__table__  # type: ignore[attr-defined]


# -- start -----------------------------------------------------------------------------------------


def start(
    session: Session, devices: Sequence[str], limits: Sequence[Limits], now_us: int, *,
    actor: str, watch_s: float, max_alarms: int, max_bytes: int, trace: str,
    backtest: dict[str, Any] | None = None, override: str = "",
) -> tuple[Rollout, list[OutgoingMessage]]:  # fmt: skip
    """Push the same `limits` to these devices and start to observe them."""
    for device in devices:
        device_registry.require_device(session, device)
    devices = list(dict.fromkeys(devices))
    rollout = Rollout(
        id=new_id(), devices=devices, wanted=[plain(one) for one in limits], started_us=now_us, watch_s=watch_s,
        max_alarms=max_alarms, traceparent=trace, canaries=len(devices), stage_us=now_us, backtest=backtest or {},
        override=override,
    )  # fmt: skip
    begin(session, rollout, dict.fromkeys(devices, 0), actor)
    return rollout, twin_writes.push(session, rollout, now_us, max_bytes, insist=True)


def begin(session: Session, rollout: Rollout, stages: dict[str, int], actor: str) -> None:
    """Store a rollout with the stage of each of its devices; `run_once` pushes.

    Raises HubError 409 while another rollout includes one of the devices.
    """
    busy = select(_ROWS.c.rollout, _ROWS.c.device).where(
        _ROWS.c.rollout.in_(select(col(Rollout.id)).where(col(Rollout.state).in_(ACTIVE))),
    )  # fmt: skip
    for other, device in session.connection().execute(busy):
        if device in stages:
            detail = f"rollout {other} is still running on {device}; wait until it has ended"
            raise HubError(409, "Another rollout is running", detail)
    session.add(rollout)
    values = [
        {"rollout": rollout.id, "device": device, "stage": stage, "state": "waiting", "reason": "", "version": 0,
         "t_us": rollout.started_us}
        for device, stage in stages.items()
    ]  # fmt: skip
    session.flush()
    session.connection().execute(insert(_ROWS), values)
    trail.add(
        session, rollout.started_us, actor, "rollout.started", rollout.id, trace=rollout.traceparent,
        devices=rollout.devices[:100], of=len(stages), canaries=rollout.canaries,
        metrics=[row["metric"] for row in rollout.wanted], backtest=rollout.backtest, override=rollout.override,
    )  # fmt: skip


# -- the worker ------------------------------------------------------------------------------------


def run_once(db: Database, now_us: int, max_bytes: int) -> WorkResult:
    """Make one move in each active rollout; an error in one does not affect the others."""
    with db.read() as session:
        active = list(
            session.exec(sqlmodel.select(Rollout.id).where(col(Rollout.state).in_(ACTIVE)).order_by(Rollout.id))
        )
    if not active:
        return NOTHING
    items, messages = WorkItems(db, "rollouts", now_us), list[OutgoingMessage]()
    for number in active:
        messages += items.run("rollout", number, partial(_advance, db, number, now_us, max_bytes)) or []
    return items.result(
        messages=messages, again=bool(messages)
    )  # a few devices per run, so that other writers get the database


def _advance(db: Database, number: str, now_us: int, max_bytes: int) -> list[OutgoingMessage]:
    """Make one move in a rollout."""
    with db.write() as session:
        rollout = session.get(Rollout, number)
        if rollout is None or rollout.state not in ACTIVE:
            return []
        _record_acknowledgements(session, rollout, now_us)
        return _make_move(session, rollout, now_us, max_bytes)


def _make_move(session: Session, rollout: Rollout, now_us: int, max_bytes: int) -> list[OutgoingMessage]:
    bounds = Bounds(watch_s=rollout.watch_s, max_alarms=rollout.max_alarms, max_false_alarms=rollout.max_false_alarms,
                    canaries=rollout.canaries)  # fmt: skip
    stage = Stage(number=rollout.stage, pushed_us=rollout.stage_us, watch_us=rollout.watch_us,
                  rolling_back=rollout.state == "taking-back")  # fmt: skip
    move, reason = rollout_rules.decide(bounds, stage, rollout_status(session, rollout), now_us)
    session.add(rollout)
    if move == "push":
        return twin_writes.push(session, rollout, now_us, max_bytes)
    if move == "watch":
        rollout.watch_us = now_us
    elif move == "widen":
        rollout.stage, rollout.stage_us, rollout.watch_us = rollout.stage + 1, now_us, None
        _record_event(session, rollout, "widened", reason, now_us)
        return twin_writes.push(session, rollout, now_us, max_bytes)
    elif move == "confirm":
        _end(session, rollout, "confirmed", reason, now_us)
    elif move == "roll back":
        rollout.state, rollout.reason = "taking-back", reason
        return _roll_back(session, rollout, now_us, max_bytes)
    elif move in {"restore", "end"}:
        return _roll_back(session, rollout, now_us, max_bytes)
    return []


def _record_event(session: Session, rollout: Rollout, event: str, reason: str, now_us: int) -> None:
    trail.add(session, now_us, "hub", f"rollout.{event}", rollout.id, trace=rollout.traceparent, reason=reason)


def _end(session: Session, rollout: Rollout, state: str, reason: str, now_us: int) -> None:
    rollout.state, rollout.reason, rollout.ended_us = state, reason, now_us
    _record_event(session, rollout, state, reason, now_us)


def _roll_back(session: Session, rollout: Rollout, now_us: int, max_bytes: int) -> list[OutgoingMessage]:
    messages = twin_writes.restore(session, rollout, now_us, max_bytes)
    if not rollout_status(session, rollout).left:
        _end(session, rollout, "rolled-back", rollout.reason, now_us)
    return messages


def _record_acknowledgements(session: Session, rollout: Rollout, now_us: int) -> None:
    """Record the devices' acknowledgements of the pushed version; those of older versions are ignored."""
    path = _PROGRESS.c.path
    about = (_PROGRESS.c.shadow == DOCUMENT, or_(path == "limits", path.like("limits.%")),
             _PROGRESS.c.version >= _ROWS.c.version, _PROGRESS.c.device == _ROWS.c.device,
             _PROGRESS.c.t_us >= rollout.started_us)  # fmt: skip
    mine = (_ROWS.c.rollout == rollout.id, _ROWS.c.state == "pushed")
    query = select(_ROWS.c.device, _PROGRESS.c.state, _PROGRESS.c.reason).where(*mine, *about)
    answers: dict[str, tuple[str, str]] = {}
    for device, state, reason in session.connection().execute(query):
        if state == "refused" or (state == "verified" and answers.get(device, ("",))[0] != "refused"):
            answers[device] = (state, reason)
    for device, (state, reason) in answers.items():
        twin_writes.record_device(session, rollout.id, device, state=state, reason=reason, t_us=now_us)


def rollout_status(session: Session, rollout: Rollout) -> RolloutStatus:
    """The counts that `rollout_rules.decide` needs."""
    grouped = select(_ROWS.c.stage, _ROWS.c.state, func.count()).where(_ROWS.c.rollout == rollout.id)
    found = {
        (stage, state): count
        for stage, state, count in session.connection().execute(grouped.group_by(_ROWS.c.stage, _ROWS.c.state))
    }
    touched = sum(count for (_, state), count in found.items() if state in HOLDING)
    refused = select(_ROWS.c.device, _ROWS.c.reason).where(_ROWS.c.rollout == rollout.id, _ROWS.c.state == "refused")
    refusal = session.connection().execute(refused.order_by(_ROWS.c.device).limit(1)).first()
    alarms, false = _alarms(session, rollout)
    return RolloutStatus(
        waiting=found.get((rollout.stage, "waiting"), 0), asked=found.get((rollout.stage, "pushed"), 0),
        verified=found.get((rollout.stage, "verified"), 0), touched=touched, left=touched,
        later=sum(count for (stage, _), count in found.items() if stage > rollout.stage),
        alarms=alarms, false=false, refused="" if refusal is None else f"{refusal.device} refused it: {refusal.reason}",
    )  # fmt: skip


def _alarms(session: Session, rollout: Rollout) -> tuple[int, int]:
    """(alarms, alarms judged false) of the pushed metrics on the pushed devices since the rollout started."""
    mine = (
        _ALARMS.c.device == _ROWS.c.device, _ROWS.c.rollout == rollout.id, _ROWS.c.state.in_(HOLDING),
        _ALARMS.c.received_us >= rollout.started_us, _ALARMS.c.about == "",
        _ALARMS.c.suppressed.in_(("", "shelved")),
    )  # fmt: skip
    query = select(_ALARMS.c.id, _ALARMS.c.metric, _ALARMS.c.verdict).where(*mine)
    if rollout.learning:
        series: Any = LearnedSeries.__table__  # type: ignore[attr-defined]
        query = query.where(
            series.c.learning == rollout.learning, series.c.device == _ALARMS.c.device,
            series.c.metric == _ALARMS.c.metric,
        )  # fmt: skip
    else:
        query = query.where(_ALARMS.c.metric.in_([row["metric"] for row in rollout.wanted]))
    found = session.connection().execute(query).all()
    return len(found), sum(row.verdict == "false-alarm" for row in found)


# -- reading ---------------------------------------------------------------------------------------


def get(session: Session, rollout_id: str) -> Rollout:
    """The rollout, or HubError 404."""
    row = session.get(Rollout, rollout_id)
    if row is None or not scopes.sees(session, row.devices):
        raise HubError(404, "No such rollout", f"'{rollout_id}' is not known")
    return row


def list_newest(session: Session, learning: str, limit: int) -> list[Rollout]:
    """The newest rollouts first, of one learning job or all."""
    query = sqlmodel.select(Rollout).order_by(col(Rollout.id).desc()).limit(limit)
    found = session.exec(query.where(Rollout.learning == learning) if learning else query)
    return [row for row in found if scopes.sees(session, row.devices)]


def devices(session: Session, rollout_id: str, state: str, after: str, limit: int) -> list[RolloutDevice]:
    """The state of its devices, by id, one page at a time."""
    get(session, rollout_id)
    mine = sqlmodel.select(RolloutDevice).where(RolloutDevice.rollout == rollout_id, RolloutDevice.device > after)
    if state:
        mine = mine.where(RolloutDevice.state == state)
    return list(session.exec(mine.order_by(RolloutDevice.device).limit(limit)))
