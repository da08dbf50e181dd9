"""/api/v1/autoscale: targets, their decisions, why they are as they are; pause, resume, override; try a file."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from cloud_hub.api.dependencies import Administrator, Hub, Operator, Reader, TheHub
from cloud_hub.autoscale import service
from cloud_hub.autoscale.service import LONGEST_S, AutoscaleExplanation
from cloud_hub.autoscale.system import AutoscaleSystem, AutoscaleWish, Status
from cloud_hub.clock import now_us
from cloud_hub.database.tables import ScaleDecision, ScaleTarget
from cloud_hub.errors import HubError
from shared.errors import ConfigError

router = APIRouter(prefix="/api/v1/autoscale", tags=["autoscale"])

Text = Annotated[str, Field(max_length=500)]
Seconds = Annotated[float, Field(ge=1, le=LONGEST_S)]


class AutoscaleTargetView(BaseModel):
    """A target and how it stands; times are UTC microseconds.

    `in_force`: it is in the targets file of this hub. `desired` and `ready` are the platform's instances when last
    read, `wanted` the last decision's. `keeps` of them may take
    work, the others drain. `errors` says by signal, or for `platform`, why something is unknown.
    """

    name: str
    in_force: bool
    platform: str
    mode: str
    override_count: int | None
    until_us: int | None
    control_by: str
    control_reason: str
    dry_run: bool
    desired: int | None
    ready: int | None
    wanted: int | None
    keeps: int | None
    reason: str
    readings: list[dict[str, Any]]
    errors: dict[str, str]
    drift: str
    drift_us: int | None
    prediction: dict[str, Any]
    decided_us: int


class AutoscaleView(BaseModel):
    """The targets, the file in force with the fault of its last change, and which hub decides."""

    file: str
    error: str
    holder: str
    token: int | None
    active: bool
    targets: list[AutoscaleTargetView]


class AutoscaleDecisionView(BaseModel):
    """A decision. `outcome` is held, dry-run, decided (the call is under way), done, refused or unknown."""

    id: str
    target: str
    t_us: int
    action: str
    before: int | None
    to: int
    reason: str
    key: str
    fencing_token: int | None
    outcome: str
    outcome_text: str
    ended_us: int | None
    errors: dict[str, str]
    observation: dict[str, Any]
    candidates: list[dict[str, Any]]


class PauseBody(BaseModel):
    """Why, and for how long; without `for_s` until it is resumed."""

    model_config = ConfigDict(extra="forbid")
    reason: Text = ""
    for_s: Seconds | None = None


class OverrideBody(BaseModel):
    """The count that is wanted for `for_s` seconds, within the policy's limits."""

    model_config = ConfigDict(extra="forbid")
    count: Annotated[int, Field(ge=0, le=10_000)]
    for_s: Seconds = 3600.0
    reason: Text = ""


class CheckBody(BaseModel):
    """The text of a targets file."""

    model_config = ConfigDict(extra="forbid")
    text: Annotated[str, Field(max_length=262_144)]


@router.get("/targets")
def targets(hub: TheHub, caller: Reader) -> AutoscaleView:
    """List the targets, and say which file and which hub is in force."""
    caller.needs_all()
    status = hub.autoscale.status() if hub.autoscale is not None else NONE
    with hub.db.read(scope=caller.scope) as session:
        rows = service.list_targets(session)
    return AutoscaleView(
        file=status.file, error=status.error, holder=status.holder, token=status.token, active=status.active,
        targets=[_view(row, row.name in status.targets) for row in rows],
    )  # fmt: skip


@router.get("/targets/{target}")
def one_target(target: str, hub: TheHub, caller: Reader) -> AutoscaleTargetView:
    """Get a target."""
    caller.needs_all()
    with hub.db.read(scope=caller.scope) as session:
        return _shown(hub, service.get(session, target))


