"""When limits on trial go to more devices, when they stay, and when they are taken back. A core without I/O.

A rollout goes in stages: the canaries, then the rest. `decide` sees counts and says the next move; the shell carries
it out, some devices at a time. `place` lays learned limits over a device's set and leaves alone what others set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PATIENCE = 10
"""A stage waits so many times its watch for its devices to come back before it goes on, or is undone, without them."""

Move = Literal["push", "watch", "wait", "widen", "confirm", "take back", "restore", "end"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """A stage is watched for `watch_s`; so many alarms, and alarms judged false, the canaries may raise in all.

    With the rest of the fleet the numbers grow as the devices do. `max_false` None counts alarms alone.
    """

    watch_s: float
    max_alarms: int
    max_false_alarms: int | None
    canaries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStatus:
    """One look at a rollout. Of the stage under way: `waiting` to be pushed, `asked` and not heard of, `verified`.

    Of all stages: devices `touched`, `refused` (a device's reason), `alarms` and among them `false` ones; `later`
    devices wait for the next stage. While it is taken back, `left` devices still hold the new set as desired.
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
    """`number` 0 are the canaries; times in UTC microseconds, `watch_us` None until enough have it in force."""

    number: int
    pushed_us: int
    watch_us: int | None
    taking_back: bool = False


def decide(bounds: Bounds, stage: Stage, seen: RolloutStatus, now_us: int) -> tuple[Move, str]:
    """The next move, and why. Nothing beyond the stage under way is ever pushed before `widen`."""
    if stage.taking_back:
        return ("restore" if seen.left else "end"), ""
    if bad := _bad(bounds, seen):
        return "take back", bad
    if seen.waiting:
        return "push", ""
    if stage.watch_us is None:
        return _gather(bounds, stage, seen, now_us)
    if now_us - stage.watch_us <= bounds.watch_s * 1e6:
        return "wait", ""
    if seen.later:
        return "widen", f"{seen.alarms} alarms on {seen.touched} canaries in {bounds.watch_s:g} s"
    return "confirm", f"not more than {alarm_allowance(bounds.max_alarms, bounds, seen)} alarms in {bounds.watch_s:g} s"


def _bad(bounds: Bounds, seen: RolloutStatus) -> str:
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
    """What the canaries may raise, for as many devices as were touched."""
    return count * max(1, seen.touched // max(1, bounds.canaries))


def _gather(bounds: Bounds, stage: Stage, seen: RolloutStatus, now_us: int) -> tuple[Move, str]:
    """The watch begins when half of the stage have it in force: a device that is away tells nothing."""
    if not seen.asked + seen.verified:
        nobody = "nothing to try: other people's limits stand on every canary"
        return ("confirm", "nothing to change on the rest") if stage.number else ("take back", nobody)
    if seen.verified >= max(1, seen.asked):
        return "watch", ""
    if now_us - stage.pushed_us <= PATIENCE * bounds.watch_s * 1e6:
        return "wait", ""
    if seen.verified:
        return "watch", ""
    if stage.number == 0:
        return "take back", f"none of {seen.touched} canaries has put it in force in {PATIENCE * bounds.watch_s:g} s"
    return "confirm", f"the rest, {seen.asked} devices, take it when they are there again"


def choose_canaries(devices: Sequence[str], share: float, salt: str) -> frozenset[str]:
    """Whom to try it on: this share of the devices, rounded down, at least one; others with another `salt`.

    Chosen by a hash, so that neither names nor their order decide, and a restart chooses the same.
    """
    count = min(len(devices), max(1, int(share * len(devices))))
    ranked = sorted(devices, key=lambda device: hashlib.sha256(f"{salt} {device}".encode()).digest())
    return frozenset(ranked[:count])
