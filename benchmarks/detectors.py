"""Baseline detectors: a small interface, simple implementations of classic methods, and adapters for libraries.

Every method maps one series to scores (higher is more anomalous) without looking ahead: the score of a sample uses only
that sample and earlier ones. `usual` is the customary threshold. The same refractory filter is applied to all methods
(`nab_score.alarms`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.series import Floats, Ints, Series, probation
from shared.durations import DAY_US

Scorer = Callable[[Ints, Floats], Floats]
Bander = Callable[[Ints, Floats], tuple[Floats, Floats]]
Z99 = 2.5758
"""Half the width of a Gaussian's 99 % band, in standard deviations."""


@dataclass(frozen=True)
class Detector:
    """A method: `scores(t_us, values) -> float[T]`; `band` gives (low, high) of its 99 % band where it has one.

    `fleet` and `fleet_band` take their place where a method is made to step over many series at once.
    """

    name: str
    usual: float
    scores: Scorer
    band: Bander | None = None
    fleet: Callable[[Sequence[Series]], list[Floats]] | None = None
    fleet_band: Callable[[Sequence[Series]], list[tuple[Floats, Floats]]] | None = None


def on_finite(scores: Scorer) -> Scorer:
    """For methods without support for missing values: they get the finite samples only, the others score 0."""

    def filtered(t_us: Ints, values: Floats) -> Floats:
        keep = np.isfinite(values)
        found = np.zeros(len(values))
        if keep.any():
            found[keep] = scores(t_us[keep], values[keep])
        return found

    return filtered


def gaussian(name: str, usual: float, centre: Callable[[Ints, Floats], tuple[Floats, Floats]]) -> Detector:
    """A method that expects mean and deviation for each sample; its score is the distance in deviations."""

    def scores(t_us: Ints, values: Floats) -> Floats:
        mean, sd = centre(t_us, values)
        return np.abs(values - mean) / np.maximum(sd, 1e-6)

    def band(t_us: Ints, values: Floats) -> tuple[Floats, Floats]:
        mean, sd = centre(t_us, values)
        return mean - Z99 * sd, mean + Z99 * sd

    return Detector(name, usual, on_finite(scores), band)


