"""Who may approve an action, and whether the approvals suffice. Pure.

`admits` is the only gate before an effect: the executor asks it with the policy's verdict at that time.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cloud_hub.actions.core.policy import Verdict


class Approval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One person's approval, with the roles that the person held then (separated by spaces)."""

    actor: str
    roles: str
    t_us: int


def refusal(verdict: Verdict, proposer: str, given: Sequence[Approval], actor: str, roles: str) -> str:
    """Why this person's approval does not count, or ''."""
    if not set(roles.split()) & set(verdict.roles):
        return f"the policy asks for the role {' or '.join(verdict.roles)}"
    if actor == proposer and not verdict.own:
        return "nobody approves an own proposal"
    if any(approval.actor == actor for approval in given):
        return "you have approved it already: another person must"
    return ""


def counted(verdict: Verdict, proposer: str, given: Sequence[Approval]) -> int:
    """How many of the approvals count: of distinct people, with one of the roles, not of the proposer."""
    good: list[Approval] = []
    for approval in given:
        if not refusal(verdict, proposer, good, approval.actor, approval.roles):
            good.append(approval)
    return len(good)


def admits(verdict: Verdict, proposer: str, given: Sequence[Approval]) -> bool:
    """Whether the action may be executed: it is allowed, or has the approvals that the policy asks for."""
    if verdict.decision == "approve":
        return verdict.approvals > 0 and counted(verdict, proposer, given) >= verdict.approvals
    return verdict.decision == "allow"
