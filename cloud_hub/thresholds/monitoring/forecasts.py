"""The forecast monitor: learning jobs with `warn_probability` get forecasters, and probable crossings become warnings.

The classifier of all series is trained from stored history in the worker's thread, once per refit and once after a
restart (nothing is pickled). Between rounds a model is selected for one series at a time, on its own validation data;
until then the shared classifier forecasts the series. Each round judges the newest sample of each series.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import sqlmodel
from sqlalchemy import select
from sqlmodel import Session

from cloud_hub.clock import new_id, new_trace
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, LearnedSeries, LearningJob
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import WorkResult
from cloud_hub.thresholds.forecasts.features import AHEAD_US
from cloud_hub.thresholds.forecasts.warnings import (
    EVERY_US,
    SIDES,
    Forecast,
    Side,
    WarningState,
    decide,
    forecast_side,
    most_probable,
)
from cloud_hub.thresholds.learning import registry as learning_registry
from cloud_hub.thresholds.limits import standing as limits_standing
from cloud_hub.thresholds.limits.standing import Series
from cloud_hub.thresholds.monitoring.alarm_sink import AlarmSink
from cloud_hub.thresholds.monitoring.forecasters import (
    RETRY_US,
    ForecasterStore,
    SeriesCache,
    TrainedForecaster,
    select_for_series,
    series_of,
    single_thread,
    train_forecaster,
)
from cloud_hub.twins.core.reported_values import mapping
from shared.messages import Alarm
from shared.thresholds import Limits

GROUP = 20
"""Series judged in one run."""
MOST_SERIES = 200
"""Series of a learning job that are judged; the first ones, by device and metric."""
ROUND_US = 60_000_000
"""Period of the rounds of judgements, which take precedence over model selection."""

_ALARMS: Any = AlarmRow.__table__  # type: ignore[attr-defined]
_SERIES: Any = LearnedSeries.__table__  # type: ignore[attr-defined]


class ForecastMonitor:
    """Background worker; holds the groups not yet judged in this round, and the series that need a model."""

    def __init__(self, db: Database, forecasters: ForecasterStore, alarm_sink: AlarmSink) -> None:
        self._db, self._forecasters, self._alarm_sink = db, forecasters, alarm_sink
        self._courses = SeriesCache()
        self._left: list[tuple[str, list[Series]]] = []
        self._unselected: dict[tuple[str, Series], None] = {}
        self._round_us = 0

    def run_once(self, now_us: int) -> WorkResult:
        """Train what is due and judge one group, or select one model; `again` while this round is not finished."""
        items = WorkItems(self._db, "forecasts", now_us)
        changed = False
        if not self._left and (not self._unselected or abs(now_us - self._round_us) >= ROUND_US):
            self._round_us = now_us
            self._left, changed = (
                self._round(now_us, items),
                clear_expired_warnings(self._db, now_us, self._alarm_sink, items),
            )
        if self._left:
            name, group = self._left.pop(0)
            found = items.batch(
                "series",
                group,
                lambda some: self._judge_group(name, some, now_us),
                key=lambda one: "/".join((name, *one)),
            )
            changed = any(found) or changed
        elif self._unselected:
            name, one = next(iter(self._unselected))
            del self._unselected[name, one]
            items.run("selection", "/".join((name, *one)), partial(self._select_model, name, one, now_us))
        return items.result(again=bool(self._left or self._unselected), wake=["diagnosis"] if changed else ())

    def _round(self, now_us: int, items: WorkItems) -> list[tuple[str, list[Series]]]:
        with self._db.read() as session:
            rows = [
                row for row in session.exec(sqlmodel.select(LearningJob).order_by(LearningJob.id))
                if mapping(row.policy).get("warn_probability")
            ]  # fmt: skip
        self._forecasters.keep({row.id for row in rows})
        found = []
        for row in rows:
            items.run("learning", row.id, partial(self._train, row, now_us))
            with self._db.read() as session:
                ones = series_of(session, row.id)[:MOST_SERIES]
            self._forecasters.keep_series(row.id, ones)
            found += [(row.id, ones[first : first + GROUP]) for first in range(0, len(ones), GROUP)]
        return found

    def _train(self, row: LearningJob, now_us: int) -> None:
        """Train the forecaster of a learning job if training is due."""
        if _due(row, self._forecasters.get(row.id), now_us):
            self._courses.clear()
            before, after = self._forecasters.get(row.id), train_forecaster(self._db, row, now_us)
            after.selections.update(before.selections if before else {})  # kept until new ones are selected
            self._forecasters.put(row.id, after)

    def _judge_group(self, name: str, group: Sequence[Series], now_us: int) -> bool:
        """Judge the newest sample of each series of a group; returns whether alarms changed."""
        held = self._forecasters.get(name)
        with self._db.read() as session:
            learning = session.get(LearningJob, name)
            if learning is None:
                return False
            bar = learning_registry.policy_of(learning).warn_probability
            limits = limits_standing.present(session, {device for device, _ in group})
            standing = _standing(session, group, now_us)
            found = []
            for one in group:
                sides = side_forecasts(session, self._courses, one, limits.get(one), held, now_us)
                found.append((one, _of_side(sides, standing.get(one))))
                if held is not None and one in limits and held.needs_selection(one, limits[one], now_us):
                    self._unselected[name, one] = None
        if not any(decide(forecast, standing.get(one, WarningState()), bar, now_us) for one, forecast in found):
            return False
        with self._db.write() as session:
            standing = _standing(session, group, now_us)  # a device may have raised its own meanwhile
            for one, forecast in found:
                was = standing.get(one, WarningState())
                if decide(forecast, was, bar, now_us):
                    self._alarm_sink(session, one[0], _changed(one[1], forecast, was, now_us), now_us, new_trace())
        return True

    def _select_model(self, name: str, one: Series, now_us: int) -> None:
        """Select the model of a series on its own history, outside of any transaction."""
        held = self._forecasters.get(name)
        with self._db.read() as session:
            limits = limits_standing.present(session, [one[0]]).get(one)
            if held is None or limits is None:
                return
            course = self._courses.of(session, one, now_us)
        held.selections[one] = select_for_series(held, one, course, limits, now_us)


def _due(row: LearningJob, held: TrainedForecaster | None, now_us: int) -> bool:
    """Whether training is due: once after each refit, and at once if there is no forecaster yet."""
    if held is None:
        return True
    ended = row.refit is None and row.due_us > now_us
    late = held.forecaster is None and now_us - held.trained_us >= RETRY_US
    return (ended and row.due_us != held.due_us) or late


# -- judging ---------------------------------------------------------------------------------------


def side_forecasts(
    session: Session,
    courses: SeriesCache,
    one: Series,
    limits: Limits | None,
    held: TrainedForecaster | None,
    now_us: int,
) -> list[Forecast]:
    """A forecast for each side of the limits."""
    reason = "the forecaster is not trained yet" if held is None else held.reason
    if limits is None:
        reason = "no limit is in force"
    if limits is None or held is None or held.forecaster is None:
        return [Forecast(probability=None, limit=None, side="high", at_us=None, reason=reason)]
    samples = courses.of(session, one, now_us)
    with single_thread():
        return [forecast_side(held.for_series(one, side, limits), *samples, limits, side, now_us) for side in SIDES]


def forecast_series(
    session: Session, forecasters: ForecasterStore, one: Series, limits: Limits | None, now_us: int
) -> tuple[Forecast, TrainedForecaster | None]:
    """The forecast of one series for `limits` (default: those in force), and its forecaster."""
    query = sqlmodel.select(LearningJob).join(LearnedSeries, _SERIES.c.learning == LearningJob.id)
    found = session.exec(query.where(_SERIES.c.device == one[0], _SERIES.c.metric == one[1]).order_by(LearningJob.id))
    names = [row.id for row in found if row.policy.get("warn_probability")]
    if not names:
        reason = "no learning job with a warn_probability has this series"
        return Forecast(probability=None, limit=None, side="high", at_us=None, reason=reason), None
    held = next((kept for name in names if (kept := forecasters.get(name))), None)
    limits = limits or limits_standing.present(session, [one[0]]).get(one)
    return most_probable(side_forecasts(session, SeriesCache(), one, limits, held, now_us)), held


def clear_expired_warnings(db: Database, now_us: int, alarm_sink: AlarmSink, items: WorkItems) -> bool:
    """Clear warnings older than 15 minutes, also of series no longer judged; returns whether there were any."""
    old = (_ALARMS.c.about == "forecast") & (_ALARMS.c.state == "raised") & (_ALARMS.c.raised_us <= now_us - AHEAD_US)
    with db.read() as session:
        rows = session.exec(sqlmodel.select(AlarmRow).where(old)).all()
    done = [items.run("alarm", row.id, partial(_expire, db, row, now_us, alarm_sink)) for row in rows]
    return any(done)


def _expire(db: Database, row: AlarmRow, now_us: int, alarm_sink: AlarmSink) -> bool:
    with db.write() as session:
        alarm_sink(session, row.device, _cleared(row.metric, row.id, row.kind, now_us), now_us, new_trace())
    return True


def _of_side(found: list[Forecast], standing: WarningState | None) -> Forecast:
    """The forecast of the side with an active warning, else of the more probable side."""
    same = [one for one in found if standing is not None and standing.warning and one.side == standing.side]
    return same[0] if same else most_probable(found)


def _standing(session: Session, group: Sequence[Series], now_us: int) -> dict[Series, WarningState]:
    """The warning state of each series that has an active alarm or a recent warning."""
    table = _ALARMS.c
    query = select(table.id, table.device, table.metric, table.about, table.kind, table.state, table.raised_us).where(
        table.device.in_({device for device, _ in group}),
        (table.state == "raised") | ((table.about == "forecast") & (table.raised_us > now_us - EVERY_US)),
    )  # fmt: skip
    found: dict[Series, WarningState] = {}
    for row in session.connection().execute(query.order_by(table.raised_us, table.id)):
        was = found.get((row.device, row.metric), WarningState())
        mine, raised = row.about == "forecast", row.state == "raised"
        side: Side = "low" if row.kind == "low" else "high"
        found[row.device, row.metric] = WarningState(
            warning=row.id if mine and raised else was.warning, warned_us=row.raised_us if mine else was.warned_us,
            side=side if mine else was.side, other=was.other or (raised and not mine),
        )  # fmt: skip
    return found


def _changed(metric: str, found: Forecast, was: WarningState, now_us: int) -> Alarm:
    """The new warning, or the active one, cleared."""
    if was.warning:
        return _cleared(metric, was.warning, was.side, now_us)
    return Alarm(
        id=new_id(), metric=metric, kind=found.side, state="raised", priority="low", t_us=now_us,
        value=found.probability or 0.0, limit=found.limit or 0.0, about="forecast",
    )  # fmt: skip


def _cleared(metric: str, warning: str, kind: Any, now_us: int) -> Alarm:
    return Alarm(id=warning, metric=metric, kind=kind, state="cleared", priority="low", t_us=now_us, value=0.0,
                 limit=0.0, about="forecast")  # fmt: skip
