"""The peer monitor: compares each metric of learning jobs with `peers` between servers, in five-minute slots.

A slot is judged after it and a grace period have passed. Each run handles one metric: read, judged outside of any
transaction, and written with its alarms in one, so a restart continues where it was. When devices join or leave, or the
policy changes, the state is rebuilt from stored history, one day per run; active alarms are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import sqlmodel
from sqlalchemy import select
from sqlmodel import Session, col

from cloud_hub import query
from cloud_hub.clock import new_trace
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, LearnedSeries, LearningJob, PeerState
from cloud_hub.errors import HubError
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import NOTHING, WorkResult
from cloud_hub.thresholds.learning import history as learning_history
from cloud_hub.thresholds.learning import registry as learning_registry
from cloud_hub.thresholds.learning.core import safeguards
from cloud_hub.thresholds.monitoring import five_minute_means, peer_alarms
from cloud_hub.thresholds.monitoring.alarm_sink import AlarmSink
from cloud_hub.thresholds.monitoring.five_minute_means import SLOT_US
from cloud_hub.thresholds.peers import alarms as peer_rules
from cloud_hub.thresholds.peers.alarms import PeerAlarmTransition, PeerTask
from cloud_hub.thresholds.peers.detector import PeerDetector, thresholds
from cloud_hub.thresholds.scores.model import InvalidState
from cloud_hub.twins.core.reported_values import mapping
from shared.durations import DAY_US

log = logging.getLogger(__name__)

GRACE_US = 120_000_000
"""How late samples of a slot may arrive."""
RECENT_US = 3 * 3_600_000_000
"""More recent slots are read from samples, because their rollups may not exist yet."""
HISTORY_US = 21 * DAY_US
"""History that a new fleet learns from first."""

_SERIES: Any = LearnedSeries.__table__  # type: ignore[attr-defined]


class PeerMonitor:
    """Background worker; holds the tasks not yet judged in this round. There is one round per slot."""

    def __init__(self, db: Database, alarm_sink: AlarmSink) -> None:
        self._db, self._alarm_sink = db, alarm_sink
        self._left: list[PeerTask] = []
        self._end_us = 0

    def run_once(self, now_us: int) -> WorkResult:
        """Judge one metric; `again` while this round is not finished."""
        end_us = (now_us - GRACE_US) // SLOT_US * SLOT_US
        if not self._left and end_us == self._end_us:
            return NOTHING
        items = WorkItems(self._db, "peers", now_us)
        if not self._left:
            self._left, changed = _round(self._db, now_us, self._alarm_sink, items)
            self._end_us = end_us
        else:
            task = self._left[0]
            metric = partial(judge_metric, self._db, task, end_us, now_us, self._alarm_sink)
            behind, changed = items.run("metric", f"{task.learning}/{task.metric}", metric) or (False, False)
            if not behind and items.not_ready is None:
                del self._left[0]
        return items.result(again=bool(self._left), wake=["diagnosis"] if changed else ())


# -- the round -------------------------------------------------------------------------------------


def _round(db: Database, now_us: int, alarm_sink: AlarmSink, items: WorkItems) -> tuple[list[PeerTask], bool]:
    """(Tasks of this round, whether alarms changed); removes states that no learning job uses any more."""
    with db.read() as session:
        asked = [
            row
            for row in session.exec(sqlmodel.select(LearningJob).order_by(LearningJob.id))
            if mapping(row.policy).get("peers")
        ]
        false = peer_alarms.false_verdicts(session) if asked else {}
        known = set(session.exec(sqlmodel.select(PeerState.learning, PeerState.metric)))
    found = {row.id: items.run("learning", row.id, partial(_read_tasks, db, row, false)) for row in asked}
    tasks = [task for some in found.values() for task in some or ()]
    wanted = {(task.learning, task.metric) for task in tasks}
    unread = {name for name, some in found.items() if some is None}  # their active alarms are kept
    ended = [
        items.run("state", "/".join(key), partial(_remove, db, key, now_us, alarm_sink))
        for key in sorted(known - wanted) if key[0] not in unread
    ]  # fmt: skip
    return tasks, any(ended)


def _read_tasks(db: Database, row: LearningJob, false: Mapping[tuple[str, str, str], int]) -> list[PeerTask]:
    with db.read() as session:
        return _tasks(session, row, false)


def _tasks(session: Session, row: LearningJob, false: Mapping[tuple[str, str, str], int]) -> list[PeerTask]:
    """The learning's metrics with the devices that have them. Two queries, however many there are."""
    policy = learning_registry.policy_of(row)
    try:
        members = query.matching(session, row.target, row.scope)
    except HubError:  # its target is no longer valid; the refit reports it
        return []
    pairs = select(_SERIES.c.metric, _SERIES.c.device).where(
        _SERIES.c.learning == row.id, _SERIES.c.device.in_(members)
    )
    found: dict[str, list[str]] = {}
    for metric, device in session.connection().execute(pairs.order_by(_SERIES.c.metric)):
        found.setdefault(metric, []).append(device)
    tags = dict(session.exec(sqlmodel.select(Device.id, Device.tags).where(col(Device.id).in_(members))).all())
    tasks = []
    for metric, devices in found.items():
        fleet = peer_rules.fleet_of({device: tags[device] for device in devices if device in tags}, policy.peers)
        side = policy.side(metric)
        form = f"{policy.peers} {side}"
        tasks.append(PeerTask(learning=row.id, metric=metric, fleet=fleet, side=side, form=form))
    servers = sum(len(task.fleet.devices) for task in tasks)
    if not servers:
        return tasks
    evidence = thresholds(2 * policy.pages_per_shift, servers, sum(len(task.fleet.names) for task in tasks))
    return [replace(one, limits=peer_alarms.alarm_thresholds(one.metric, one.fleet, evidence, false)) for one in tasks]


