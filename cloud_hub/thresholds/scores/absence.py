"""Absence of data: when a series has sent nothing for unusually long. Pure: gaps of the score model in, alarms out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cloud_hub.thresholds.scores.alarms import AlarmTransition, SeriesState, feedback_margin
from cloud_hub.thresholds.scores.model import DEFAULTS, ScoreModel

GRACE_US = 600_000_000
"""How late a sample may arrive before its absence counts: backoff and backlog of the device and of the hub."""

LONGEST = 3
"""An absence this many times the longest gap raises an alarm before its score reaches the limit of samples."""


def absence_threshold(sample_limit: float, false: int) -> float:
    """The anomaly score at which an absence alarms: far below the limit that the budget sets for samples.

    For a series that never paused, the tail of its gaps is a guess (`ScoreModel.silence`: one decade for each decade of
    periods), and at the budget of a large fleet an alarm would take years. The longest gap then prevents false alarms.
    """
    return min(sample_limit, DEFAULTS.threshold + feedback_margin(false))


def silence_us(one: SeriesState, since_us: int, now_us: int) -> int:
    """How long a series has sent nothing beyond the grace, while the hub could receive since `since_us`.

    0 for a series that never sent live samples, that is already reported absent, or that has an alarm.
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
    """Raise alarms for series that have sent nothing for too long; `since_us` has the indices of those to check.

    The hub could receive each since its `since_us` (hub clock, as `now_us`); `limits` are those of its samples and of
    its absence. While a whole device is absent, its first alarm covers all series. Constant work; the model is not
    changed.
    """
    absent_us = [
        silence_us(one, since_us[index], now_us) if index in since_us else 0 for index, one in enumerate(series)
    ]
    score = scores.silence(np.array([one.upto_us for one in series], np.int64) + np.array(absent_us, np.int64))
    after, changes = list(series), []
    longer = np.array([absent_us[index] >= LONGEST * one.gap_us for index, one in enumerate(series)])
    samples, silence = np.asarray(limits).reshape(-1, 2).T
    found_absent = (np.array(absent_us) > 0) & ((score >= samples) | ((score >= silence) & longer))
    for index in np.flatnonzero(found_absent).tolist():
        mine = [one for one in after if one.device == after[index].device]
        if max(one.silent_us for one in mine) >= max(one.heard_us for one in mine):
            continue
        after[index] = replace(after[index], silent_us=now_us, page=0, rarest=float(score[index]), calm=0)
        changes.append(
            AlarmTransition(index=index, state="raised", t_us=now_us, score=float(score[index]), kind="no-data")
        )
    return after, changes
