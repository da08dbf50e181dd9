"""/api/v1/thresholds/forecast: the probability that a series crosses its limit soon."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel

from cloud_hub.api.dependencies import Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.thresholds.forecasts.features import AHEAD_US
from cloud_hub.thresholds.monitoring import forecasts
from shared.thresholds import Limits

router = APIRouter(prefix="/api/v1", tags=["forecasts"])


class ForecastView(BaseModel):
    """The probability that a series is beyond `limit` within `within_s` seconds after its sample at `at_us`.

    It is null with a `reason` where there is no forecast. `model` made it: chosen on this series' validation data, or
    the classifier of all series. `average_precision` was measured there; a random guess reaches `base_rate`.
    """

    device: str
    metric: str
    probability: float | None
    limit: float | None
    side: Literal["high", "low"]
    at_us: int | None
    within_s: int = int(AHEAD_US // 1_000_000)
    model: str = ""
    average_precision: float | None = None
    base_rate: float | None = None
    trained_us: int | None = None
    reason: str = ""


@router.get("/thresholds/forecast")
def get(
    device: str, metric: str, hub: TheHub, caller: Reader,
    limit: Annotated[float | None, Query(allow_inf_nan=False)] = None,
) -> ForecastView:  # fmt: skip
    """The probability that a series crosses its limit, or `limit`, in 15 minutes, where `warn_probability` is set."""
    with hub.db.read(scope=caller.scope) as session:
        device_registry.get_device(session, device)
        wanted = None if limit is None else _upper(metric, limit)
        found, held = forecasts.forecast_series(session, hub.forecasters, (device, metric), wanted, now_us())
    return ForecastView(
        device=device, metric=metric, probability=found.probability, limit=found.limit, side=found.side,
        at_us=found.at_us, reason=found.reason, trained_us=None if held is None else held.trained_us,
        model=found.skill.model if found.skill else "",
        average_precision=found.skill.average_precision if found.skill else None,
        base_rate=found.skill.base_rate if found.skill else held.base_rate if held else None,
    )  # fmt: skip


def _upper(metric: str, limit: float) -> Limits:
    try:
        return Limits(metric=metric, high=limit)
    except ValueError as error:
        raise HubError(422, "Invalid request", f"query.metric: {error}") from error
