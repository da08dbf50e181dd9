"""/api/v1/actions and /api/v1/policy: what is proposed, approved and done, and the policy that decides."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import Session, col, select

from cloud_hub.actions import service as actions
from cloud_hub.actions.core.policy import Origin
from cloud_hub.actions.policy_file import read_policy
from cloud_hub.actions.service import ActionService, Proposal
from cloud_hub.api.dependencies import Caller, Operator, Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.database import scopes
from cloud_hub.database.tables import Action
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from shared.errors import ConfigError

router = APIRouter(prefix="/api/v1", tags=["actions"])
LONGEST_POLICY = 256 * 1024


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DecisionBody(_Body):
    """The decision on a proposed action."""

    approve: bool
    reason: str = Field(default="", max_length=500)


class ActionReasonBody(_Body):
    """Why."""

    reason: str = Field(default="", max_length=500)


class ActionBody(_Body):
    """A proposed action. The same `key` of the same caller proposes it once."""

    type: str = Field(min_length=1, max_length=64)
    parameters: dict[str, Any]
    device: str = Field(default="", max_length=128)
    reason: str = Field(default="", max_length=500)
    key: str = Field(default="", max_length=100)


class PolicyTryBody(_Body):
    """An action to judge without proposing it: by the policy in force, or by the text of another policy file."""

    type: str = Field(min_length=1, max_length=64)
    parameters: dict[str, Any]
    device: str = Field(default="", max_length=128)
    origin: Literal["diagnosis", "person", "playbook"] = "person"
    policy: str = Field(default="", max_length=LONGEST_POLICY)
    t_us: int | None = Field(default=None, ge=0, le=1 << 53)


class PolicyRuleView(BaseModel):
    """How one rule came out."""

    rule: str
    matched: bool
    reason: str


class PolicyVerdictView(BaseModel):
    """A verdict, rule by rule."""

    decision: str
    rule: str
    reason: str
    approvals: int
    roles: list[str]
    rules: list[PolicyRuleView]


@router.get("/actions")
def all_actions(
    hub: TheHub, caller: Reader, device: str = "", state: str = "", incident: str = "", run: str = "", limit: int = 100
) -> list[Action]:  # fmt: skip
    """List actions, the newest first."""
    query = select(Action).order_by(col(Action.id).desc()).limit(min(max(limit, 1), 1000))
    wanted = ((Action.device, device), (Action.state, state), (Action.incident, incident), (Action.playbook_run, run))
    for column, value in wanted:
        query = query.where(column == value) if value else query
    with hub.db.read(scope=caller.scope) as session:
        return list(session.exec(scopes.restrict(session, query, col(Action.device))))


@router.get("/actions/{action_id}")
def one_action(action_id: str, hub: TheHub, caller: Reader) -> Action:
    """Get an action."""
    with hub.db.read(scope=caller.scope) as session:
        return actions.get(session, action_id)


@router.post("/actions", status_code=201)
def propose(body: ActionBody, hub: TheHub, caller: Operator) -> Action:
    """Propose an action. The policy says whether it is allowed, needs approvals of others, or is forbidden."""
    with hub.db.write(scope=caller.scope) as session:
        _require(session, caller, body.device)
        key = f"{caller.actor}/{body.key}" if body.key else ""
        wanted = _proposal(caller, body.type, body.parameters, body.device, "person", reason=body.reason, key=key)
        action = hub.actions.propose(session, wanted, now_us())
    hub.notify("actions")
    return action


@router.post("/actions/{action_id}/decision")
def decide(action_id: str, body: DecisionBody, hub: TheHub, caller: Operator) -> Action:
    """Approve or refuse a proposed action. The policy says how many people must approve, and with which roles."""
    with hub.db.write(scope=caller.scope) as session:
        if body.approve:
            action = hub.actions.approve(session, action_id, caller.actor, caller.roles, now_us())
        else:
            action = hub.actions.refuse(session, action_id, caller.actor, now_us(), body.reason)
    hub.notify("actions")
    return action


@router.post("/actions/{action_id}/cancel")
def cancel(action_id: str, body: ActionReasonBody, hub: TheHub, caller: Operator) -> Action:
    """Cancel an action that has not ended. What is done already stays done."""
    with hub.db.write(scope=caller.scope) as session:
        action, messages = hub.actions.cancel(session, action_id, caller.actor, now_us(), body.reason)
    hub.publish(messages)
    return action


@router.post("/actions/{action_id}/undo", status_code=201)
def undo(action_id: str, body: ActionReasonBody, hub: TheHub, caller: Operator) -> Action:
    """Propose the action that undoes another one; the policy judges it like any other."""
    with hub.db.write(scope=caller.scope) as session:
        by = _proposal(caller, "", {}, "", "person", reason=body.reason, key="")
        action = hub.actions.undo(session, action_id, by, now_us())
    hub.notify("actions")
    return action


@router.get("/policy")
def policy(hub: TheHub, caller: Reader) -> dict[str, Any]:
    """Get the policy in force."""
    found: dict[str, Any] = msgspec.to_builtins(hub.actions.policy)
    return found


@router.post("/policy/try")
def try_policy(body: PolicyTryBody, hub: TheHub, caller: Reader) -> PolicyVerdictView:
    """Explain the verdict on an action, rule by rule. Nothing is proposed."""
    service = hub.actions
    if body.policy:
        try:
            candidate = read_policy(body.policy, "policy", service.catalogue.types)
        except ConfigError as error:
            raise HubError(422, "Invalid policy", f"{error.place}: {error.reason}. {error.cure}") from error
        service = ActionService(policy=candidate, catalogue=service.catalogue)
    with hub.db.read(scope=caller.scope) as session:
        _require(session, caller, body.device)
        wanted = _proposal(caller, body.type, body.parameters, body.device, body.origin, reason="", key="")
        verdict = service.preview(session, wanted, now_us() if body.t_us is None else body.t_us)
    rules = [PolicyRuleView(rule=row.rule, matched=row.matched, reason=row.reason) for row in verdict.results]
    return PolicyVerdictView(decision=verdict.decision, rule=verdict.rule, reason=verdict.reason, rules=rules,
                       approvals=verdict.approvals, roles=list(verdict.roles))  # fmt: skip


def _require(session: Session, caller: Caller, device: str) -> None:
    """The device is known and within the caller's scope; what has no device needs the whole hub."""
    if device:
        device_registry.require_device(session, device)
    else:
        caller.needs_all()


def _proposal(
    caller: Caller, kind: str, parameters: dict[str, Any], device: str, origin: Origin, *, reason: str, key: str
) -> Proposal:  # fmt: skip
    return Proposal(
        type=kind, parameters=parameters, device=device, reason=reason, origin=origin, proposer=caller.actor,
        scope=caller.scope, key=key, trace=caller.trace,
    )  # fmt: skip
