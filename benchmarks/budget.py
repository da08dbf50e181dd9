"""Measures the ratio of actual to budgeted pages on noise without faults.

    python -m benchmarks.budget [--days 60] [--series 20] [--pages 1.5] [--seed 7] [--json FILE]

Runs the core of live monitoring, day by day, on five-minute series of several kinds of independent noise; every page
is false. The result is the number of alarms in the second half of the days per page that the budget allows. It
compares the nominal threshold with the threshold raised by the count of episodes
(`cloud_hub/thresholds/scores/alarm_budget.py`). A ratio below 1 is within the budget. Limits: some tens of pages each,
so a ratio of 1 has a standard error of about 0.1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.report import Row, arguments, publish
from benchmarks.series import Floats
from cloud_hub.thresholds.scores import alarm_budget
from cloud_hub.thresholds.scores import alarms as score_alarms
from cloud_hub.thresholds.scores.alarms import SeriesState
from cloud_hub.thresholds.scores.model import ScoreModel
from shared.durations import DAY_US

A_DAY = 288
Noise = Callable[[np.random.Generator, int, int], Floats]
Move = Callable[[float, float, int], float]


def wandering(dice: np.random.Generator, count: int, series: int) -> Floats:
    """Autoregressive, 0.9 from sample to sample, on a daily wave."""
    found = dice.standard_normal((count, series))
    for n in range(1, count):
        found[n] += 0.9 * found[n - 1]
    wave: Floats = found + 5 * np.sin(2 * np.pi * np.arange(count) / A_DAY)[:, None]
    return wave


NOISES: dict[str, Noise] = {
    "normal": lambda dice, count, series: dice.standard_normal((count, series)),
    "autoregressive, daily": wandering,
    "Poisson, mean 3": lambda dice, count, series: dice.poisson(3, (count, series)).astype(np.float64),
    "log-normal, sigma 1.5": lambda dice, count, series: np.exp(1.5 * dice.standard_normal((count, series))),
    "log-normal, sigma 3": lambda dice, count, series: np.exp(3 * dice.standard_normal((count, series))),
    "Student t, 3": lambda dice, count, series: dice.standard_t(3, (count, series)),
    "Student t, 1.5": lambda dice, count, series: dice.standard_t(1.5, (count, series)),
}
MOVES: dict[str, Move] = {
    "arithmetic alone": lambda before, promised, came: 0.0,
    "Tidegate: raised by what came": alarm_budget.corrected,
}


def came(values: Floats, pages_per_shift: float, move: Move) -> float:
    """Alarms in the second half of `values` [days x 288, series] per page that the budget allows."""
    days, series = len(values) // A_DAY, values.shape[1]
    scores, ones = ScoreModel(series), [SeriesState(device=str(n), metric="m", upto_us=0) for n in range(series)]
    usual, above, last_us, found = score_alarms.budget_threshold(pages_per_shift, A_DAY * series), 0.0, 0, 0
    for day in range(days):
        t_us = DAY_US * (day + 1) + np.arange(A_DAY) * (DAY_US // A_DAY)
        samples = [(t_us, values[day * A_DAY : (day + 1) * A_DAY, n].copy()) for n in range(series)]
        paging = usual + above
        ones, changes, begun = score_alarms.advance(scores, ones, samples, [paging] * series, paging, 0, 0)
        troubles, last_us = alarm_budget.count_episodes(begun, last_us)
        above = move(above, A_DAY * series / 10**usual, troubles)
        found += sum(change.state == "raised" for change in changes) if day >= days // 2 else 0
    return found / (pages_per_shift * 2 * (days - days // 2))


def rows(days: int, series: int, pages: float, seed: int) -> list[Row]:
    """Each kind of noise under each way to keep a budget."""
    found = []
    for name, noise in NOISES.items():
        values = noise(np.random.default_rng(seed), days * A_DAY, series)
        found += [
            Row(name, way, "came for each allowed", came(values, pages, move), "times") for way, move in MOVES.items()
        ]
    return found


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", days=60, series=20, pages=1.5)
    publish("budget", options.seed, rows(options.days, options.series, options.pages, options.seed), options.json)


if __name__ == "__main__":
    main()
