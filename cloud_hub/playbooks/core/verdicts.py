"""What the policy says of each step of a plan, before the run begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one step: by which rule, why, and how many people must approve."""

    step: str
    decision: Literal["allow", "approve", "forbid"]
    approvers: int = 0
    rule: str = ""
    reason: str = ""


def approvers(verdicts: Sequence[Verdict]) -> int:
    """How many people must approve the run: as many as its strictest step needs."""
    return max((verdict.approvers for verdict in verdicts), default=0)


def forbidden(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts that refuse the run."""
    return [verdict for verdict in verdicts if verdict.decision == "forbid"]
