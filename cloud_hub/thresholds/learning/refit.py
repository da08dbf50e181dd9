"""Scheduled refits: a learning job's series are fitted and backtested one page of devices at a time, then rolled out.

Each run reads one page of devices, fits outside of any transaction, and writes the page with the position to continue
from, so a restart loses at most one page. All pages use history up to the start of the refit, so the same data give
the same limits however often the refit was interrupted (P7).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import sqlmodel
from sqlalchemy import bindparam, insert, select, update
from sqlmodel import Session, col

from cloud_hub import query
from cloud_hub.audit import trail
from cloud_hub.clock import new_id, new_trace
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, LearnedSeries, LearningJob, Rollout, RolloutDevice
from cloud_hub.errors import HubError
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import NOTHING, WorkResult
from cloud_hub.thresholds.learning import history as learning_history
from cloud_hub.thresholds.learning import registry as learning_registry
from cloud_hub.thresholds.learning import trials
from cloud_hub.thresholds.learning.core.policy import LimitPolicy, widening_factor
from cloud_hub.thresholds.learning.core.safeguards import Known
from cloud_hub.thresholds.learning.core.trainer import History, learn_limits
from cloud_hub.thresholds.learning.core.trial import Feedback, Trial, proposals, run_trial
from cloud_hub.thresholds.limits import standing as limits_standing
from cloud_hub.thresholds.limits.standing import Series
from cloud_hub.thresholds.rollouts import service as rollout_service
from cloud_hub.thresholds.rollouts import twin_writes
from cloud_hub.thresholds.rollouts.core import rules as rollout_rules
from cloud_hub.twins.core import reported_values
from shared.codec import plain
from shared.durations import DAY_US
from shared.thresholds import Limits

log = logging.getLogger(__name__)

PAGE = 20
"""Devices of one page."""

_ROWS: Any = LearnedSeries.__table__  # type: ignore[attr-defined]
_KEY = ("learning", "device", "metric")
_UPDATE = update(_ROWS).where(*(_ROWS.c[name] == bindparam(f"b_{name}") for name in _KEY))


def run_once(db: Database, now_us: int) -> WorkResult:
    """Process the next page of the refit that is due; other writers get the database between pages."""
    items = WorkItems(db, "refit", now_us)
    with db.read() as session:
        name = session.exec(_due(now_us, items.ready("learning", LearningJob.id))).first()
    if name is None:
        return NOTHING
    items.run("learning", name, partial(_process_page, db, name, now_us))
    return items.result(again=True, wake=["rollouts"])


def _process_page(db: Database, name: str, now_us: int) -> None:
    """Process the next page of one refit."""
    with db.read() as session:
        row = session.get(LearningJob, name)
        if row is None:
            return
        try:
            page = None if row.refit is None else _page(session, row, row.refit["now_us"], row.refit["after"])
        except HubError as error:  # for example, its target is no longer valid
            _give_up(db, row, now_us, str(error))
            return
    if page is None:
        _begin(db, row.id, now_us)
    elif page.devices:
        _write(db, row.id, page, _fit_page(page))
    else:
        _finish(db, row.id, now_us)


def _due(now_us: int, ready: Any) -> Any:
    """The learning whose refit is due. Those with an active rollout wait: its limits must not change meanwhile."""
    busy = select(col(Rollout.learning)).where(col(Rollout.state).in_(rollout_service.ACTIVE))
    due = sqlmodel.select(LearningJob.id).where(LearningJob.due_us <= now_us, col(LearningJob.id).not_in(busy), ready)
    return due.order_by(col(LearningJob.due_us), LearningJob.id).limit(1)


def _begin(db: Database, name: str, now_us: int) -> None:
    with db.write() as session:
        row = learning_registry.get(session, name, lock=True)
        row.refit = {"now_us": now_us, "after": ""}
        session.add(row)


def _give_up(db: Database, seen: LearningJob, now_us: int, reason: str) -> None:
    """Abandon this refit with a reason; the next one starts when it is due."""
    with db.write() as session:
        row = learning_registry.get(session, seen.id, lock=True)
        row.refit, row.reason = None, reason[:500]
        row.due_us = now_us + int(learning_registry.policy_of(row).refit_days * DAY_US)
        session.add(row)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitPage:
    """Input of the fit for one page of devices, independent of the database: the histories of their series, and for
    each series the limits in force, people's feedback, the widening factor, and its alarms and range.
    """

    policy: LimitPolicy
    now_us: int
    devices: list[str]
    histories: list[History]
    present: dict[Series, Limits]
    feedback: dict[Series, Feedback]
    factors: dict[Series, float]
    known: dict[Series, Known]


def _page(session: Session, row: LearningJob, now_us: int, after: str) -> RefitPage:
    policy = learning_registry.policy_of(row)
    devices = query.devices(session, row.target, after=after, limit=PAGE, scope=row.scope)
    series = learned_series(session, devices, policy)
    from_us = now_us - int(policy.train_days * DAY_US)
    present = limits_standing.present(session, devices)
    return RefitPage(
        policy=policy, now_us=now_us, devices=devices, present=present,
        known=dict(zip(series, learning_history.known(session, series, from_us, now_us, present), strict=True)),
        feedback=learning_history.load_feedback(session, series, now_us - int(policy.backtest_days * DAY_US), now_us),
        histories=[learning_history.history(session, one, from_us, now_us) for one in series],
        factors=_factors(session, row.id, devices),
    )  # fmt: skip


def learned_series(session: Session, devices: list[str], policy: LimitPolicy) -> list[Series]:
    """The series of these devices that match the policy, by the devices' births."""
    rows = session.exec(
        sqlmodel.select(Device.id, Device.metrics).where(col(Device.id).in_(devices)).order_by(Device.id)
    )
    return [
        (device, name)
        for device, metrics in rows
        for name, kind in sorted(reported_values.metrics(metrics).items())
        if policy.wants(name, kind)
    ]


