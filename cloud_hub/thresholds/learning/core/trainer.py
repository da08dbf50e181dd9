"""Trainer: learns limits from histories. The only module that knows which model is fitted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.backtest.core.replay import Window
from cloud_hub.thresholds.bands.model import Bands
from cloud_hub.thresholds.bands.settings import STANDARD
from cloud_hub.thresholds.learning.core import safeguards
from cloud_hub.thresholds.learning.core.policy import LimitPolicy, widen_limits
from cloud_hub.thresholds.learning.core.safeguards import Known
from shared.thresholds import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One series: `t_us` int64[n] in UTC microseconds, ascending, and `values` float64[n].

    `period_s` is the usual time between its samples before any thinning; None for too few samples.
    """

    device: str
    metric: str
    t_us: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    period_s: float | None = None

    def between(self, from_us: int, to_us: int) -> History:
        """The samples in from_us <= t < to_us."""
        some = slice(*np.searchsorted(self.t_us, [from_us, to_us]).tolist())
        return replace(self, t_us=self.t_us[some], values=self.values[some])

    def before(self, to_us: int) -> History:
        """The samples before `to_us`."""
        return self.between(0, to_us)

    def without(self, alarms: Sequence[Window]) -> History:
        """The samples outside of these alarms."""
        keep = safeguards.ordinary(self.t_us, alarms)
        return replace(self, t_us=self.t_us[keep], values=self.values[keep])


def learn_limits(
    histories: Sequence[History],
    policy: LimitPolicy,
    factors: Sequence[float],
    times_us: Sequence[int],
    known: Sequence[Known],
) -> list[list[Limits | str]]:
    """For each of the times, in order: the limits of each series from earlier samples, or why there are none.

    Samples in alarms are left out (`safeguards`). Limits are `factors` times as wide as fitted. The same data give the
    same limits (P7); series are independent.
    """
    ordinary = [one.without(some.alarms) for one, some in zip(histories, known, strict=True)]
    bands = Bands(len(histories), replace(STANDARD, outside=(1.0 - policy.coverage) / 2))
    found: list[list[Limits | str]] = []
    begin = 0
    for end in times_us:
        bands.learn(*_rows([one.between(begin, end) for one in ordinary]))
        found.append([
            _limits(bands, index, one, policy, end, factors[index], known[index], histories[index])
            for index, one in enumerate(ordinary)
        ])  # fmt: skip
        begin = end
    return found


def _rows(histories: Sequence[History]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(t_us [T, n], values [T, n]): one column per series, padded with NaN at the end."""
    longest = max((one.t_us.size for one in histories), default=0)
    times = np.zeros((longest, len(histories)), np.int64)
    values = np.full((longest, len(histories)), np.nan)
    for index, one in enumerate(histories):
        times[: one.t_us.size, index], values[: one.t_us.size, index] = one.t_us, one.values
    return times, values


def _limits(
    bands: Bands,
    index: int,
    ordinary: History,
    policy: LimitPolicy,
    now_us: int,
    factor: float,
    known: Known,
    whole: History,
) -> Limits | str:
    before = ordinary.before(now_us)
    try:
        safeguards.enough(ordinary.metric, before.t_us, whole.before(now_us).t_us.size - before.t_us.size)
        found = bands.limits(index, ordinary.metric, now_us, period_s=ordinary.period_s)
        return safeguards.bounded(widen_limits(replace(found, stale_s=policy.stale_s), factor), before.values, known)
    except ValueError as error:  # too few points, or numbers that overflow
        return str(error)[:500]
