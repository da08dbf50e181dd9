"""/api/v1/learning-jobs and /api/v1/thresholds/fit: learning of limits, and its results."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from cloud_hub.api.dependencies import Operator, Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.database.tables import LearnedSeries, LearningJob, Rollout
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.thresholds.bands import fit
from cloud_hub.thresholds.learning import history, trials
from cloud_hub.thresholds.learning import registry as learning_registry
from cloud_hub.thresholds.learning.core import safeguards
from cloud_hub.thresholds.learning.core.policy import LimitPolicy
from cloud_hub.thresholds.learning.registry import Counts, PeerSummary
from cloud_hub.thresholds.limits import standing as limits_standing
from cloud_hub.thresholds.rollouts import service as rollout_service
from shared.codec import plain
from shared.ids import NAME
from shared.thresholds import Limits

router = APIRouter(prefix="/api/v1", tags=["learning_jobs"])


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LearningBody(_Body):
    """What to learn: `target` is a condition of the query language."""

    target: str = Field(min_length=1, max_length=4000)
    policy: LimitPolicy


class LearningView(BaseModel):
    """A learning job, its series by state, its alarm counts, backtest and newest rollout, and its live monitoring.

    `raised`: decades by which monitoring has raised its threshold above the budget's, in the group with the most.
    """

    learning: LearningJob
    standing: dict[str, int]
    counts: Counts
    backtest: dict[str, Any]
    rollout: Rollout | None
    peers: list[PeerSummary]
    raised: float


class ReleaseLimits(_Body):
    """Metrics of a device whose manual limits a learning job may replace; without metrics, all that it learns."""

    device: str
    metrics: list[str] = Field(default=[], max_length=1000)


class FitBody(_Body):
    """Learn limits of one metric from the device's history of the last `days` days."""

    device: str
    metric: str
    days: float = Field(default=14.0, gt=0, le=400)


@router.get("/learning-jobs")
def list_all(hub: TheHub, caller: Reader) -> list[LearningJob]:
    """All learning jobs, by name."""
    with hub.db.read(scope=caller.scope) as session:
        return learning_registry.list_all(session)


@router.get("/learning-jobs/{learning_job_id}")
def get(learning_job_id: str, hub: TheHub, caller: Reader) -> LearningView:
    """A learning job with its alarm counts, judged by people's verdicts."""
    with hub.db.read(scope=caller.scope) as session:
        row = learning_registry.get(session, learning_job_id)
        return LearningView(
            learning=row,
            standing=learning_registry.status_counts(
                session, row.id, now_us(), learning_registry.policy_of(row).stale_s
            ),
            counts=learning_registry.counts(session, row.id),
            backtest=trials.learning_trials(session, row.id),
            rollout=next(iter(rollout_service.list_newest(session, row.id, 1)), None),
            peers=learning_registry.peer_summaries(session, row.id),
            raised=learning_registry.budget_correction(session, row.id),
        )


@router.get("/learning-jobs/{learning_job_id}/series")
def series(
    learning_job_id: str, hub: TheHub, caller: Reader, device: str = "", after: str = "", limit: int = 100
) -> list[LearnedSeries]:
    """Series of a learning job; give `device/metric` of the last one as `after` for the next page."""
    with hub.db.read(scope=caller.scope) as session:
        learning_registry.get(session, learning_job_id)
        return learning_registry.series(session, learning_job_id, device, after, min(max(limit, 1), 1000))


@router.put("/learning-jobs/{learning_job_id}")
def put(learning_job_id: str, body: LearningBody, hub: TheHub, caller: Operator, answer: Response) -> LearningJob:
    """Create a learning job (201) or change it; a refit starts at once."""
    if not NAME.match(learning_job_id):
        raise HubError(422, "Invalid request", "path.learning_job_id: use 1 to 64 of a-z A-Z 0-9 _ -")
    now, scope = now_us(), None if caller.scope is None else list(caller.scope)
    row = LearningJob(id=learning_job_id, target=body.target, policy=plain(body.policy), actor=caller.actor,
                      created_us=now, scope=scope, due_us=now)  # fmt: skip
    with hub.db.write(scope=caller.scope) as session:
        stored, new = learning_registry.put(session, row, caller.trace)
    hub.notify("refit")
    answer.status_code = 201 if new else 200
    return stored


@router.delete("/learning-jobs/{learning_job_id}", status_code=204)
def remove(learning_job_id: str, hub: TheHub, caller: Operator) -> None:
    """Delete a learning job; limits that it pushed stay in force."""
    with hub.db.write(scope=caller.scope) as session:
        learning_registry.remove(session, learning_job_id, now_us(), caller.actor, caller.trace)


@router.post("/learning-jobs/{learning_job_id}/refit", status_code=202)
def refit_now(learning_job_id: str, hub: TheHub, caller: Operator) -> LearningJob:
    """Start a refit now."""
    with hub.db.write(scope=caller.scope) as session:
        row = learning_registry.refit_now(session, learning_job_id, now_us(), caller.actor, caller.trace)
    hub.notify("refit")
    return row


@router.post("/learning-jobs/{learning_job_id}/release")
def release(learning_job_id: str, body: ReleaseLimits, hub: TheHub, caller: Operator) -> list[str]:
    """Let a learning job replace limits that were set by hand on a device; returns their metrics."""
    with hub.db.write(scope=caller.scope) as session:
        device_registry.require_device(session, body.device)
        return learning_registry.release(
            session, learning_job_id, body.device, body.metrics, now_us(), caller.actor, caller.trace
        )  # fmt: skip


@router.post("/thresholds/fit")
def fit_limits(body: FitBody, hub: TheHub, caller: Operator) -> Limits:
    """Learned limits; nothing is pushed. Start a rollout with them when they look right.

    They are learned from the same history as a refit: samples, before those the means of rollups, without samples
    inside alarms that nobody judged false.
    """
    now = now_us()
    with hub.db.read(scope=caller.scope) as session:
        device_registry.get_device(session, body.device)
        key, from_us = (body.device, body.metric), now - int(body.days * 86400e6)
        past = history.history(session, key, from_us, now)
        present = limits_standing.present(session, [body.device])
        (known,) = history.known(session, [key], from_us, now, present)
    ordinary = past.without(known.alarms)
    try:
        safeguards.enough(body.metric, ordinary.t_us, past.t_us.size - ordinary.t_us.size)
        found = fit.fit(body.metric, ordinary.t_us, ordinary.values, now_us=now, period_s=past.period_s)
        return safeguards.bounded(found, ordinary.values, known)
    except ValueError as error:
        raise HubError(422, "Not enough to learn from", str(error)) from error
