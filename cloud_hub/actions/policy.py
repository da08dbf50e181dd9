"""Whether a proposed action may happen: by itself, after a person's approval, or not at all. A core without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

READ_ONLY = frozenset({"diagnose"})
CHANGING = frozenset({"restart", "capture"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`allow` now, `ask` a person, or `refuse`; and why."""

    word: Literal["allow", "ask", "refuse"]
    reason: str


def judge(verb: str, automatic: Sequence[str], last_us: int | None, now_us: int, cooldown_s: float) -> Verdict:
    """`last_us` is when the same action was last carried out on the same target, None when never.

    Read-only verbs need no cooldown. A changing verb that is repeated too soon did not help the last time:
    a person must look.
    """
    if verb not in READ_ONLY | CHANGING:
        return Verdict(word="refuse", reason=f"'{verb}' is no verb that a proposal may use")
    if verb not in automatic:
        return Verdict(word="ask", reason=f"'{verb}' wants a person's approval here")
    if verb in CHANGING and last_us is not None and now_us - last_us < cooldown_s * 1e6:
        return Verdict(word="ask", reason=f"the same was done less than {cooldown_s:g} s ago")
    return Verdict(word="allow", reason="read-only" if verb in READ_ONLY else "allowed without a person")
