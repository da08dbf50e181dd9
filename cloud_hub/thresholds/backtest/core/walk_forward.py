"""Walk-forward evaluation: alarms and bands of series, each learned from the past only. Pure.

Only this module knows which models a backtest uses: alarms are those of live monitoring (`scores`), with a budget of
pages for all series together; the band shows the limits that would have been pushed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.backtest.core.replay import rolling_limits
from cloud_hub.thresholds.backtest.core.vectorized_judge import bounds
from cloud_hub.thresholds.bands.fit import clean
from cloud_hub.thresholds.bands.state import Floats, Ints
from cloud_hub.thresholds.scores import alarm_budget
from cloud_hub.thresholds.scores import alarms as score_alarms
from cloud_hub.thresholds.scores.alarms import AlarmTransition, Samples, SeriesState
from cloud_hub.thresholds.scores.model import ScoreModel

CELLS = 4_000_000
"""Series times samples of one batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """One alarm, UTC microseconds; `end_us` None while it is active. `score` is that of its first sample."""

    start_us: int
    end_us: int | None
    score: float


def alarms(samples: Sequence[Samples], from_us: int, pages_per_shift: float) -> list[list[Anomaly]]:
    """Alarms of each series (times in UTC microseconds, any order; NaN is no value), raised from `from_us` on.

    All series together share `pages_per_shift` pages in 12 hours. Samples before `from_us` train the model, and raise
    the threshold if they exceed the budget, as in live monitoring.
    """
    series = [clean(t_us, values) for t_us, values in samples]
    usual = score_alarms.budget_threshold(pages_per_shift, score_alarms.samples_per_day(series, 0.0))
    return [found for some in _batches(series) for found in _judged(some, from_us, usual)]


def _batches(series: list[Samples]) -> Iterator[list[Samples]]:
    longest = max((t_us.size for t_us, _ in series), default=0)
    count = max(1, CELLS // max(longest, 1))
    return (series[first : first + count] for first in range(0, len(series), count))


def _judged(series: list[Samples], from_us: int, usual: float) -> list[list[Anomaly]]:
    scores, ones = ScoreModel(len(series)), [SeriesState(device="", metric="", upto_us=0) for _ in series]
    before = [_cut(one, before_us=from_us) for one in series]
    rest = [_cut(one, from_us=from_us) for one in series]
    with np.errstate(over="ignore"):  # differences of extreme values; overflows are clipped
        ones, _, begun = score_alarms.advance(scores, ones, before, [usual] * len(series), usual, from_us, from_us)
        came, _ = alarm_budget.count_episodes(begun, 0)
        limit = usual + alarm_budget.corrected(0.0, sum(t_us.size for t_us, _ in before) / 10**usual, came)
        _, changes, _ = score_alarms.advance(scores, ones, rest, [limit] * len(series), limit, from_us, from_us)
    found: list[list[Anomaly]] = [[] for _ in series]
    for change in changes:
        _add(found[change.index], change)
    return found


def _cut(one: Samples, from_us: int = -(1 << 62), before_us: int = 1 << 62) -> Samples:
    t_us, values = one
    some = slice(*np.searchsorted(t_us, [from_us, before_us]).tolist())
    return t_us[some], values[some]


def _add(mine: list[Anomaly], change: AlarmTransition) -> None:
    if change.state == "raised":
        mine.append(Anomaly(start_us=change.t_us, end_us=None, score=change.score))
    elif mine:
        mine[-1] = Anomaly(start_us=mine[-1].start_us, end_us=change.t_us, score=mine[-1].score)


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The limits that would have been in force: float64[n] at `t_us` int64[n]; NaN where there were none yet,
    infinite where there is none on that side."""

    t_us: Ints
    values: Floats
    low: Floats
    high: Floats


def band(
    metric: str, t_us: npt.NDArray[Any], values: npt.NDArray[Any], *, train_days: float = 3.0, refit_days: float = 1.0
) -> Band:
    """The band of limits learned for `train_days`, then daily, and pushed each `refit_days`. Raises ValueError."""
    times, points = clean(t_us, values)
    low, high = np.full(times.size, np.nan), np.full(times.size, np.nan)
    for limits, some in rolling_limits(metric, times, points, train_days, refit_days):
        low[some], high[some] = bounds(limits, times[some])
    return Band(t_us=times, values=points, low=low, high=high)