@router.get("/targets/{target}/decisions")
def target_decisions(
    target: str, hub: TheHub, caller: Reader, changes: bool = False, before: str = "", limit: int = 100
) -> list[AutoscaleDecisionView]:
    """List decisions with their inputs, the newest first; with `changes`, only those that asked for a change."""
    caller.needs_all()
    with hub.db.read(scope=caller.scope) as session:
        rows = service.decisions(session, target, changes=changes, before=before, limit=limit)
    return [_decision(row) for row in rows]


@router.get("/targets/{target}/explain")
def explain_target(target: str, hub: TheHub, caller: Reader) -> AutoscaleExplanation:
    """Say why the target has its count."""
    caller.needs_all()
    with hub.db.read(scope=caller.scope) as session:
        return service.explain(session, target)


@router.post("/targets/{target}/pause")
def pause_target(target: str, body: PauseBody, hub: TheHub, caller: Operator) -> AutoscaleTargetView:
    """Decide nothing on a target until it is resumed, or for a time. A call under way is not taken back."""
    caller.needs_all()
    with hub.db.write(scope=caller.scope) as session:
        row = service.pause(session, target, now_us(), actor=caller.actor, reason=body.reason, for_s=body.for_s,
                            trace=caller.trace)  # fmt: skip
    return _changed(hub, row)


@router.post("/targets/{target}/resume")
def resume_target(target: str, hub: TheHub, caller: Operator) -> AutoscaleTargetView:
    """End a pause or an override: the policy decides again."""
    caller.needs_all()
    with hub.db.write(scope=caller.scope) as session:
        row = service.resume(session, target, now_us(), actor=caller.actor, trace=caller.trace)
    return _changed(hub, row)


@router.post("/targets/{target}/override")
def override_target(target: str, body: OverrideBody, hub: TheHub, caller: Operator) -> AutoscaleTargetView:
    """Want a count for a time. Every limit of the policy holds; a count outside its bounds is 422."""
    caller.needs_all()
    with hub.db.write(scope=caller.scope) as session:
        row = service.override(session, target, body.count, now_us(), actor=caller.actor, for_s=body.for_s,
                               reason=body.reason, trace=caller.trace)  # fmt: skip
    return _changed(hub, row)


@router.post("/check")
def check_file(body: CheckBody, hub: TheHub, caller: Administrator) -> list[AutoscaleWish]:
    """Say what each target of a file would decide now. Signals and platforms are read, nothing is changed."""
    caller.needs_all()
    try:
        return _system(hub).check(body.text)
    except ConfigError as error:
        raise HubError(422, "The file has a fault", str(error)) from error


NONE = Status(file="", error="", targets=[], holder="", token=None, active=False)


def _system(hub: Hub) -> AutoscaleSystem:
    if hub.autoscale is None:
        raise HubError(409, "No autoscaler", "this hub has none")
    return hub.autoscale


def _changed(hub: Hub, row: ScaleTarget) -> AutoscaleTargetView:
    if hub.autoscale is not None:
        hub.autoscale.worker.decide_soon(row.name)
    hub.notify("autoscale")
    return _shown(hub, row)


def _shown(hub: Hub, row: ScaleTarget) -> AutoscaleTargetView:
    return _view(row, hub.autoscale is not None and row.name in hub.autoscale.in_force.targets)


def _view(row: ScaleTarget, in_force: bool) -> AutoscaleTargetView:
    fields = row.model_dump(exclude={"state", "policy", "decision", "backtest", "expected"})
    return AutoscaleTargetView(**fields, in_force=in_force, prediction=row.backtest)


def _decision(row: ScaleDecision) -> AutoscaleDecisionView:
    fields = row.model_dump(exclude={"policy", "control", "state", "observation", "decision"})
    candidates = msgspec.json.decode(row.decision).get("candidates", [])
    return AutoscaleDecisionView(**fields, observation=msgspec.json.decode(row.observation), candidates=candidates)
