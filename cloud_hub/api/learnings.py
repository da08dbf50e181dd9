"""/api/v1/learnings, /troubles, /thresholds/backtest, /thresholds/forecast and /limits: what is learned, how well it
does, and its files.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import col, select

from cloud_hub.api.hub import Operator, Reader, TheHub
from cloud_hub.api.request_guard import Limit, declare
from cloud_hub.audit import trail
from cloud_hub.clock import new_id, now_us
from cloud_hub.database import scopes
from cloud_hub.database.tables import LearnedSeries, Learning, MissedFault, Rollout, RolloutDevice
from cloud_hub.devices import registry as fleet
from cloud_hub.errors import HubError
from cloud_hub.thresholds.forecasts.features import AHEAD_US
from cloud_hub.thresholds.learning import refit, trials
from cloud_hub.thresholds.learning import registry as learnings
from cloud_hub.thresholds.learning.core.policy import LearningPolicy
from cloud_hub.thresholds.learning.core.trial import Trial
from cloud_hub.thresholds.learning.registry import Counts, PeerSummary
from cloud_hub.thresholds.limits import import_export
from cloud_hub.thresholds.monitoring import forecasts
from cloud_hub.thresholds.rollouts import service as rollout
from shared.codec import plain
from shared.ids import NAME
from shared.thresholds import Limits
from shared.times import DAY_US

router = APIRouter(prefix="/api/v1", tags=["learnings"])

Instant = Annotated[int, Field(ge=0, lt=1 << 62)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LearningBody(_Body):
    """What to learn: `target` is a condition of the query language."""

    target: str = Field(min_length=1, max_length=4000)
    policy: LearningPolicy


class LearningView(BaseModel):
    """A learning, how many of its series stand where, what it was worth, its newest rollout, and its live watch.

    `raised`: by so many decades that watch asks for more than its budget's arithmetic, in the group where it is most.
    """

    learning: Learning
    standing: dict[str, int]
    counts: Counts
    backtest: dict[str, Any]
    rollout: Rollout | None
    peers: list[PeerSummary]
    raised: float


class ReleaseLimits(_Body):
    """Limits on a device that people set, given to the learning; without metrics all that it learns there."""

    device: str
    metrics: list[str] = Field(default=[], max_length=1000)


class TroubleBody(_Body):
    """Something was wrong from start_us to end_us, whether an alarm told or not."""

    device: str
    metric: str = Field(min_length=1, max_length=100)
    start_us: Instant
    end_us: Instant
    note: str = Field(default="", max_length=1000)


class OneSeries(_Body):
    """A metric of a device."""

    device: str
    metric: str


class BacktestBody(_Body):
    """Replay history: of these `series`, or of the first devices of a `learning`; by `limits`, or by what is learned.

    From `from_us` to `to_us`, the last 7 days without them.
    """

    series: list[OneSeries] = Field(default=[], max_length=100)
    learning: str = ""
    limits: list[Limits] = Field(default=[], max_length=100)
    from_us: Instant | None = None
    to_us: Instant | None = None
    devices: int = Field(default=10, ge=1, le=100)


class Backtest(BaseModel):
    """All series together, then each."""

    total: dict[str, Any]
    series: list[Trial]


class ForecastView(BaseModel):
    """The probability that a series is beyond `limit` within `within_s` seconds after its sample of `at_us`.

    null with a `reason` where it is not judged. `model`: which one it is by, chosen on this series' validation data, or
    the trees of all series; `average_precision`: how well that did there, where guessing gets `base_rate`.
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


class LimitSets(_Body):
    """Limits by device, as `export` gives them."""

    form: str = import_export.FORM
    exported_us: int = 0
    devices: dict[str, list[dict[str, Any]]]
    next: str = ""


class Imported(BaseModel):
    """What was taken, or would be."""

    devices: int
    limits: int
    dry_run: bool


# -- learnings -------------------------------------------------------------------------------------


