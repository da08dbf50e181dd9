"""Evaluates scores on labelled series at every threshold: NAB, windows hit, false alarms, F1, coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.nab_score import PROFILES, alarms, normalised, raw, worth
from benchmarks.series import Bools, Floats, Series

REFRACTORY = 100
"""Samples after an alarm in which a method cannot alarm again. The score's own default; 50 to 200 give
much the same order of all methods."""
DELAY = 7
"""Samples after the start of a window within which point-adjusted F1 wants the alarm (AIOps challenge 2018)."""
GRID = 150
CURVE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Outcome:
    """K thresholds over N series: `raws[profile, K, N]` of NAB, `hits[K, N]` windows, `false[K, N]` alarms outside.

    The last threshold is the method's usual one; it is never chosen by tuning.
    """

    series: Sequence[Series]
    thresholds: Floats
    raws: Floats
    hits: Floats
    false: Floats

    def nab(self, profile: int, row: int | None = None) -> float:
        """The NAB score at a threshold, by default at the best one (tuned on all)."""
        sums = self.raws[profile].sum(axis=1)
        best = int(sums[:-1].argmax()) if row is None else row
        return self._normal(profile, float(sums[best]))

    def transferred(self, profile: int, first: Bools) -> float:
        """Two-fold: each half of the series scored at the threshold that is best on the other half."""
        total = 0.0
        for half in (first, ~first):
            best = int(self.raws[profile][:-1, ~half].sum(axis=1).argmax())
            total += float(self.raws[profile][best, half].sum())
        return self._normal(profile, total)

    def one_way(self, profile: int, scored: Bools) -> float:
        """The series `scored` at the threshold that is best on the others."""
        best = int(self.raws[profile][:-1, ~scored].sum(axis=1).argmax())
        windows = sum(len(s.judged) for s, here in zip(self.series, scored, strict=True) if here)
        return normalised(float(self.raws[profile][best, scored].sum()), windows, PROFILES[profile])

    def _normal(self, profile: int, total: float) -> float:
        return normalised(total, self.windows, PROFILES[profile])

    @property
    def windows(self) -> int:
        return sum(len(series.judged) for series in self.series)

    def false_a_day(self) -> Floats:
        """False alarms for each series-day, at each threshold."""
        return np.asarray(self.false.sum(axis=1) / sum(series.days for series in self.series))

    def hit_share(self) -> Floats:
        """The share of windows hit, at each threshold; NaN where there is none."""
        return self.hits.sum(axis=1) / self.windows if self.windows else np.full(len(self.hits), np.nan)

    def hit_at(self, most: float) -> float:
        """The largest share of windows hit with at most so many false alarms a series-day."""
        allowed = self.false_a_day()[:-1] <= most
        return float(self.hit_share()[:-1][allowed].max(initial=0.0)) if self.windows else float("nan")


def outcome(series: Sequence[Series], scores: Sequence[Floats], usual: float) -> Outcome:
    """Every threshold of a grid (quantiles of all scores, denser at the top) and the usual one, tried on all series."""
    pool = np.concatenate([found[one.learn :] for one, found in zip(series, scores, strict=True)])
    pool = pool[np.isfinite(pool)]
    grid = np.unique(np.quantile(pool, 1 - np.geomspace(1e-6, 0.2, GRID))) if pool.size else np.array([1.0])
    thresholds = np.r_[grid, usual]
    raws = np.zeros((len(PROFILES), len(thresholds), len(series)))
    hits, false = np.zeros(raws.shape[1:]), np.zeros(raws.shape[1:])
    for n, (one, found) in enumerate(zip(series, scores, strict=True)):
        worths, judged = worth(one), found.copy()
        judged[: one.learn] = -np.inf  # learning makes no alarms, nor does it silence the first one after
        for k, threshold in enumerate(thresholds):
            here = alarms(judged, float(threshold), REFRACTORY)
            raws[:, k, n] = [raw(one, here, worths, profile) for profile in PROFILES]
            false[k, n] = int((~one.inside[here]).sum())
            hits[k, n] = sum(bool(((here >= first) & (here <= last)).any()) for first, last in one.judged)
    return Outcome(series, thresholds, raws, hits, false)


def halves(count: int) -> Bools:
    """Every second series by name."""
    return np.asarray(np.arange(count) % 2 == 0)


def random_halves(count: int, seed: int, draws: int = 25) -> list[Bools]:
    """`draws` ways to halve the series."""
    dice = np.random.default_rng(seed)
    return [dice.permutation(count) < count // 2 for _ in range(draws)]


def best_f1(series: Sequence[Series], scores: Sequence[Floats]) -> tuple[float, float]:
    """(best F1 of samples, best point-adjusted F1 within DELAY samples), one threshold for all series, no filter.

    Samples in windows are the positives. Point-adjusted (H. Xu et al., WWW 2018; delay as in the AIOps challenge): a
    window counts as found whole when a sample of its first DELAY + 1 alarms, else as missed whole.
    """
    plain: list[Floats] = []
    adjusted: list[Floats] = []
    for one, found in zip(series, scores, strict=True):
        score, inside = np.nan_to_num(found[one.learn :], posinf=1e300), one.inside[one.learn :]
        plain.append(np.stack([score, inside]))
        outside = np.stack([score[~inside], np.zeros(int((~inside).sum()))])
        heads = [(np.nan_to_num(found[first : min(first + DELAY, last) + 1], posinf=1e300).max(), last - first + 1)
                 for first, last in one.judged]  # fmt: skip
        adjusted += [outside, np.array(heads, dtype=float).reshape(-1, 2).T]
    return _best_f1(np.concatenate(plain, axis=1)), _best_f1(np.concatenate(adjusted, axis=1))


def _best_f1(pairs: Floats) -> float:
    """Best F1 over thresholds of pairs (score, positives that it finds; 0 where it is a false positive)."""
    order = np.argsort(-pairs[0], kind="stable")
    score, positive = pairs[0][order], pairs[1][order]
    if positive.sum() == 0:
        return float("nan")
    true, false = np.cumsum(positive), np.cumsum(positive == 0)
    last = np.r_[score[1:] != score[:-1], True]  # equal scores stand or fall together
    return float((2 * true / (true + false + positive.sum()))[last].max())


def coverage(series: Sequence[Series], bands: Sequence[tuple[Floats, Floats]]) -> float:
    """The percentage of samples in the band, probation, windows and missing values left out."""
    inside = total = 0
    for one, (low, high) in zip(series, bands, strict=True):
        ordinary = np.isfinite(one.values) & ~one.inside
        ordinary[: one.learn] = False
        inside += int(((one.values >= low) & (one.values <= high) & ordinary).sum())
        total += int(ordinary.sum())
    return 100.0 * inside / total if total else float("nan")
