"""Crossing classifier: predicts the probability that a series crosses an upper limit within the next 15 minutes.

One gradient-boosted model (histograms: Ke et al., LightGBM, 2017; scikit-learn's) is trained on many series together,
on dimensionless features (`features`, `rise_features`), and applies to series that it never saw. Its output is
calibrated on a later stretch of time by a sigmoid (Platt 1999): two numbers, which cannot overfit and keep the order.

Models of a single series' own history are in `models`; `selection` chooses between them.

A lower limit is an upper one of the negated values. Nothing is pickled: a forecaster is retrained from stored series,
and the same data and seed give the same probabilities bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.bands.day_ahead import NotEnough
from cloud_hub.thresholds.bands.fit import clean
from cloud_hub.thresholds.bands.state import Floats, Ints
from cloud_hub.thresholds.forecasts import features as crossing_features
from cloud_hub.thresholds.forecasts import rise_features
from cloud_hub.thresholds.forecasts.features import AHEAD_US, Bools, SeriesHistory
from shared.durations import DAY_US

Features = npt.NDArray[np.float32]
Labelled = tuple[Features, npt.NDArray[np.int8]]
Samples = tuple[Features, npt.NDArray[np.int8], Ints]

NAMES = (*crossing_features.NAMES, *rise_features.NAMES)
"""Names of the columns of `features`, in order."""
RISING = (*NAMES[:3], *rise_features.NAMES)
"""Features with a monotonic constraint (higher is more probable), against noise of a few series."""

SHARED = "shared-trees"
FITTED = 0.7
"""Share of each series' samples used for fitting, the earlier ones; the later ones are for calibration."""
LEAST = 20
"""Minimum number of crossings in either part."""


def features(t_us: Ints, values: Floats, limit: float) -> Features:
    """Features of every sample, float32[T, F]; `t_us` increasing, values finite. Row i uses samples 0 to i only."""
    past = SeriesHistory(t_us, values, limit)
    day = past.spread(DAY_US)
    columns = [*crossing_features.history_features(past, day), *rise_features.rise_features(past, day)]
    return np.clip(np.stack(columns, axis=1), -1e6, 1e6).astype(np.float32)


def samples(t_us: npt.NDArray[Any], values: npt.NDArray[Any], limit: float) -> Samples:
    """(features[M, F], labels[M], index[M]) of the samples that can be judged and whose next 15 minutes are known.

    `t_us` in UTC microseconds, any order; label 1: a sample of the next 15 minutes is above `limit`; index: the
    position in the given arrays. Raises ValueError for arrays that do not fit together or a limit that is not finite.
    """
    times, points, where = _cleaned(t_us, values, limit)
    if not times.size:
        return np.empty((0, 0), np.float32), np.empty(0, np.int8), np.empty(0, np.int64)
    judged = _judged(times, points, limit)
    over = np.concatenate(([0], np.cumsum(points > limit)))
    now, end = np.arange(1, times.size + 1), np.searchsorted(times, times + AHEAD_US, side="right")
    label = over[end] > over[now]
    known = (end > now) & (label | (times + AHEAD_US <= times[-1]))
    rows = np.flatnonzero(judged & known)
    return features(times, points, limit)[rows], label[rows].astype(np.int8), where[rows]


@dataclass(frozen=True)
class Skill:
    """A model's average precision on validation data; always predicting the base rate reaches `base_rate`."""

    model: str
    average_precision: float
    base_rate: float


@dataclass(frozen=True)
class CrossingClassifier:
    """A trained classifier: trees, and the slope and shift that calibrate their log-odds."""

    trees: Any
    slope: float
    shift: float
    skill: Skill = Skill(SHARED, 1.0, 0.0)
    reason: str = ""

    def probability(self, t_us: npt.NDArray[Any], values: npt.NDArray[Any], limit: float) -> Floats:
        """Probability of being above `limit` within 15 minutes after each sample; float64[T], in the order given.

        NaN where it is not judged: already above, less than a day of history, no sample in the 15 minutes before, or
        a value that is not finite. Entry i depends on samples up to its time only. Raises ValueError as `samples`.
        """
        times, points, where = _cleaned(t_us, values, limit)
        found = np.full(np.asarray(values).shape, np.nan)
        rows = np.flatnonzero(_judged(times, points, limit)) if times.size else where
        if rows.size:
            found[where[rows]] = self.of(features(times, points, limit)[rows])
        return found

    def newest(self, t_us: Ints, values: Floats, limit: float) -> float | None:
        """The last entry of `probability`, computed faster; None where it is not judged."""
        row = newest_row(t_us, values, limit)
        return None if row is None else float(self.of(row)[0])

    def of(self, rows: Features) -> Floats:
        """The probability of each row of features; float64[M]."""
        odds = self.slope * self.trees.decision_function(rows) + self.shift
        return np.asarray(1 / (1 + np.exp(-np.clip(odds, -500, 500))))


