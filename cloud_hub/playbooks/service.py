"""Proposes, approves, cancels and resumes runs of playbooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from sqlalchemy import func
from sqlmodel import Session, col, select

from cloud_hub.actions.core.approvals import Approval
from cloud_hub.clock import new_id
from cloud_hub.database import scopes
from cloud_hub.database.tables import PlaybookRun
from cloud_hub.errors import HubError
from cloud_hub.playbooks.core import machine
from cloud_hub.playbooks.core import verdicts as policy
from cloud_hub.playbooks.core.machine import ACTIVE
from cloud_hub.playbooks.core.plan import Plan
from cloud_hub.playbooks.core.verdicts import StepVerdict, admits, forbidden
from cloud_hub.playbooks.journal import RunJournal
from cloud_hub.security.core.roles import Scope

MAX_OPEN = 1000
"""Runs that are proposed or under way at a time."""
OPEN = ("proposed", *ACTIVE)


def propose(
    session: Session, plan: Plan, verdicts: Sequence[StepVerdict], now_us: int, *, actor: str, trace: str = "",
    origin: Literal["person", "diagnosis"] = "person", incident: str = "", scope: Scope = None,
) -> PlaybookRun:  # fmt: skip
    """Store a run. It begins at once if no step needs an approval; HubError 409 if the policy forbids a step."""
    if refused := forbidden(verdicts):
        reasons = "; ".join(f"step {verdict.step}: {verdict.reason} (rule {verdict.rule})" for verdict in refused[:5])
        raise HubError(409, "Forbidden by the policy", reasons)
    count = session.exec(select(func.count()).where(col(PlaybookRun.state).in_(OPEN))).one()
    if count >= MAX_OPEN:
        raise HubError(409, "Too many playbook runs", f"{count} runs are open; cancel some, or wait")
    row = PlaybookRun(
        id=new_id(), playbook=plan.playbook, version=plan.version, plan=msgspec.to_builtins(plan),
        progress=msgspec.to_builtins(machine.begin(plan)), verdicts=msgspec.to_builtins(list(verdicts)),
        incident=incident, origin=origin, actor=actor, created_us=now_us, traceparent=trace,
        scope=list(scope) if scope else None,
    )  # fmt: skip
    session.add(row)
    session.flush()
    journal = RunJournal(session, row)
    journal.record("run.proposed", now_us, actor=actor, by=actor, version=plan.version)
    if admits(verdicts, actor, ()):
        _begin(journal, now_us, "policy")
    journal.save(now_us)
    return row


def decide(session: Session, number: str, approved: bool, now_us: int, actor: str, roles: str) -> PlaybookRun:
    """Approve or refuse a proposed run, with all its steps: it begins when each has the approvals that it needs.

    HubError 404, 403 if this person may not approve one of the steps, 409 if nothing waits.
    """
    row = get(session, number, lock=True)
    if row.state != "proposed":
        raise HubError(409, "Nothing to decide", f"the run is already {row.state}")
    journal = RunJournal(session, row)
    if approved:
        _approve(journal, now_us, actor, roles)
        journal.record("run.approved", now_us, actor=actor, by=actor)
        if admits(verdicts_of(row), row.actor, approvals_of(row)):
            _begin(journal, now_us, actor)
    else:
        journal.record("run.refused", now_us, actor=actor, reason=f"refused by {actor}")
    return _saved(journal, now_us)


def _approve(journal: RunJournal, now_us: int, actor: str, roles: str) -> None:
    row = journal.row
    if reason := policy.refusal(verdicts_of(row), row.actor, approvals_of(row), actor, roles):
        raise HubError(403, "Not yours to approve", reason)
    row.approvals = [*row.approvals, msgspec.to_builtins(Approval(actor=actor, roles=roles, t_us=now_us))]


def cancel(session: Session, number: str, now_us: int, actor: str) -> PlaybookRun:
    """End a run: nothing more begins, actions under way are asked to end. It wins over retries and waits."""
    row = get(session, number, lock=True)
    journal = RunJournal(session, row)
    if row.state == "proposed":
        journal.record("run.cancelled", now_us, actor=actor, reason=f"cancelled by {actor}")
    elif row.state in ACTIVE:
        journal.record("run.stopping", now_us, actor=actor, ending="cancelled", reason=f"cancelled by {actor}",
                       interrupt=True)  # fmt: skip
    else:
        raise HubError(409, "Nothing to cancel", f"the run is already {row.state}")
    return _saved(journal, now_us)


def under_way(session: Session, incident: str) -> bool:
    """Whether a playbook runs for the incident."""
    chosen = select(PlaybookRun.id).where(PlaybookRun.incident == incident, col(PlaybookRun.state).in_(ACTIVE))
    return session.exec(chosen.limit(1)).first() is not None


def end_of_incident(session: Session, incident: str, now_us: int, *, actor: str, reason: str) -> None:
    """Cancel the runs of an incident that is over."""
    chosen = select(PlaybookRun).where(PlaybookRun.incident == incident, col(PlaybookRun.state).in_(OPEN))
    for row in session.exec(chosen.with_for_update()).all():
        journal = RunJournal(session, row)
        if row.state == "proposed":
            journal.record("run.cancelled", now_us, actor=actor, reason=reason)
        else:
            journal.record("run.stopping", now_us, actor=actor, ending="cancelled", reason=reason, interrupt=True)
        journal.save(now_us)


def resume(session: Session, number: str, now_us: int, actor: str, roles: str) -> PlaybookRun:
    """Go on with a run that failed or was cancelled: what failed, was cancelled or undone is done again.

    It needs its approvals anew, the first from the person who resumes it. HubError 404, 403 or 409.
    """
    row = get(session, number, lock=True)
    if row.state not in {"failed", "cancelled"}:
        raise HubError(409, "Nothing to resume", f"the run is {row.state}")
    journal = RunJournal(session, row)
    deadline, row.approvals = now_us + int(journal.plan.deadline_s * 1e6), []
    if not admits(verdicts_of(row), row.actor, ()):
        _approve(journal, now_us, actor, roles)
    begun = admits(verdicts_of(row), row.actor, approvals_of(row))
    journal.record("run.resumed", now_us, actor=actor, deadline_us=deadline)
    if not begun:
        journal.record("run.proposed", now_us, actor=actor)
    return _saved(journal, now_us)


def verdicts_of(row: PlaybookRun) -> list[StepVerdict]:
    """The policy's verdicts on the steps, from before the run began."""
    return msgspec.convert(row.verdicts, list[StepVerdict])


