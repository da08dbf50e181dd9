"""Proposes, approves, refuses, cancels and undoes actions.

A proposal is judged by the policy at once, and again just before its effect. Only people approve: an approval carries
the name and the roles of an authenticated caller, never text of a device or of a model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from sqlmodel import Session, select

from cloud_hub.actions import facts
from cloud_hub.actions.catalogue import Catalogue, Request, Transactional
from cloud_hub.actions.core import approvals, policy
from cloud_hub.actions.core.approvals import Approval
from cloud_hub.actions.core.policy import Origin, Policy, PolicyRequest, Verdict
from cloud_hub.actions.states import UNDER_WAY, end, record
from cloud_hub.clock import new_id
from cloud_hub.database import scopes
from cloud_hub.database.tables import Action
from cloud_hub.errors import HubError
from cloud_hub.runtime.outgoing import OutgoingMessage

log = logging.getLogger(__name__)

MAX_KEY = 200
DECIDED = {"allow": "approved", "approve": "proposed", "forbid": "refused"}

EndListener = Callable[[Session, Action, int], None]
"""Called in the transaction in which an action ends."""
StormListener = Callable[[Session, str, int], None]
"""Called with the text of an action storm, or '' when there is none (any more)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What is proposed. The same `key` proposes the same action once; without a key each proposal is a new action.

    `proposer` is the name of a person, an engine or a playbook. `scope` are the asset paths that a person may touch.
    """

    type: str
    parameters: dict[str, Any]
    device: str = ""
    reason: str = ""
    origin: Origin = "person"
    proposer: str = ""
    scope: tuple[str, ...] | None = None
    incident: str = ""
    key: str = ""
    playbook_run: str = ""
    step: str = ""
    undo_of: str = ""
    trace: str = ""


@dataclass(slots=True, kw_only=True)
class ActionService:
    """The policy in force, the installed types, and who is notified when an action ends."""

    policy: Policy
    catalogue: Catalogue
    on_end: list[EndListener] = field(default_factory=list)
    on_storm: list[StormListener] = field(default_factory=list)
    storming: bool = True
    """Whether the alarm of an action storm may be raised; unknown after a start."""
    _hours: facts.HourlyCounter = field(default_factory=facts.HourlyCounter)

    # -- judging ---------------------------------------------------------------------------------------

    def preview(self, session: Session, proposal: Proposal, now_us: int) -> Verdict:
        """The verdict on a proposal, which is not stored. HubError 422 for invalid parameters."""
        row = self._row(proposal, now_us)
        return self.judge(session, row, now_us)

    def judge(self, session: Session, row: Action, now_us: int, *, again: bool = False) -> Verdict:
        """The policy's verdict on an action. `again`: it was counted for a storm when it was proposed."""
        session.flush()
        kind, request = self.catalogue.get(row.type), self.request(row)
        touched = kind.touched(session, request)
        wanted = PolicyRequest(
            type=row.type, details=kind.details(request.parameters), device=row.device,
            risk=kind.risk(request.parameters), devices=touched.count, paths=touched.paths,
            origin=row.origin,  # type: ignore[arg-type]
            proposer=row.proposer,
        )  # fmt: skip
        uncalled = kind.uncalled(session, request)
        known = facts.gather(session, self.catalogue, self.policy, wanted, row.id, uncalled, now_us)
        if not again:
            hourly = self._hours.read(session, self.policy.storm.ceiling, now_us)
            known = replace(known, hourly=hourly)
        return policy.judge(self.policy, wanted, known, now_us)

    def request(self, row: Action) -> Request:
        """The action as its type sees it; HubError 422 if the type is not installed or its parameters are invalid."""
        return Request(
            id=row.id, device=row.device, parameters=self.catalogue.decode(row.type, row.parameters),
            actor=row.proposer or "hub", scope=None if row.scope is None else tuple(row.scope), before=row.before,
            effect=row.effect, executed_us=row.changed_us, trace=row.traceparent,
        )  # fmt: skip

    # -- proposing -------------------------------------------------------------------------------------

    def propose(
        self, session: Session, proposal: Proposal, now_us: int, given: Sequence[Approval] = ()
    ) -> Action:  # fmt: skip
        """Store a proposal with the policy's verdict. `given` are approvals of the playbook run that it belongs to.

        A key that is known returns its action. HubError 409 if that one is another action, 422 for invalid parameters,
        429 in an action storm.
        """
        row = self._row(proposal, now_us)
        known = session.exec(select(Action).where(Action.idempotency_key == row.idempotency_key)).first()
        if known is not None:
            return _same(known, row)
        verdict = self.judge(session, row, now_us)
        if verdict.rule == "storm" and verdict.decision == "forbid":  # no row: its cost is bounded
            raise HubError(429, "Action storm", verdict.reason)
        row.approvals = [msgspec.to_builtins(approval) for approval in given]
        self._apply(row, verdict)
        session.add(row)
        self._storm(session, verdict.storm, now_us)
        kind = "proposed" if row.state == "proposed" else row.state
        record(session, row, row.proposer or "hub" if proposal.origin == "person" else "hub", f"action.{kind}", now_us)
        return row

    def draft(self, proposal: Proposal, now_us: int) -> Action:
        """The row of a proposal, neither judged nor stored; HubError 422 for invalid parameters."""
        return self._row(proposal, now_us)

    def _row(self, proposal: Proposal, now_us: int) -> Action:
        kind, parameters = (
            self.catalogue.get(proposal.type), self.catalogue.decode(proposal.type, proposal.parameters)
        )  # fmt: skip
        if proposal.scope is not None and (not proposal.device or _reach(kind) == "hub"):
            raise HubError(403, "Not allowed", "this needs access to the whole hub, and the proposer has a scope")
        details, number = kind.details(parameters), new_id()
        if len(proposal.key) > MAX_KEY:
            raise HubError(422, "Invalid request", f"key: at most {MAX_KEY} characters")
        return Action(
            id=number, idempotency_key=proposal.key or number, incident=proposal.incident, device=proposal.device,
            type=proposal.type, parameters=proposal.parameters, detail=details[0][:300] if details else "",
            operation=facts.operation_of(details)[:100], risk=kind.risk(parameters), reason=proposal.reason,
            origin=proposal.origin, proposer=proposal.proposer,
            scope=None if proposal.scope is None else list(proposal.scope), playbook_run=proposal.playbook_run,
            step=proposal.step, undo_of=proposal.undo_of, created_us=now_us, changed_us=now_us,
            traceparent=proposal.trace,
        )  # fmt: skip

    def _apply(self, row: Action, verdict: Verdict) -> None:
        """Set rule, reason and state by a verdict."""
        row.rule, row.policy, row.approvals_needed = verdict.rule, verdict.reason, verdict.approvals
        row.automatic = verdict.decision == "allow"
        admitted = approvals.admits(verdict, row.proposer, given(row))
        row.state = "approved" if admitted else DECIDED[verdict.decision]
        row.started_us = row.created_us if admitted else 0

    def _storm(self, session: Session, text: str, now_us: int) -> None:
        if not text and not self.storming:
            return
        for listener in self.on_storm:
            listener(session, text, now_us)
        self.storming = bool(text)

    def check_storm(self, session: Session, now_us: int) -> None:
        """Clear the alarm of a storm that is over. Needs a write session."""
        hourly = self._hours.read(session, self.policy.storm.ceiling, now_us)
        self._storm(session, policy.storm_text(self.policy.storm, hourly), now_us)

    # -- deciding --------------------------------------------------------------------------------------

    def approve(self, session: Session, number: str, actor: str, roles: str, now_us: int) -> Action:
        """Add a person's approval; with the last one that the policy asks for the action is approved.

        HubError 404, 403 if this person may not approve it, or 409 if nothing waits or the policy forbids it now.
        """
        row = self._proposed(session, number)
        self._require_reach(session, row)
        verdict = self.judge(session, row, now_us, again=True)
        if verdict.decision == "forbid":
            raise HubError(409, "Forbidden by the policy", verdict.reason)
        if verdict.decision == "allow":  # what hindered it is over; a person still said so
            verdict = policy.one_approval(verdict)
        reason = approvals.refusal(verdict, row.proposer, given(row), actor, roles)
        if reason:
            raise HubError(403, "Not yours to approve", reason)
        row.approvals = [*row.approvals, msgspec.to_builtins(Approval(actor=actor, roles=roles, t_us=now_us))]
        row.approvals_needed = verdict.approvals
        admitted = approvals.admits(verdict, row.proposer, given(row))
        row.state, row.started_us = ("approved", now_us) if admitted else ("proposed", 0)
        record(session, row, actor, "action.approved" if admitted else "action.approval", now_us)
        return row

    def _require_reach(self, session: Session, row: Action) -> None:
        """HubError 403 if the action reaches devices beyond the session's scope."""
        scope, reach = scopes.session_scope(session), _reach(self.catalogue.get(row.type))
        within = reach == "device" or (reach == "query" and scopes.covers(scope, row.scope))
        if scope is not None and not within:
            raise HubError(403, "Not yours to approve", "it reaches devices beyond the scope of your token")

    def refuse(self, session: Session, number: str, actor: str, now_us: int, reason: str = "") -> Action:
        """Refuse a proposed action. HubError 404 or 409."""
        row = self._proposed(session, number)
        self.end(session, row, "refused", reason or f"by {actor}", now_us, actor)
        return row

    def cancel(
        self, session: Session, number: str, actor: str, now_us: int, reason: str = ""
    ) -> tuple[Action, list[OutgoingMessage]]:
        """Cancel an action that has not ended; publish the messages after the commit. HubError 404 or 409.

        What is done already stays done; undo it. A call that is under way may still arrive, but is not repeated.
        """
        row = get(session, number, lock=True)
        if row.state not in UNDER_WAY:
            raise HubError(409, "Nothing to cancel", f"the action is already {row.state}")
        kind: object = self.catalogue.types.get(row.type)
        messages: list[OutgoingMessage] = []
        if row.state == "executing" and isinstance(kind, Transactional):
            messages += kind.cancel(session, self.request(row), now_us, actor)
        self.end(session, row, "cancelled", reason or f"by {actor}", now_us, actor)
        return row, messages

    def undo(
        self, session: Session, number: str, proposal_by: Proposal, now_us: int, given: Sequence[Approval] = ()
    ) -> Action:  # fmt: skip
        """Propose the action that undoes another one. The policy judges it like any other; `given` as in `propose`.

        Of `proposal_by` origin, proposer, scope, reason and run count. HubError 404, or 409 if it cannot be undone.
        """
        row = get(session, number)
        if row.state not in {"executed", "verified", "failed"} or not row.effect:
            raise HubError(409, "Nothing to undo", f"the action is {row.state} and has had no effect")
        inverse = self.catalogue.get(row.type).undo(session, self.request(row))
        if isinstance(inverse, str):
            raise HubError(409, "It cannot be undone", inverse)
        wanted = Proposal(
            type=inverse.type, parameters=inverse.parameters, device=row.device, origin=proposal_by.origin,
            reason=proposal_by.reason or f"undo of {row.id}", proposer=proposal_by.proposer, scope=proposal_by.scope,
            incident=row.incident, key=_undo_key(session, row.id), playbook_run=proposal_by.playbook_run,
            step=proposal_by.step, undo_of=row.id, trace=row.traceparent,
        )  # fmt: skip
        return self.propose(session, wanted, now_us, given)

    def _proposed(self, session: Session, number: str) -> Action:
        row = get(session, number, lock=True)
        if row.state != "proposed":
            raise HubError(409, "Nothing to decide", f"the action is already {row.state}")
        return row

    def end(
        self, session: Session, row: Action, state: str, outcome: str, now_us: int, actor: str = "hub"
    ) -> None:  # fmt: skip
        """End an action, and notify those who wait for it."""
        end(session, row, state, outcome, now_us, actor)
        for listener in self.on_end:
            listener(session, row, now_us)


