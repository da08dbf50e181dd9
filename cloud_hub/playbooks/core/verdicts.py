"""What the policy says of each step of a plan before the run begins, and whether a run's approvals suffice. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cloud_hub.actions.core import approvals, policy
from cloud_hub.actions.core.approvals import Approval
from cloud_hub.actions.core.policy import Decision


class StepVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The policy's verdict on one step: by which rule and why, and how many people with which roles must approve.

    `own`: the person who proposed the run may be one of them.
    """

    step: str
    decision: Decision
    rule: str = ""
    reason: str = ""
    approvals: int = 0
    roles: tuple[str, ...] = ()
    own: bool = False


def forbidden(verdicts: Sequence[StepVerdict]) -> list[StepVerdict]:
    """The verdicts that refuse the run."""
    return [verdict for verdict in verdicts if verdict.decision == "forbid"]


def needed(verdicts: Sequence[StepVerdict]) -> int:
    """How many people must approve the run: as many as its strictest step needs."""
    return max((verdict.approvals for verdict in verdicts if verdict.decision == "approve"), default=0)


def refusal(
    verdicts: Sequence[StepVerdict], proposer: str, given: Sequence[Approval], actor: str, roles: str
) -> str:  # fmt: skip
    """Why a person's approval does not count for one of the steps, or ''."""
    for verdict in verdicts:
        if verdict.decision != "approve":
            continue
        if reason := approvals.refusal(_policy(verdict), proposer, given, actor, roles):
            return f"step {verdict.step}: {reason}"
    return ""


def admits(verdicts: Sequence[StepVerdict], proposer: str, given: Sequence[Approval]) -> bool:
    """Whether every step may be carried out."""
    return all(approvals.admits(_policy(verdict), proposer, given) for verdict in verdicts)


def _policy(verdict: StepVerdict) -> policy.Verdict:
    return policy.Verdict(decision=verdict.decision, rule=verdict.rule, reason=verdict.reason, roles=verdict.roles,
                          approvals=verdict.approvals, own=verdict.own)  # fmt: skip