def first_series(session: Session, row: LearningJob, policy: LimitPolicy, devices: int) -> list[Series]:
    """The series of the first `devices` devices, by id."""
    return learned_series(session, query.devices(session, row.target, limit=devices, scope=row.scope), policy)


def _factors(session: Session, name: str, devices: list[str]) -> dict[Series, float]:
    """The widening factor of each series with verdicts."""
    pushed = select(_ROWS.c.device, _ROWS.c.metric).where(
        _ROWS.c.learning == name, _ROWS.c.device.in_(devices), _ROWS.c.pushed_us.is_not(None)
    )  # fmt: skip
    found: dict[Series, float] = {}
    for device, metric in session.connection().execute(pushed):
        seen = learning_registry.counts(session, name, (device, metric))
        found[device, metric] = widening_factor(seen.false, seen.missed)
    return found


def _fit_page(page: RefitPage) -> list[dict[str, Any]]:
    """A row of each series; one that cannot be fitted keeps its last limits, which become stale."""
    try:
        return _rows(page, page.histories)
    except Exception:
        log.exception("refit.page_failed", extra={"fields": {"devices": page.devices}})
    return [row for history in page.histories for row in _fit_alone(page, history)]


def _fit_alone(page: RefitPage, history: History) -> list[dict[str, Any]]:
    """The row of one series; any error becomes its reason."""
    try:
        return _rows(page, [history])
    except Exception as error:
        log.exception("refit.series_failed", extra={"fields": {"device": history.device, "metric": history.metric}})
        reason = f"the hub failed: {type(error).__name__}; see its log"
        factor = page.factors.get((history.device, history.metric), 1.0)
        return [{"device": history.device, "metric": history.metric, "factor": factor, "trial": None, "reason": reason}]


def _rows(page: RefitPage, histories: list[History]) -> list[dict[str, Any]]:
    policy, now_us = page.policy, page.now_us
    begin = now_us - int(policy.backtest_days * DAY_US)
    keys = [(history.device, history.metric) for history in histories]
    factors = [page.factors.get(key, 1.0) for key in keys]
    known = [page.known[key] for key in keys]
    before, found = learn_limits(histories, policy, factors, [begin, now_us], known)
    proposed = proposals(before, found)
    rows = []
    for index, key in enumerate(keys):
        present, limits = page.present.get(key), found[index]
        trial = run_trial(histories[index], present, proposed[index], page.feedback[key], begin, now_us)
        row = {"device": key[0], "metric": key[1], "factor": factors[index], "trial": trials.without_episodes(trial)}
        reason = limits if isinstance(limits, str) else _withheld(known[index], trial, before[index], policy)
        if reason or isinstance(limits, str):
            rows.append(row | {"reason": reason})
            continue
        priority = present.priority if present is not None else limits.priority
        rows.append(row | {"reason": "", "limits": plain(replace(limits, priority=priority)), "fitted_us": now_us})
    return rows


