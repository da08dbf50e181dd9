"""When a series has been silent for surprisingly long. A core: the score model's gaps in, changes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cloud_hub.thresholds.scores.alarms import AlarmTransition, SeriesState, feedback_margin
from cloud_hub.thresholds.scores.model import DEFAULTS, ScoreModel

GRACE_US = 600_000_000
"""So long a sample may be on its way before a silence begins to count: a device's backoff, its backlog, our own."""

LONGEST = 3
"""A silence is told before its surprise reaches the limit of samples where it is so many times the longest gap."""


def absence_threshold(sample_limit: float, false: int) -> float:
    """The surprise of a silence that is worth a look: far below what the budget asks of samples.

    Where a series never paused, the tail of its gaps is a guess (`Scores.silence`: one decade for each decade of
    periods), and the budget of a large fleet would wait for years. What then guards is the longest gap.
    """
    return min(sample_limit, DEFAULTS.threshold + feedback_margin(false))


def silence_us(one: SeriesState, since_us: int, now_us: int) -> int:
    """How long nothing was heard of a series, where all could be heard since `since_us`, beyond what may be on its way.

    0 for one that was never heard live, that was told as silent, or that has an alarm already.
    """
    if not one.heard_us or one.silent_us or one.alarm:
        return 0
    return max(0, now_us - max(one.upto_us, one.heard_us, since_us) - GRACE_US)


def find_absent(
    scores: ScoreModel,
    series: Sequence[SeriesState],
    limits: Sequence[tuple[float, float]],
    since_us: Mapping[int, int],
    now_us: int,
) -> tuple[list[SeriesState], list[AlarmTransition]]:
    """Which series have said nothing for a surprisingly long time, of those that `since_us` names by number.

    Each could have been heard since its `since_us` (by the hub's clock: `now_us`); `limits` are of its samples and of
    its silence. While a whole device says nothing, its first alarm stands for all. Constant work; the model stays.
    """
    quiet = [silence_us(one, since_us[index], now_us) if index in since_us else 0 for index, one in enumerate(series)]
    found = scores.silence(np.array([one.upto_us for one in series], np.int64) + np.array(quiet, np.int64))
    after, changes = list(series), []
    longer = np.array([quiet[index] >= LONGEST * one.gap_us for index, one in enumerate(series)])
    samples, silence = np.asarray(limits).reshape(-1, 2).T
    told = (np.array(quiet) > 0) & ((found >= samples) | ((found >= silence) & longer))
    for index in np.flatnonzero(told).tolist():
        mine = [one for one in after if one.device == after[index].device]
        if max(one.silent_us for one in mine) >= max(one.heard_us for one in mine):
            continue
        after[index] = replace(after[index], silent_us=now_us, page=0, calm=0)
        changes.append(
            AlarmTransition(index=index, state="raised", t_us=now_us, score=float(found[index]), kind="no-data")
        )
    return after, changes
