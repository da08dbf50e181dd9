"""Advances actions: approved -> executing -> executed -> verified (or failed).

Each action advances in a transaction of its own, from its state in the database. A hub that was killed resumes where it
stopped, and an action that fails blocks no other. An effect in the database is in the transaction of the change of
state. A call to another system is stored before it is made, and repeated with the same key until its outcome is stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import or_
from sqlmodel import Session, col, select

from cloud_hub.actions.catalogue import ActionType, External, Request, Transactional
from cloud_hub.actions.core import approvals
from cloud_hub.actions.service import ActionService, given
from cloud_hub.actions.states import ACTIVE, record
from cloud_hub.certificates import registry as certificates
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Action, Command
from cloud_hub.devices import commands
from cloud_hub.errors import HubError
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.runtime.worker import BURST_S, WorkerSpec, WorkResult
from shared.errors import ConfigError, NotReady

log = logging.getLogger(__name__)

BATCH_SIZE = 200
"""Actions that advance in one run, and commands that expire in one transaction."""
PERIOD_S = 0.5
CALLS = 50
"""Calls of one run."""
TRIES, RETRY_S = 4, 10.0
"""A call is made once and repeated three times, 10 s after each failure."""


def workers(db: Database, service: ActionService) -> list[WorkerSpec]:
    """One worker for effects in the database, one for calls, so that a slow system delays no device."""
    return [
        WorkerSpec(
            name="actions", run_once=lambda: run_once(db, service, now_us()), period_s=PERIOD_S, linger_s=BURST_S
        ),
        WorkerSpec(name="action-calls", run_once=lambda: make_calls(db, service, now_us), linger_s=BURST_S),
    ]


def run_once(db: Database, service: ActionService, now_us: int) -> WorkResult:
    """Expire overdue commands, and advance every action that can advance."""
    items, messages = WorkItems(db, "actions", now_us), list[OutgoingMessage]()
    with db.read() as session:
        expired = commands.list_overdue(session, now_us)
    for first in range(0, len(expired), BATCH_SIZE):
        parts = items.batch("command", expired[first : first + BATCH_SIZE], lambda ids: _expire(db, ids, now_us))
        messages += [message for part in parts for message in part]
    if service.storming:
        items.run("storm", "actions", lambda: _check_storm(db, service, now_us))
    with db.read() as session:
        ready = _ready_to_advance(session)
    for number in ready:
        messages += items.run("action", number, partial(_advance, db, service, number, now_us)) or []
    return items.result(messages=messages, wake=["action-calls", "jobs"] if ready else ())


def _ready_to_advance(session: Session) -> list[str]:
    """Active actions, except those whose command has not ended."""
    query = select(Action.id).join(Command, col(Command.id) == Action.command, isouter=True)
    ended = or_(col(Action.state) != "executing", col(Command.id).is_(None), col(Command.done_us).is_not(None))
    return list(session.exec(query.where(col(Action.state).in_(ACTIVE), ended).order_by(Action.id)))


def _check_storm(db: Database, service: ActionService, now_us: int) -> None:
    with db.write() as session:
        service.check_storm(session, now_us)


def _expire(db: Database, numbers: Sequence[str], now_us: int) -> list[OutgoingMessage]:
    with db.write() as session:
        return commands.expire(session, now_us, numbers)


def _advance(db: Database, service: ActionService, number: str, now_us: int) -> list[OutgoingMessage]:
    """Advance one action as far as possible."""
    messages: list[OutgoingMessage] = []
    with db.write() as session:
        action = session.get(Action, number, with_for_update=True)
        if action is None or action.state not in ACTIVE:
            return []
        kind = service.catalogue.get(action.type)
        if action.device and certificates.removed(session, action.device):
            service.end(session, action, "failed", "the device was removed", now_us)
            return []
        if action.state == "approved":
            messages += _execute(session, service, kind, action, now_us)
        elif action.state == "executing" and isinstance(kind, Transactional):
            _complete(session, service, kind, action, now_us)
        if action.state == "executed":
            _verify(session, service, kind, action, now_us)
    return messages


def _execute(
    session: Session, service: ActionService, kind: ActionType, action: Action, now_us: int
) -> list[OutgoingMessage]:  # fmt: skip
    if not _admitted(session, service, kind, action, now_us):
        return []
    request = service.request(action)
    if reason := kind.precondition(session, request):
        service.end(session, action, "failed", reason, now_us)
        return []
    action.before, action.started_us = kind.snapshot(session, request), now_us
    if isinstance(kind, External):
        action.state, action.next_us = "executing", now_us
        record(session, action, "hub", "action.executing", now_us)
        return []
    if not isinstance(kind, Transactional):
        return []
    try:
        with session.begin_nested():
            done = kind.execute(session, service.request(action), now_us)
    except HubError as error:
        service.end(session, action, "failed", str(error), now_us)
        return []
    action.effect, action.command, action.state = done.effect, done.command, "executing"
    more = {"command": done.command} if done.command else {}
    record(session, action, "hub", "action.executing", now_us, **more)
    messages: list[OutgoingMessage] = done.messages
    if not done.command:
        _complete(session, service, kind, action, now_us)
    return messages


def _admitted(session: Session, service: ActionService, kind: ActionType, action: Action, now_us: int) -> bool:
    """Judge the action again: the policy, the time or the facts may have changed since it was approved."""
    verdict = service.judge(session, action, now_us, again=True)
    if approvals.admits(verdict, action.proposer, given(action)):
        return True
    called_for = any(rule.name == action.rule and rule.called_for for rule in service.policy.rules)
    if verdict.decision == "forbid":
        service.end(session, action, "refused", f"the policy forbids it now: {verdict.reason}", now_us)
    elif action.automatic and called_for and (reason := kind.uncalled(session, service.request(action))):
        service.end(session, action, "refused", f"no longer called for: {reason}", now_us)
    else:
        action.state, action.automatic, action.approvals_needed = "proposed", False, verdict.approvals
        action.rule, action.policy = verdict.rule, verdict.reason
        record(session, action, "hub", "action.proposed", now_us)
    return False


def _complete(session: Session, service: ActionService, kind: Transactional, action: Action, now_us: int) -> None:
    """Look whether the effect is complete, such as a command that the device has answered."""
    done = kind.progress(session, service.request(action), now_us)
    if done.state == "failed":
        service.end(session, action, "failed", done.reason, now_us)
    elif done.state == "done":
        action.state = "executed"
        record(session, action, action.device or "hub", "action.executed", now_us)


def _verify(session: Session, service: ActionService, kind: ActionType, action: Action, now_us: int) -> None:
    shown = kind.verify(session, service.request(action), now_us)
    if shown.state != "pending":
        service.end(session, action, "verified" if shown.state == "done" else "failed", shown.reason, now_us)


# -- calls to other systems --------------------------------------------------------------------------


def make_calls(db: Database, service: ActionService, clock: Callable[[], int]) -> WorkResult:
    """Make the calls that are due, one by one; a call that hangs ends after its type's time limit."""
    names = [name for name, kind in service.catalogue.types.items() if isinstance(kind, External)]
    now_us = clock()
    items = WorkItems(db, "action-calls", now_us)
    due = (Action.state == "executing", col(Action.type).in_(names), Action.next_us <= now_us)
    with db.read() as session:
        query = select(Action.id).where(*due, items.ready("action", Action.id)).order_by(col(Action.next_us), Action.id)
        waiting = list(session.exec(query.limit(CALLS)))
    done = [items.run("action", number, partial(_call, db, service, number, clock)) for number in waiting]
    return items.result(again=len(waiting) == CALLS, wake=["actions"] if any(done) else ())