def _withheld(known: Known, trial: Trial, before: Limits | str, policy: LimitPolicy) -> str:
    """Why learned limits may not replace those in force, or ''."""
    if known.standing_us:
        return twin_writes.KEPT
    if isinstance(before, str):
        return f"no out-of-sample backtest: before the last {policy.backtest_days:g} days {before}"[:500]
    if not trial.points:
        return f"no out-of-sample backtest: no samples in the last {policy.backtest_days:g} days"
    return ""


def _write(db: Database, name: str, page: RefitPage, rows: list[dict[str, Any]]) -> None:
    with db.write() as session:
        row = learning_registry.get(session, name, lock=True)
        if row.refit is None or row.refit["now_us"] != page.now_us:  # its policy was changed meanwhile
            return
        known = select(_ROWS.c.device, _ROWS.c.metric, _ROWS.c.factor).where(
            _ROWS.c.learning == name, _ROWS.c.device.in_(page.devices)
        )
        there = {(one.device, one.metric): one.factor for one in session.connection().execute(known)}
        for one in rows:
            key = (one["device"], one["metric"])
            if key in there:
                keys = {"b_learning": name, "b_device": key[0], "b_metric": key[1]}
                values = {field: value for field, value in one.items() if field not in {"device", "metric"}}
                session.connection().execute(_UPDATE.values({field: bindparam(field) for field in values}),
                                             keys | values)  # fmt: skip
            else:
                session.connection().execute(insert(_ROWS), {"learning": name, "fitted_us": 0} | one)
            if one["factor"] != there.get(key, 1.0):
                trail.add(session, page.now_us, "hub", "learning.corrected", name, device=key[0], metric=key[1],
                          factor=one["factor"], before=there.get(key, 1.0))  # fmt: skip
        row.refit = row.refit | {"after": page.devices[-1]}
        session.add(row)


def _finish(db: Database, name: str, now_us: int) -> None:
    """End the refit after its last page: hold the limits back, or start their rollout with the canaries."""
    with db.write() as session:
        row = learning_registry.get(session, name, lock=True)
        if row.refit is None:
            return
        policy, began = learning_registry.policy_of(row), row.refit["now_us"]
        row.refit, row.due_us = None, began + int(policy.refit_days * DAY_US)
        session.add(row)
        devices = _ready(session, name, began)
        backtest = trials.learning_trials(session, name)
        trace = new_trace()
        row.reason = _hold_back_reason(session, name, devices, backtest, policy)
        if row.reason:
            trail.add(session, now_us, "hub", "learning.held", name, trace=trace, reason=row.reason, backtest=backtest)
            return
        first = rollout_rules.choose_canaries(devices, policy.canary, str(began))
        trial = Rollout(
            id=new_id(),
            devices=devices,
            learning=name,
            started_us=now_us,
            watch_s=policy.watch_s,
            max_alarms=policy.max_alarms,
            max_false_alarms=policy.max_false_alarms,
            canaries=len(first),
            stage_us=now_us,
            backtest=backtest,
            traceparent=trace,
        )
        rollout_service.begin(
            session, trial, {device: int(device not in first) for device in devices}, f"learning:{name}"
        )
        row.reason = f"rollout {trial.id}"


def _hold_back_reason(
    session: Session, name: str, devices: list[str], backtest: dict[str, Any], policy: LimitPolicy
) -> str:
    if not devices:
        first = select(_ROWS.c.device, _ROWS.c.metric, _ROWS.c.reason).where(
            _ROWS.c.learning == name, _ROWS.c.reason != ""
        )
        one = session.connection().execute(first.order_by(_ROWS.c.device, _ROWS.c.metric).limit(1)).first()
        why = "see the reasons of its series" if one is None else f"{one.metric} of {one.device}: {one.reason}"
        return f"no series could be learned: {why}"[:500]
    if backtest["per_device_week"] > policy.max_backtest:
        return (f"held back: the backtest gave {backtest['per_device_week']:.2f} alarms a device and week, "
                f"max_backtest is {policy.max_backtest:g}")  # fmt: skip
    return ""


def _ready(session: Session, name: str, began_us: int) -> list[str]:
    """Devices with limits of this refit that are not in another active rollout."""
    members: Any = RolloutDevice.__table__  # type: ignore[attr-defined]
    busy = select(members.c.device).where(
        members.c.rollout.in_(select(col(Rollout.id)).where(col(Rollout.state).in_(rollout_service.ACTIVE)))
    )  # fmt: skip
    found = select(_ROWS.c.device).distinct().where(
        _ROWS.c.learning == name, _ROWS.c.fitted_us == began_us, _ROWS.c.device.not_in(busy)
    )  # fmt: skip
    return list(session.connection().execute(found.order_by(_ROWS.c.device)).scalars())
