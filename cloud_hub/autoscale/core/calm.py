"""Keeps a constant load from flapping (A9). Pure.

A load is calm while its highest value is at most (1 + NOISE) / (1 - NOISE) times its lowest. If a scale-in is reverted
although the load stayed calm, it was a mistake: with each mistake, scale-in follows the highest recommendation of a
longer window, up to a day. So a constant load settles after a few steps, whatever its noise; and a load that leaves the
band is followed as before.
"""

from __future__ import annotations

import msgspec

from cloud_hub.autoscale.core.state import Action, Calm
from shared.durations import MINUTE_US, SECOND_US

NOISE = 0.2
RATIO = (1 + NOISE) / (1 - NOISE) * (1 + 1e-9)
LEAST_S = 300.0
WINDOWS = (1, 3, 12, 24, 48, 96, 288)
"""Factors of the window by the number of mistakes: from 5 minutes to a day at the HPA's default."""
REVERTED_US = 30 * MINUTE_US
LONGEST_S = LEAST_S * WINDOWS[-1]


def follow(calm: Calm | None, load: float, now_us: int) -> Calm:
    """The calm time after a known load, in instances' worth."""
    if calm is None:
        return Calm(since_us=now_us, low=load, high=load)
    low, high = min(calm.low, load), max(calm.high, load)
    if high > low * RATIO:
        return Calm(since_us=now_us, low=load, high=load)
    return calm if (low, high) == (calm.low, calm.high) else msgspec.structs.replace(calm, low=low, high=high)


def window_s(calm: Calm | None, stabilization_s: float) -> float:
    """The window whose highest recommendation a scale-in follows."""
    if calm is None or not calm.mistakes:
        return stabilization_s
    return min(LONGEST_S, max(stabilization_s, LEAST_S) * WINDOWS[calm.mistakes])


def scaled_out(calm: Calm | None, actions: tuple[Action, ...], stabilization_s: float, now_us: int) -> Calm | None:
    """The calm time after a scale-out that the load asked for, not a backlog; `actions` are the earlier ones."""
    if calm is None or not actions or actions[-1].direction != "in":
        return calm
    since = now_us - max(REVERTED_US, int(window_s(calm, stabilization_s) * SECOND_US))
    if actions[-1].t_us < max(since, calm.since_us):
        return calm
    return msgspec.structs.replace(calm, mistakes=min(len(WINDOWS) - 1, calm.mistakes + 1))
