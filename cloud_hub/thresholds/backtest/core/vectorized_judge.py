"""A vectorised judge for long histories or many series, with exactly the results of `shared.thresholds.judge`. Pure.

NumPy finds the samples at which the state may change, and only these are passed to the judge itself. So delays and
deadbands are implemented only once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.bands.state import Floats, Ints
from shared.durations import WEEK_US
from shared.thresholds import JudgeState, Limits, Transition, in_force, judge
from shared.thresholds.schedule import MONDAY_US, week_windows

Bools = npt.NDArray[np.bool_]
Step = tuple[int, Transition]
"""Index of a sample, and its transition."""


def bounds(limits: Limits, t_us: Ints) -> tuple[Floats, Floats]:
    """(lows, highs) in force at each UTC time; -inf and inf where there is none."""
    slots = (t_us - MONDAY_US) % limits.cycle_us * limits.slots // limits.cycle_us
    pairs = [limits.slot(index) for index in range(limits.slots)]
    lows = np.array([-np.inf if low is None else low for low, _ in pairs])[slots]
    highs = np.array([np.inf if high is None else high for _, high in pairs])[slots]
    if limits.schedule:
        away = ~_scheduled(limits.schedule, t_us)
        lows[away], highs[away] = -np.inf, np.inf
    return lows, highs


def _scheduled(schedule: tuple[str, ...], t_us: Ints) -> Bools:
    now = (t_us - MONDAY_US) % WEEK_US
    inside = np.zeros(t_us.shape, dtype=np.bool_)
    for start, end in week_windows(schedule):
        inside |= (start <= now) & (now < end)
    return inside


def judge_history(
    limits: Limits, t_us: npt.NDArray[Any], values: npt.NDArray[Any], state: JudgeState | None = None
) -> tuple[JudgeState, list[Step]]:
    """Judge the samples `values` at `t_us` (one-dimensional, of one length, in this order) from `state` on.

    Returns the state after the last one and the transitions. NaN and infinities count as missing.
    """
    times, points = np.asarray(t_us, np.int64), np.asarray(values, np.float64)
    lows, highs = bounds(limits, times)
    finite, band = np.isfinite(points), limits.deadband
    state = state or JudgeState()
    # The end of each of the three steady states: the next sample of another kind.
    ends = {
        None: np.flatnonzero(finite & ((points > highs) | (points < lows))),
        "high": np.flatnonzero(finite & ~(points > highs - band)),
        "low": np.flatnonzero(finite & ((points > highs) | ~(points < lows + band))),
    }
    found: list[Step] = []
    index, size = 0, len(points)
    while index < size:
        if not state.since_us:
            ahead = ends[state.active]
            place = int(ahead.searchsorted(index))
            if place == len(ahead):
                break
            index = int(ahead[place])
        state, transition = judge(limits, state, int(times[index]), float(points[index]))
        if transition is not None:
            found.append((index, transition))
        index += 1
    return state, found


class VectorizedJudge:
    """Judges n series side by side, one sample of each at a time. `states` are those of the judge."""

    def __init__(self, limits: Sequence[Limits]) -> None:
        self._limits = list(limits)
        self.states = [JudgeState()] * len(self._limits)
        self._band = np.array([one.deadband for one in self._limits])
        self._counts = np.array([one.slots for one in self._limits], np.int64)
        self._cycles = np.array([one.cycle_us for one in self._limits], np.int64)
        self._first = np.concatenate([[0], np.cumsum(self._counts)[:-1]]).astype(np.int64)
        pairs = [one.slot(index) for one in self._limits for index in range(one.slots)]
        self._lows = np.array([-np.inf if low is None else low for low, _ in pairs])
        self._highs = np.array([np.inf if high is None else high for _, high in pairs])
        self._timed = [n for n, one in enumerate(self._limits) if one.schedule]
        self._high, self._low, self._busy = (np.zeros(len(self._limits), np.bool_) for _ in range(3))

    def step(self, t_us: npt.NDArray[Any], values: npt.NDArray[Any]) -> list[Step]:
        """Judge one sample of each series, NaN for none: (series, transition) of those that change."""
        times, points = np.asarray(t_us, np.int64), np.asarray(values, np.float64)
        slots = self._first + (times - MONDAY_US) % self._cycles * self._counts // self._cycles
        lows, highs = self._lows[slots], self._highs[slots]
        for n in self._timed:
            if not in_force(self._limits[n].schedule, int(times[n])):
                lows[n], highs[n] = -np.inf, np.inf
        above = points > highs - np.where(self._high, self._band, 0.0)
        below = ~above & (points < lows + np.where(self._low, self._band, 0.0))
        changes = (above != self._high) | (below != self._low) | self._busy
        return [
            (n, transition)
            for n in np.flatnonzero(changes & np.isfinite(points)).tolist()
            if (transition := self._judged(n, int(times[n]), float(points[n]))) is not None
        ]

    def _judged(self, n: int, t_us: int, value: float) -> Transition | None:
        state, transition = judge(self._limits[n], self.states[n], t_us, value)
        self.states[n] = state
        self._high[n], self._low[n] = state.active == "high", state.active == "low"
        self._busy[n] = bool(state.since_us)
        return transition
