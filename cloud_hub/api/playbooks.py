"""/api/v1/playbooks and /api/v1/playbook-runs: what can be run, its drawing and dry run, and what runs."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import Session

from cloud_hub.api.dependencies import Caller, Operator, Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.database.tables import PlaybookEntry, PlaybookRun
from cloud_hub.incidents import service as incidents
from cloud_hub.playbooks import journal, service
from cloud_hub.playbooks.actions import judge_plan
from cloud_hub.playbooks.catalogue import Listed, PlaybookCatalogue
from cloud_hub.playbooks.clock import steady
from cloud_hub.playbooks.core import drawing
from cloud_hub.playbooks.core.graph import layers
from cloud_hub.playbooks.core.plan import Plan
from cloud_hub.playbooks.core.verdicts import forbidden, needed

router = APIRouter(prefix="/api/v1", tags=["playbooks"])

Format = Literal["svg", "mermaid"]
CONTENT_TYPES = {"svg": "image/svg+xml", "mermaid": "text/plain; charset=utf-8"}
HEADERS = {"Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff"}
"""A drawing shows names that others chose: a browser that opens it runs nothing."""


class ParameterView(BaseModel):
    """A parameter of a playbook; without `default` a run must give it."""

    name: str
    type: str
    default: str | int | float | bool | None
    description: str


class PlaybookView(BaseModel):
    """A playbook in the catalogue. One with `problems` cannot be run."""

    name: str
    description: str = ""
    shipped: bool
    deadline_s: float = 0.0
    steps: list[str] = []
    parameters: list[ParameterView] = []
    problems: list[str] = []


class RunBody(BaseModel):
    """A run to propose, or to try dry: the parameters of the playbook, and the incident that it is for."""

    model_config = ConfigDict(extra="forbid")
    parameters: dict[str, Any] = Field(default={}, max_length=50)
    incident: str = Field(default="", max_length=100)


class NewRunBody(RunBody):
    """A run to propose."""

    playbook: str


class StepView(BaseModel):
    """A step of a plan with the policy's verdict, and how it stands in a run."""

    id: str
    kind: str
    title: str
    needs: list[str]
    when: str
    action: str
    device: str
    parameters: dict[str, Any]
    state: str = "pending"
    attempt: int = 0
    round: int = 0
    outcome: str = ""
    verdict: dict[str, Any] | None = None


class DryRunView(BaseModel):
    """What a run would do: steps in the order of `layers`, whose steps run side by side, with the policy's verdicts.

    `approvals` people must approve it; `forbidden` steps refuse it.
    """

    playbook: str
    version: str
    approvals: int
    forbidden: list[str]
    layers: list[list[str]]
    steps: list[StepView]


class RunView(BaseModel):
    """A run with its steps."""

    run: PlaybookRun
    approvals_needed: int
    steps: list[StepView]


class PlaybookDecisionBody(BaseModel):
    """The decision on a proposed run, with all its steps."""

    model_config = ConfigDict(extra="forbid")
    approve: bool


def _catalogue(hub: TheHub) -> PlaybookCatalogue:
    return PlaybookCatalogue(hub.settings.playbooks.folder)


def _listed(listed: Listed) -> PlaybookView:
    if listed.playbook is None:
        problems = [str(problem) for problem in listed.error.problems] if listed.error is not None else []
        return PlaybookView(name=listed.name, shipped=listed.shipped, problems=problems[:20])
    book = listed.playbook
    return PlaybookView(
        name=listed.name, description=book.description, shipped=listed.shipped, deadline_s=book.deadline_s,
        steps=list(book.steps), parameters=[
            ParameterView(name=name, type=each.type, default=each.default, description=each.description)
            for name, each in book.parameters.items()
        ],
    )  # fmt: skip


def _steps(plan: Plan, verdicts: list[dict[str, Any]], run: PlaybookRun | None = None) -> list[StepView]:
    judged = {verdict["step"]: verdict for verdict in verdicts}
    states = journal.state_of(run).steps if run is not None else {}
    views = []
    for step in plan.steps:
        view = StepView(id=step.id, kind=step.kind, title=step.title, needs=list(step.needs), when=step.when,
                        action=step.action, device=step.device, parameters=step.parameters,
                        verdict=judged.get(step.id))  # fmt: skip
        if (state := states.get(step.id)) is not None:
            view.state, view.attempt, view.round, view.outcome = state.state, state.attempt, state.round, state.outcome
        views.append(view)
    return views


def _run(row: PlaybookRun) -> RunView:
    plan = journal.plan_of(row.id, row.plan)
    return RunView(run=row, approvals_needed=service.needed(row), steps=_steps(plan, row.verdicts, row))


def _drawn(plan: Plan, form: Format, states: dict[str, str] | None = None) -> Response:
    draw = drawing.svg if form == "svg" else drawing.mermaid
    return Response(draw(plan, states), media_type=CONTENT_TYPES[form], headers=HEADERS)


# -- the catalogue ---------------------------------------------------------------------------------


@router.get("/playbooks")
def all_playbooks(hub: TheHub, caller: Reader) -> list[PlaybookView]:
    """List the playbooks by name, invalid ones with their problems."""
    return [_listed(listed) for listed in _catalogue(hub).list_all()]


