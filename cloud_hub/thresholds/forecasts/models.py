"""Candidate models, fitted on one series' own history, for a limit crossing within 15 minutes. Pure.

- time of day: how often a crossing followed at this time of past days;
- logistic regression on the features of `classifier`, strongly regularised;
- gradient-boosted trees on the same features, small ones: 63 KB a series.

The trees of all series of a learning job (`classifier.CrossingClassifier`) are the fourth, and a blend (the mean of the
log-odds of the last three) the fifth; `selection` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.bands.state import Floats, Ints
from cloud_hub.thresholds.forecasts.classifier import NAMES, RISING, SHARED, Features
from shared.durations import DAY_US

Labels = npt.NDArray[np.int8]
Fitted = Callable[[Features, Ints], Floats]
"""A fitted model: maps rows of features and their times to probabilities."""
Fit = Callable[[Features, Labels, Ints], Fitted]

SLOTS, NEAR, PRIOR = 288, 2, 5.0
"""Slots of a day; neighbouring slots on each side that are included; weight of the base rate in samples."""
FARTHEST = 1e4
EITHER = 2
"""With fewer crossings, or fewer samples without one, the model is the base rate."""


def time_of_day(rows: Features, labels: Labels, t_us: Ints) -> Fitted:
    """The share of past samples at this time of day, within ten minutes, that were followed by a crossing."""
    slot = _slot(t_us)
    count = _around(np.bincount(slot, minlength=SLOTS))
    crossed = _around(np.bincount(slot, weights=labels, minlength=SLOTS))
    rate = (crossed + PRIOR * labels.mean()) / (count + PRIOR)
    return lambda _, times: np.asarray(rate[_slot(times)])


def logistic(rows: Features, labels: Labels, t_us: Ints) -> Fitted:
    """A logistic regression on standardised features; missing ones are replaced by their mean."""
    from sklearn.impute import SimpleImputer  # noqa: PLC0415 - a second of import
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    steps = (
        SimpleImputer(keep_empty_features=True), StandardScaler(),
        LogisticRegression(C=0.01, max_iter=1000, solver="newton-cholesky"),
    )  # fmt: skip
    line = make_pipeline(*steps).fit(_clipped(rows), labels)
    return lambda given, _: _second(line, _clipped(given))


def trees(rows: Features, labels: Labels, t_us: Ints) -> Fitted:
    """Small gradient-boosted trees (histograms), with the monotonic constraints of the shared classifier."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415 - a second of import

    boosted = HistGradientBoostingClassifier(
        learning_rate=0.1, max_iter=40, max_leaf_nodes=8, max_bins=64, min_samples_leaf=20, l2_regularization=10.0,
        max_features=0.3, early_stopping=False, random_state=7, monotonic_cst=[int(name in RISING) for name in NAMES],
    )  # fmt: skip
    known = rows.copy()
    known[:, np.isnan(known).all(axis=0)] = 0  # the trees reject columns without any value
    boosted.fit(known, labels)
    return lambda given, _: _second(boosted, given)


OWN: dict[str, Fit] = {"time-of-day": time_of_day, "logistic-regression": logistic, "own-trees": trees}
"""The models that are fitted on one series' own history."""
BLEND = "blend"
BLENDED = ("logistic-regression", "own-trees", SHARED)
MODELS = (*OWN, SHARED, BLEND)
"""All names, as in the REST API."""


def fitted(name: str, rows: Features, labels: Labels, t_us: Ints) -> Fitted:
    """Fit one of the OWN models; the base rate if one of the two outcomes is too rare."""
    crossed = int(labels.sum())
    if min(crossed, labels.size - crossed) < EITHER:
        rate = (crossed + 0.5) / (labels.size + 1.0)
        return lambda given, _: np.full(given.shape[0], rate)
    return OWN[name](rows, labels, t_us)


def log_odds(probability: Floats) -> Floats:
    """Log-odds of probabilities, bounded to 1 in 10,000."""
    bounded = np.clip(probability, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(bounded / (1 - bounded)))


def blended(parts: Sequence[Floats]) -> Floats:
    """The blend: the probability whose log-odds are the mean of those of the parts."""
    return np.asarray(1 / (1 + np.exp(-np.mean([log_odds(part) for part in parts], axis=0))))


def _slot(t_us: Ints) -> Ints:
    return np.asarray(t_us % DAY_US * SLOTS // DAY_US, np.int64)


def _around(counts: npt.NDArray[Any]) -> Floats:
    return np.asarray(sum(np.roll(counts, by) for by in range(-NEAR, NEAR + 1)), np.float64)


def _clipped(rows: Features) -> Floats:
    return np.clip(rows.astype(np.float64), -FARTHEST, FARTHEST)


def _second(model: Any, rows: npt.NDArray[Any]) -> Floats:
    return np.asarray(model.predict_proba(rows)[:, 1], np.float64)