def _reach(kind: object) -> str:
    """What a type changes: the `device` it is for, what a `query` finds, or something of the whole `hub`."""
    return str(getattr(kind, "reach", "device"))


def _undo_key(session: Session, number: str) -> str:
    """The key of the undo of an action: a new one if those before came to nothing, or one refusal would be for ever."""
    key, more = f"undo/{number}", 0
    query = select(Action.state).where(Action.idempotency_key == key)
    while session.exec(query).first() in {"refused", "cancelled", "failed"}:
        more += 1
        key = f"undo/{number}#{more}"
        query = select(Action.state).where(Action.idempotency_key == key)
    return key


def _same(known: Action, row: Action) -> Action:
    same = ("type", "device", "parameters", "undo_of", "playbook_run")
    if any(getattr(known, name) != getattr(row, name) for name in same):
        raise HubError(409, "Key in use", f"the key '{row.idempotency_key}' belongs to another action")
    return known


def given(row: Action) -> list[Approval]:
    """The approvals of an action."""
    return msgspec.convert(row.approvals, list[Approval])


def get(session: Session, number: str, *, lock: bool = False) -> Action:
    """The action; raises HubError 404."""
    row = session.get(Action, number, with_for_update=lock)
    if row is None or not scopes.sees(session, [row.device]):
        raise HubError(404, "No such action", f"'{number[:80]}' is not known")
    return row


def of_run(session: Session, run: str) -> list[Action]:
    """The actions of a playbook run, the oldest first."""
    return list(session.exec(select(Action).where(Action.playbook_run == run).order_by(Action.id)))
