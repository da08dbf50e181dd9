"""Traces of load for simulations: read from CSV, as the world of `core/simulate.py`.

A file has the columns `timestamp,value` (sums of equal times, each at its time) or `TIMESTAMP,ContextTokens,
GeneratedTokens` (one row a request: the load is its tokens). The rate, a second, is interpolated per minute. Without
`per_instance`, one instance carries the 99.9th percentile of the rate / 12. The first three days, or a quarter of a
shorter trace, are not scored.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from cloud_hub.autoscale.core.simulate import Floats, World
from shared.durations import SECOND_US

PEAK_INSTANCES = 12
UNSCORED_DAYS = 3.0
BOOT_S, LLM_BOOT_S = 300.0, 120.0
MINUTE_S, DAY_S = 60.0, 86_400.0
MOST_MINUTES = 1_000_000
COLUMNS = "timestamp,value or TIMESTAMP,ContextTokens,GeneratedTokens"


class TraceError(ValueError):
    """A file is no trace: the message names the file, the line and the cure."""


def read(file: Path, boot_s: float | None = None) -> World:
    """The world of a CSV file; raises TraceError."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            rows = csv.DictReader(text)
            columns = list(rows.fieldnames or [])
            if {"timestamp", "value"} <= set(columns):
                return world(*_columns(file, rows, "timestamp", ("value",)), boot_s or BOOT_S)
            if {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= set(columns):
                seconds, values = _columns(file, rows, "TIMESTAMP", ("ContextTokens", "GeneratedTokens"))
                return world(*_per_minute(seconds, values), boot_s or LLM_BOOT_S)
    except TraceError as error:
        raise TraceError(f"{file}: {error}" if not str(error).startswith(str(file)) else str(error)) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{file}: cannot be read: {error}") from error
    raise TraceError(f"{file}: its columns are {', '.join(columns) or 'missing'}. Write the columns {COLUMNS}")


def _columns(file: Path, rows: csv.DictReader[str], time: str, names: tuple[str, ...]) -> tuple[Floats, Floats]:
    seconds, values = [], []
    for row in rows:
        place = f"{file}, line {rows.line_num}"
        seconds.append(_cell(place, row[time], lambda text: _seconds(text[:26])))  # microseconds, not finer
        values.append(sum(_cell(place, row[name], float) for name in names))
    return np.array(seconds), np.array(values)


def _cell(place: str, text: str | None, parse: Callable[[str], float]) -> float:
    try:
        return parse(text or "")
    except ValueError:
        raise TraceError(
            f"{place}: '{text}' cannot be read. Write times as 2026-11-01 08:00:00, values as 12.5"
        ) from None


def _seconds(text: str) -> float:
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()


def _per_minute(seconds: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Sums of each minute; the last one is not whole and is left out."""
    if not seconds.size:
        raise TraceError("has no rows")
    minutes = (np.sort(seconds) // MINUTE_S).astype(np.int64)
    if minutes[-1] - minutes[0] > MOST_MINUTES:
        raise TraceError(f"covers more than {MOST_MINUTES} minutes")
    minutes = (seconds // MINUTE_S).astype(np.int64)
    sums: Floats = np.bincount(minutes - minutes.min(), weights=values)[:-1].astype(np.float64)
    times: Floats = (minutes.min() + np.arange(sums.size)) * MINUTE_S
    return times, sums


def world(seconds: Floats, values: Floats, boot_s: float) -> World:
    """The world of sums at `seconds` (UTC), in any order; of a time that stands twice the first counts."""
    known = np.isfinite(values)
    seconds, first = np.unique(seconds[known], return_index=True)
    values = np.maximum(values[known][first], 0.0)
    if seconds.size < 10 or not values.max() > 0:
        raise TraceError("a trace needs ten points, and one above 0")
    if (seconds[-1] - seconds[0]) / MINUTE_S > MOST_MINUTES:
        raise TraceError(f"covers more than {MOST_MINUTES} minutes")
    period = float(np.median(np.diff(seconds)))
    minutes = np.arange(seconds[0], seconds[-1] + 1, MINUTE_S)
    rate = np.interp(minutes, seconds, values) / period
    peak = float(np.sort(rate)[int(rate.size * 0.999)])
    unscored = int(min(UNSCORED_DAYS * DAY_S, rate.size * MINUTE_S / 4) / MINUTE_S)
    return World(
        rate=rate, per_instance=peak / PEAK_INSTANCES, start_us=int(seconds[0]) * SECOND_US, boot_s=boot_s,
        unscored=unscored,
    )  # fmt: skip
