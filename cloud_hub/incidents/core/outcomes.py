"""Judges what ended an incident: an action, a person, or nothing that the hub knows of. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shared.durations import SECOND_US

HELP_S = 900.0
"""An action helped if the last alarm cleared within this time after its end."""
RETURN_S = 1800.0
"""An alarm of the same metric within this time after the end of the incident says that nothing helped."""

Outcome = Literal["helped", "by-person", "by-itself", "returned"]
DONE = ("executed", "verified")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSpan:
    """When an action began and ended, and whether it can change anything at all."""

    state: str
    started_us: int
    ended_us: int
    changing: bool = True


def helped(action: ActionSpan, cleared_us: int | None, returned_us: int | None) -> bool:
    """Whether the alarms cleared after the action began, soon after its end, and did not return."""
    if not action.changing or action.state not in DONE or cleared_us is None or returned_us is not None:
        return False
    return action.started_us <= cleared_us <= action.ended_us + HELP_S * SECOND_US


def outcome(
    actions: Sequence[ActionSpan], cleared_us: int | None, returned_us: int | None, resolved_by: str
) -> Outcome:  # fmt: skip
    """What ended the incident. `cleared_us` is when its last alarm cleared, `resolved_by` who resolved it."""
    if returned_us is not None:
        return "returned"
    if any(helped(action, cleared_us, returned_us) for action in actions):
        return "helped"
    return "by-person" if resolved_by else "by-itself"