def static(t_us: Ints, values: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of the probation period, for all samples."""
    learn = values[: max(2, probation(len(values)))]
    return np.full(len(values), learn.mean()), np.full(len(values), learn.std())


def ewma(t_us: Ints, values: Floats, weight: float = 0.02) -> tuple[Floats, Floats]:
    """Exponentially weighted mean and variance (Roberts 1959; West 1979), before each sample."""
    means, variances = np.empty(len(values)), np.empty(len(values))
    mean, variance = float(values[0]), 0.0
    for i, value in enumerate(values.tolist()):
        means[i], variances[i] = mean, variance
        off = value - mean
        mean += weight * off
        variance = (1 - weight) * (variance + weight * off * off)
    return means, np.sqrt(variances)


def windowed(t_us: Ints, values: Floats, window: int = 6400, step: int = 100) -> tuple[Floats, Floats]:
    """NAB's windowed Gaussian: mean and deviation of the last 6,400 samples, moved on by 100 at a time."""
    sums, squares = np.cumsum(np.r_[0.0, values]), np.cumsum(np.r_[0.0, values**2])
    ends = np.arange(len(values))
    ends = np.where(ends > window, window + (ends - window) // step * step, ends)
    starts = np.maximum(0, ends - window)
    count = np.maximum(ends - starts, 1)
    mean = (sums[ends] - sums[starts]) / count
    sd = np.sqrt(np.maximum((squares[ends] - squares[starts]) / count - mean**2, 0.0))
    mean[0] = values[0]
    return mean, np.where(sd > 0, sd, 1e-6)


def seasonal(t_us: Ints, values: Floats, slots: int = 24, least: int = 24) -> tuple[Floats, Floats]:
    """Mean and deviation of all earlier samples of the same hour, working days and weekends apart.

    A slot with fewer than `least` samples takes those of the whole past.
    """
    weekend = (t_us // DAY_US + 3) % 7 >= 5  # 1970-01-01 was a Thursday
    slot = t_us % DAY_US * slots // DAY_US + slots * weekend
    mean, sd, _ = _past(values)
    for one in np.unique(slot):
        here = np.flatnonzero(slot == one)
        own_mean, own_sd, count = _past(values[here])
        enough = count >= least
        mean[here[enough]], sd[here[enough]] = own_mean[enough], own_sd[enough]
    return mean, sd


def _past(values: Floats) -> tuple[Floats, Floats, Ints]:
    """Mean, deviation and number of all samples before each."""
    count = np.arange(len(values))
    many = np.maximum(count, 1)
    shift = float(values[0])
    sums, squares = np.cumsum(np.r_[0.0, values - shift])[:-1], np.cumsum(np.r_[0.0, (values - shift) ** 2])[:-1]
    mean = sums / many
    return mean + shift, np.sqrt(np.maximum(squares / many - mean**2, 0.0)), count


@on_finite
def kmeans(t_us: Ints, values: Floats, train: int = 288, every: int = 144, models: int = 9) -> Floats:
    """After Netdata's anomaly bits: k-means (k = 2) over six lags of differenced samples smoothed over three.

    A model's score is the distance to the nearer centre, 0 at the least and 1 at the greatest of its training. A sample
    is as strange as the model that finds it least strange. Netdata trains on six hours of seconds, every three hours,
    and keeps 18 models; here a model learns from the last 288 samples, every 144 samples, and nine are kept: a day,
    half a day and four and a half days at 5 minutes.
    """
    changes = np.diff(values, prepend=values[:1])
    smooth = np.convolve(changes, np.ones(3) / 3)[: len(changes)]
    lags = np.stack([np.r_[np.full(lag, smooth[0]), smooth][: len(smooth)] for lag in range(6)], axis=1)
    found, kept = np.zeros(len(values)), deque[tuple[Floats, float, float]](maxlen=models)
    for start in range(every, len(values), every):
        kept.append(_two_means(lags[max(0, start - train) : start]))
        part = lags[start : start + every]
        distances = [_nearest(part, centres) for centres, _, _ in kept]
        scaled = [(d - low) / max(high - low, 1e-9) for d, (_, low, high) in zip(distances, kept, strict=True)]
        found[start : start + every] = np.minimum.reduce(scaled)
    return found


def _nearest(points: Floats, centres: Floats) -> Floats:
    return np.asarray(np.sqrt(((points[:, None] - centres[None]) ** 2).sum(axis=2)).min(axis=1))


def _two_means(points: Floats, rounds: int = 20) -> tuple[Floats, float, float]:
    """Lloyd's algorithm from the farthest point and its opposite; with the least and greatest distance left."""
    first = points[int(((points - points.mean(axis=0)) ** 2).sum(axis=1).argmax())]
    centres = np.stack([first, points[int(((points - first) ** 2).sum(axis=1).argmax())]])
    for _ in range(rounds):
        owner = ((points[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
        moved = np.stack([points[owner == k].mean(axis=0) if (owner == k).any() else centres[k] for k in range(2)])
        if np.array_equal(moved, centres):
            break
        centres = moved
    left = _nearest(points, centres)
    return centres, float(left.min()), float(left.max())


@on_finite
def dspot(t_us: Ints, values: Floats, depth: int = 50, level: float = 0.98, q: float = 1e-4) -> Floats:
    """DSPOT, both sides (A. Siffer et al.: Anomaly Detection in Streams with Extreme Value Theory, KDD 2017).

    Residuals from the mean of the last `depth` samples; excesses over the `level` quantile of the probation follow a
    generalised Pareto distribution. Score: -log10 of the probability of a residual so far out. As in the paper what is
    stranger than `q` does not change the tail; other than there it moves the mean, for with the paper's rule a series
    that changed its level alarms for ever (and scores far less here).
    """
    learn = max(depth + 20, probation(len(values)))
    found = np.zeros(len(values))
    if len(values) <= learn:
        return found
    points = values.tolist()
    sums = np.cumsum(np.r_[0.0, values])
    means = (sums[depth:learn] - sums[: learn - depth]) / depth
    residuals = values[depth:learn] - means
    upper, lower = _Tail(residuals, level), _Tail(-residuals, level)
    recent = deque(points[learn - depth : learn])
    total, limit = math.fsum(recent), -math.log10(q)
    for i in range(learn, len(points)):
        residual = points[i] - total / depth
        found[i] = max(upper.score(residual), lower.score(-residual))
        if found[i] < limit:
            upper.learn(residual)
            lower.learn(-residual)
        total += points[i] - recent.popleft()
        recent.append(points[i])
    return found


class _Tail:
    """The tail of one side: excesses over a start, and the generalised Pareto distribution fitted to them."""

    def __init__(self, residuals: Floats, level: float) -> None:
        self.start = float(np.quantile(residuals, level))
        self.excesses = (residuals[residuals > self.start] - self.start).tolist() or [1e-9]
        self.seen = len(residuals)
        self.shape, self.scale = _pareto(np.array(self.excesses))

    def score(self, residual: float) -> float:
        if residual <= self.start:
            return 0.0
        share = len(self.excesses) / self.seen
        relative = (residual - self.start) / self.scale
        if abs(self.shape) < 1e-9:
            return (relative / math.log(10)) - math.log10(share)
        inner = 1 + self.shape * relative
        # Beyond a finite end the probability is 0; the distance keeps the order among such samples.
        return math.log10(inner) / self.shape - math.log10(share) if inner > 0 else 300.0 + relative

    def learn(self, residual: float) -> None:
        self.seen += 1
        if residual > self.start:
            self.excesses.append(residual - self.start)
            self.shape, self.scale = _pareto(np.array(self.excesses))


def _pareto(excesses: Floats) -> tuple[float, float]:
    """(shape, scale) of greatest likelihood, on Grimshaw's profile over a grid (Technometrics 35, 1993)."""
    mean, most = float(excesses.mean()), float(excesses.max())
    best = (0.0, max(mean, 1e-12))
    if excesses.size < 5 or most <= 0:
        return best
    grid = np.r_[np.linspace(-0.99 / most, -0.01 / most, 12), np.geomspace(0.01 / mean, 20.0 / mean, 12)]
    shapes = np.log1p(grid[:, None] * excesses[None]).mean(axis=1)
    with np.errstate(all="ignore"):
        likelihoods = -np.log(shapes / grid) - shapes - 1.0
    at = int(np.nanargmax(likelihoods))
    if likelihoods[at] > -math.log(best[1]) - 1.0 and abs(shapes[at]) > 1e-9:
        return float(shapes[at]), float(shapes[at] / grid[at])
    return best


CLASSIC = (
    gaussian("static 3-sigma", 3.0, static),
    gaussian("EWMA band", 3.0, ewma),
    gaussian("windowed Gaussian (NAB)", 4.0, windowed),
    Detector("DSPOT", 4.0, dspot),
    Detector("k-means (Netdata style)", 0.99, kmeans),
    gaussian("seasonal slot band", 3.0, seasonal),
)
