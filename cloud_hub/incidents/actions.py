"""Executes actions: proposed -> approved -> executing -> executed -> verified (or failed).

Each action advances in a transaction of its own, from its state in the database. A hub that was killed resumes where it
stopped, and an action that fails blocks no other. Commands are idempotent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import func, or_
from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.certificates import registry as certificates
from cloud_hub.clock import new_id
from cloud_hub.database import scopes
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Action, AlarmRow, Command, Incident
from cloud_hub.devices import commands
from cloud_hub.errors import HubError
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents.core.action_policy import CHANGING, Facts, Rules, judge, unfounded
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.runtime.worker import WorkResult
from cloud_hub.settings import Actions
from cloud_hub.twins import service as twins
from cloud_hub.twins.core import reported_values
from cloud_hub.twins.core.reported_values import Model
from shared.durations import DAY_US

log = logging.getLogger(__name__)

UNDER_WAY = ("approved", "executing", "executed")
CARRIED_OUT = ("approved", "executing", "executed", "verified", "failed")
BATCH_SIZE = 200
"""The number of commands that expire in one transaction."""


def _restarted(before: Model, now: Model) -> bool:
    """Whether the twin reports that the model has started again and runs."""
    return now.starts > before.starts and now.state == "running"


VERIFIED: dict[str, Callable[[Model, Model], bool]] = {
    "restart": _restarted,
    "diagnose": lambda _before, _now: True,  # its output is the proof
}


def propose(
    session: Session, incident: Incident, verb: str, target: str, reason: str, now_us: int, settings: Actions
) -> Action:
    """Create an action from a proposal, and apply the policy to it."""
    action = Action(
        id=new_id(), incident=incident.id, device=incident.device, verb=verb, target=target, reason=reason,
        changed_us=now_us, traceparent=incident.traceparent,
    )  # fmt: skip
    rules = Rules(automatic=settings.automatic, cooldown_s=settings.cooldown_s, per_day=settings.per_day)
    verdict = judge(verb, rules, _facts(session, action, now_us), now_us)
    action.policy, action.automatic = verdict.reason, verdict.decision == "allow"
    action.state = {"allow": "approved", "ask": "proposed", "refuse": "refused"}[verdict.decision]
    session.add(action)
    _record(session, action, "hub", f"action.{'proposed' if verdict.decision == 'ask' else action.state}", now_us)
    return action


def _facts(session: Session, action: Action, now_us: int) -> Facts:
    """The facts that the policy needs."""
    session.flush()  # each of several proposals sees the earlier ones
    executed = (Action.device == action.device, Action.id != action.id, col(Action.state).in_(CARRIED_OUT))
    last = session.exec(select(func.max(Action.changed_us)).where(*executed, Action.verb == action.verb)).one()
    automatic = (col(Action.automatic).is_(True), col(Action.verb).in_(CHANGING), Action.changed_us > now_us - DAY_US)
    return Facts(
        reported=action.target in reported_values.models(twins.reported(session, action.device)),
        stalled=_stalled(session, action.device, action.target), last_us=last,
        within_day=session.exec(select(func.count()).where(*executed, *automatic)).one(),
    )  # fmt: skip


def _stalled(session: Session, device: str, model: str) -> bool:
    """Whether an unsuppressed alarm is raised that this model gives no answers."""
    alarm = select(AlarmRow.id).where(
        AlarmRow.device == device, AlarmRow.metric == f"{model}/age_s", AlarmRow.kind == "high",
        AlarmRow.about == "", AlarmRow.state == "raised", AlarmRow.suppressed == "",
    )  # fmt: skip
    return session.exec(alarm.limit(1)).first() is not None


def _record(session: Session, action: Action, actor: str, kind: str, now_us: int, **detail: Any) -> None:
    action.changed_us = now_us
    trail.add(session, now_us, actor, kind, f"{action.verb} {action.target}", device=action.device,
              trace=action.traceparent, action=action.id, policy=action.policy, **detail)  # fmt: skip


def get(session: Session, action_id: str) -> Action:
    """The action; raises HubError 404."""
    row = session.get(Action, action_id)
    if row is None or not scopes.sees(session, [row.device]):
        raise HubError(404, "No such action", f"'{action_id}' is not known")
    return row


def decide(session: Session, action_id: str, approved: bool, actor: str, now_us: int) -> Action:
    """Approve or refuse a proposed action."""
    action = get(session, action_id)
    if action.state != "proposed":
        raise HubError(409, "Nothing to decide", f"the action is already {action.state}")
    action.state = "approved" if approved else "refused"
    _record(session, action, actor, f"action.{action.state}", now_us)
    if not approved:
        incidents.settle(session, action.incident, now_us)
    return action


def run_once(db: Database, now_us: int, settings: Actions) -> WorkResult:
    """Expire overdue commands, and advance every action that can advance."""
    items, messages = WorkItems(db, "actions", now_us), list[OutgoingMessage]()
    with db.read() as session:
        expired = commands.list_overdue(session, now_us)
    for first in range(0, len(expired), BATCH_SIZE):
        parts = items.batch("command", expired[first : first + BATCH_SIZE], lambda ids: _expire(db, ids, now_us))
        messages += [message for part in parts for message in part]
    with db.read() as session:
        found = _ready_to_advance(session)
    for number in found:
        messages += items.run("action", number, partial(_advance, db, number, now_us, settings)) or []
    return items.result(messages=messages)


def _ready_to_advance(session: Session) -> list[str]:
    """Active actions, except those whose command has not ended."""
    query = select(Action.id).join(Command, col(Command.id) == Action.command, isouter=True)
    ended = or_(col(Action.state) != "executing", col(Command.id).is_(None), col(Command.done_us).is_not(None))
    return list(session.exec(query.where(col(Action.state).in_(UNDER_WAY), ended).order_by(Action.id)))


def _expire(db: Database, numbers: Sequence[str], now_us: int) -> list[OutgoingMessage]:
    with db.write() as session:
        return commands.expire(session, now_us, numbers)


def _advance(db: Database, number: str, now_us: int, settings: Actions) -> list[OutgoingMessage]:
    """Advance one action as far as possible."""
    messages: list[OutgoingMessage] = []
    with db.write() as session:
        action = session.get(Action, number)
        if action is None:
            return []
        if certificates.removed(session, action.device):  # proposed during the removal
            _end(session, action, "failed", incidents.REMOVED, now_us)
        elif action.state == "approved":
            messages += _execute(session, action, now_us, settings)
        elif action.state == "executing":
            _executed(session, action, now_us)
        if action.state == "executed":
            _verify(session, action, now_us, settings)
        return messages


def _execute(session: Session, action: Action, now_us: int, settings: Actions) -> list[OutgoingMessage]:
    checked = action.automatic and action.verb in CHANGING
    if checked and (reason := unfounded(action.verb, _facts(session, action, now_us))):
        _end(session, action, "refused", f"no longer called for: {reason}", now_us)
        return []
    action.before = msgspec.to_builtins(_model(session, action))
    command, messages = commands.create(
        session, action.device, action.verb, action.target, now_us,
        actor="hub", life_s=settings.verify_s, trace=action.traceparent,
    )  # fmt: skip
    action.command, action.state = command.id, "executing"
    _record(session, action, "hub", "action.executing", now_us, command=command.id)
    return messages


def _model(session: Session, action: Action) -> Model:
    """The state of the action's target that the twin reports now."""
    return reported_values.models(twins.reported(session, action.device)).get(action.target, Model())


