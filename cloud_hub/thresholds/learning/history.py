"""Reads the input of learning for a series: its history, its alarms, and people's feedback."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import func, select
from sqlmodel import Session

from cloud_hub.database.tables import AlarmRow, Device, MissedFault, TelemetrySample
from cloud_hub.telemetry.rollups.matrices import columns
from cloud_hub.thresholds.backtest.core.replay import Window
from cloud_hub.thresholds.bands.state import Floats, Ints
from cloud_hub.thresholds.learning.core.safeguards import Known
from cloud_hub.thresholds.learning.core.trainer import History
from cloud_hub.thresholds.learning.core.trial import Feedback
from cloud_hub.thresholds.limits.standing import Series, standing_alarms
from shared.thresholds import Limits

MOST_POINTS = 10_000
"""Points of one series that a fit reads; a longer history is thinned to one sample in each interval of equal length."""

ROLLED_S = 600
"""Length in seconds of the rollup means that replace deleted samples."""

AFTER_US = 3_600_000_000
"""An alarm with a verdict counts until it cleared, but at most this long."""


MANY = 20_000
"""Rows of one read for many series; if there are more, each series is read separately."""
_NEW_SAMPLES = """
SELECT n, t_us, value FROM (
    SELECT wanted.n, t.t_us, t.value, t.source, t.seq FROM {} CROSS JOIN telemetry AS t
    WHERE t.device = wanted.device AND t.metric = wanted.metric AND t.t_us > wanted.after_us AND t.value IS NOT NULL
    LIMIT {}
) AS found ORDER BY n, t_us, source, seq
"""
_NEW_SAMPLES_SQLITE = _NEW_SAMPLES.format(
    """(SELECT key AS n, json_extract(value, '$[0]') AS device, json_extract(value, '$[1]') AS metric,
        json_extract(value, '$[2]') AS after_us FROM json_each(?)) AS wanted""",
    "?",
)
_NEW_SAMPLES_POSTGRESQL = _NEW_SAMPLES.format(
    """(SELECT n - 1 AS n, device, metric, after_us FROM unnest(%s::text[], %s::text[], %s::bigint[])
        WITH ORDINALITY AS one(device, metric, after_us, n)) AS wanted""",
    "%s",
)

_SAMPLES: Any = TelemetrySample.__table__  # type: ignore[attr-defined]
_ALARMS: Any = AlarmRow.__table__  # type: ignore[attr-defined]
_MISSED_FAULTS: Any = MissedFault.__table__  # type: ignore[attr-defined]
_DEVICES: Any = Device.__table__  # type: ignore[attr-defined]


def history(session: Session, series: Series, from_us: int, to_us: int, most: int = MOST_POINTS) -> History:
    """The samples in from_us <= t < to_us, at most about `most` points, with distinct times.

    Before the oldest stored sample, means of rollups are used; they vary less.
    """
    table = _SAMPLES.c
    mine = (table.device == series[0], table.metric == series[1], table.t_us >= from_us, table.t_us < to_us,
            table.value.is_not(None))  # fmt: skip
    query = select(table.t_us, table.value).where(*mine)
    connection = session.connection()
    count, start, end = connection.execute(
        select(func.count(), func.min(table.t_us), func.max(table.t_us)).where(*mine)
    ).one()  # fmt: skip
    if count > most:
        first = select(func.min(table.t_us)).where(*mine).group_by(table.t_us // max(1, (end - start) // most))
        query = query.where(table.t_us.in_(first))
    rows: dict[int, float] = dict(connection.execute(query.order_by(table.t_us, table.source, table.seq)).all())
    newest = connection.execute(select(table.t_us).where(*mine).order_by(table.t_us.desc()).limit(200)).scalars().all()
    gaps = np.diff(np.unique(newest))
    early, means = _rolled(session, series, from_us, to_us if start is None else start)
    return History(
        device=series[0], metric=series[1],
        t_us=np.concatenate((early, np.fromiter(rows.keys(), np.int64, len(rows)))),
        values=np.concatenate((means, np.fromiter(rows.values(), np.float64, len(rows)))),
        period_s=float(np.median(gaps)) / 1e6 if gaps.size else None,
    )  # fmt: skip


def samples_after(
    session: Session, series: Series, after_us: int, before_us: int | None = None, most: int | None = None
) -> tuple[Ints, Floats]:
    """(t_us, values) after `after_us` in order of time, at most `most`; of equal times the last one stored."""
    table = _SAMPLES.c
    query = select(table.t_us, table.value).where(
        table.device == series[0], table.metric == series[1], table.t_us > after_us, table.value.is_not(None)
    )  # fmt: skip
    if before_us is not None:
        query = query.where(table.t_us < before_us)
    in_order = query.order_by(table.t_us, table.source, table.seq).limit(most)
    return _columns(dict(session.connection().execute(in_order).all()), None)


def new_samples(session: Session, series: Sequence[tuple[str, str, int]], most: int) -> list[tuple[Ints, Floats]]:
    """`samples_after` for each (device, metric, after_us), in one statement where there is not much to read."""
    connection, wanted = session.connection(), [list(part) for part in zip(*series, strict=True)]
    if not wanted:
        return []
    if connection.dialect.name == "postgresql":
        found = connection.exec_driver_sql(_NEW_SAMPLES_POSTGRESQL, (*wanted, MANY)).all()
    else:
        found = connection.exec_driver_sql(_NEW_SAMPLES_SQLITE, (json.dumps(series), MANY)).all()
    if len(found) == MANY:  # catching up
        return [samples_after(session, (device, metric), after_us, most=most) for device, metric, after_us in series]
    rows: list[dict[int, float]] = [{} for _ in series]
    for index, t_us, value in found:
        rows[index][t_us] = value
    return [_columns(one, most) for one in rows]


def _columns(rows: dict[int, float], most: int | None) -> tuple[Ints, Floats]:
    count = len(rows) if most is None else min(most, len(rows))
    return np.fromiter(rows.keys(), np.int64, count), np.fromiter(rows.values(), np.float64, count)


def _rolled(session: Session, series: Series, from_us: int, to_us: int) -> tuple[Ints, Floats]:
    """Means of whole buckets in from_us <= t < to_us, at their middle."""
    step_us = ROLLED_S * 1_000_000
    first, last = -(-from_us // step_us) * step_us, to_us // step_us * step_us
    if last <= first:
        return np.zeros(0, np.int64), np.zeros(0)
    (page,) = columns(session, [series], first, last, ROLLED_S)
    there = np.isfinite(page.mean[0])
    return page.t_us[there] + step_us // 2, page.mean[0][there]


def load_feedback(session: Session, series: Sequence[Series], from_us: int, to_us: int) -> dict[Series, Feedback]:
    """People's feedback on these series: verdicts on alarms of their limits, and missed faults that they reported.

    Verdicts on other alarms (anomalies, forecasts) are no feedback on limits.
    """
    faults: dict[Series, list[Window]] = defaultdict(list)
    normal: dict[Series, list[Window]] = defaultdict(list)
    devices = sorted({device for device, _ in series})
    alarms = select(_ALARMS).where(
        _ALARMS.c.device.in_(devices), _ALARMS.c.about == "", _ALARMS.c.verdict != "",
        _ALARMS.c.raised_us >= from_us, _ALARMS.c.raised_us < to_us,
    )  # fmt: skip
    for row in session.connection().execute(alarms):
        begin = int(row.raised_us)
        window = Window(start_us=begin, end_us=max(begin, row.cleared_us or begin + AFTER_US))
        (faults if row.verdict == "real" else normal)[row.device, row.metric].append(window)
    reported = select(_MISSED_FAULTS).where(
        _MISSED_FAULTS.c.device.in_(devices), _MISSED_FAULTS.c.end_us >= from_us, _MISSED_FAULTS.c.start_us < to_us
    )  # fmt: skip
    for row in session.connection().execute(reported):
        faults[row.device, row.metric].append(Window(start_us=row.start_us, end_us=row.end_us))
    return {one: Feedback(faults=tuple(faults[one]), normal=tuple(normal[one])) for one in series}


def known(
    session: Session, series: Sequence[Series], from_us: int, to_us: int, present: Mapping[Series, Limits]
) -> list[Known]:
    """The context of each series in from_us..to_us; `present` are the limits in force."""
    devices = sorted({device for device, _ in series})
    alarms, ranges = unjudged(session, devices, from_us, to_us), _ranges(session, devices)
    since = standing_alarms(session, devices)
    found = []
    for one in series:
        early_us = int(present[one].on_delay_s * 1e6) if one in present else 0  # the value was beyond its limit by then
        windows = tuple(Window(start_us=w.start_us - early_us, end_us=w.end_us) for w in alarms.get(one, ()))
        low, high = ranges.get(one, (None, None))
        found.append(Known(alarms=windows, standing_us=since.get(one, 0), low=low, high=high))
    return found


def unjudged(session: Session, devices: Sequence[str], from_us: int, to_us: int) -> dict[Series, list[Window]]:
    """Alarms that overlap from_us..to_us and were not judged false, and reported missed faults, by series.

    An active alarm lasts until `to_us`. Forecast warnings do not count.
    """
    found: dict[Series, list[Window]] = defaultdict(list)
    alarms = select(_ALARMS.c.device, _ALARMS.c.metric, _ALARMS.c.raised_us, _ALARMS.c.cleared_us).where(
        _ALARMS.c.device.in_(devices), _ALARMS.c.about != "forecast", _ALARMS.c.verdict != "false-alarm",
        _ALARMS.c.raised_us < to_us, func.coalesce(_ALARMS.c.cleared_us, to_us) >= from_us,
    )  # fmt: skip
    faults = _MISSED_FAULTS.c
    reported = select(faults.device, faults.metric, faults.start_us, faults.end_us).where(
        faults.device.in_(devices), faults.end_us >= from_us, faults.start_us < to_us
    )  # fmt: skip
    for query in (alarms, reported):
        for device, metric, start_us, end_us in session.connection().execute(query):
            found[device, metric].append(Window(start_us=start_us, end_us=to_us if end_us is None else end_us))
    return found


def _ranges(session: Session, devices: Sequence[str]) -> dict[Series, tuple[float | None, float | None]]:
    """The range that each metric declares in its device's birth."""
    rows = session.connection().execute(select(_DEVICES.c.id, _DEVICES.c.metrics).where(_DEVICES.c.id.in_(devices)))
    return {
        (device, str(metric["name"])): (metric.get("low"), metric.get("high"))
        for device, metrics in rows
        for metric in metrics
    }
