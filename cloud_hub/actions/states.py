"""The states of an action, and the changes of state that every part makes alike."""

from __future__ import annotations

import logging
from typing import Any

from sqlmodel import Session

from cloud_hub.audit import trail
from cloud_hub.database.tables import Action

log = logging.getLogger(__name__)

WAITING = ("proposed", "approved")
"""Nothing has been done yet."""
ACTIVE = ("approved", "executing", "executed")
"""The worker advances these."""
UNDER_WAY = ("proposed", *ACTIVE)
CARRIED_OUT = (*ACTIVE, "verified", "failed")
"""These count for cooldowns and budgets."""


def subject(action: Action) -> str:
    """The action in a few words, for the audit trail."""
    return f"{action.type} {action.detail}".rstrip()


def record(session: Session, action: Action, actor: str, kind: str, now_us: int, **detail: Any) -> None:
    """Add a change to the audit trail."""
    action.changed_us = now_us
    session.add(action)
    trail.add(session, now_us, actor, kind, subject(action), device=action.device, trace=action.traceparent,
              action=action.id, policy=action.policy, **detail)  # fmt: skip


def end(session: Session, action: Action, state: str, outcome: str, now_us: int, actor: str = "hub") -> None:
    """Move an action to a state that it never leaves."""
    action.state, action.outcome = state, outcome
    record(session, action, actor, f"action.{state}", now_us, outcome=outcome)
    fields = {"action": action.id, "type": action.type, "detail": action.detail}
    log.info(f"action.{state}", extra={"fields": fields, "trace": action.traceparent})


def abort(session: Session, action: Action, now_us: int, *, actor: str, reason: str) -> None:
    """End an action because its incident was resolved or its device removed."""
    end(session, action, "refused" if action.state in WAITING else "failed", reason, now_us, actor)
