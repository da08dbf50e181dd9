"""From a series' history to the limits that a device gets. The one place that knows which model learns. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.fit import STANDARD, BandSettings, NotEnough, fit
from cloud_hub.thresholds.terms import Terms, widened
from shared.thresholds import Limits

__all__ = ["History", "NotEnough", "learn"]


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


def learn(history: History, terms: Terms, now_us: int, factor: float = 1.0) -> Limits:
    """Limits from `history`, `factor` times as wide as fitted. The same data give the same limits (P7).

    Raises NotEnough, or ValueError for numbers that overflow.
    """
    found = fit(history.metric, history.t_us, history.values, now_us=now_us, settings=_settings(terms))
    return widened(replace(found, stale_s=terms.stale_s), factor)


def _settings(terms: Terms) -> BandSettings:
    return replace(STANDARD, outside=(1.0 - terms.coverage) / 2)
