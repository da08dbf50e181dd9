"""/api/v1/thresholds/rollouts: limits pushed to canaries first, and rolled back when they raise too many alarms."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from cloud_hub.api.dependencies import Operator, Reader, TheHub
from cloud_hub.api.request_guard import Limit, declare
from cloud_hub.clock import now_us
from cloud_hub.database.tables import Rollout, RolloutDevice
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.thresholds.learning import trials
from cloud_hub.thresholds.rollouts import service as rollout_service
from shared.thresholds import Limits

router = APIRouter(prefix="/api/v1", tags=["rollouts"])


class RolloutBody(BaseModel):
    """Limits for canary devices: rolled back when they raise more than `max_alarms` alarms within `watch_s` seconds.

    Refused when a replay of the last 7 days gives more than `max_backtest` alarms per device and week, unless
    `override` gives the reason for pushing them anyway.
    """

    model_config = ConfigDict(extra="forbid")
    devices: list[str] = Field(min_length=1, max_length=1000)
    limits: list[Limits] = Field(min_length=1, max_length=1000)
    watch_s: float = Field(default=600.0, gt=0, le=7 * 86400)
    max_alarms: int = Field(default=3, ge=0, le=1_000_000)
    max_backtest: float = Field(default=7.0, ge=0, le=1e6)
    override: str = Field(default="", max_length=500)


declare("POST", "/api/v1/thresholds/rollouts", Limit(size=8 << 20, values=1_000_000))


@router.post("/thresholds/rollouts", status_code=201)
def start(body: RolloutBody, hub: TheHub, caller: Operator) -> Rollout:
    """Backtest limits on stored history, then push them to canary devices and monitor them."""
    now = now_us()
    with hub.db.read(scope=caller.scope) as session:
        for device in body.devices:
            device_registry.require_device(session, device)
        backtest = trials.trial_manual_limits(session, body.devices, body.limits, now)
    if (found := backtest["per_device_week"]) > body.max_backtest and not body.override:
        cure = "change the limits, raise max_backtest, or give the reason for pushing them anyway in override"
        detail = f"these limits would have raised {found:.1f} alarms a device and week, allowed: {body.max_backtest:g}"
        raise HubError(409, "The backtest speaks against it", f"{detail}; {cure}")
    with hub.db.write(scope=caller.scope) as session:
        row, messages = rollout_service.start(
            session, body.devices, body.limits, now, actor=caller.actor, watch_s=body.watch_s,
            max_alarms=body.max_alarms, max_bytes=hub.settings.twins.max_bytes, trace=caller.trace,
            backtest=backtest, override=body.override,
        )  # fmt: skip
    hub.publish(messages)
    return row


@router.get("/thresholds/rollouts/{rollout_id}")
def get(rollout_id: str, hub: TheHub, caller: Reader) -> Rollout:
    """A rollout and its state: watching, taking-back, confirmed or rolled-back."""
    with hub.db.read(scope=caller.scope) as session:
        return rollout_service.get(session, rollout_id)


@router.get("/thresholds/rollouts")
def list_newest(hub: TheHub, caller: Reader, learning: str = "", limit: int = 20) -> list[Rollout]:
    """The newest rollouts first, of one learning job or all."""
    with hub.db.read(scope=caller.scope) as session:
        return rollout_service.list_newest(session, learning, min(max(limit, 1), 200))


@router.get("/thresholds/rollouts/{rollout_id}/devices")
def devices(
    rollout_id: str, hub: TheHub, caller: Reader, state: str = "", after: str = "", limit: int = 100
) -> list[RolloutDevice]:
    """The state of the rollout on each of its devices, by id; give the last one as `after` for the next page."""
    with hub.db.read(scope=caller.scope) as session:
        return rollout_service.devices(session, rollout_id, state, after, min(max(limit, 1), 1000))
