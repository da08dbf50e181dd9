"""Plots that explain the method, by `python -m benchmarks.thresholds --nab FILE --plots FOLDER`.

Two pictures of the series that SHOWN names, or of the first one of another file: the series with its band, windows and
alarms, and its anomaly score with the threshold. And the curve of windows hit against false alarms of all methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import detection
from benchmarks.nab_score import alarms
from benchmarks.series import Series
from benchmarks.tidegate_detectors import bands, together
from cloud_hub.thresholds.scores import alarm_budget
from shared.durations import DAY_US

SHOWN = "realKnownCause/nyc_taxi.csv"
BLUE, GREY, RED = "#1f5fa8", "#9aa5b1", "#c0392b"

BUDGET = 0.05
"""False alarms a series-day that the drawn threshold is made for."""


def draw(series: Sequence[Series], outcomes: Mapping[str, detection.Outcome], folder: Path) -> list[Path]:
    """Write the plots as SVG into `folder`; returns their paths. Same data, same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    import_module("matplotlib").rcParams.update({"svg.hashsalt": "tidegate", "font.size": 8, "path.simplify": True})
    one = next((one for one in series if one.name == SHOWN), series[0])
    files = [folder / "band-and-score.svg", folder / "curve.svg"]
    _series(one, files[0])
    _curve(outcomes, files[1])
    return files


def _figure(rows: int, height: float) -> tuple[Any, Any]:
    plt = import_module("matplotlib.figure")
    figure = plt.Figure(figsize=(8, height), layout="constrained")
    return figure, figure.subplots(rows, sharex=True, squeeze=False)[:, 0]


def _save(figure: Any, file: Path) -> None:
    figure.savefig(file, metadata={"Date": None})


def _series(one: Series, file: Path, days: float = 35.0) -> None:
    """The stretch round the second window: values in their band above, the anomaly score below."""
    (low, high), score = bands([one])[0], together([one])[0]
    threshold = alarm_budget.threshold(BUDGET / 2, 1, DAY_US / one.period_us)
    judged = score.copy()
    judged[: one.learn] = -np.inf
    when = one.t_us.astype("datetime64[us]")
    middle = one.windows[min(1, len(one.windows) - 1)][0] if one.windows else len(when) // 2
    reach = int(days / 2 * DAY_US / one.period_us)
    cut = slice(max(one.learn, middle - reach), middle + reach)
    figure, (top, bottom) = _figure(2, 3.6)
    top.fill_between(when[cut], low[cut], high[cut], color=BLUE, alpha=0.2, lw=0, label="band, 99 %")
    top.plot(when[cut], one.values[cut], color="black", lw=0.6, label=one.name)
    bottom.plot(when[cut], np.nan_to_num(score[cut]), color=BLUE, lw=0.6, label="anomaly score")
    bottom.axhline(threshold, color=GREY, lw=0.8, ls="--", label=f"threshold {threshold:.2f}")
    for axis in (top, bottom):
        for n, (first, last) in enumerate(one.windows):
            if first < cut.stop and last > cut.start:
                axis.axvspan(when[first], when[last], color=RED, alpha=0.12, lw=0, label=None if n else "labelled")
        for at in alarms(judged, threshold, detection.REFRACTORY):
            if cut.start <= at < cut.stop:
                axis.axvline(when[at], color=RED, lw=1)
        axis.legend(loc="upper left", frameon=True, fontsize=6)
    dates = import_module("matplotlib.dates")
    bottom.xaxis.set_major_formatter(dates.ConciseDateFormatter(bottom.xaxis.get_major_locator()))
    _save(figure, file)


def _curve(outcomes: Mapping[str, detection.Outcome], file: Path) -> None:
    figure, (axis,) = _figure(1, 3.4)
    for name, found in outcomes.items():
        rate, hit = found.false_a_day()[:-1], 100 * found.hit_share()[:-1]
        order = np.argsort(rate, kind="stable")
        ours = name.startswith("Tidegate")
        best = np.maximum.accumulate(hit[order])
        axis.plot(rate[order], best, lw=1.8 if ours else 0.8, label=name, ls="-" if ours else "--")
    axis.set(xscale="symlog", xlim=(0, 1), ylim=(0, 100), xlabel="false alarms a series-day", ylabel="windows hit, %")
    axis.set_xscale("symlog", linthresh=0.01)
    axis.axvline(0.05, color=GREY, lw=0.8)
    axis.axhline(80, color=GREY, lw=0.8)
    axis.legend(loc="lower right", frameon=False, fontsize=6)
    _save(figure, file)
