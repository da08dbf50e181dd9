"""Decides the next move of a rollout: push, widen to the rest, confirm, or roll back. No I/O.

A rollout has two stages: the canaries, then the rest. `decide` takes counts and returns the next move, which
`rollouts.service` carries out for some devices at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PATIENCE = 10
"""A stage waits this many times `watch_s` for offline devices before it continues, or is rolled back, without them."""

Move = Literal["push", "watch", "wait", "widen", "confirm", "roll back", "restore", "end"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Conditions of a rollout: each stage is observed for `watch_s`, and all canaries together may raise at most
    `max_alarms` alarms and `max_false_alarms` alarms judged false (None: not checked).

    For the rest of the fleet both numbers grow with the number of devices.
    """

    watch_s: float
    max_alarms: int
    max_false_alarms: int | None
    canaries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStatus:
    """Counts of a rollout. In the current stage: devices `waiting` for the push, `asked` without an answer, `verified`.

    Over all stages: devices `touched`, `refused` (the reason of one device), `alarms`, and how many of them are
    `false`. `later` devices wait for the next stage. During a rollback, `left` devices still desire the new set.
    """

    waiting: int = 0
    asked: int = 0
    verified: int = 0
    touched: int = 0
    later: int = 0
    left: int = 0
    alarms: int = 0
    false: int = 0
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage: `number` 0 is the canaries. Times are UTC microseconds; `watch_us` is None until observation starts."""

    number: int
    pushed_us: int
    watch_us: int | None
    rolling_back: bool = False


def decide(bounds: Bounds, stage: Stage, seen: RolloutStatus, now_us: int) -> tuple[Move, str]:
    """The next move and its reason. Nothing beyond the current stage is pushed before `widen`."""
    if stage.rolling_back:
        return ("restore" if seen.left else "end"), ""
    if reason := _failure(bounds, seen):
        return "roll back", reason
    if seen.waiting:
        return "push", ""
    if stage.watch_us is None:
        return _await_activation(bounds, stage, seen, now_us)
    if now_us - stage.watch_us <= bounds.watch_s * 1e6:
        return "wait", ""
    if seen.later:
        return "widen", f"{seen.alarms} alarms on {seen.touched} canaries in {bounds.watch_s:g} s"
    return "confirm", f"not more than {alarm_allowance(bounds.max_alarms, bounds, seen)} alarms in {bounds.watch_s:g} s"


def _failure(bounds: Bounds, seen: RolloutStatus) -> str:
    """Why the rollout must be rolled back, or ''."""
    if seen.refused:
        return seen.refused
    if seen.alarms > (most := alarm_allowance(bounds.max_alarms, bounds, seen)):
        return f"alarms raised: {seen.alarms}, allowed: {most}"
    if bounds.max_false_alarms is not None and seen.false > (
        most := alarm_allowance(bounds.max_false_alarms, bounds, seen)
    ):
        return f"alarms judged false: {seen.false}, allowed: {most}"
    return ""


def alarm_allowance(count: int, bounds: Bounds, seen: RolloutStatus) -> int:
    """The allowance of the canaries, scaled to the number of devices touched."""
    return count * max(1, seen.touched // max(1, bounds.canaries))


def _await_activation(bounds: Bounds, stage: Stage, seen: RolloutStatus, now_us: int) -> tuple[Move, str]:
    """Observation starts when half of the stage has the limits in force; offline devices show nothing."""
    if not seen.asked + seen.verified:
        if stage.number:
            return "confirm", "nothing to change on the rest"
        return "roll back", "nothing to roll out: every canary has limits set by others"
    if seen.verified >= max(1, seen.asked):
        return "watch", ""
    if now_us - stage.pushed_us <= PATIENCE * bounds.watch_s * 1e6:
        return "wait", ""
    if seen.verified:
        return "watch", ""
    if stage.number == 0:
        patience_s = PATIENCE * bounds.watch_s
        return "roll back", f"none of {seen.touched} canaries has activated the limits within {patience_s:g} s"
    return "confirm", f"the rest, {seen.asked} devices, get the limits when they reconnect"


def choose_canaries(devices: Sequence[str], share: float, salt: str) -> frozenset[str]:
    """Choose the canaries: this share of the devices, rounded down, at least one.

    The choice is by a hash of `salt` and device id, so it does not depend on order and survives a restart.
    """
    count = min(len(devices), max(1, int(share * len(devices))))
    ranked = sorted(devices, key=lambda device: hashlib.sha256(f"{salt} {device}".encode()).digest())
    return frozenset(ranked[:count])
