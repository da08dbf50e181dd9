"""Forecasters: for each learning job with `warn_probability` a classifier of all its series, for each series the model
selected on its own validation data; and a cache of recent samples.

They are trained from stored history and the limits in force, and held in memory only: nothing is pickled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlmodel import Session

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import LearnedSeries, LearningJob
from cloud_hub.thresholds.bands.day_ahead import NotEnough
from cloud_hub.thresholds.bands.state import Floats, Ints
from cloud_hub.thresholds.forecasts.classifier import CrossingClassifier, Samples, Skill, check_enough, train
from cloud_hub.thresholds.forecasts.selection import NoForecaster, SeriesForecaster, select_model, shared_forecaster
from cloud_hub.thresholds.forecasts.warnings import Side, training_series
from cloud_hub.thresholds.learning import history as learning_history
from cloud_hub.thresholds.limits import standing as limits_standing
from cloud_hub.thresholds.limits.standing import Series
from shared.durations import DAY_US
from shared.thresholds import Limits

TRAINING_SERIES = 20
"""Series that a learning job is trained on, evenly spread over all its series."""
POINTS = 5000
"""Points of one series that are used; a longer history is thinned to one point in four minutes."""
DAYS = 14.5
"""Days of history that a forecast uses."""
RETRY_US = 3_600_000_000
"""A failed training is retried after an hour: limits may have come into force."""
STRETCH_US = int(DAYS * DAY_US) // POINTS

Course = tuple[Ints, Floats]

log = logging.getLogger(__name__)
_SERIES: Any = LearnedSeries.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The models selected for a series, by side of the limits in force then."""

    at_us: int
    limits: Limits
    by_side: dict[Side, SeriesForecaster]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedForecaster:
    """A learning job's shared classifier, or why it has none, and the models selected for its series.

    `base_rate` is the share of its samples that were followed by a crossing.
    """

    due_us: int
    trained_us: int
    forecaster: CrossingClassifier | None = None
    base_rate: float | None = None
    reason: str = ""
    selections: dict[Series, Selection] = field(default_factory=dict)

    def for_series(self, one: Series, side: Side, limits: Limits) -> SeriesForecaster:
        """The forecaster of a series: its selected model if selected for these limits, else the shared classifier."""
        selection = self.selections.get(one)
        if selection is not None and selection.limits == limits and side in selection.by_side:
            return selection.by_side[side]
        if self.forecaster is None:
            return NoForecaster(reason=self.reason, skill=Skill("", 0.0, 0.0))
        return shared_forecaster(self.forecaster)

    def needs_selection(self, one: Series, limits: Limits, now_us: int) -> bool:
        """Whether a model is to be selected: after each training, and at most hourly when the limits have changed."""
        selection = self.selections.get(one)
        if self.forecaster is None or selection is None:
            return self.forecaster is not None
        changed = selection.limits != limits and now_us - selection.at_us >= RETRY_US
        return selection.at_us < self.trained_us or changed


class ForecasterStore:
    """The hub's forecasters by learning, in memory only."""

    def __init__(self) -> None:
        self._held: dict[str, TrainedForecaster] = {}

    def get(self, name: str) -> TrainedForecaster | None:
        """The forecaster of a learning job; None before its first training."""
        return self._held.get(name)

    def put(self, name: str, one: TrainedForecaster) -> None:
        """Store the forecaster of a learning job."""
        self._held[name] = one

    def keep_series(self, name: str, ones: list[Series]) -> None:
        """Drop the selections of series that are no longer in the learning job."""
        if (held := self._held.get(name)) is not None:
            for one in held.selections.keys() - set(ones):
                del held.selections[one]

    def keep(self, names: set[str]) -> None:
        """Drop the forecasters of all other learning jobs."""
        for name in self._held.keys() - names:
            del self._held[name]


@contextmanager
def single_thread() -> Iterator[None]:
    """Limit OpenMP to one thread: ingest and REST use the other cores, so several threads would wait for each other."""
    import sklearn.ensemble  # noqa: F401, PLC0415 - a second of import; what is not loaded yet cannot be limited
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    with threadpool_limits(1):
        yield


def train_forecaster(db: Database, row: LearningJob, now_us: int) -> TrainedForecaster:
    """Train on the stored history of a learning job's series and the limits in force on their devices."""
    with db.read() as session:
        ones = series_of(session, row.id)
        ones = ones[:: -(-len(ones) // TRAINING_SERIES) or 1]
        limits = limits_standing.present(session, {device for device, _ in ones})
        samples: list[Samples] = []
        for one in ones:
            if one in limits:
                samples += training_series(*SeriesCache().of(session, one, now_us), limits[one]).values()
    labels = [label for _, label, _ in samples]
    count = sum(label.size for label in labels)
    base = sum(int(label.sum()) for label in labels) / count if count else None
    try:
        check_enough(samples)  # before scikit-learn is loaded
        with single_thread():
            forecaster = train(samples)
    except NotEnough as error:
        reason = str(error) if samples else "no series has history and a limit in force"
        return TrainedForecaster(due_us=row.due_us, trained_us=now_us, base_rate=base, reason=reason)
    return TrainedForecaster(due_us=row.due_us, trained_us=now_us, base_rate=base, forecaster=forecaster)


def select_for_series(held: TrainedForecaster, one: Series, course: Course, limits: Limits, now_us: int) -> Selection:
    """Select a model for each side of a series; none, with the reason, where no model can be fitted."""
    by_side: dict[Side, SeriesForecaster] = {}
    if held.forecaster is not None:
        with single_thread():
            for side, samples in training_series(*course, limits).items():
                try:
                    by_side[side] = select_model(samples, course[0], held.forecaster)
                except ValueError as error:
                    log.warning("forecast.unfitted device=%s metric=%s: %s", *one, error)
                    reason = f"its models could not be fitted: {error}"
                    by_side[side] = NoForecaster(reason=reason, skill=held.forecaster.skill)
    return Selection(at_us=now_us, limits=limits, by_side=by_side)


class SeriesCache:
    """Caches the last two weeks of series, thinned, with their newest sample; reads only new samples again."""

    def __init__(self) -> None:
        self._held: dict[Series, Course] = {}

    def of(self, session: Session, one: Series, now_us: int) -> Course:
        """(t_us int64[n], values float64[n]) of one series before `now_us`."""
        from_us = now_us - int(DAYS * DAY_US)
        t_us, values = self._held.get(one) or _read(session, one, from_us, now_us)
        new_us, new = learning_history.samples_after(
            session, one, int(t_us[-1]) if t_us.size else from_us, before_us=now_us
        )
        first = np.diff(new_us // STRETCH_US, prepend=t_us[-1] // STRETCH_US if t_us.size else -1) > 0
        kept = t_us >= from_us
        t_us, values = np.append(t_us[kept], new_us[first]), np.append(values[kept], new[first])
        self._held[one] = t_us, values
        if first.size and not first[-1]:
            return np.append(t_us, new_us[-1]), np.append(values, new[-1])
        return t_us, values

    def clear(self) -> None:
        """Empty the cache, because samples may have arrived late."""
        self._held.clear()


def _read(session: Session, one: Series, from_us: int, now_us: int) -> Course:
    past = learning_history.history(session, one, from_us, now_us, POINTS)
    return past.t_us, past.values


def series_of(session: Session, name: str) -> list[Series]:
    """The learning's series, by device and metric."""
    query = select(_SERIES.c.device, _SERIES.c.metric).where(_SERIES.c.learning == name)
    found = session.connection().execute(query.order_by(_SERIES.c.device, _SERIES.c.metric))
    return [(device, metric) for device, metric in found]
