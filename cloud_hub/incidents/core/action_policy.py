"""The policy for proposed actions: execute, ask for approval, or refuse. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

READ_ONLY = frozenset({"diagnose"})
CHANGING = frozenset({"restart", "capture"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Configured rules: verbs that need no approval; cooldown and daily limit of a device for changing verbs."""

    automatic: Sequence[str]
    cooldown_s: float
    per_day: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts about the device and the target.

    `reported`: the twin reports a model with the target's name. `stalled`: an alarm is raised that this model gives no
    answers. `last_us` is when the verb was last approved or executed on the device, for any target; None for never.
    `within_day` counts the device's automatic changing actions of the last day.
    """

    reported: bool
    stalled: bool
    last_us: int | None
    within_day: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`allow`, `ask` for approval, or `refuse`, with the reason."""

    decision: Literal["allow", "ask", "refuse"]
    reason: str


def judge(verb: str, rules: Rules, facts: Facts, now_us: int) -> Verdict:
    """Apply the policy to a proposed verb.

    Read-only verbs have no cooldown. A changing verb that is repeated too soon did not help the last time, so a person
    decides. Devices choose the names of their models and raise their own alarms, so cooldown and daily limit count per
    device, not per target.
    """
    if verb not in READ_ONLY | CHANGING:
        return Verdict(decision="refuse", reason=f"'{verb}' is not a verb that a proposal may use")
    if verb not in rules.automatic:
        return Verdict(decision="ask", reason=f"'{verb}' requires approval")
    if verb in READ_ONLY:
        return Verdict(decision="allow", reason="read-only")
    reason = unfounded(verb, facts)
    if facts.last_us is not None and now_us - facts.last_us < rules.cooldown_s * 1e6:
        reason = reason or f"the device had a {verb} less than {rules.cooldown_s:g} s ago"
    if facts.within_day >= rules.per_day:
        reason = (
            reason or f"the device had {facts.within_day} automatic actions within a day, {rules.per_day} are allowed"
        )
    return Verdict(decision="ask" if reason else "allow", reason=reason or "allowed without approval")


def unfounded(verb: str, facts: Facts) -> str:
    """Why a changing verb may not be executed automatically now, or ''."""
    if not facts.reported:
        return "the twin reports no such model"
    if verb == "restart" and not facts.stalled:
        return "no alarm is raised that this model gives no answers"
    return ""