def _call(db: Database, service: ActionService, number: str, clock: Callable[[], int]) -> bool:
    """Claim one call, make it outside of any transaction, and store its outcome."""
    try:
        before = _prepared(db, service, number)
    except NotReady as error:
        return _postpone(db, number, error.reason, clock())
    claimed = _claim(db, service, number, before, clock())
    if claimed is None:
        return False
    kind, request, key, tries = claimed
    try:
        effect, failure, final = kind.call(request, key, clock()), "", True
    except NotReady as error:
        effect, failure, final = {}, error.reason, tries >= TRIES
    except (HubError, ConfigError) as error:
        effect, failure, final = {}, str(error), True
    return _store_outcome(db, service, number, effect, failure, final, clock())


def _postpone(db: Database, number: str, reason: str, now_us: int) -> bool:
    """Nothing was called yet: try again later, for as long as it takes or until somebody cancels it."""
    with db.write() as session:
        action = session.get(Action, number, with_for_update=True)
        if action is not None and action.state == "executing":
            action.outcome, action.next_us = reason, now_us + int(RETRY_S * 1e6)
    return False


def _store_outcome(
    db: Database, service: ActionService, number: str, effect: dict[str, Any], failure: str, final: bool, now_us: int
) -> bool:  # fmt: skip
    with db.write() as session:
        action = session.get(Action, number, with_for_update=True)
        if action is None:
            return False
        if action.state != "executing":  # cancelled while the call was under way: that stays
            record(session, action, "hub", "action.late", now_us, outcome=failure or "the call had arrived")
        elif not failure:
            action.effect, action.state = effect, "executed"
            record(session, action, "hub", "action.executed", now_us)
        elif final:
            service.end(session, action, "failed", failure, now_us)
        else:
            action.outcome, action.next_us = failure, now_us + int(RETRY_S * 1e6)
    return True


def _prepared(db: Database, service: ActionService, number: str) -> dict[str, Any] | None:
    """The state before the first call, None if it is stored already."""
    with db.read() as session:
        action = session.get(Action, number)
        if action is None or action.attempts:
            return None
        kind, request = service.catalogue.get(action.type), service.request(action)
    return kind.prepare(request) if isinstance(kind, External) else None


def _claim(
    db: Database, service: ActionService, number: str, before: dict[str, Any] | None, now_us: int
) -> tuple[External, Request, str, int] | None:  # fmt: skip
    """Count the attempt and hold the call for its time limit, so that no other hub makes it meanwhile."""
    with db.write() as session:
        action = session.get(Action, number, with_for_update=True)
        if action is None or action.state != "executing" or action.next_us > now_us:
            return None
        kind = service.catalogue.get(action.type)
        if not isinstance(kind, External):
            return None
        if action.attempts >= TRIES:  # each attempt ended with the hub
            service.end(session, action, "failed", f"given up after {action.attempts} attempts", now_us)
            return None
        action.attempts += 1
        action.before = action.before if before is None else before
        action.next_us = now_us + int((kind.timeout_s + RETRY_S) * 1e6)
        return kind, service.request(action), action.idempotency_key, action.attempts
