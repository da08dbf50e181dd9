"""Backtest of one series: alarms of fixed limits and of the anomaly score, against its labels. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cloud_hub.prometheus.core.series import Series
from cloud_hub.thresholds.backtest.core import comparison, counter_rates, walk_forward
from cloud_hub.thresholds.backtest.core.comparison import RaisedAlarm
from cloud_hub.thresholds.backtest.plot import Picture
from cloud_hub.thresholds.backtest.prometheus import BacktestRequest, FixedLimit, Report
from cloud_hub.thresholds.bands.day_ahead import NotEnough
from cloud_hub.thresholds.bands.fit import clean
from cloud_hub.thresholds.bands.state import Floats, Ints
from cloud_hub.thresholds.scores.alarms import samples_per_day
from shared.durations import DAY_US

FEWEST = 3
USUAL = 3.0
"""The anomaly score that pages for a single series: one normal sample in 1,000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSeries:
    """A series: `t_us` in UTC microseconds, `values`, and `labels`: the (start, end) of each known fault.

    `labelled` is False if the faults are unknown. A `counter` is judged by its rate.
    """

    name: str
    t_us: Ints
    values: Floats
    labels: list[tuple[int, int]] = field(default_factory=list)
    labelled: bool = False
    counter: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesBacktest:
    """The report, its request, and the picture of the series."""

    report: Report
    request: BacktestRequest
    picture: Picture


def backtest_series(
    series: LabelledSeries, limits: Sequence[FixedLimit], *, train_days: float | None, pages_per_shift: float | None,
    group_s: float,
) -> SeriesBacktest:  # fmt: skip
    """Replay a series. `train_days` defaults to 7, at most a third of the history. Raises NotEnough.

    `pages_per_shift` defaults to the rate of one normal sample in 1,000.
    """
    times, values = (counter_rates.counter_rates if series.counter else clean)(series.t_us, series.values)
    if times.size < FEWEST:
        raise NotEnough(f"{series.name} has {times.size} values in this time; {FEWEST} are needed")
    request = _request(times, values, limits, train_days, pages_per_shift, group_s)
    from_us = request.start_us + int(request.train_days * DAY_US)
    found = walk_forward.alarms([(times, values)], from_us, request.pages_per_shift)[0]
    ours = [
        RaisedAlarm(side="ours", device=series.name, what=f"anomaly score {one.score:.1f}", start_us=one.start_us,
                    end_us=one.end_us or request.end_us)
        for one in found
    ]  # fmt: skip
    fixed = _fixed_alarms(series.name, Series(labels={}, t_us=times, values=values), limits, request.step_s)
    sides = {"fixed": fixed, "ours": ours} if limits else {"ours": ours}
    notes = ["a counter, judged by its rate"] if series.counter else []
    report = Report(
        comparison=comparison.compare([*fixed, *ours], from_us, int(group_s * 1e6)), series=1, points=int(times.size),
        devices=1, queries=[series.name], notes=notes + _hits(series, sides, from_us),
    )  # fmt: skip
    spans = {"labels": series.labels} if series.labelled else {}
    spans |= {side: [(one.start_us, one.end_us) for one in alarms] for side, alarms in sides.items()}
    band = walk_forward.band("series", times, values, train_days=max(min(request.train_days, 3.0), 1e-6))
    numbers = [limit.compared.number for limit in limits]
    picture = Picture(title=series.name, band=band, from_us=from_us, spans=spans, limits=numbers)
    return SeriesBacktest(report=report, request=request, picture=picture)


def _request(
    times: Ints, values: Floats, limits: Sequence[FixedLimit], train_days: float | None, pages: float | None,
    group_s: float,
) -> BacktestRequest:  # fmt: skip
    days = float(times[-1] - times[0]) / DAY_US
    step_s = max(1, round(float(np.median(np.diff(times))) / 1e6))
    return BacktestRequest(
        start_us=int(times[0]), end_us=int(times[-1]), step_s=step_s, fixed_step_s=step_s,
        train_days=min(7.0, days / 3) if train_days is None else min(train_days, days), gap_s=group_s,
        pages_per_shift=pages or samples_per_day([(times, values)], 1.0) / 2 / 10**USUAL, limits=tuple(limits),
    )  # fmt: skip


def _fixed_alarms(name: str, series: Series, limits: Sequence[FixedLimit], step_s: int) -> list[RaisedAlarm]:
    return [
        RaisedAlarm(side="fixed", device=name, what=limit.name, start_us=start, end_us=end)
        for limit in limits
        for start, end in comparison.crossings(
            series, limit.compared.sign, limit.compared.number, step_s, limit.for_s
        )
    ]  # fmt: skip


def _hits(series: LabelledSeries, sides: Mapping[str, Sequence[RaisedAlarm]], from_us: int) -> list[str]:
    """Notes on the labelled faults after training: how many of them each side detected."""
    if not series.labelled:
        return []
    faults = [(start, end) for start, end in series.labels if start >= from_us]
    return [
        f"labels: {sum(any(_inside(one, [fault]) for one in alarms) for fault in faults)} of {len(faults)} windows"
        f" hit by {side}, {sum(not _inside(one, series.labels) for one in alarms if one.start_us >= from_us)}"
        " alarms outside"
        for side, alarms in sides.items()
    ]


def _inside(alarm: RaisedAlarm, spans: Sequence[tuple[int, int]]) -> bool:
    return any(start <= alarm.start_us <= end for start, end in spans)
