"""When a series' surprise is an alarm, and when that is over. A core: the score model's numbers in, changes out.

Surprises become rarities of episodes (`episodes`), which are compared with limits. One episode is one alarm: raised by
the first sample beyond the threshold, cleared after CALM ordinary ones, and none is raised within `quiet` samples of
the last (the score model's refractory filter). A silence (`silence`) is an episode, too: its alarm is cleared by the
next sample, whatever that says.
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
from shared.messages import AlarmKind
from shared.times import DAY_US

CALM = 20
HIGHER, MOST_HIGHER = 0.3, 1.5
"""Each anomaly that people judged false asks for twice the rarity of this series (10**0.3), within some 30 times."""


UNIT, UNIT_US = 20.0, 3 * DAY_US
"""Values so many times smaller or larger than usual, for so long without one between, are in another unit."""
MEMORY = 5000
"""Samples over which the usual size is a mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesState:
    """What is remembered of a series beside its model: up to where it was judged, the alarm that stands.

    `page` samples ago the last alarm was raised, `calm` samples ago the last surprise was beyond the threshold. By the
    hub's clock, live samples last came at `heard_us`, and at `silent_us` it was told as silent: 0 while it is not.
    `gap_us` is the longest time between two samples that was never told as silence. `size` is
    how large values usually are, without sign; since `other_us` all are of another order, 0 while they are not.
    `rare` samples ago an episode was counted against the budget; `episodes` measure how rare the next one is.
    """

    device: str
    metric: str
    upto_us: int
    alarm: str = ""
    page: int = 1 << 30
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
    """An alarm begins or ends with a sample of series number `index`, or, of kind no-data, for the want of one."""

    index: int
    state: Literal["raised", "cleared"]
    t_us: int
    surprise: float
    kind: AlarmKind = "high"


Samples = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""(t_us ascending, values) of one series."""


def unpack_scores(state: bytes, count: int) -> ScoreModel:
    """The model as it was packed; a fresh one where it is of another version, or of other series."""
    try:
        found = ScoreModel.unpack(state)
    except InvalidState:
        return ScoreModel(count)
    return found if len(found) == count else ScoreModel(count)


def budget_threshold(pages_per_shift: float, per_day: float) -> float:
    """The surprise that pages by arithmetic alone, for samples of the whole learning a day."""
    return threshold(pages_per_shift, 1, max(per_day, 1.0))


def feedback_margin(false: int) -> float:
    """By how much more a series must surprise of which people said false so many times."""
    return min(MOST_HIGHER, false * HIGHER)


def samples_per_day(samples: Sequence[Samples], before: float) -> float:
    """Samples a day of all these series together, by their usual distance; `before` where there are too few."""
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
    """Judge the new samples of each series: what is remembered then, and the alarms that begin or end, in order.

    The model is stepped on; samples before `live_us` are only learned from. The last are the times, live or not, at
    which an episode began that is beyond `paging`: the limit where nobody said false, by which the budget is counted.
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
        episodes, surprises = rarity(
            one.episodes, found[: t_us.size, index] if t_us.size else np.zeros(0), DEFAULTS.quiet
        )
        counted, times_us = _counted(replace(one, episodes=episodes), t_us, surprises, paging)
        begun += times_us
        remembered, new = _judged(counted, index, t_us, surprises, limits[index], live_us)
        remembered = track_scale(remembered, samples[index])
        if remembered.size == 0 < one.size:  # nearly deaf in its new unit, else
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
    one: SeriesState, t_us: npt.NDArray[np.int64], surprises: npt.NDArray[Any], paging: float
) -> tuple[SeriesState, list[int]]:
    last, begun = -one.rare, []
    for index in np.flatnonzero(surprises >= paging).tolist():
        if index - last > DEFAULTS.quiet:
            last = index
            begun.append(int(t_us[index]))
    return replace(one, rare=t_us.size - last), begun


def _judged(
    one: SeriesState, index: int, t_us: npt.NDArray[np.int64], surprises: npt.NDArray[Any], limit: float, live_us: int
) -> tuple[SeriesState, list[AlarmTransition]]:
    if not t_us.size:
        return one, []
    beyond = surprises >= limit
    if not one.alarm and not one.silent_us and not beyond.any():  # the usual case, without a loop
        return replace(one, upto_us=int(t_us[-1]), page=one.page + t_us.size, calm=one.calm + t_us.size), []
    changes: list[AlarmTransition] = []
    standing, page, calm = bool(one.alarm) and not one.silent_us, one.page, one.calm
    if one.silent_us:
        changes.append(
            AlarmTransition(
                index=index, state="cleared", t_us=int(t_us[0]), surprise=float(surprises[0]), kind="no-data"
            )
        )
    for t, surprise, far in zip(t_us.tolist(), surprises.tolist(), beyond.tolist(), strict=True):
        page, calm = page + 1, 0 if far else calm + 1
        if far and not standing and page > DEFAULTS.quiet and t >= live_us:
            standing, page = True, 0
            changes.append(AlarmTransition(index=index, state="raised", t_us=t, surprise=surprise))
        elif standing and calm >= CALM:
            standing = False
            changes.append(AlarmTransition(index=index, state="cleared", t_us=t, surprise=surprise))
    return replace(one, upto_us=int(t_us[-1]), page=page, calm=calm, silent_us=0), changes


def track_scale(one: SeriesState, samples: Samples) -> SeriesState:
    """How large its values usually are; size 0, to begin anew, where they have lastingly become of another unit.

    A series that is much smaller at night or over a weekend comes back before that. Zeros say nothing of the unit.
    """
    t_us, values = samples
    told = np.isfinite(values) & (values != 0)
    times, sizes = t_us[told], np.minimum(np.abs(values[told]), 1e300)
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
    lasting = times[-1] - since_us >= UNIT_US
    return replace(one, size=0.0 if lasting else one.size, other_us=0 if lasting else since_us)
