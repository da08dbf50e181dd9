"""Replays history through the judge that devices run, to find the alarms that limits would have raised. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from cloud_hub.thresholds.backtest.core.vectorized_judge import Step, judge_history
from cloud_hub.thresholds.bands.fit import STANDARD, BandSettings, NotEnough, clean
from cloud_hub.thresholds.bands.model import Bands
from cloud_hub.thresholds.bands.state import Floats, Ints
from shared.durations import DAY_US
from shared.messages import AlarmKind
from shared.thresholds import JudgeState, Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One alarm from raised to cleared, UTC microseconds; `end_us` None while active. `peak` is its worst value."""

    start_us: int
    end_us: int | None
    kind: AlarmKind
    peak: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A labelled fault, both ends included, UTC microseconds."""

    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Result of a method: `hit` of `windows` windows were hit; `false_alarms` of `alarms` were outside of windows."""

    alarms: int
    windows: int
    hit: int
    false_alarms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Fixed limits and the learned band on one labelled series, all judged over the same time."""

    metric: str
    from_us: int
    fixed: dict[str, Score]
    learned: Score


def replay(limits: Limits, t_us: npt.NDArray[Any], values: npt.NDArray[Any]) -> list[Episode]:
    """The episodes of `limits` on `values` at `t_us` (any order; see `fit.clean`)."""
    times, points = clean(t_us, values)
    return _episodes(judge_history(limits, times, points)[1], times, points)


def replay_rolling(
    metric: str,
    t_us: npt.NDArray[Any],
    values: npt.NDArray[Any],
    train_days: float,
    refit_days: float,
    *,
    settings: BandSettings = STANDARD,
) -> list[Episode]:
    """The episodes of limits learned from the past only, as a hub would have pushed them; see `rolling_limits`.

    The judge keeps its state across refits, as on the device.
    """
    times, points = clean(t_us, values)
    state, steps = JudgeState(), list[Step]()
    for limits, some in rolling_limits(metric, times, points, train_days, refit_days, settings=settings):
        state, found = judge_history(limits, times[some], points[some], state)
        steps += [(some.start + index, transition) for index, transition in found]
    return _episodes(steps, times, points)


def rolling_limits(
    metric: str, times: Ints, points: Floats, train_days: float, refit_days: float, *, settings: BandSettings = STANDARD
) -> Iterator[tuple[Limits, slice]]:
    """The limits that a device would have had, each with the points (of a `clean` series) that it judges by them.

    The first limits are learned `train_days` after the first point, then new ones each `refit_days`. Earlier points are
    not judged, and a refit without enough points keeps the last limits. Raises ValueError unless the days are above 0.
    """
    if min(train_days, refit_days) <= 0:
        raise ValueError("train_days and refit_days must be above 0")
    if not times.size:
        return
    refit_us, start_us = max(int(refit_days * DAY_US), 1), int(times[0]) + int(train_days * DAY_US)
    bands, limits = Bands(1, settings), None
    first = int(times.searchsorted(start_us))
    bands.learn(times[:first], points[:first, None])
    while first < times.size:
        start_us += (int(times[first]) - start_us) // refit_us * refit_us  # in a gap, only the last refit counts
        with suppress(NotEnough):
            limits = bands.limits(0, metric, start_us)
        start_us += refit_us
        some = slice(first, int(times.searchsorted(start_us)))
        if limits is not None:
            yield limits, some
        bands.learn(times[some], points[some, None])
        first = some.stop


def score(episodes: Sequence[Episode], windows: Sequence[Window], from_us: int) -> Score:
    """Score the `episodes` raised from `from_us` on.

    A window counts as hit when an alarm is raised inside it, not when one is already active at its start. A window that
    starts before `from_us` is partly training data; it is left out, and alarms in it are not false.
    """
    raised = [episode.start_us for episode in episodes if episode.start_us >= from_us]
    judged = [window for window in windows if window.start_us >= from_us]
    hit = sum(any(w.start_us <= t <= w.end_us for t in raised) for w in judged)
    false = sum(not any(w.start_us <= t <= w.end_us for w in windows) for t in raised)
    return Score(alarms=len(raised), windows=len(judged), hit=hit, false_alarms=false)


def compare(
    metric: str,
    t_us: npt.NDArray[Any],
    values: npt.NDArray[Any],
    windows: Sequence[Window],
    fixed: Sequence[Limits],
    *,
    train_days: float,
    refit_days: float,
) -> Comparison:
    """Judge one series by each of `fixed` (named by their high) and by the rolling band, over the same time.

    The first `train_days` are for training only and are judged for none of them.
    """
    times, points = clean(t_us, values)
    if not times.size:
        raise NotEnough(f"{metric} has no usable points")
    from_us = int(times[0]) + int(train_days * DAY_US)
    late = times >= from_us
    learned = replay_rolling(metric, times, points, train_days, refit_days)
    return Comparison(
        metric=metric,
        from_us=from_us,
        fixed={f"{f.high:g}": score(replay(f, times[late], points[late]), windows, from_us) for f in fixed},
        learned=score(learned, windows, from_us),
    )


def _episodes(steps: Iterable[Step], times: Ints, points: Floats) -> list[Episode]:
    """Pair raised and cleared transitions; the last episode may still be active."""
    done: list[Episode] = []
    begun: Step | None = None
    for step in steps:
        if begun is not None:
            done.append(_episode(begun, step[0], times, points))
        begun = step if begun is None else None
    return done if begun is None else [*done, _episode(begun, None, times, points)]


def _episode(begun: Step, end: int | None, times: Ints, points: Floats) -> Episode:
    start, transition = begun
    standing = points[start:end]
    return Episode(
        start_us=int(times[start]),
        end_us=None if end is None else int(times[end]),
        kind=transition.kind,
        peak=float(standing.max() if transition.kind == "high" else standing.min()),
    )
