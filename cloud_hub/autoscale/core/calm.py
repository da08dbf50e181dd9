"""Keeps a constant load from flapping (A9). Pure.

A load is calm while its highest value is at most (1 + NOISE) / (1 - NOISE) times its lowest. If a scale-in is reverted
within REVERTED_US although the load stayed calm, it was a mistake: for a while no scale-in goes below the count that
was needed after all. Each further mistake in the same calm makes the while twice as long, up to a day, so a constant
load settles after a few steps, whatever its noise. A load that leaves the band is followed at once.
"""

from __future__ import annotations

import msgspec

from cloud_hub.autoscale.core.state import Action, Calm
from shared.durations import DAY_US, HOUR_US

NOISE = 0.2
RATIO = (1 + NOISE) / (1 - NOISE) * (1 + 1e-9)
FIRST_US, LONGEST_US, REVERTED_US = HOUR_US // 2, DAY_US, HOUR_US
MOST_MISTAKES = 6


def follow(calm: Calm | None, load: float, now_us: int) -> Calm:
    """The calm time after a known load, in instances' worth."""
    if calm is None:
        return Calm(since_us=now_us, low=load, high=load)
    low, high = min(calm.low, load), max(calm.high, load)
    if high > low * RATIO:
        return Calm(since_us=now_us, low=load, high=load, mistakes=max(0, calm.mistakes - 1))
    return calm if (low, high) == (calm.low, calm.high) else msgspec.structs.replace(calm, low=low, high=high)


def floor(calm: Calm | None, now_us: int) -> int:
    """The count below which no scale-in goes."""
    return calm.floor if calm is not None and now_us < calm.floor_until_us else 0


def scaled_out(calm: Calm | None, actions: tuple[Action, ...], count: int, now_us: int) -> Calm | None:
    """The calm time after a scale-out in which the load, without any backlog, needs `count`."""
    if calm is None:
        return None
    since = max(calm.since_us, now_us - REVERTED_US)
    if not any(action.direction == "in" and action.t_us >= since for action in actions):
        return calm
    mistakes = min(MOST_MISTAKES, calm.mistakes + 1)
    until = now_us + min(LONGEST_US, FIRST_US << calm.mistakes)
    return msgspec.structs.replace(calm, floor=max(count, floor(calm, now_us)), floor_until_us=until, mistakes=mistakes)
