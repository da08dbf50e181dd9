"""Compares fixed limits with the learned band on recorded weeks of three servers.

The series ship in `assets/weeks` (Numenta Anomaly Benchmark, see NOTICE.md there). They were chosen for being
ordinary server CPU, one that the band suits, one where a fixed limit does as well, and one where it does not help.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from cloud_hub.thresholds.backtest.core import replay
from cloud_hub.thresholds.backtest.core.replay import Score, Window
from cloud_hub.thresholds.bands.state import Floats, Ints
from shared.durations import SECOND_US
from shared.thresholds import Limits

TRAIN_DAYS, REFIT_DAYS = 4.0, 1.0
FIXED_PERCENT = (80.0, 90.0)
DELAYS_S = (600.0, 1500.0)
"""On- and off-delay of the fixed limits: those that the fit chooses at five minutes, so that only the limits differ."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedWeeks:
    """One server: CPU percent `values` float64 [N] at `t_us` int64 [N] (UTC microseconds), and its labelled windows."""

    name: str
    t_us: Ints
    values: Floats
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the demo's table: a method (`fixed 80%`, `fixed 90%`, `learned band`) on a series."""

    name: str
    method: str
    alarms: int
    windows: int
    hit: int
    false_alarms: int


def load() -> list[RecordedWeeks]:
    """The shipped series, by name."""
    folder = resources.files("cloud_hub") / "demo" / "assets" / "weeks"
    labels: dict[str, list[dict[str, int]]] = json.loads(folder.joinpath("labels.json").read_text("utf-8"))
    weeks = []
    for name in sorted(labels):
        lines = folder.joinpath(f"{name}.csv").read_text("utf-8").splitlines()[1:]
        pairs = [line.split(",") for line in lines]
        weeks.append(
            RecordedWeeks(
                name=name,
                t_us=np.array([int(t) * SECOND_US for t, _ in pairs], dtype=np.int64),
                values=np.array([float(value) for _, value in pairs]),
                windows=tuple(
                    Window(start_us=w["start"] * SECOND_US, end_us=w["end"] * SECOND_US) for w in labels[name]
                ),
            )
        )
    return weeks


def compare(weeks: Sequence[RecordedWeeks]) -> list[Row]:
    """Three rows a series. The first TRAIN_DAYS only train the band; no method is judged on them."""
    rows = []
    for week in weeks:
        fixed = [
            Limits(metric="cpu.load", high=high, on_delay_s=DELAYS_S[0], off_delay_s=DELAYS_S[1])
            for high in FIXED_PERCENT
        ]
        result = replay.compare(
            "cpu.load", week.t_us, week.values, week.windows, fixed, train_days=TRAIN_DAYS, refit_days=REFIT_DAYS
        )
        rows += [_row(week.name, f"fixed {high}%", score) for high, score in result.fixed.items()]
        rows.append(_row(week.name, "learned band", result.learned))
    return rows


def _row(name: str, method: str, score: Score) -> Row:
    return Row(
        name=name,
        method=method,
        alarms=score.alarms,
        windows=score.windows,
        hit=score.hit,
        false_alarms=score.false_alarms,
    )
