"""Carries actions through their life: proposed -> approved -> executing -> executed -> verified (or failed).

Each step is a transaction on its own, taken from the database, so that a hub killed at any moment goes on
where it was; a command has one effect however often it is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sqlmodel import Session, col, select

from cloud_hub import audit, commands, incidents, scopes, twins
from cloud_hub.actions.policy import judge
from cloud_hub.ca import register
from cloud_hub.clock import new_id
from cloud_hub.errors import HubError
from cloud_hub.settings import Actions
from cloud_hub.tables import Action, Command, Incident
from cloud_hub.twins import Outgoing

log = logging.getLogger(__name__)

UNDER_WAY = ("approved", "executing", "executed")


def _restarted(before: dict[str, Any], reported: dict[str, Any], target: str) -> bool:
    """The twin shows one more start of the model since, and that it runs."""
    model = reported.get("models", {}).get(target, {})
    return bool(model.get("starts", 0) > before.get("starts", 0) and model.get("state") == "running")


VERIFIED: dict[str, Callable[[dict[str, Any], dict[str, Any], str], bool]] = {
    "restart": _restarted,
    "diagnose": lambda _before, _reported, _target: True,  # its output is the proof
}


def propose(
    session: Session, incident: Incident, verb: str, target: str, reason: str, now_us: int, settings: Actions
) -> Action:
    """Take a proposal, let policy judge it, and keep both."""
    action = Action(
        id=new_id(), incident=incident.id, device=incident.device, verb=verb, target=target, reason=reason,
        changed_us=now_us, traceparent=incident.traceparent,
    )  # fmt: skip
    verdict = judge(verb, settings.automatic, _last(session, action), now_us, settings.cooldown_s)
    action.policy = verdict.reason
    action.state = {"allow": "approved", "ask": "proposed", "refuse": "refused"}[verdict.word]
    session.add(action)
    _told(session, action, "hub", f"action.{'proposed' if verdict.word == 'ask' else action.state}", now_us)
    return action


def _last(session: Session, action: Action) -> int | None:
    query = select(Action.changed_us).where(
        Action.device == action.device, Action.verb == action.verb, Action.target == action.target,
        col(Action.state).in_(("executing", "executed", "verified", "failed")),
    )  # fmt: skip
    return max(session.exec(query).all(), default=None)


def _told(session: Session, action: Action, who: str, kind: str, now_us: int, **detail: Any) -> None:
    action.changed_us = now_us
    audit.add(session, now_us, who, kind, f"{action.verb} {action.target}", device=action.device,
              trace=action.traceparent, action=action.id, policy=action.policy, **detail)  # fmt: skip


def get(session: Session, action_id: str) -> Action:
    """The action, or HubError 404."""
    row = session.get(Action, action_id)
    if row is None or not scopes.sees(session, [row.device]):
        raise HubError(404, "No such action", f"'{action_id}' is not known")
    return row


def decide(session: Session, action_id: str, approved: bool, who: str, now_us: int) -> Action:
    """A person's word on a proposed action."""
    action = get(session, action_id)
    if action.state != "proposed":
        raise HubError(409, "Nothing to decide", f"the action is already {action.state}")
    action.state = "approved" if approved else "refused"
    _told(session, action, who, f"action.{action.state}", now_us)
    if not approved:
        incidents.settle(session, action.incident, now_us)
    return action


def due(session: Session, now_us: int) -> bool:
    """Whether `step` has anything to look at: asked first, because only writing makes others wait."""
    under_way = session.exec(select(Action.id).where(col(Action.state).in_(UNDER_WAY)).limit(1)).first()
    return under_way is not None or commands.expired(session, now_us)


def step(session: Session, now_us: int, settings: Actions) -> list[Outgoing]:
    """Move every action under way by what is known now; returns what must be published."""
    messages = commands.expire(session, now_us)
    for action in session.exec(select(Action).where(col(Action.state).in_(UNDER_WAY)).order_by(Action.id)).all():
        if register.removed(session, action.device):  # proposed while it was being removed
            _end(session, action, "failed", incidents.REMOVED, now_us)
        elif action.state == "approved":
            messages += _execute(session, action, now_us, settings)
        elif action.state == "executing":
            _executed(session, action, now_us)
        if action.state == "executed":
            _verify(session, action, now_us, settings)
    return messages


def _execute(session: Session, action: Action, now_us: int, settings: Actions) -> list[Outgoing]:
    action.before = dict(twins.reported(session, action.device).get("models", {}).get(action.target, {}))
    command, messages = commands.create(
        session, action.device, action.verb, action.target, now_us,
        who="hub", life_s=settings.verify_s, trace=action.traceparent,
    )  # fmt: skip
    action.command, action.state = command.id, "executing"
    _told(session, action, "hub", "action.executing", now_us, command=command.id)
    return messages


def _executed(session: Session, action: Action, now_us: int) -> None:
    command = session.get_one(Command, action.command)
    if command.done_us is None:
        return
    if command.state != "succeeded":
        _end(session, action, "failed", f"the command was {command.state}: {command.text}", now_us)
        return
    action.state = "executed"
    _told(session, action, action.device, "action.executed", now_us)


def _verify(session: Session, action: Action, now_us: int, settings: Actions) -> None:
    check = VERIFIED.get(action.verb)
    if check is None:
        _end(session, action, "verified", "nothing in the twin shows this verb; the device's word stands", now_us)
    elif check(action.before, twins.reported(session, action.device), action.target):
        _end(session, action, "verified", "the twin shows it", now_us)
    elif now_us - action.changed_us > settings.verify_s * 1e6:
        _end(session, action, "failed", f"the twin did not show it within {settings.verify_s:g} s", now_us)


def _looks(session: Session, incident_id: str) -> int:
    """How many looks the incident has had."""
    return sum(a.verb == "diagnose" and a.state == "verified" for a in incidents.actions(session, incident_id))


def _end(session: Session, action: Action, state: str, outcome: str, now_us: int) -> None:
    action.state, action.outcome = state, outcome
    _told(session, action, "hub", f"action.{state}", now_us, outcome=outcome)
    log.info(
        f"action.{state}", extra={"fields": {"action": action.id, "verb": action.verb}, "trace": action.traceparent}
    )
    if state == "verified" and action.verb == "diagnose" and _looks(session, action.incident) == 1:
        # What the first look brought is new evidence: the incident goes back to the desk. Not after every look,
        # or a desk that always wants another would never end.
        incident = session.get_one(Incident, action.incident)
        if incident.state != "resolved":
            incident.diagnosed_us = None
    incidents.settle(session, action.incident, now_us)
