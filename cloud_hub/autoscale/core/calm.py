"""Keeps a constant load from flapping (A9). Pure.

A load is calm while its highest value is at most (1 + NOISE) / (1 - NOISE) times its lowest. A scale-out in a calm time
says what the load needs at its peak, so for a while no scale-in goes below it. If a scale-in is reverted within such a
while although the load stayed calm, the next while is twice as long, up to a day: a constant load settles after a few
steps, whatever its noise. A load that leaves the band is followed at once.
"""

from __future__ import annotations

import msgspec

from cloud_hub.autoscale.core.state import Action, Calm
from shared.durations import DAY_US, HOUR_US

NOISE = 0.2
RATIO = (1 + NOISE) / (1 - NOISE) * (1 + 1e-9)
FIRST_US, LONGEST_US = HOUR_US, DAY_US
MOST_REGRETS = 5


def follow(calm: Calm | None, load: float, now_us: int) -> Calm:
    """The calm time after a known load, in instances' worth."""
    if calm is None:
        return Calm(since_us=now_us, low=load, high=load)
    low, high = min(calm.low, load), max(calm.high, load)
    if high > low * RATIO:
        return Calm(since_us=now_us, low=load, high=load, regrets=max(0, calm.regrets - 1))
    return calm if (low, high) == (calm.low, calm.high) else msgspec.structs.replace(calm, low=low, high=high)


def floor(calm: Calm | None, now_us: int) -> int:
    """The count below which no scale-in goes."""
    return calm.floor if calm is not None and now_us < calm.floor_until_us else 0


def scaled_out(calm: Calm | None, actions: tuple[Action, ...], count: int, now_us: int) -> Calm | None:
    """The calm time after a scale-out in which the load, without any backlog, needs `count`."""
    if calm is None:
        return None
    hold_us = min(LONGEST_US, FIRST_US << calm.regrets)
    since = max(calm.since_us, now_us - 2 * hold_us)
    reverts = any(action.direction == "in" and action.t_us >= since for action in actions)
    regrets = min(MOST_REGRETS, calm.regrets + reverts)
    hold_us = min(LONGEST_US, FIRST_US << regrets)
    return msgspec.structs.replace(calm, floor=count, floor_until_us=now_us + hold_us, regrets=regrets)
