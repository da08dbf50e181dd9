"""/api/v1/thresholds/backtest: the alarms that limits would have raised on stored history."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from cloud_hub.api.dependencies import Operator, TheHub
from cloud_hub.clock import now_us
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.thresholds.learning import refit, trials
from cloud_hub.thresholds.learning import registry as learning_registry
from cloud_hub.thresholds.learning.core.policy import LimitPolicy
from cloud_hub.thresholds.learning.core.trial import Trial
from shared.durations import DAY_US
from shared.thresholds import Limits

router = APIRouter(prefix="/api/v1", tags=["backtests"])

Instant = Annotated[int, Field(ge=0, lt=1 << 62)]


class SeriesName(BaseModel):
    """A metric of a device."""

    model_config = ConfigDict(extra="forbid")
    device: str
    metric: str


class BacktestBody(BaseModel):
    """Replay history of these `series`, or of the first devices of a `learning`, by `limits` or by learned ones.

    From `from_us` to `to_us`, by default the last 7 days.
    """

    model_config = ConfigDict(extra="forbid")
    series: list[SeriesName] = Field(default=[], max_length=100)
    learning: str = ""
    limits: list[Limits] = Field(default=[], max_length=100)
    from_us: Instant | None = None
    to_us: Instant | None = None
    devices: int = Field(default=10, ge=1, le=100)


class Backtest(BaseModel):
    """The total of all series, then each series."""

    total: dict[str, Any]
    series: list[Trial]


@router.post("/thresholds/backtest")
def run(body: BacktestBody, hub: TheHub, caller: Operator) -> Backtest:
    """Alarms that the current limits and the proposed ones would have raised; nothing is pushed."""
    to_us = now_us() if body.to_us is None else body.to_us
    from_us = to_us - int(trials.DAYS * DAY_US) if body.from_us is None else body.from_us
    if not max(0, to_us - 400 * DAY_US) <= from_us < to_us:
        raise HubError(422, "Invalid request", "body.from_us: must lie before to_us, by at most 400 days")
    policy = LimitPolicy(metrics=("*",))
    chosen = [(one.device, one.metric) for one in body.series]
    with hub.db.read(scope=caller.scope) as session:
        for device, _ in chosen:
            device_registry.get_device(session, device)
        if body.learning:
            row = learning_registry.get(session, body.learning)
            policy = learning_registry.policy_of(row)
            chosen += refit.first_series(session, row, policy, body.devices)
        if not chosen:
            raise HubError(422, "Invalid request", "body.series: name series, or a learning job that finds some")
        proposed = {one.metric: one for one in body.limits} or None
        found = trials.trial_series(session, chosen[:100], policy, from_us, to_us, proposed)
    return Backtest(
        total=trials.summarize_trials((one.device, trials.without_episodes(one)) for one in found), series=found
    )
