"""A fleet's budget of pages turned into the threshold of each series, by arithmetic. No clock, no I/O."""

from __future__ import annotations

import math

SHIFTS_A_DAY = 2.0  # a shift is twelve hours


def threshold(pages_per_shift: float, series: int, samples_per_day: float) -> float:
    """The surprise s at which `series` series of `samples_per_day` together page `pages_per_shift` times.

    A surprise s is reached about once in 10**s samples, so s = log10(samples of the fleet in a shift / pages).
    Raises ValueError for numbers that are not above 0.
    """
    numbers = (pages_per_shift, float(series), samples_per_day)
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise ValueError("pages, series and samples must be finite and above 0")
    return max(math.log10(series * samples_per_day / SHIFTS_A_DAY / pages_per_shift), 0.0)
