"""Model selection: chooses the model that forecasts the limit crossings of a series, by its validation data. Pure.

Validation is forward-chaining: each of the last two folds of the history is forecast by models fitted on all data
before it. The shared trees never learn from that part of any series (`classifier.FITTED`), so they have no advantage.
Models are compared by average precision; the blend is kept unless another model beats it by MARGIN, because the best of
five is partly chance. The selected model is calibrated on the same data (Platt 1999, with a prior towards no change)
and fitted again on the whole history. If no model beats the base rate by LIFT, the series is not forecast, and the
reason is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from cloud_hub.thresholds.bands.state import Floats, Ints
from cloud_hub.thresholds.forecasts.classifier import (
    FITTED,
    SHARED,
    CrossingClassifier,
    Features,
    Samples,
    Skill,
    newest_row,
)
from cloud_hub.thresholds.forecasts.models import BLEND, BLENDED, OWN, Fitted, Labels, blended, fitted, log_odds

FOLDS = (FITTED, (1 + FITTED) / 2, 1.0)
LEAST = 10
"""Minimum crossings, and minimum samples without one, in the validation data for a model of its own."""
MARGIN = 0.05
LIFT = 1.25
PULL = 30.0
"""Weight of the calibration's prior (slope 1, shift 0) in samples."""


class SeriesForecaster(Protocol):
    """Forecasts one series; `reason` is '' or why there is no forecast."""

    @property
    def skill(self) -> Skill: ...

    @property
    def reason(self) -> str: ...

    def newest(self, t_us: Ints, values: Floats, limit: float) -> float | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NoForecaster:
    """For a series that is not forecast, with the reason."""

    reason: str
    skill: Skill

    def newest(self, t_us: Ints, values: Floats, limit: float) -> float | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedModel:
    """The model that was selected for a series, with its calibration."""

    skill: Skill
    parts: tuple[Fitted, ...]
    slope: float
    shift: float
    reason: str = ""

    def of(self, rows: Features, t_us: Ints) -> Floats:
        """The probability of each row; float64[M]."""
        odds = self.slope * log_odds(blended([part(rows, t_us) for part in self.parts])) + self.shift
        return np.asarray(1 / (1 + np.exp(-odds)))

    def newest(self, t_us: Ints, values: Floats, limit: float) -> float | None:
        """The probability after the last sample; None where it is not judged."""
        row = newest_row(t_us, values, limit)
        return None if row is None else float(self.of(row, np.asarray(t_us[-1:], np.int64))[0])


def shared_forecaster(shared: CrossingClassifier) -> SeriesForecaster:
    """The shared classifier, for series without a model of their own; `NoForecaster` unless it beats the base rate."""
    return shared if useful(shared.skill) else NoForecaster(reason=_no_better(shared.skill), skill=shared.skill)


def select_model(own: Samples, t_us: Ints, shared: CrossingClassifier) -> SeriesForecaster:
    """The forecaster for one series and side from its samples; their index refers to `t_us`.

    Raises ValueError if a model cannot be fitted.
    """
    rows, labels, index = own
    times = np.asarray(t_us[index], np.int64)
    known = labels[int(FOLDS[0] * labels.size) :]
    if min(int(known.sum()), int(known.size - known.sum())) < LEAST:
        return shared_forecaster(shared)
    predictions = validation_predictions(rows, labels, times, shared)
    skills = {name: skill(name, known, one) for name, one in predictions.items()}
    best = max(skills.values(), key=lambda one: one.average_precision + MARGIN * (one.model == BLEND))
    if not useful(best):
        return NoForecaster(reason=_no_better(best), skill=best)
    slope, shift = calibration(predictions[best.model], known)
    parts = [_whole(name, rows, labels, times, shared) for name in _parts(best.model)]
    return SelectedModel(skill=best, parts=tuple(parts), slope=slope, shift=shift)


def validation_predictions(rows: Features, labels: Labels, t_us: Ints, shared: CrossingClassifier) -> dict[str, Floats]:
    """Out-of-sample predictions of every model for the validation samples."""
    cuts = [int(fold * labels.size) for fold in FOLDS]
    predictions: dict[str, Floats] = {SHARED: shared.of(rows[cuts[0] :])}
    for name in OWN:
        folds = []
        for first, last in pairwise(cuts):
            model = fitted(name, rows[:first], labels[:first], t_us[:first])
            folds.append(model(rows[first:last], t_us[first:last]))
        predictions[name] = np.concatenate(folds)
    predictions[BLEND] = blended([predictions[name] for name in BLENDED])
    return predictions


def skill(name: str, labels: Labels, predictions: Floats) -> Skill:
    """Average precision and base rate of a model's predictions."""
    from sklearn.metrics import average_precision_score  # noqa: PLC0415 - a second of import

    return Skill(model=name, average_precision=float(average_precision_score(labels, predictions)),
                 base_rate=float(labels.mean()))  # fmt: skip


def useful(one: Skill) -> bool:
    """Whether it is better than always predicting the base rate."""
    return bool(one.average_precision >= LIFT * one.base_rate)


def calibration(predictions: Floats, labels: Labels) -> tuple[float, float]:
    """(slope, shift) of the log-odds: a logistic regression with a normal prior around (1, 0)."""
    from scipy.optimize import minimize  # noqa: PLC0415 - half a second of import

    both = np.stack([log_odds(predictions), np.ones(predictions.size)])

    def loss(at: Floats) -> tuple[float, Floats]:
        odds, away = at @ both, at - [1.0, 0.0]
        miss = np.logaddexp(0.0, odds) - labels * odds
        chance = np.exp(odds - np.logaddexp(0.0, odds))
        return float(miss.sum() + PULL / 2 * away @ away), both @ (chance - labels) + PULL * away

    slope, shift = minimize(loss, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=[(0.0, None), (None, None)]).x
    return float(slope), float(shift)


def _parts(name: str) -> Sequence[str]:
    return BLENDED if name == BLEND else (name,)


def _whole(name: str, rows: Features, labels: Labels, t_us: Ints, shared: CrossingClassifier) -> Fitted:
    if name == SHARED:
        return lambda given, _: shared.of(given)
    return fitted(name, rows, labels, t_us)


def _no_better(one: Skill) -> str:
    return (
        f"no model is better than the base rate: the best, {one.model}, has average precision "
        f"{one.average_precision:.3f} on validation data, the base rate is {one.base_rate:.3f}"
    )
