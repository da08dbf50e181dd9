"""Persistence: computes evidence from persistent residuals of many similar members, calibrated on all of them.

Each of K members has M metrics, each metric some features: means of its residual over half an hour, two hours, half a
day and a day and a half, upward and downward, and further features of the caller. The means are of medians of five, so
short spikes do not count.

- **Relative to its own record**: a feature is divided by its largest value on past days (records fade by 1 % a day),
  but at least by its own usual residual, the median record of all K, and `least`. So an event of every night is not
  new.
- **Calibrated**: the daily peaks of all K in a feature make one tail, taken as a power law through its 10 % and its 1 %
  quantile (after Hill 1975), corrected for each group of similar members by how many of its own peaks lie beyond and
  how far (`fit_tails`). Evidence e is reached in one feature on about one day in 10**e of one metric of one member;
  over all features, which depend on one another, two to four times as often (measured). As in SPOT
  (Siffer et al. 2017) peaks beyond `strange` are excluded from the tail, so a fault does not hide the next one.

Constant work and memory per sample; the same data give the same evidence bit for bit. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.peers.tails import fit_tails
from shared.durations import DAY_US

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """Settings: `period_s` of the samples, `hours` of the long means, `memory_days` of levels, daily `fade` of records.

    `near` and `far` are the shares of daily peaks between which the slope of a tail is estimated; peaks of `tail_days`
    count, unless their evidence is beyond `strange`. A record below `least` (of the usual size) counts as `least`.
    Records start after the first day; there is no evidence before `learn_days`.
    """

    period_s: float = 300.0
    hours: tuple[float, ...] = (0.5, 2.0, 12.0, 36.0)
    memory_days: float = 14.0
    fade: float = 0.01
    least: float = 0.02
    near: float = 0.1
    far: float = 0.01
    strange: float = 3.0
    tail_days: int = 14
    learn_days: int = 3

    def __post_init__(self) -> None:
        if min(self.period_s, self.memory_days, self.tail_days, *self.hours) <= 0:
            raise ValueError("period, hours and days must be above 0")
        if not (0 < self.far < self.near < 0.5 and 0 <= self.fade < 1) or self.learn_days < 2:
            raise ValueError(
                "far must lie below near, near below 0.5, fade below 1; two days of learning are the least"
            )

    def gain(self, seen: Doubles) -> Doubles:
        """The weight of a new sample in a level after `seen` samples."""
        return np.maximum(1 / (seen + 1), self.period_s / 86_400 / self.memory_days)


STANDARD = PeerSettings()


class PersistenceDetector:
    """Computes evidence of residuals [M, K]. `counted[V, M, 1]` masks the features; V is 2 * hours + `extra`.

    `group[K]` is the group of each member from 0; by default all are in one group.
    """

    STATE = ("_five", "_mean", "_noise", "_seen", "_record", "_ratio", "_peak", "_reference", "_peaks", "_base",
             "_slope", "_days")  # fmt: skip

    def __init__(
        self, metrics: int, count: int, settings: PeerSettings, counted: Flags, least: tuple[float, ...] = (),
        group: npt.NDArray[np.int64] | None = None,
    ) -> None:  # fmt: skip
        self.settings, self._counted = settings, counted
        hours = len(settings.hours)
        steps = np.array(settings.hours) * 3600 / settings.period_s
        self._keep = np.exp(-1 / steps)[:, None, None]
        self._least = np.array([settings.least] * 2 * hours + list(least))[:, None, None]
        self._five = np.zeros((5, metrics, count))
        self._mean = np.zeros((hours, metrics, count))
        self._noise, self._seen = np.zeros((metrics, count)), np.zeros((metrics, count))
        features = (len(self._least), metrics, count)
        self._record, self._ratio, self._peak = np.zeros(features), np.zeros(features), np.zeros(features)
        self._reference = np.ones(features)
        self._peaks = np.full((settings.tail_days, *features), np.nan, dtype=np.float32)
        self._group = np.zeros(count, dtype=np.int64) if group is None else group
        groups = int(self._group.max()) + 1
        self._base, self._slope = np.full((*features[:2], groups), -np.inf), np.ones((*features[:2], groups))
        self._days = np.array([-1, 0])  # the current day, and the number of days before it

    def step(self, t_us: int, residual: Doubles, here: Flags, extra: Doubles) -> Doubles:
        """Evidence [M, K] after `residual[M, K]` and `extra[E, M, K]`; 0 while learning, and where not `here`."""
        if t_us // DAY_US != self._days[0]:
            self._start_day(t_us // DAY_US)
        self._five = np.concatenate([residual[None], self._five[:4]])
        calm = np.median(self._five, axis=0)
        self._noise += np.where(here, self.settings.gain(self._seen) * (np.abs(residual) - self._noise), 0.0)
        self._seen += here
        self._mean = np.where(here, self._keep * self._mean + (1 - self._keep) * calm, self._mean)
        features = np.concatenate([self._mean, -self._mean, extra])
        self._peak = np.maximum(self._peak, features)
        if self._days[1] <= self.settings.learn_days:
            return np.zeros(residual.shape)
        ratio = features / self._reference
        self._ratio = np.maximum(self._ratio, ratio)
        best = np.where(self._counted, self._evidence(ratio), 0.0).max(axis=0)
        return np.where(here & (best > 0), best, 0.0)

    def _evidence(self, ratio: Doubles) -> Doubles:
        base, slope = self._base[..., self._group], self._slope[..., self._group]
        return np.asarray(base + slope * np.log10(np.maximum(ratio, 1e-9)))

    def _start_day(self, day: int) -> None:
        """Start a new day: yesterday's peaks update records and tails. The first day only estimates levels."""
        days = int(self._days[1])
        if days >= 2:
            self._record = np.maximum(self._record * (1 - self.settings.fade), self._peak)
        if days > self.settings.learn_days:
            ordinary = np.where(self._evidence(self._ratio) >= self.settings.strange, np.nan, self._ratio)
            self._peaks[days % self.settings.tail_days] = ordinary
            self._base, self._slope = fit_tails(self._peaks, self._group, self.settings.near, self.settings.far)
        if days >= self.settings.learn_days:
            middle = np.median(self._record, axis=2, keepdims=True)
            self._reference = np.maximum(np.maximum(self._record, middle), self._least)
            means = slice(0, 2 * len(self._keep))
            self._reference[means] = np.maximum(self._reference[means], self._noise)
        self._peak, self._ratio = np.zeros_like(self._peak), np.zeros_like(self._ratio)
        self._days = np.array([day, days + 1])
