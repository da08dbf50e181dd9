"""Measures detections and false alarms of live monitoring at the threshold for the budget of a large fleet.

    python -m benchmarks.fleet_budget --nab FILE [--fleet 10000] [--pages 2] [--days 60] [--series 1000] [--seed 12]

- NAB: windows hit and false alarms outside of windows at that threshold, with one refractory filter for all rows: by
  the anomaly score of a sample, by the rarity of an episode as shipped, and by rarities whose two constants were fitted
  on the other half of the series (every second name), so that no series is judged by its own data.
- Noise without faults: ratio of actual to nominal episodes that reach a rarity in the second half of the days (1 is
  exact, below 1 is quieter). Only five-minute series; each kind of noise is one draw of the seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.budget import A_DAY, NOISES
from benchmarks.nab_score import alarms
from benchmarks.report import Row, publish
from benchmarks.series import Bools, Floats, Series, read
from cloud_hub.thresholds.scores import episodes
from cloud_hub.thresholds.scores.alarm_budget import threshold
from cloud_hub.thresholds.scores.episodes import Episodes, rarity
from cloud_hub.thresholds.scores.model import DEFAULTS, ScoreModel, score_series
from shared.durations import DAY_US

LEVELS = (3.3, 4.0, 4.5, 5.0, 5.5)


def peaks(series: Series, rarities: Floats) -> list[float]:
    """Usual peaks beyond the first of each episode that reached one, outside of windows."""
    units = (rarities - episodes.KNOWN) / episodes.DECADES
    units[: series.learn], units[series.inside] = -1.0, -1.0
    beyond = np.flatnonzero(units > 0)
    runs = np.split(beyond, np.flatnonzero(np.diff(beyond) > DEFAULTS.quiet) + 1)
    return [float(units[run].max()) for run in runs if run.size]


def fitted(series: Sequence[Series], rarities: Sequence[Floats], limit: float) -> float:
    """The shipped rarity at which these series reach `limit`, by their own rate and mean excess."""
    found = [peak for one, some in zip(series, rarities, strict=True) for peak in peaks(one, some.copy())]
    samples = sum(int((~one.inside[one.learn :]).sum()) for one in series)
    known, decades = np.log10(samples / len(found)), 1 / (np.log(10) * float(np.mean(found)))
    return float(episodes.KNOWN + episodes.DECADES * (limit - known) / decades)


def judged(series: Sequence[Series], scores: Sequence[Floats], limit: float) -> tuple[int, int]:
    """(windows hit, false alarms) at a limit."""
    hit = false = 0
    for one, some in zip(series, scores, strict=True):
        score = some.copy()
        score[: one.learn] = -np.inf
        here = alarms(score, limit, DEFAULTS.quiet)
        false += int((~one.inside[here]).sum())
        hit += sum(bool(((here >= first) & (here <= last)).any()) for first, last in one.judged)
    return hit, false


def halved(series: Sequence[Series], rarities: Sequence[Floats], limit: float) -> tuple[int, int]:
    """`judged`, each half with the constants of the other."""
    first: Bools = np.arange(len(series)) % 2 == 0
    hit = false = 0
    for half in (first, ~first):
        mine, others = np.flatnonzero(half).tolist(), np.flatnonzero(~half).tolist()
        moved = fitted([series[n] for n in others], [rarities[n] for n in others], limit)
        some = judged([series[n] for n in mine], [rarities[n] for n in mine], moved)
        hit, false = hit + some[0], false + some[1]
    return hit, false


def on_nab(series: Sequence[Series], limit: float) -> list[Row]:
    """Windows hit and false alarms at the fleet's threshold."""
    plain = [np.nan_to_num(score_series(one.t_us, one.values)) for one in series]
    rare = [rarity(Episodes(), some, DEFAULTS.quiet)[1] for some in plain]
    windows, days = sum(len(one.judged) for one in series), sum(one.days for one in series)
    rows = [Row("nab", "all", "windows", windows, ""), Row("nab", "all", "judged", days, "series-days")]
    for name, (hit, false) in {
        "anomaly score of a sample": judged(series, plain, limit),
        "rarity of an episode": judged(series, rare, limit),
        "rarity of an episode, fitted on the other half": halved(series, rare, limit),
    }.items():
        rows += [Row("nab", name, "windows hit", 100 * hit / windows, "%"), Row("nab", name, "false alarms", false, "")]
    for level in LEVELS:
        for name, scores in (("anomaly score of a sample", plain), ("rarity of an episode", rare)):
            hit, false = judged(series, scores, level)
            rows.append(Row("nab", name, f"windows hit at {level:g}", 100 * hit / windows, "%"))
            rows.append(Row("nab", name, f"false alarms at {level:g}", false, ""))
    return rows


def on_noise(name: str, values: Floats, levels: Sequence[float]) -> list[Row]:
    """Ratio of actual to nominal episodes in the second half of `values` [T, series], for each level."""
    length, many = values.shape
    model, found = ScoreModel(many), np.zeros(values.shape)
    for n in range(length):
        found[n] = model.step(np.full(many, DAY_US + n * (DAY_US // A_DAY)), values[n])
    rare = [rarity(Episodes(), found[:, n].copy(), DEFAULTS.quiet)[1] for n in range(many)]
    rows = []
    for way, scores in (("anomaly score of a sample", list(found.T)), ("rarity of an episode", rare)):
        for level in levels:
            came = sum(int((alarms(one, level, DEFAULTS.quiet) >= length // 2).sum()) for one in scores)
            meant = (length - length // 2) * many / 10**level
            rows.append(Row(name, way, f"came for each meant at {level:.2f}", came / meant, "times"))
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nab", type=Path, help="labelled series")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--fleet", type=int, default=10_000, help="series of the fleet")
    parser.add_argument("--pages", type=float, default=2.0, help="pages a shift of twelve hours for all of them")
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--series", type=int, default=1000, help="series of noise of each kind")
    options = parser.parse_args()
    limit = threshold(options.pages, options.fleet, A_DAY)
    rows = [Row("all", "budget", "threshold", limit, "decades")]
    if options.nab is not None:
        rows += on_nab(read(options.nab), limit)
    for name, noise in NOISES.items():
        values = noise(np.random.default_rng(options.seed), options.days * A_DAY, options.series)
        rows += on_noise(name, values, (*LEVELS, limit))
    publish("fleet_budget", options.seed, rows, options.json)


if __name__ == "__main__":
    main()
