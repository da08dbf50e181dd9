"""Alarm state machine of a series: anomaly scores in, raised and cleared alarms out. No clock, no I/O.

Scores become rarities of episodes (`episodes`), which are compared with limits. One episode is one alarm: raised by the
first sample beyond the threshold, cleared after CALM normal ones, and none is raised within `quiet` samples of the last
(refractory period) unless it is much rarer (ESCALATION), because a false alarm must not hide a fault. Absence of data
(`absence`) is an episode, too: its alarm is cleared by the next sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.scores.alarm_budget import threshold
from cloud_hub.thresholds.scores.episodes import Episodes, rarity
from cloud_hub.thresholds.scores.model import DEFAULTS, InvalidState, ScoreModel
from shared.durations import DAY_US
from shared.protocol.messages import AlarmKind

CALM = 20
ESCALATION = 1.0
"""Decades by which a sample in the refractory period must be rarer than the last alarm's rarest to raise another."""
HIGHER, MOST_HIGHER = 0.3, 1.5
"""Each anomaly judged false doubles the rarity that this series needs (10**0.3), up to some 30 times."""


UNIT, UNIT_US = 20.0, 3 * DAY_US
"""Factor and time after which consistently smaller or larger values are taken as a change of unit."""
MEMORY = 5000
"""Samples over which the usual size is averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesState:
    """State of a series in addition to its model: judged up to `upto_us`, with the active `alarm`.

    `page`: samples since the last alarm was raised. `rarest`: the highest rarity of that alarm. `calm`: samples since
    the last one beyond the threshold. `heard_us`: when live samples last came; `silent_us`: when it was reported
    absent, 0 while it is not (hub clock). `gap_us`: the longest time between two samples that was not reported. `size`:
    usual absolute value; `other_us`: since when all values are of another order of magnitude, 0 while they are not.
    `rare`: samples since an episode was counted against the budget. `episodes`: how rare the next episode is.
    """

    device: str
    metric: str
    upto_us: int
    alarm: str = ""
    page: int = 1 << 30
    rarest: float = 0.0
    rare: int = 1 << 30
    calm: int = 0
    heard_us: int = 0
    silent_us: int = 0
    gap_us: int = 0
    size: float = 0.0
    other_us: int = 0
    episodes: Episodes = field(default_factory=Episodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmTransition:
    """An alarm of series number `index` is raised or cleared by a sample, or of kind no-data by its absence."""

    index: int
    state: Literal["raised", "cleared"]
    t_us: int
    score: float
    kind: AlarmKind = "high"


Samples = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""(t_us ascending, values) of one series."""


def unpack_scores(state: bytes, count: int) -> ScoreModel:
    """The unpacked model; a new one if the state is of another version or number of series."""
    try:
        found = ScoreModel.unpack(state)
    except InvalidState:
        return ScoreModel(count)
    return found if len(found) == count else ScoreModel(count)


def budget_threshold(pages_per_shift: float, per_day: float) -> float:
    """The nominal threshold of a learning job with `per_day` samples a day."""
    return threshold(pages_per_shift, 1, max(per_day, 1.0))


def feedback_margin(false: int) -> float:
    """How much the threshold of a series rises after `false` alarms judged false."""
    return min(MOST_HIGHER, false * HIGHER)


def samples_per_day(samples: Sequence[Samples], before: float) -> float:
    """Samples a day of all these series together, by their median interval; `before` if there are too few."""
    gaps = [float(np.median(np.diff(t_us))) for t_us, _ in samples if t_us.size > 2]
    rates = [DAY_US / gap for gap in gaps if gap > 0]
    return sum(rates) / len(rates) * len(samples) if rates else before


