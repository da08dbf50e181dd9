"""A fleet's budget of pages turned into the threshold of each series: by arithmetic, then by what came of it.

Arithmetic trusts that a surprise s comes once in 10**s samples. Where ordinary noise has longer tails than the model's,
more comes. So what comes is counted, from the first stored sample on, and raises the threshold until no more does than
was promised (as Gibbs and Candes, 2021, keep a coverage). Nothing takes it below the arithmetic's: a budget is a
ceiling and no quota that noise should fill. No clock, no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from shared.times import HOUR_US

SHIFTS_A_DAY = 2.0  # a shift is twelve hours

TRUST = 10.0
"""So many pages move the threshold by log10(2) at most: a page more than promised by 0.04 decades."""
MOST = 1.5
"""Decades by which it may rise: beyond that a fleet has troubles and not a wrong threshold."""


def threshold(pages_per_shift: float, series: int, samples_per_day: float) -> float:
    """The surprise s at which `series` series of `samples_per_day` together page `pages_per_shift` times.

    A surprise s is reached about once in 10**s samples, so s = log10(samples of the fleet in a shift / pages).
    Raises ValueError for numbers that are not above 0.
    """
    numbers = (pages_per_shift, float(series), samples_per_day)
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise ValueError("pages, series and samples must be finite and above 0")
    return max(math.log10(series * samples_per_day / SHIFTS_A_DAY / pages_per_shift), 0.0)


def count_episodes(times_us: Iterable[int], last_us: int) -> tuple[int, int]:
    """(how many troubles began at these times, when the last one did), one having begun at `last_us`.

    What begins within an hour of another is the same one: an outage of many series must not deafen.
    """
    count = 0
    for t_us in sorted(times_us):
        if abs(t_us - last_us) >= HOUR_US:
            last_us, count = t_us, count + 1
    return count, last_us


def corrected(before: float, promised: float, came: int) -> float:
    """By how many decades the threshold is above the arithmetic's, after so many pages promised and come."""
    return min(max(before + math.log10((TRUST + came) / (TRUST + promised)), 0.0), MOST)