@router.get("/playbooks/{playbook}/drawing")
def draw_playbook(playbook: str, hub: TheHub, caller: Reader, form: Format = "svg") -> Response:
    """Draw a playbook as SVG or Mermaid."""
    return _drawn(_catalogue(hub).picture(playbook), form)


@router.post("/playbooks/{playbook}/dry-run")
def dry_run(playbook: str, body: RunBody, hub: TheHub, caller: Operator) -> DryRunView:
    """Show what a run would do and what the policy says of each step. Nothing is done."""
    plan = _catalogue(hub).plan(playbook, body.parameters)
    with hub.db.write(scope=caller.scope) as session:
        _require_incident(session, body.incident)
        verdicts = judge_plan(session, hub.actions, plan, now_us(), actor=caller.actor, scope=caller.scope)
    return DryRunView(
        playbook=plan.playbook, version=plan.version, approvals=needed(verdicts),
        forbidden=[verdict.step for verdict in forbidden(verdicts)],
        layers=layers(plan.graph()), steps=_steps(plan, msgspec.to_builtins(verdicts)),
    )  # fmt: skip


# -- runs ------------------------------------------------------------------------------------------


@router.post("/playbook-runs", status_code=201)
def propose_run(body: NewRunBody, hub: TheHub, caller: Operator) -> RunView:
    """Propose a run. It begins at once if the policy allows every step; 409 if it forbids one."""
    plan = _catalogue(hub).plan(body.playbook, body.parameters)
    with hub.db.write(scope=caller.scope) as session:
        _require_incident(session, body.incident)
        verdicts = judge_plan(session, hub.actions, plan, now_us(), actor=caller.actor, scope=caller.scope)
        row = service.propose(
            session, plan, verdicts, steady.now_us(), actor=caller.actor, trace=caller.trace, incident=body.incident,
            scope=caller.scope,
        )  # fmt: skip
    return _changed(hub, row)


@router.get("/playbook-runs")
def all_runs(
    hub: TheHub, caller: Reader, state: str = "", incident: str = "", limit: int = 100
) -> list[PlaybookRun]:  # fmt: skip
    """List runs, the newest first."""
    with hub.db.read(scope=caller.scope) as session:
        return service.list_newest(session, state=state, incident=incident, limit=min(max(limit, 1), 1000))


@router.get("/playbook-runs/{run_id}")
def run(run_id: str, hub: TheHub, caller: Reader) -> RunView:
    """Get a run with its steps, their states and verdicts."""
    return _run(_get(hub, caller, run_id))


@router.get("/playbook-runs/{run_id}/journal")
def run_journal(run_id: str, hub: TheHub, caller: Reader) -> list[PlaybookEntry]:
    """Get everything that happened in a run, in order."""
    with hub.db.read(scope=caller.scope) as session:
        return journal.entries(session, service.get(session, run_id).id)


@router.get("/playbook-runs/{run_id}/drawing")
def draw_run(run_id: str, hub: TheHub, caller: Reader, form: Format = "svg") -> Response:
    """Draw a run with the states of its steps."""
    row = _get(hub, caller, run_id)
    states: dict[str, str] = {name: step.state for name, step in journal.state_of(row).steps.items()}
    return _drawn(journal.plan_of(row.id, row.plan), form, states)


@router.post("/playbook-runs/{run_id}/decision")
def decide_run(run_id: str, body: PlaybookDecisionBody, hub: TheHub, caller: Operator) -> RunView:
    """Approve or refuse a proposed run, with all its steps at once."""
    with hub.db.write(scope=caller.scope) as session:
        row = service.decide(session, run_id, body.approve, steady.now_us(), caller.actor, caller.roles)
        incidents.settle(session, row.incident, now_us())
    return _changed(hub, row)


@router.post("/playbook-runs/{run_id}/cancel")
def cancel_run(run_id: str, hub: TheHub, caller: Operator) -> RunView:
    """Cancel a run: no step begins any more, actions under way are asked to end."""
    with hub.db.write(scope=caller.scope) as session:
        row = service.cancel(session, run_id, steady.now_us(), caller.actor)
        incidents.settle(session, row.incident, now_us())
    return _changed(hub, row)


@router.post("/playbook-runs/{run_id}/resume")
def resume_run(run_id: str, hub: TheHub, caller: Operator) -> RunView:
    """Go on with a run that failed or was cancelled: what failed is done again, what succeeded is not."""
    with hub.db.write(scope=caller.scope) as session:
        row = service.resume(session, run_id, steady.now_us(), caller.actor, caller.roles)
    return _changed(hub, row)


def _require_incident(session: Session, incident: str) -> None:
    """HubError 404 unless the session sees the incident: a run keeps it open, and shows what it did there."""
    if incident:
        incidents.get(session, incident)


def _get(hub: TheHub, caller: Caller, run_id: str) -> PlaybookRun:
    with hub.db.read(scope=caller.scope) as session:
        return service.get(session, run_id)


def _changed(hub: TheHub, row: PlaybookRun) -> RunView:
    hub.notify("playbooks")
    return _run(row)
