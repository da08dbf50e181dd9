"""The alarm budget: turns a fleet's pages per shift into the threshold of each series. No clock, no I/O.

The nominal threshold assumes that an anomaly score s is reached once in 10**s samples. If normal noise has longer
tails than the model, there are more alarms. Therefore episodes are counted from the first stored sample on, and the
threshold is raised until their number is within the budget (as Gibbs and Candes, 2021, keep a coverage). It never
falls below the nominal threshold: a budget is an upper bound, not a target.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from shared.durations import HOUR_US

SHIFTS_A_DAY = 2.0  # a shift is twelve hours

TRUST = 10.0
"""This many excess pages raise the threshold by at most log10(2); one page raises it by 0.04 decades."""
MOST = 1.5
"""Largest correction in decades: beyond that the fleet has faults, and the threshold is not wrong."""


def threshold(pages_per_shift: float, series: int, samples_per_day: float) -> float:
    """The anomaly score s at which `series` series of `samples_per_day` together page `pages_per_shift` times.

    A score s is reached about once in 10**s samples, so s = log10(samples of the fleet in a shift / pages).
    Raises ValueError for numbers that are not above 0.
    """
    numbers = (pages_per_shift, float(series), samples_per_day)
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise ValueError("pages, series and samples must be finite and above 0")
    return max(math.log10(series * samples_per_day / SHIFTS_A_DAY / pages_per_shift), 0.0)


def count_episodes(times_us: Iterable[int], last_us: int) -> tuple[int, int]:
    """(number of episodes that began at these times, start of the last one), given the previous start `last_us`.

    Starts within an hour of another count once: an outage of many series must not raise the threshold of all.
    """
    count = 0
    for t_us in sorted(times_us):
        if abs(t_us - last_us) >= HOUR_US:
            last_us, count = t_us, count + 1
    return count, last_us


def corrected(before: float, promised: float, came: int) -> float:
    """Decades above the nominal threshold, after `promised` expected pages and `came` actual ones."""
    return min(max(before + math.log10((TRUST + came) / (TRUST + promised)), 0.0), MOST)