def newest_row(t_us: Ints, values: Floats, limit: float) -> Features | None:
    """Features of the last sample, float32[1, F]; None where it is not judged."""
    times, points, _ = _cleaned(t_us, values, limit)
    if not times.size or not _judged(times, points, limit)[-1]:
        return None
    return features(times, points, limit)[-1:]


def train(given: Sequence[Samples], seed: int = 7) -> CrossingClassifier:
    """Train one classifier on the samples of many series, each in order of time.

    Raises NotEnough where the earlier or the later part holds fewer than 20 crossings or quiet moments.
    """
    check_enough(given)
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415 - a second of import, 100 MB
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.metrics import average_precision_score  # noqa: PLC0415

    early, late = _split(given)
    trees = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=200, max_leaf_nodes=15, min_samples_leaf=100, l2_regularization=10.0,
        max_features=0.3, early_stopping=False, random_state=seed,
        monotonic_cst=[int(name in RISING) for name in NAMES],
    )  # fmt: skip
    rows, labels = _together(early)
    rows[:, np.isnan(rows).all(axis=0)] = 0  # the trees reject columns without any value
    trees.fit(rows, labels)
    rows, labels = _together(late)
    odds = trees.decision_function(rows)
    sigmoid = LogisticRegression(C=1e6).fit(odds[:, None], labels)
    skill = Skill(SHARED, float(average_precision_score(labels, odds)), float(labels.mean()))
    return CrossingClassifier(trees, float(sigmoid.coef_[0, 0]), float(sigmoid.intercept_[0]), skill)


def check_enough(given: Sequence[Samples]) -> None:
    """Raise NotEnough where crossings or quiet moments are too few to train on, in the earlier or the later part.

    It needs no scikit-learn, so a process that cannot train does not load it.
    """
    for part in _split(given):
        count, crossed = sum(labels.size for _, labels in part), sum(int(labels.sum()) for _, labels in part)
        if min(crossed, count - crossed) < LEAST:
            raise NotEnough(
                f"{count} samples with {crossed} crossings; a forecast needs {LEAST} crossings and as many without"
            )


def _split(given: Sequence[Samples]) -> tuple[list[Labelled], list[Labelled]]:
    """The earlier and the later part of each series' samples."""
    used = [(rows, labels, int(FITTED * labels.size)) for rows, labels, _ in given if labels.size]
    early = [(rows[:cut], labels[:cut]) for rows, labels, cut in used]
    return early, [(rows[cut:], labels[cut:]) for rows, labels, cut in used]


def _together(parts: Sequence[Labelled]) -> Labelled:
    """All series' samples as one."""
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([labels for _, labels in parts])


def _cleaned(t_us: npt.NDArray[Any], values: npt.NDArray[Any], limit: float) -> tuple[Ints, Floats, Ints]:
    """The result of `clean`, and the (last) position of each of its points in the given arrays."""
    if not np.isfinite(limit):
        raise ValueError(f"a limit must be a finite number, not {limit}")
    times, points = clean(t_us, values)
    where = np.zeros(times.size, np.int64)
    usable = np.flatnonzero(np.isfinite(np.asarray(values, np.float64)))
    where[np.searchsorted(times, np.asarray(t_us)[usable].astype(np.int64))] = usable
    return times, points, where


def _judged(times: Ints, points: Floats, limit: float) -> Bools:
    """A mask of the samples that are judged: below the limit, a day after the first sample, not first after a gap."""
    fresh = np.diff(times, prepend=times[0] - DAY_US) <= AHEAD_US
    return np.asarray((points <= limit) & (times - times[0] >= DAY_US) & fresh)
