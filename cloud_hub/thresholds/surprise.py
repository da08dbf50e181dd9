"""When a series' surprise is an alarm, and when that is over. A core: the score model's numbers in, changes out.

One episode is one alarm: raised by the first sample beyond the threshold, cleared after CALM ordinary ones, and none
is raised within `quiet` samples of the last (the score model's refractory filter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.budget import threshold
from cloud_hub.thresholds.scores import DEFAULTS, ForeignState, Scores

CALM = 20
HIGHER, MOST_HIGHER = 0.3, 1.5
"""Each anomaly that people judged false asks for twice the rarity of this series (10**0.3), within some 30 times."""

DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class One:
    """What is remembered of a series beside its model: up to where it was judged, the alarm that stands.

    `page` samples ago the last alarm was raised, `calm` samples ago the last surprise was beyond the threshold.
    """

    device: str
    metric: str
    upto_us: int
    alarm: str = ""
    page: int = 1 << 30
    calm: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An alarm begins or ends with a sample of series number `index`."""

    index: int
    state: Literal["raised", "cleared"]
    t_us: int
    surprise: float


Samples = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""(t_us ascending, values) of one series."""


def unpacked(state: bytes, count: int) -> Scores:
    """The model as it was packed; a fresh one where it is of another version, or of other series."""
    try:
        found = Scores.unpack(state)
    except ForeignState:
        return Scores(count)
    return found if len(found) == count else Scores(count)


def limit(pages_per_shift: float, per_day: float, false: int) -> float:
    """The surprise that pages, for samples of the whole learning a day; higher where people said false."""
    return threshold(pages_per_shift, 1, max(per_day, 1.0)) + min(MOST_HIGHER, false * HIGHER)


def per_day(samples: Sequence[Samples], before: float) -> float:
    """Samples a day of all these series together, by their usual distance; `before` where there are too few."""
    gaps = [float(np.median(np.diff(t_us))) for t_us, _ in samples if t_us.size > 2]
    rates = [DAY_US / gap for gap in gaps if gap > 0]
    return sum(rates) / len(rates) * len(samples) if rates else before


def step(
    scores: Scores, series: Sequence[One], samples: Sequence[Samples], limits: Sequence[float], live_us: int
) -> tuple[list[One], list[Change]]:
    """Judge the new samples of each series: what is remembered then, and the alarms that begin or end, in order.

    The model is stepped on; samples before `live_us` are only learned from.
    """
    longest = max((t_us.size for t_us, _ in samples), default=0)
    times = np.zeros((longest, len(series)), np.int64)
    values = np.full((longest, len(series)), np.nan)
    for index, (t_us, some) in enumerate(samples):
        times[: t_us.size, index], values[: t_us.size, index] = t_us, some
    found = np.array([scores.step(t_us, row) for t_us, row in zip(times, values, strict=True)])
    after: list[One] = []
    changes: list[Change] = []
    for index, one in enumerate(series):
        t_us, _ = samples[index]
        surprises = found[: t_us.size, index] if t_us.size else np.zeros(0)
        remembered, new = _judged(one, index, t_us, surprises, limits[index], live_us)
        after.append(remembered)
        changes += new
    return after, changes


def _judged(
    one: One, index: int, t_us: npt.NDArray[np.int64], surprises: npt.NDArray[Any], limit: float, live_us: int
) -> tuple[One, list[Change]]:
    if not t_us.size:
        return one, []
    beyond = surprises >= limit
    if not one.alarm and not beyond.any():  # the usual case, without a loop
        return replace(one, upto_us=int(t_us[-1]), page=one.page + t_us.size, calm=one.calm + t_us.size), []
    changes: list[Change] = []
    standing, page, calm = bool(one.alarm), one.page, one.calm
    for t, surprise, far in zip(t_us.tolist(), surprises.tolist(), beyond.tolist(), strict=True):
        page, calm = page + 1, 0 if far else calm + 1
        if far and not standing and page > DEFAULTS.quiet and t >= live_us:
            standing, page = True, 0
            changes.append(Change(index=index, state="raised", t_us=t, surprise=surprise))
        elif standing and calm >= CALM:
            standing = False
            changes.append(Change(index=index, state="cleared", t_us=t, surprise=surprise))
    return replace(one, upto_us=int(t_us[-1]), page=page, calm=calm), changes