@router.get("/learnings")
def all_learnings(hub: TheHub, caller: Reader) -> list[Learning]:
    """All, by name."""
    with hub.db.read(scope=caller.scope) as session:
        return learnings.list_all(session)


@router.get("/learnings/{learning_id}")
def learning(learning_id: str, hub: TheHub, caller: Reader) -> LearningView:
    """One, with what its alarms were worth to people."""
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
    """Its series; give `device/metric` of the last one as `after` for the next page."""
    with hub.db.read(scope=caller.scope) as session:
        learnings.get(session, learning_id)
        return learnings.series(session, learning_id, device, after, min(max(limit, 1), 1000))


@router.put("/learnings/{learning_id}")
def put(learning_id: str, body: LearningBody, hub: TheHub, caller: Operator, answer: Response) -> Learning:
    """Create it (201) or change it; a refit begins at once."""
    if not NAME.match(learning_id):
        raise HubError(422, "Invalid request", "path.learning_id: use 1 to 64 of a-z A-Z 0-9 _ -")
    now, scope = now_us(), None if caller.scope is None else list(caller.scope)
    row = Learning(id=learning_id, target=body.target, policy=plain(body.policy), actor=caller.actor, created_us=now,
                   scope=scope, due_us=now)  # fmt: skip
    with hub.db.write(scope=caller.scope) as session:
        stored, new = learnings.put(session, row, caller.trace)
    hub.ring("refit")
    answer.status_code = 201 if new else 200
    return stored


@router.delete("/learnings/{learning_id}", status_code=204)
def remove(learning_id: str, hub: TheHub, caller: Operator) -> None:
    """Learn no more; limits that were pushed stay in force."""
    with hub.db.write(scope=caller.scope) as session:
        learnings.remove(session, learning_id, now_us(), caller.actor, caller.trace)


@router.post("/learnings/{learning_id}/refit", status_code=202)
def refit_now(learning_id: str, hub: TheHub, caller: Operator) -> Learning:
    """Do not wait for the schedule."""
    with hub.db.write(scope=caller.scope) as session:
        row = learnings.refit_now(session, learning_id, now_us(), caller.actor, caller.trace)
    hub.ring("refit")
    return row


@router.post("/learnings/{learning_id}/release")
def release(learning_id: str, body: ReleaseLimits, hub: TheHub, caller: Operator) -> list[str]:
    """Let it replace limits that were set by hand on a device; returns their metrics."""
    with hub.db.write(scope=caller.scope) as session:
        fleet.require_device(session, body.device)
        return learnings.release(
            session, learning_id, body.device, body.metrics, now_us(), caller.actor, caller.trace
        )  # fmt: skip


@router.get("/thresholds/rollouts")
def rollouts(hub: TheHub, caller: Reader, learning: str = "", limit: int = 20) -> list[Rollout]:
    """The newest rollouts first, of one learning or all."""
    with hub.db.read(scope=caller.scope) as session:
        return rollout.list_newest(session, learning, min(max(limit, 1), 200))


@router.get("/thresholds/rollouts/{rollout_id}/devices")
def rollout_devices(
    rollout_id: str, hub: TheHub, caller: Reader, state: str = "", after: str = "", limit: int = 100
) -> list[RolloutDevice]:
    """What it did to each of its devices, by id; give the last one as `after` for the next page."""
    with hub.db.read(scope=caller.scope) as session:
        return rollout.devices(session, rollout_id, state, after, min(max(limit, 1), 1000))


# -- what people say, and what history says --------------------------------------------------------


@router.post("/troubles", status_code=201)
def tell(body: TroubleBody, hub: TheHub, caller: Operator) -> MissedFault:
    """Tell of trouble that an alarm should have told of."""
    if body.end_us < body.start_us:
        raise HubError(422, "Invalid request", "body.end_us: lies before start_us")
    row = MissedFault(id=new_id(), actor=caller.actor, t_us=now_us(), **body.model_dump())
    with hub.db.write(scope=caller.scope) as session:
        fleet.require_device(session, body.device)
        session.add(row)
        trail.add(session, row.t_us, caller.actor, "trouble.told", body.metric, device=body.device, trace=caller.trace,
                  start_us=body.start_us, end_us=body.end_us)  # fmt: skip
    return row


