"""Request classes: how urgent a request is, and how long it may take."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

RequestClass = Literal["emergency", "normal", "low"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPolicy:
    """The rules of a class.

    `patience_s` orders the queue: a request is due that long after its arrival, or at its deadline if that is earlier.
    `deadline_s` is the deadline of a request that names none. `reserve` is the share of a pool's slots that the class
    leaves free for more urgent classes.
    """

    priority: int
    patience_s: float
    deadline_s: float
    reserve: float


CLASSES: dict[RequestClass, ClassPolicy] = {
    "emergency": ClassPolicy(priority=0, patience_s=1.0, deadline_s=30.0, reserve=0.0),
    "normal": ClassPolicy(priority=1, patience_s=30.0, deadline_s=120.0, reserve=0.125),
    "low": ClassPolicy(priority=2, patience_s=300.0, deadline_s=900.0, reserve=0.25),
}
MAX_DEADLINE_S = 3600.0
"""The longest deadline of a request that a client waits for; longer work is a task."""


def may_ask(request_class: RequestClass, roles: str, emergency_roles: Collection[str]) -> bool:
    """Whether a caller with these roles, separated by spaces, may ask for the class."""
    return request_class != "emergency" or any(role in emergency_roles for role in roles.split())


def slot_limit(request_class: RequestClass, slots: int) -> int:
    """How many of a pool's slots the class may occupy at once; at least one."""
    reserve = CLASSES[request_class].reserve
    kept = -int(-slots * reserve // 1)  # rounded up
    return max(1, slots - kept)