def approvals_of(row: PlaybookRun) -> list[Approval]:
    """The approvals of a run."""
    return msgspec.convert(row.approvals, list[Approval])


def needed(row: PlaybookRun) -> int:
    """How many people must approve the run."""
    return policy.needed(verdicts_of(row))


def _begin(journal: RunJournal, now_us: int, actor: str) -> None:
    deadline = now_us + int(journal.plan.deadline_s * 1e6)
    journal.record("run.running", now_us, actor=actor, deadline_us=deadline)


def _saved(journal: RunJournal, now_us: int) -> PlaybookRun:
    journal.save(now_us)
    return journal.row


def get(session: Session, number: str, *, lock: bool = False) -> PlaybookRun:
    """The run, or HubError 404."""
    row = session.get(PlaybookRun, number, with_for_update=lock)
    if row is None or not scopes.covers(scopes.session_scope(session), row.scope):
        raise HubError(404, "No such playbook run", f"'{number[:80]}' is not known")
    return row


def list_newest(session: Session, *, state: str = "", incident: str = "", limit: int = 100) -> list[PlaybookRun]:
    """The newest runs first; only those within the session's scope."""
    chosen = select(PlaybookRun).order_by(col(PlaybookRun.id).desc())
    chosen = chosen.where(PlaybookRun.state == state) if state else chosen
    chosen = chosen.where(PlaybookRun.incident == incident) if incident else chosen
    scope = scopes.session_scope(session)
    if scope is None:
        return list(session.exec(chosen.limit(limit)))
    rows = session.exec(chosen.limit(MAX_OPEN * 10))
    return [row for row in rows if scopes.covers(scope, row.scope)][:limit]