@router.get("/troubles")
def troubles(hub: TheHub, caller: Reader, device: str = "", metric: str = "", limit: int = 100) -> list[MissedFault]:
    """The newest first."""
    query = (
        select(MissedFault).order_by(col(MissedFault.start_us).desc(), MissedFault.id).limit(min(max(limit, 1), 1000))
    )
    query = query.where(MissedFault.device == device) if device else query
    query = query.where(MissedFault.metric == metric) if metric else query
    with hub.db.read(scope=caller.scope) as session:
        return list(session.exec(scopes.restrict(session, query, col(MissedFault.device))))


@router.post("/thresholds/backtest")
def backtest(body: BacktestBody, hub: TheHub, caller: Operator) -> Backtest:
    """What present limits and proposed ones would have alarmed on; nothing is pushed."""
    to_us = now_us() if body.to_us is None else body.to_us
    from_us = to_us - int(trials.DAYS * DAY_US) if body.from_us is None else body.from_us
    if not max(0, to_us - 400 * DAY_US) <= from_us < to_us:
        raise HubError(422, "Invalid request", "body.from_us: must lie before to_us, by at most 400 days")
    policy = LearningPolicy(metrics=("*",))
    chosen = [(one.device, one.metric) for one in body.series]
    with hub.db.read(scope=caller.scope) as session:
        for device, _ in chosen:
            fleet.get_device(session, device)
        if body.learning:
            row = learnings.get(session, body.learning)
            policy = learnings.policy_of(row)
            chosen += refit.first_series(session, row, policy, body.devices)
        if not chosen:
            raise HubError(422, "Invalid request", "body.series: name series, or a learning that finds some")
        proposed = {one.metric: one for one in body.limits} or None
        found = trials.trial_series(session, chosen[:100], policy, from_us, to_us, proposed)
    return Backtest(
        total=trials.summarize_trials((one.device, trials.without_episodes(one)) for one in found), series=found
    )


@router.get("/thresholds/forecast")
def forecast(
    device: str, metric: str, hub: TheHub, caller: Reader,
    limit: Annotated[float | None, Query(allow_inf_nan=False)] = None,
) -> ForecastView:  # fmt: skip
    """Whether it will be beyond its limit, or above `limit`, in 15 minutes; of series of a learning that foresees."""
    with hub.db.read(scope=caller.scope) as session:
        fleet.get_device(session, device)
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


# -- limits as files -------------------------------------------------------------------------------


@router.get("/limits")
def export(
    hub: TheHub, caller: Reader, target: str = "*", source: Literal["", "fixed", "learned"] = "", after: str = "",
    limit: int = 200,
) -> LimitSets:  # fmt: skip
    """Limits that stand on the devices that `target` finds, a page at a time: give `next` as `after`."""
    with hub.db.read(scope=caller.scope) as session:
        return LimitSets(
            **import_export.export_limits(session, target, after, min(max(limit, 1), 1000), source, now_us())
        )


declare("POST", "/api/v1/limits", Limit(size=8 << 20, values=1_000_000))


@router.post("/limits")
def take(body: LimitSets, hub: TheHub, caller: Operator, replace: bool = False, dry_run: bool = False) -> Imported:
    """Desire limits from an export: all or none. What others set on other metrics stays, unless `replace`."""
    import_export.check_size(body.devices)
    sets = import_export.read_file(body.form, body.devices)
    messages = []
    if not dry_run:
        with hub.db.write(scope=caller.scope) as session:
            messages = import_export.import_limits(
                session, sets, now_us(), actor=caller.actor, replace=replace, max_bytes=hub.settings.twins.max_bytes,
                trace=caller.trace,
            )  # fmt: skip
    hub.publish(messages)
    return Imported(devices=len(sets), limits=sum(map(len, sets.values())), dry_run=dry_run)
