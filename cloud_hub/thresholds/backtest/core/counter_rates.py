"""Rates of counters, which restart at 0 with their process. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.bands.fit import clean


def counter_rates(
    t_us: npt.NDArray[Any], values: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Increase per second from each sample of a counter to the next, at the later one's time (UTC microseconds).

    A value below the previous one is a restart from 0. Samples may be in any order; NaN is ignored. The result has one
    value less than there are samples.
    """
    times, points = clean(t_us, values)
    with np.errstate(over="ignore"):
        grown = np.diff(points)
        grown = np.where(grown < 0, points[1:], grown)
    return times[1:], grown / (np.diff(times) / 1e6)
