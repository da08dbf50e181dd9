"""Steps as actions: each is a row of `cloud_hub.actions`, judged by the policy with the approvals of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from sqlmodel import Session, col, select

from cloud_hub.actions.catalogue import External
from cloud_hub.actions.service import ActionService, Proposal
from cloud_hub.database import scopes
from cloud_hub.database.tables import Action, PlaybookRun
from cloud_hub.errors import HubError
from cloud_hub.playbooks.core.graph import layers
from cloud_hub.playbooks.core.machine import Outcome
from cloud_hub.playbooks.core.plan import Plan, PlanStep
from cloud_hub.playbooks.core.verdicts import StepVerdict
from cloud_hub.playbooks.service import approvals_of
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.security.core.roles import Scope

LOST = Outcome(state="failed", text="its action is not kept any more", final=True)
_STATES = {"verified": "succeeded", "failed": "failed", "refused": "failed", "cancelled": "failed"}


class ActionRunner:
    """Runs steps by the service of actions. A reference is the id of an action."""

    def __init__(self, actions: ActionService) -> None:
        self._actions = actions

    def start(self, session: Session, run: PlaybookRun, step: PlanStep, key: str, attempt: int, now_us: int) -> str:
        """Create the step's action. A further attempt is a new action: the one before has ended as failed."""
        proposal = _proposal(step, f"{key}#{attempt}" if attempt else key, run)
        return self._actions.propose(session, proposal, now_us, approvals_of(run)).id

    def poll(self, session: Session, refs: Sequence[str]) -> Mapping[str, Outcome]:
        """How these actions stand."""
        if not refs:
            return {}
        rows = {row.id: row for row in session.exec(select(Action).where(col(Action.id).in_(refs)))}
        return {ref: self._outcome(rows[ref]) if ref in rows else LOST for ref in refs}

    def _outcome(self, row: Action) -> Outcome:
        """A refusal is final, and so is the failure of a call: it was repeated already, with its own key."""
        state = _STATES.get(row.state, "running")
        external = isinstance(self._actions.catalogue.types.get(row.type), External)
        said = {"proposed": "waits for an approval", "refused": f"refused by the policy: {row.policy}"}
        text = row.outcome or said.get(row.state, row.state)
        return Outcome(state=state, text=text, final=external or row.state != "failed")  # type: ignore[arg-type]

    def undo(self, session: Session, run: PlaybookRun, step: PlanStep, ref: str, key: str, now_us: int) -> str:
        """Create the action that undoes another one; HubError if it cannot be undone."""
        return self._actions.undo(session, ref, _proposal(step, key, run), now_us, approvals_of(run)).id

    def cancel(self, session: Session, ref: str, reason: str, now_us: int) -> list[OutgoingMessage]:
        """Cancel an action that has not ended."""
        return self._actions.cancel(session, ref, "hub", now_us, reason)[1]


def _proposal(step: PlanStep, key: str, run: PlaybookRun) -> Proposal:
    return Proposal(
        type=step.action, parameters=step.parameters, device=step.device, reason=f"playbook {run.playbook}",
        origin="diagnosis" if run.origin == "diagnosis" else "playbook", proposer=run.actor,
        scope=None if run.scope is None else tuple(run.scope),
        incident=run.incident, key=key, playbook_run=run.id, step=step.id, trace=run.traceparent,
    )  # fmt: skip


def judge_plan(
    session: Session, actions: ActionService, plan: Plan, now_us: int, *, actor: str, origin: str = "person",
    scope: Scope = None,
) -> list[StepVerdict]:  # fmt: skip
    """The policy's verdict on each action of a plan, in order: each is judged as if those before were carried out.

    Nothing is stored. HubError 404 for a device that the session does not see, 422 for invalid parameters.
    """
    devices = sorted({name for step in plan.steps for name in (step.device, step.subject) if name})
    if devices and not scopes.sees(session, devices):
        raise HubError(404, "No such device", "a step names a device that is not known, or not within your scope")
    run = PlaybookRun(id="", playbook=plan.playbook, version=plan.version, plan={}, origin=origin, actor=actor,
                      created_us=now_us, scope=None if scope is None else list(scope))  # fmt: skip
    verdicts, before = list[StepVerdict](), session.begin_nested()
    try:
        steps = {step.id: step for step in plan.steps if step.kind == "action"}
        for name in chain(*layers(plan.graph())):
            if name in steps:
                verdicts.append(_judge(session, actions, steps[name], run, now_us))
    finally:
        before.rollback()
    return verdicts


def _judge(session: Session, actions: ActionService, step: PlanStep, run: PlaybookRun, now_us: int) -> StepVerdict:
    try:
        row = actions.draft(_proposal(step, "", run), now_us)
    except HubError as error:
        raise HubError(error.status, error.title, f"step {step.id}: {error.detail}") from error
    verdict = actions.judge(session, row, now_us)
    row.state, row.rule, row.started_us = "verified", verdict.rule, now_us
    session.add(row)
    return StepVerdict(step=step.id, decision=verdict.decision, rule=verdict.rule, reason=verdict.reason,
                       approvals=verdict.approvals, roles=tuple(verdict.roles), own=verdict.own)  # fmt: skip
