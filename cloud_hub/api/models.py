"""/api/v1/escalations, /thresholds and /scaling: what went up, which limits are pushed, how many replicas there are."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import col, select

from cloud_hub.api.hub import Operator, Reader, TheHub
from cloud_hub.api.request_guard import Limit, declare
from cloud_hub.clock import now_us
from cloud_hub.database import scopes
from cloud_hub.database.tables import EscalationRow, Rollout, ScaleStep
from cloud_hub.devices import registry as fleet
from cloud_hub.errors import HubError
from cloud_hub.thresholds.bands import fit
from cloud_hub.thresholds.learning import history as stored
from cloud_hub.thresholds.learning import trials
from cloud_hub.thresholds.learning.core import safeguards
from cloud_hub.thresholds.limits import standing as limits_standing
from cloud_hub.thresholds.rollouts import service as rollout
from shared.thresholds import Limits

router = APIRouter(prefix="/api/v1", tags=["models"])


class EscalationView(BaseModel):
    """An escalation without its frame."""

    id: str
    device: str
    model: str
    number: int
    reason: str
    label: str
    margin: float
    answer: str | None
    confidence: float | None
    expert: str
    t_us: int
    received_us: int
    answered_us: int | None
    wire_bytes: int


class RolloutBody(BaseModel):
    """Limits for canary devices: taken back when they raise more than `max_alarms` alarms within `watch_s` seconds.

    Refused when a replay of the last 7 days gives more than `max_backtest` alarms a device and week, unless
    `override` says why it is done all the same.
    """

    model_config = ConfigDict(extra="forbid")
    devices: list[str] = Field(min_length=1, max_length=1000)
    limits: list[Limits] = Field(min_length=1, max_length=1000)
    watch_s: float = Field(default=600.0, gt=0, le=7 * 86400)
    max_alarms: int = Field(default=3, ge=0, le=1_000_000)
    max_backtest: float = Field(default=7.0, ge=0, le=1e6)
    override: str = Field(default="", max_length=500)


class FitBody(BaseModel):
    """Learn limits of one metric from the device's history of the last `days` days."""

    model_config = ConfigDict(extra="forbid")
    device: str
    metric: str
    days: float = Field(default=14.0, gt=0, le=400)


@router.get("/escalations")
def escalations(
    hub: TheHub, caller: Reader, device: str = "", model: str = "", since_us: int = 0, limit: int = 1000
) -> list[EscalationView]:
    """Escalations in the order they were received: the oldest `limit` (at most 50,000) since `since_us`."""
    query = select(EscalationRow).where(col(EscalationRow.received_us) > min(max(since_us, 0), 1 << 62))
    if device:
        query = query.where(EscalationRow.device == device)
    if model:
        query = query.where(EscalationRow.model == model)
    query = query.order_by(col(EscalationRow.received_us), EscalationRow.id).limit(min(max(limit, 1), 50_000))
    with hub.db.read(scope=caller.scope) as session:
        rows = session.exec(scopes.restrict(session, query, col(EscalationRow.device)))
        return [EscalationView(**row.model_dump(exclude={"frame", "features"})) for row in rows]


@router.post("/thresholds/fit")
def learn(body: FitBody, hub: TheHub, caller: Operator) -> Limits:
    """Learned limits; nothing is pushed. Start a rollout with them when they look right.

    They are learned from what a refit reads: samples, and before those the means of rollups, without what lies in
    alarms that nobody judged false.
    """
    now = now_us()
    with hub.db.read(scope=caller.scope) as session:
        fleet.get_device(session, body.device)
        series, from_us = (body.device, body.metric), now - int(body.days * 86400e6)
        past = stored.history(session, series, from_us, now)
        present = limits_standing.present(session, [body.device])
        (known,) = stored.known(session, [series], from_us, now, present)
    taught = past.without(known.alarms)
    try:
        safeguards.enough(body.metric, taught.t_us, past.t_us.size - taught.t_us.size)
        found = fit.fit(body.metric, taught.t_us, taught.values, now_us=now, period_s=past.period_s)
        return safeguards.bounded(found, taught.values, known)
    except ValueError as error:
        raise HubError(422, "Not enough to learn from", str(error)) from error


declare("POST", "/api/v1/thresholds/rollouts", Limit(size=8 << 20, values=1_000_000))


@router.post("/thresholds/rollouts", status_code=201)
def push(body: RolloutBody, hub: TheHub, caller: Operator) -> Rollout:
    """Try limits on stored history, then push them to canary devices and watch them."""
    now = now_us()
    with hub.db.read(scope=caller.scope) as session:
        for device in body.devices:
            fleet.require_device(session, device)
        backtest = trials.trial_manual_limits(session, body.devices, body.limits, now)
    if (found := backtest["per_device_week"]) > body.max_backtest and not body.override:
        cure = "mend the limits, raise max_backtest, or say in override why it is to be done all the same"
        detail = f"these limits would have raised {found:.1f} alarms a device and week, allowed: {body.max_backtest:g}"
        raise HubError(409, "The backtest speaks against it", f"{detail}; {cure}")
    with hub.db.write(scope=caller.scope) as session:
        row, messages = rollout.start(
            session, body.devices, body.limits, now, actor=caller.actor, watch_s=body.watch_s,
            max_alarms=body.max_alarms, max_bytes=hub.settings.twins.max_bytes, trace=caller.trace,
            backtest=backtest, override=body.override,
        )  # fmt: skip
    hub.publish(messages)
    return row


@router.get("/thresholds/rollouts/{rollout_id}")
def rollout_state(rollout_id: str, hub: TheHub, caller: Reader) -> Rollout:
    """How a rollout stands: watching, taking-back, confirmed or rolled-back."""
    with hub.db.read(scope=caller.scope) as session:
        return rollout.get(session, rollout_id)


@router.get("/scaling/steps")
def scaling(hub: TheHub, caller: Reader, limit: int = 100) -> list[ScaleStep]:
    """The autoscaler's decisions, the newest first."""
    caller.needs_all()
    query = select(ScaleStep).order_by(col(ScaleStep.id).desc()).limit(min(max(limit, 1), 1000))
    with hub.db.read(scope=caller.scope) as session:
        return list(session.exec(query))
