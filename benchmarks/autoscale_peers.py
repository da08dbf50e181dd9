"""Scalers that the autoscaling policy is compared with.

- static: always the same count.
- HPA: Kubernetes' rule. Utilization is the load and what clears the backlog in a minute, over the asked instances;
  tolerance 10 %, scale-in follows the highest recommendation of 300 s.
- trend: the HPA on the load that a straight line through the last ten minutes gives after the boot time.
- PHPA, linear and Holt-Winters: re-implementations, from its documentation, of the rules of the Predictive Horizontal
  Pod Autoscaler: a model of the HPA's past counts, and the larger of its forecast and the HPA's count. Linear: least
  squares over the last six counts, one a minute. Holt-Winters: additive trend and season of a day in periods of the
  boot time, with 0.9 for each constant as in its examples, and with 0.2, 0.01 and 0.2 (`tuned`), which suit noise.
- seasonal median: the HPA, and at least the count for the median over past days of the largest load between one and two
  boot times after the same time of day.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cloud_hub.autoscale.core.hpa import count_for
from cloud_hub.autoscale.core.simulate import Floats, Scaler, Step, World

WINDOW_S = 300.0
CATCH_UP_S = 60.0
TREND_STEPS = 10
HISTORY = 6
DAY_S = 86_400.0
TARGETS = (5.0, 3.0, 2.0, 1.5, 1.2, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1)
"""Target utilizations of the curves."""


class Static:
    """Always `count` instances."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __call__(self, step: Step) -> int:
        return self._count


class Hpa:
    """Kubernetes' HPA at a target utilization."""

    def __init__(self, world: World, target: float) -> None:
        self._world, self._aim = world, world.per_instance * target
        self._recent: deque[int] = deque(maxlen=max(1, round(WINDOW_S / world.step_s)))

    def __call__(self, step: Step) -> int:
        return self.follow(step, max(self.count(step), self.forecast(step)))

    def count(self, step: Step) -> int:
        """The HPA's count for this step."""
        load = self.load(step) + step.backlog / CATCH_UP_S
        count = count_for(step.desired, load, self._aim)
        return min(max(count, self._world.minimum), self._world.maximum)

    def load(self, step: Step) -> float:
        """The load that counts."""
        return step.rate

    def forecast(self, step: Step) -> int:
        """A count that is provided for beforehand."""
        return 0

    def follow(self, step: Step, wanted: int) -> int:
        """Out at once, in to the highest of the window."""
        self._recent.append(wanted)
        return wanted if wanted > step.desired else min(step.desired, max(self._recent))


class Trend(Hpa):
    """The HPA on an extrapolated load."""

    def __init__(self, world: World, target: float) -> None:
        super().__init__(world, target)
        self._past: deque[float] = deque(maxlen=TREND_STEPS)

    def load(self, step: Step) -> float:
        self._past.append(step.rate)
        return max(step.rate, _line(self._past, self._world.boot_steps))


def _line(past: deque[float], ahead: int) -> float:
    """A straight line through `past`, `ahead` steps after the last."""
    n = len(past)
    if n < 2:
        return past[-1]
    middle, mean = (n - 1) / 2, sum(past) / n
    slope = sum((k - middle) * value for k, value in enumerate(past)) / sum((k - middle) ** 2 for k in range(n))
    return mean + slope * (n - 1 - middle + ahead)


class PhpaLinear(Hpa):
    """Linear regression over the HPA's last counts."""

    def __init__(self, world: World, target: float) -> None:
        super().__init__(world, target)
        self._counts: deque[float] = deque(maxlen=HISTORY)

    def __call__(self, step: Step) -> int:
        count = self.count(step)
        self._counts.append(count)
        return self.follow(step, max(count, math.ceil(_line(self._counts, self._world.boot_steps) - 1e-9)))


class PhpaHoltWinters(Hpa):
    """Additive Holt-Winters over the HPA's counts of each period; a forecast after two seasons."""

    def __init__(self, world: World, target: float, alpha: float = 0.9, beta: float = 0.9, gamma: float = 0.9) -> None:
        super().__init__(world, target)
        self._alpha, self._beta, self._gamma = alpha, beta, gamma
        self._steps = world.boot_steps
        self._length = max(2, round(DAY_S / (world.boot_steps * world.step_s)))
        self._first: list[float] = []
        self._season: list[float] = []
        self._level = self._trend = 0.0
        self._period, self._largest = 0, 0

    def __call__(self, step: Step) -> int:
        count = self.count(step)
        self._largest = max(self._largest, count)
        if step.index % self._steps == self._steps - 1:
            self._learn(float(self._largest))
            self._largest = 0
        ahead = 0
        if self._season:
            ahead = math.ceil(self._level + self._trend + self._season[self._period % self._length] - 1e-9)
        return self.follow(step, max(count, ahead))

    def _learn(self, value: float) -> None:
        """The recursion of Holt and Winters; before it, two seasons give the first values."""
        if not self._season:
            self._first.append(value)
            if len(self._first) == 2 * self._length:
                one, two = np.array(self._first).reshape(2, self._length)
                self._level, self._trend = float(two.mean()), float(two.mean() - one.mean()) / self._length
                self._season = ((one - one.mean() + two - two.mean()) / 2).tolist()
            return
        at = self._period % self._length
        before, season = self._level, self._season[at]
        self._level = self._alpha * (value - season) + (1 - self._alpha) * (before + self._trend)
        self._trend = self._beta * (self._level - before) + (1 - self._beta) * self._trend
        self._season[at] = self._gamma * (value - self._level) + (1 - self._gamma) * season
        self._period += 1


class SeasonalMedian(Hpa):
    """The HPA with a floor by time of day."""

    def __init__(self, world: World, target: float, quantile: float = 0.5) -> None:
        super().__init__(world, target)
        self._floors = seasonal(world, quantile)

    def forecast(self, step: Step) -> int:
        return math.ceil(float(self._floors[step.index]) / self._aim * (1 - 1e-9))


def seasonal(world: World, quantile: float) -> Floats:
    """For each step, the quantile over past days of the largest load one to two boot times after its time of day."""
    boot, day = world.boot_steps, round(DAY_S / world.step_s)
    padded = np.concatenate([world.rate, np.full(2 * boot, world.rate[-1])])
    ahead = sliding_window_view(padded, boot + 1)[boot : boot + world.rate.size].max(axis=1)
    found = np.zeros(world.rate.size)
    for index in range(day + 2 * boot, world.rate.size):  # only whole windows of the past are known
        found[index] = np.quantile(ahead[index - day :: -day], quantile)
    return found


def curves(world: World) -> dict[str, list[Scaler]]:
    """Each peer with its settings, from cheap to safe."""
    return {
        "static": [Static(n) for n in range(1, world.maximum + 1)],
        "HPA": [Hpa(world, target) for target in TARGETS],
        "trend + HPA": [Trend(world, target) for target in TARGETS],
        "PHPA linear (re-implemented)": [PhpaLinear(world, target) for target in TARGETS],
        "PHPA Holt-Winters (re-implemented)": [PhpaHoltWinters(world, target) for target in TARGETS],
        "PHPA Holt-Winters, tuned": [PhpaHoltWinters(world, target, 0.2, 0.01, 0.2) for target in TARGETS],
        "seasonal median + HPA": [SeasonalMedian(world, target) for target in TARGETS],
        "seasonal q90 + HPA": [SeasonalMedian(world, target, 0.9) for target in TARGETS],
    }