def _remove(db: Database, key: tuple[str, str], now_us: int, alarm_sink: AlarmSink) -> bool:
    with db.write() as session:
        row = session.get(PeerState, key, with_for_update=True)
        if row is None:
            return False
        for one in row.standing:
            alarm = peer_alarms.cleared_alarm(row.metric, one, now_us, 0.0, 0.0)
            alarm_sink(session, one["on"], alarm, now_us, new_trace())
        session.delete(row)
        return bool(row.standing)


# -- one metric ------------------------------------------------------------------------------------


def judge_metric(db: Database, task: PeerTask, end_us: int, now_us: int, alarm_sink: AlarmSink) -> tuple[bool, bool]:
    """Judge new slots of a metric up to `end_us`, at most one day: (whether there are more, whether alarms changed)."""
    with db.read() as session:
        old = session.get(PeerState, (task.learning, task.metric))
        row, peers = _open_state(old, task, end_us)
        until_us, values = _read_values(session, task, row.upto_us, end_us)
        _exclude_alarms(session, task, row, values)
    t_us = np.arange(row.upto_us, until_us, SLOT_US)
    if peers is None:
        first = peer_rules.warmup_start(values) if task.fleet.devices else len(values)
        t_us, values = t_us[first:], values[first:]
    members = task.fleet.members()
    kept = {(one["device"], one["service"]): one for one in row.standing}
    standing = {n: kept[member]["calm"] for n, member in enumerate(members) if member in kept}
    changes: list[PeerAlarmTransition] = []
    if t_us.size:
        peers = peers or PeerDetector(1, np.array(task.fleet.service), sides=[task.side])
        standing, changes = peer_rules.advance(
            peers, task.fleet.service, t_us, values, task.limits, standing, row.live_us
        )  # fmt: skip
    with db.write() as session:
        now = session.get(PeerState, (task.learning, task.metric), with_for_update=True)
        if _revision(now) != _revision(old) or session.get(LearningJob, task.learning) is None:  # changed meanwhile
            return False, False
        row.standing = peer_alarms.report_changes(session, task, members, changes, standing, kept, now_us, alarm_sink)
        row.state, row.upto_us = b"" if peers is None else peers.pack(), max(until_us, row.upto_us)
        session.merge(row)
    return row.upto_us < end_us, bool(changes)


def _exclude_alarms(session: Session, task: PeerTask, row: PeerState, values: five_minute_means.Doubles) -> None:
    """Mask, in place, history in alarms that nobody judged false: a rebuilt state would learn the fault."""
    end_us = min(row.upto_us + len(values) * SLOT_US, row.live_us)
    if end_us <= row.upto_us:
        return
    t_us = np.arange(row.upto_us, end_us, SLOT_US)
    alarms = learning_history.unjudged(session, task.fleet.devices, row.upto_us, end_us)
    for number, device in enumerate(task.fleet.devices):
        keep = safeguards.ordinary(t_us, alarms.get((device, task.metric), ()))
        values[: t_us.size, number][~keep] = np.nan


def _revision(row: PeerState | None) -> tuple[int, int, str] | None:
    return None if row is None else (row.upto_us, row.live_us, row.form)


def _open_state(old: PeerState | None, task: PeerTask, end_us: int) -> tuple[PeerState, PeerDetector | None]:
    """The stored state, or a new one that starts with history and has no detector yet."""
    fleet = task.fleet
    services = [fleet.names[number] for number in fleet.service]
    if old is not None and (old.form, old.devices, old.services) == (task.form, list(fleet.devices), services):
        try:
            same = PeerState(**old.model_dump() | {"left_out": dict(fleet.left_out)})
            return same, PeerDetector.unpack(old.state) if old.state else None
        except InvalidState:  # of another version
            pass
    live_us = end_us if old is None else max(old.upto_us, old.live_us)
    log.info("peers.rebuilt", extra={"fields": {"learning": task.learning, "metric": task.metric,
             "devices": len(fleet.devices), "left_out": len(fleet.left_out)}})  # fmt: skip
    fresh = PeerState(
        learning=task.learning, metric=task.metric, form=task.form, devices=list(fleet.devices), services=services,
        left_out=dict(fleet.left_out), standing=old.standing if old else [], state=b"",
        upto_us=max(live_us - HISTORY_US, 0), live_us=live_us,
    )  # fmt: skip
    return fresh, None


def _read_values(session: Session, task: PeerTask, start_us: int, end_us: int) -> tuple[int, Any]:
    """(end of the slots read, means [T, N] of these slots)."""
    devices, border_us = task.fleet.devices, end_us - RECENT_US
    if start_us >= end_us or not devices:
        return max(start_us, end_us), np.zeros((max(end_us - start_us, 0) // SLOT_US, len(devices)))
    if start_us < border_us:
        until_us = min(border_us, start_us + DAY_US)
        return until_us, five_minute_means.means_from_rollups(session, task.metric, devices, start_us, until_us)
    return end_us, five_minute_means.means_from_samples(session, task.learning, task.metric, devices, start_us, end_us)