def advance(
    scores: ScoreModel,
    series: Sequence[SeriesState],
    samples: Sequence[Samples],
    limits: Sequence[float],
    paging: float,
    live_us: int,
    now_us: int,
) -> tuple[list[SeriesState], list[AlarmTransition], list[int]]:
    """Judge the new samples of each series: (new states, alarm transitions in order, starts of rare episodes).

    Updates the model; samples before `live_us` train it and raise no alarm. The starts, live or not, are those of
    episodes beyond `paging`, the limit without verdicts; they count against the budget.
    """
    longest = max((t_us.size for t_us, _ in samples), default=0)
    times = np.zeros((longest, len(series)), np.int64)
    values = np.full((longest, len(series)), np.nan)
    for index, (t_us, some) in enumerate(samples):
        times[: t_us.size, index], values[: t_us.size, index] = t_us, some
    found = np.array([scores.step(t_us, row) for t_us, row in zip(times, values, strict=True)])
    after: list[SeriesState] = []
    changes: list[AlarmTransition] = []
    begun: list[int] = []
    for index, one in enumerate(series):
        t_us, _ = samples[index]
        episodes, rarities = rarity(
            one.episodes, found[: t_us.size, index] if t_us.size else np.zeros(0), DEFAULTS.quiet
        )
        counted, times_us = _counted(replace(one, episodes=episodes), t_us, rarities, paging)
        begun += times_us
        remembered, new = _judged(counted, index, t_us, rarities, limits[index], live_us)
        remembered = track_scale(remembered, samples[index])
        if remembered.size == 0 < one.size:  # otherwise it would hardly alarm in its new unit
            scores.restart(np.array([index]))
            remembered = replace(remembered, episodes=Episodes())
        if t_us.size and t_us[-1] >= live_us:
            remembered = replace(remembered, heard_us=now_us)
        if t_us.size and not one.silent_us and one.upto_us:
            gap_us = int(np.diff(t_us, prepend=one.upto_us).max())
            remembered = replace(remembered, gap_us=max(one.gap_us, gap_us))
        after.append(remembered)
        changes += new
    return after, changes, begun


def _counted(
    one: SeriesState, t_us: npt.NDArray[np.int64], rarities: npt.NDArray[Any], paging: float
) -> tuple[SeriesState, list[int]]:
    last, begun = -one.rare, []
    for index in np.flatnonzero(rarities >= paging).tolist():
        if index - last > DEFAULTS.quiet:
            last = index
            begun.append(int(t_us[index]))
    return replace(one, rare=t_us.size - last), begun


def _judged(
    one: SeriesState, index: int, t_us: npt.NDArray[np.int64], rarities: npt.NDArray[Any], limit: float, live_us: int
) -> tuple[SeriesState, list[AlarmTransition]]:
    if not t_us.size:
        return one, []
    beyond = rarities >= limit
    if not one.alarm and not one.silent_us and not beyond.any():  # the usual case, without a loop
        return replace(one, upto_us=int(t_us[-1]), page=one.page + t_us.size, calm=one.calm + t_us.size), []
    changes: list[AlarmTransition] = []
    standing, page, rarest, calm = bool(one.alarm) and not one.silent_us, one.page, one.rarest, one.calm
    if one.silent_us:
        rarest = max(rarest, float(rarities[0]))  # a longer gap makes it rarer, not new
        changes.append(
            AlarmTransition(index=index, state="cleared", t_us=int(t_us[0]), score=float(rarities[0]), kind="no-data")
        )
    for t, score, far in zip(t_us.tolist(), rarities.tolist(), beyond.tolist(), strict=True):
        page, calm = page + 1, 0 if far else calm + 1
        due = page > DEFAULTS.quiet or score >= rarest + ESCALATION
        if far and due and not standing and t >= live_us:
            standing, page, rarest = True, 0, score
            changes.append(AlarmTransition(index=index, state="raised", t_us=t, score=score))
        elif standing and calm < CALM:
            rarest = max(rarest, score)
        elif standing:
            standing = False
            changes.append(AlarmTransition(index=index, state="cleared", t_us=t, score=score))
    return replace(one, upto_us=int(t_us[-1]), page=page, rarest=rarest, calm=calm, silent_us=0), changes


def track_scale(one: SeriesState, samples: Samples) -> SeriesState:
    """Update the usual size of values; size 0, to restart, where the unit has changed for good.

    A series that is much smaller at night or over a weekend returns before that time. Zeros are ignored.
    """
    t_us, values = samples
    used = np.isfinite(values) & (values != 0)
    times, sizes = t_us[used], np.minimum(np.abs(values[used]), 1e300)
    if not sizes.size:
        return one
    if one.size == 0:
        return replace(one, size=float(np.median(sizes)), other_us=0)
    usual = (sizes >= one.size / UNIT) & (sizes / UNIT <= one.size)
    if usual.any():
        gain = min(1.0, int(usual.sum()) / MEMORY)
        begun = times[np.flatnonzero(usual)[-1] + 1 :]
        size = one.size + gain * (float(sizes[usual].mean()) - one.size)
        return replace(one, size=size, other_us=int(begun[0]) if begun.size else 0)
    since_us = one.other_us or int(times[0])
    changed_unit = times[-1] - since_us >= UNIT_US
    return replace(one, size=0.0 if changed_unit else one.size, other_us=0 if changed_unit else since_us)
