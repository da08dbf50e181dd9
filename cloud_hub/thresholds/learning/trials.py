"""Backtests limits of many series over stored history, before they are pushed or on request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import select
from sqlmodel import Session

from cloud_hub.database.tables import LearnedSeries
from cloud_hub.thresholds.learning import history as learning_history
from cloud_hub.thresholds.learning.core.policy import LimitPolicy
from cloud_hub.thresholds.learning.core.trainer import learn_limits
from cloud_hub.thresholds.learning.core.trial import Proposal, Trial, proposals, run_trial
from cloud_hub.thresholds.limits import standing as limits_standing
from cloud_hub.thresholds.limits.standing import Series
from shared.durations import DAY_US
from shared.thresholds import Limits

DAYS = 7.0
"""Days of history on which manually pushed limits are tested."""
DEVICES = 20
"""Devices on which manually pushed limits are tested."""

_ROWS: Any = LearnedSeries.__table__  # type: ignore[attr-defined]


def trial_series(
    session: Session, series: Sequence[Series], policy: LimitPolicy, from_us: int, to_us: int,
    proposed: dict[str, Limits] | None = None,
) -> list[Trial]:  # fmt: skip
    """Backtest each series with its present limits and with `proposed` (by metric), or those learned from history."""
    present = limits_standing.present(session, sorted({device for device, _ in series}))
    feedback = learning_history.load_feedback(session, series, from_us, to_us)
    before_us = from_us if proposed is not None else from_us - int(policy.train_days * DAY_US)
    histories = [learning_history.history(session, one, before_us, to_us) for one in series]
    if proposed is None:
        known = learning_history.known(session, series, before_us, to_us, present)
        wanted = proposals(*learn_limits(histories, policy, [1.0] * len(series), [from_us, to_us], known))
    else:
        wanted = [Proposal(limits=proposed.get(metric)) for _, metric in series]
    return [
        run_trial(history, present.get(one), proposal, feedback[one], from_us, to_us)
        for one, history, proposal in zip(series, histories, wanted, strict=True)
    ]


def trial_manual_limits(
    session: Session, devices: Sequence[str], limits: Sequence[Limits], now_us: int
) -> dict[str, Any]:
    """The alarms that manual limits would have raised, before they are pushed; `points` 0: there is no history."""
    proposed = {one.metric: one for one in limits}
    series = [(device, metric) for device in devices[:DEVICES] for metric in proposed]
    found = trial_series(session, series, LimitPolicy(metrics=("*",)), now_us - int(DAYS * DAY_US), now_us, proposed)
    return summarize_trials((one.device, without_episodes(one)) for one in found)


def learning_trials(session: Session, name: str) -> dict[str, Any]:
    """The summary of the trials of a learning job's series, from its latest refit."""
    found = select(_ROWS.c.device, _ROWS.c.trial).where(_ROWS.c.learning == name, _ROWS.c.trial.is_not(None))
    return summarize_trials((device, trial) for device, trial in session.connection().execute(found))


def summarize_trials(trials: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Alarms per device and week with proposed and with present limits; faults hit and missed; known false alarms."""
    devices: set[str] = set()
    weekly = {"proposed": 0.0, "present": 0.0}
    counted = dict.fromkeys(("points", "alarms", "hit", "missed", "false", "in_sample"), 0)
    for device, trial in trials:
        devices.add(device)
        counted["points"] += trial["points"]
        counted["in_sample"] += trial["in_sample"]
        for side in weekly:
            weekly[side] += trial[side]["per_week"] if trial[side] else 0.0
        for key in ("alarms", "hit", "missed", "false") if trial["proposed"] else ():
            counted[key] += trial["proposed"][key]
    many = max(1, len(devices))
    return {"devices": len(devices), "per_device_week": round(weekly["proposed"] / many, 6),
            "present_per_device_week": round(weekly["present"] / many, 6)} | counted  # fmt: skip


def without_episodes(trial: Trial) -> dict[str, Any]:
    """A trial as it is stored: without its episodes."""
    row = asdict(trial)
    for side in ("present", "proposed"):
        if row[side] is not None:
            del row[side]["episodes"]
    return row
