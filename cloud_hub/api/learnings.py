"""/api/v1/learnings and /api/v1/thresholds/fit: learning of limits, and its results."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from cloud_hub.api.dependencies import Operator, Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.database.tables import LearnedSeries, Learning, Rollout
from cloud_hub.devices import registry as fleet
from cloud_hub.errors import HubError
from cloud_hub.thresholds.bands import fit
from cloud_hub.thresholds.learning import history, trials
from cloud_hub.thresholds.learning import registry as learnings
from cloud_hub.thresholds.learning.core import safeguards
from cloud_hub.thresholds.learning.core.policy import LimitPolicy
from cloud_hub.thresholds.learning.registry import Counts, PeerSummary
from cloud_hub.thresholds.limits import standing as limits_standing
from cloud_hub.thresholds.rollouts import service as rollout
from shared.codec import plain
from shared.ids import NAME
from shared.thresholds import Limits

router = APIRouter(prefix="/api/v1", tags=["learnings"])


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LearningBody(_Body):
    """What to learn: `target` is a condition of the query language."""

    target: str = Field(min_length=1, max_length=4000)
    policy: LimitPolicy


class LearningView(BaseModel):
    """A learning, its series by state, its alarm counts, backtest and newest rollout, and its live monitoring.

    `raised`: decades by which monitoring has raised its threshold above the budget's, in the group with the most.
    """

    learning: Learning
    standing: dict[str, int]
    counts: Counts
    backtest: dict[str, Any]
    rollout: Rollout | None
    peers: list[PeerSummary]
    raised: float


class ReleaseLimits(_Body):
    """Metrics of a device whose manual limits the learning may replace; without metrics, all that it learns there."""

    device: str
    metrics: list[str] = Field(default=[], max_length=1000)


class FitBody(_Body):
    """Learn limits of one metric from the device's history of the last `days` days."""

    device: str
    metric: str
    days: float = Field(default=14.0, gt=0, le=400)


@router.get("/learnings")
def list_all(hub: TheHub, caller: Reader) -> list[Learning]:
    """All learnings, by name."""
    with hub.db.read(scope=caller.scope) as session:
        return learnings.list_all(session)


@router.get("/learnings/{learning_id}")
def get(learning_id: str, hub: TheHub, caller: Reader) -> LearningView:
    """A learning with its alarm counts, judged by people's verdicts."""
    with hub.db.read(scope=caller.scope) as session:
        row = learnings.get(session, learning_id)
        return LearningView(
            learning=row,
            standing=learnings.status_counts(session, row.id, now_us(), learnings.policy_of(row).stale_s),
            counts=learnings.counts(session, row.id),
            backtest=trials.learning_trials(session, row.id),
            rollout=next(iter(rollout.list_newest(session, row.id, 1)), None),
            peers=learnings.peer_summaries(session, row.id),
            raised=learnings.budget_correction(session, row.id),
        )


@router.get("/learnings/{learning_id}/series")
def series(
    learning_id: str, hub: TheHub, caller: Reader, device: str = "", after: str = "", limit: int = 100
) -> list[LearnedSeries]:
    """Series of a learning; give `device/metric` of the last one as `after` for the next page."""
    with hub.db.read(scope=caller.scope) as session:
        learnings.get(session, learning_id)
        return learnings.series(session, learning_id, device, after, min(max(limit, 1), 1000))


@router.put("/learnings/{learning_id}")
def put(learning_id: str, body: LearningBody, hub: TheHub, caller: Operator, answer: Response) -> Learning:
    """Create a learning (201) or change it; a refit starts at once."""
    if not NAME.match(learning_id):
        raise HubError(422, "Invalid request", "path.learning_id: use 1 to 64 of a-z A-Z 0-9 _ -")
    now, scope = now_us(), None if caller.scope is None else list(caller.scope)
    row = Learning(id=learning_id, target=body.target, policy=plain(body.policy), actor=caller.actor, created_us=now,
                   scope=scope, due_us=now)  # fmt: skip
    with hub.db.write(scope=caller.scope) as session:
        stored, new = learnings.put(session, row, caller.trace)
    hub.notify("refit")
    answer.status_code = 201 if new else 200
    return stored


@router.delete("/learnings/{learning_id}", status_code=204)
def remove(learning_id: str, hub: TheHub, caller: Operator) -> None:
    """Delete a learning; limits that it pushed stay in force."""
    with hub.db.write(scope=caller.scope) as session:
        learnings.remove(session, learning_id, now_us(), caller.actor, caller.trace)


@router.post("/learnings/{learning_id}/refit", status_code=202)
def refit_now(learning_id: str, hub: TheHub, caller: Operator) -> Learning:
    """Start a refit now."""
    with hub.db.write(scope=caller.scope) as session:
        row = learnings.refit_now(session, learning_id, now_us(), caller.actor, caller.trace)
    hub.notify("refit")
    return row


@router.post("/learnings/{learning_id}/release")
def release(learning_id: str, body: ReleaseLimits, hub: TheHub, caller: Operator) -> list[str]:
    """Let a learning replace limits that were set by hand on a device; returns their metrics."""
    with hub.db.write(scope=caller.scope) as session:
        fleet.require_device(session, body.device)
        return learnings.release(
            session, learning_id, body.device, body.metrics, now_us(), caller.actor, caller.trace
        )  # fmt: skip


@router.post("/thresholds/fit")
def fit_limits(body: FitBody, hub: TheHub, caller: Operator) -> Limits:
    """Learned limits; nothing is pushed. Start a rollout with them when they look right.

    They are learned from the same history as a refit: samples, before those the means of rollups, without samples
    inside alarms that nobody judged false.
    """
    now = now_us()
    with hub.db.read(scope=caller.scope) as session:
        fleet.get_device(session, body.device)
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
