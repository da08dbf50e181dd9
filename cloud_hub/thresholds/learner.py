"""From histories to the limits that devices get. The one place that knows which model learns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.fit import STANDARD, fit
from cloud_hub.thresholds.terms import Terms, widened
from shared.thresholds import DAY_US, Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One series: `t_us` int64[n] in UTC microseconds, ascending, and `values` float64[n]."""

    device: str
    metric: str
    t_us: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def between(self, from_us: int, to_us: int) -> History:
        """What lies in from_us <= t < to_us."""
        some = slice(*np.searchsorted(self.t_us, [from_us, to_us]).tolist())
        return replace(self, t_us=self.t_us[some], values=self.values[some])


def learn(histories: Sequence[History], terms: Terms, now_us: int, factors: Sequence[float]) -> list[Limits | str]:
    """Limits of each series from the last `train_days` before `now_us`, `factor` times as wide as fitted; or why not.

    The same data give the same limits (P7).
    """
    from_us = now_us - int(terms.train_days * DAY_US)
    return [
        _learned(history.between(from_us, now_us), terms, now_us, factor)
        for history, factor in zip(histories, factors, strict=True)
    ]


def _learned(history: History, terms: Terms, now_us: int, factor: float) -> Limits | str:
    settings = replace(STANDARD, outside=(1.0 - terms.coverage) / 2)
    try:
        found = fit(history.metric, history.t_us, history.values, now_us=now_us, settings=settings)
        return widened(replace(found, stale_s=terms.stale_s), factor)
    except ValueError as error:  # too few points, or numbers that overflow
        return str(error)[:500]
