"""Evaluates bands and scores on labelled series, compared with classic methods and installed libraries, in one run.

    python -m benchmarks.thresholds --nab FILE --kpi FILE [--json FILE] [--plots FOLDER]

A file is Parquet with the columns series, timestamp, value, label and window (`benchmarks/series.py`). Each method
turns a series into scores without looking ahead; alarms are crossings of one threshold for all series under one
refractory filter (100 samples). Printed for each method:

- **NAB** (standard, low FP, low FN) by NAB's protocol (`benchmarks/nab_score.py`): at the usual threshold that was
  fixed beforehand; at the best one (tuned on all); two-fold: each half of the series at the threshold that is best on
  the other half, by every second name, and the median of 25 random halvings.
- windows hit against false alarms a series-day, as a curve over all thresholds.
- best F1 of samples and best point-adjusted F1 within 7 samples (no filter: it would leave one sample of a window).
- coverage of the 99 % band outside of windows.
- microseconds a sample over 10,000 series and bytes a series, beside an EWMA band; what judging costs a device.

Limits: peers may take --peer-seconds each and file; what would take longer is cut and named. Peers and k-means are
adaptations, described in `benchmarks/detectors.py` and `benchmarks/peers.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import detection, threshold_plots, threshold_speed
from benchmarks.detectors import CLASSIC, Detector
from benchmarks.nab_score import PROFILES
from benchmarks.peers import peers
from benchmarks.report import Row, publish
from benchmarks.series import Floats, Series, read
from benchmarks.tidegate_detectors import tidegate_detectors

NOTE = (
    "On NAB's development half and KPI these are in-sample for Tidegate. On the 29 held-out series of NAB: score 60.7, "
    "53 % of windows at 0.05 false alarms a series-day."
)


def main() -> None:
    """Command line."""
    options = arguments()
    rows: list[Row] = []
    outcomes: dict[str, detection.Outcome] = {}
    for kind in ("nab", "kpi"):
        file = getattr(options, kind)
        if file is not None:
            rows += on_file(kind, file, options, outcomes)
    if not options.no_speed:
        rows += threshold_speed.rows(options.speed_series, options.seed)
    if options.plots is not None and options.nab is not None:
        threshold_plots.draw(usable(options.nab), outcomes, options.plots)
    publish("thresholds", options.seed, rows, options.json, NOTE)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; at least one file must be named, unless only speed is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nab", type=Path, help="labelled series for the NAB score and the curve")
    parser.add_argument("--kpi", type=Path, help="labelled series for F1")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--plots", type=Path, help="draw the method and the curve there, as SVG")
    parser.add_argument("--peer-seconds", type=float, default=240.0, help="what a peer may take for each file")
    parser.add_argument("--speed-series", type=int, default=10_000)
    parser.add_argument("--no-speed", action="store_true", help="leave out the figures of cost")
    return parser.parse_args(given)


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def usable(file: Path) -> list[Series]:
    """The series of a file; one that cannot be used ends the program and says why."""
    try:
        return read(file)
    except ValueError as wrong:
        raise SystemExit(str(wrong)) from None


def on_file(kind: str, file: Path, options: argparse.Namespace, outcomes: dict[str, detection.Outcome]) -> list[Row]:
    """All methods on one file; `outcomes` of the NAB file are kept for the plots."""
    series = usable(file)
    windows = sum(len(one.judged) for one in series)
    say(f"{file.name}: {len(series)} series, {sum(len(one.values) for one in series)} samples, {windows} windows")
    rows = [Row(kind, "(the file)", "series", len(series), ""), Row(kind, "(the file)", "windows", windows, "")]
    slow = {method.name for method in peers()}
    for method in [*tidegate_detectors(), *CLASSIC, *peers()]:
        began = time.perf_counter()
        most = options.peer_seconds if method.name in slow else float("inf")
        scores = scored(method, series, most)
        if scores is None:
            say(f"  {method.name}: cut after {most:.0f} s")
            rows.append(Row(kind, method.name, "cut after", most, "s"))
            continue
        if kind == "nab":
            outcomes[method.name] = detection.outcome(series, scores, method.usual)
            rows += nab(kind, method, outcomes[method.name], options.seed)
        else:
            rows += f1(kind, method, series, scores)
        rows += coverage(kind, method, series)
        say(f"  {method.name}: {time.perf_counter() - began:.1f} s")
    return rows


def scored(method: Detector, series: Sequence[Series], most_s: float) -> list[Floats] | None:
    """The scores of all series, or None where they would take longer than `most_s`."""
    if method.fleet is not None:
        return method.fleet(series)
    began, found = time.perf_counter(), []
    for one in series:
        found.append(method.scores(one.t_us, one.values))
        if time.perf_counter() - began > most_s:
            return None
    return found


def banded(method: Detector, series: Sequence[Series]) -> list[tuple[Floats, Floats]]:
    """The 99 % band of each series."""
    if method.fleet_band is not None:
        return method.fleet_band(series)
    return [method.band(one.t_us, one.values) for one in series] if method.band is not None else []


def coverage(kind: str, method: Detector, series: Sequence[Series]) -> list[Row]:
    """How many samples lie in the method's band, where it has one."""
    if method.band is None and method.fleet_band is None:
        return []
    covered = detection.coverage(series, banded(method, series))
    return [Row(kind, method.name, "coverage of the 99 % band", covered, "%")]


def nab(kind: str, method: Detector, found: detection.Outcome, seed: int) -> list[Row]:
    """NAB scores, windows hit and the curve."""
    series = found.series
    half, halvings = detection.halves(len(series)), detection.random_halves(len(series), seed)
    row: Callable[[str, float, str], Row] = lambda metric, value, unit: Row(kind, method.name, metric, value, unit)  # noqa: E731
    rows = []
    for p, profile in enumerate(PROFILES):
        rows.append(row(f"{profile.name}: usual threshold", found.nab(p, -1), "NAB"))
        rows.append(row(f"{profile.name}: tuned on all", found.nab(p), "NAB"))
        rows.append(row(f"{profile.name}: two-fold", found.transferred(p, half), "NAB"))
    rows.append(row("standard: one way", found.one_way(0, half), "NAB"))
    rows.append(row("standard: other way", found.one_way(0, ~half), "NAB"))
    drawn = [found.transferred(0, one) for one in halvings]
    rows.append(row("standard: random halves", float(np.median(drawn)), "NAB"))
    rows.append(row("usual: windows hit", 100 * float(found.hit_share()[-1]), "%"))
    rows.append(row("usual: false alarms", float(found.false_a_day()[-1]), "a series-day"))
    rows += [row(f"windows hit at {most:g}", 100 * found.hit_at(most), "%") for most in detection.CURVE]
    return rows


def f1(kind: str, method: Detector, series: Sequence[Series], scores: Sequence[Floats]) -> list[Row]:
    """Best F1, plain and point-adjusted."""
    plain, adjusted = detection.best_f1(series, scores)
    return [Row(kind, method.name, "best F1", plain, ""), Row(kind, method.name, "point-adjusted F1", adjusted, "")]


if __name__ == "__main__":
    main()