def _executed(session: Session, action: Action, now_us: int) -> None:
    command = session.get(Command, action.command)
    if command is None:
        _end(session, action, "failed", "its command is not kept any more", now_us)
        return
    if command.done_us is None:
        return
    if command.state != "succeeded":
        _end(session, action, "failed", f"the command was {command.state}: {command.text}", now_us)
        return
    action.state = "executed"
    _record(session, action, action.device, "action.executed", now_us)


def _verify(session: Session, action: Action, now_us: int, settings: Actions) -> None:
    check = VERIFIED.get(action.verb)
    if check is None:
        _end(session, action, "verified", "the twin does not show this verb; the device's result counts", now_us)
    elif check(reported_values.model(action.before), _model(session, action)):
        _end(session, action, "verified", "the twin shows it", now_us)
    elif now_us - action.changed_us > settings.verify_s * 1e6:
        _end(session, action, "failed", f"the twin did not show it within {settings.verify_s:g} s", now_us)


def _diagnose_count(session: Session, incident_id: str) -> int:
    """The number of diagnose commands that this incident has had."""
    return sum(a.verb == "diagnose" and a.state == "verified" for a in incidents.actions(session, incident_id))


def _end(session: Session, action: Action, state: str, outcome: str, now_us: int) -> None:
    action.state, action.outcome = state, outcome
    _record(session, action, "hub", f"action.{state}", now_us, outcome=outcome)
    log.info(
        f"action.{state}", extra={"fields": {"action": action.id, "verb": action.verb}, "trace": action.traceparent}
    )
    if state == "verified" and action.verb == "diagnose" and _diagnose_count(session, action.incident) == 1:
        # The output of the first diagnose command is new evidence: diagnose the incident again. Only after the first
        # one, or a diagnosis that always asks for another would never end.
        incident = session.get(Incident, action.incident)
        if incident is not None and incident.state != "resolved":
            incident.diagnosed_us = None
    incidents.settle(session, action.incident, now_us)
