"""A crossing within 15 minutes, foretold: the pooled forecaster beside simple ways, in one run.

    python -m benchmarks.crossing --nab FILE --kpi FILE [--quantile 0.95] [--json FILE]

Files as in `benchmarks.thresholds`. A series' limit is the 95 % quantile of its first half, or another. A moment
counts if the series is not above the limit then, has a day of history, and a sample in the 15 minutes before and after.
Learned from the first 70 % of time (the earlier 70 % of that fits, the rest calibrates), judged on the last 30 %, in
two splits with the same judged moments:

- **series and time**: each half of the series (every second name) is judged by what was learned from the other half;
- **time alone**: what was learned from all series judges all series.

Average precision, never accuracy: to foretell nothing is right nine times in ten. Also printed: Brier score, and for
ten equal bins of the probability what was said and what came. Baselines that need no learning: distance to the limit;
straight line through the last 15 minutes; the share of this series' past days that were above in this quarter of an
hour. A logistic regression learns from the same features.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.report import Row, publish
from benchmarks.series import Floats, Series, read
from cloud_hub.thresholds.crossing import NAMES, Samples, samples, train

LEARNED, LIMIT_FROM, QUANTILE = 0.7, 0.5, 0.95
OURS, LOGISTIC = "Tidegate", "logistic regression"
SIMPLE = {
    "distance to the limit": "distance in a day's spread",
    "straight line": "straight line ahead",
    "same time on past days": "share of 14 days above",
}


@dataclass(frozen=True)
class Case:
    """One series: its samples to learn from and those that are judged; simple scores of the judged ones."""

    corpus: str
    learn: Samples
    judged: Samples
    simple: dict[str, Floats]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nab", type=Path, help="labelled series; the labels are not used")
    parser.add_argument("--kpi", type=Path, help="more of them")
    parser.add_argument("--quantile", type=float, default=QUANTILE, help="of its first half, a series' limit")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    files = [(kind, file) for kind in ("nab", "kpi") if (file := getattr(options, kind))]
    cases = [case(kind, one, options.quantile) for kind, file in files for one in read(file)]
    cases = [one for one in cases if one.judged[1].size]
    if not cases:
        raise SystemExit("no series that can be judged: name a file with --nab or --kpi")
    publish("crossing", options.seed, rows(cases, options.seed), options.json)


def case(corpus: str, one: Series, quantile: float = QUANTILE) -> Case:
    """A series with its limit, cut in time; labels of the learned part end with it."""
    cut, half = int(LEARNED * one.values.size), int(LIMIT_FROM * one.values.size)
    limit = float(np.quantile(one.values[:half], quantile))
    found, labels, index = samples(one.t_us, one.values, limit)
    later = index >= cut
    judged = found[later], labels[later], index[later]
    return Case(corpus, samples(one.t_us[:cut], one.values[:cut], limit), judged, simple(judged[0]))


def simple(found: Any) -> dict[str, Floats]:
    """Baselines that are single features."""
    if not found.size:
        return {}
    return {name: np.nan_to_num(found[:, NAMES.index(column)].astype(np.float64)) for name, column in SIMPLE.items()}


def rows(cases: Sequence[Case], seed: int) -> list[Row]:
    """All figures."""
    everything, half = list(range(len(cases))), [list(range(k, len(cases), 2)) for k in (0, 1)]
    splits = {"series and time": [(half[0], half[1]), (half[1], half[0])], "time alone": [(everything, everything)]}
    found: list[Row] = []
    for split, folds in splits.items():
        said: dict[str, dict[int, Floats]] = {OURS: {}, LOGISTIC: {}}
        for learn, judge in folds:
            began = time.perf_counter()
            forecaster = train([cases[k].learn for k in learn], seed)
            found.append(Row("all", OURS, f"{split}: to train", time.perf_counter() - began, "s"))
            line = logistic([cases[k].learn for k in learn])
            for k in judge:
                said[OURS][k] = forecaster.of(cases[k].judged[0])
                said[LOGISTIC][k] = line.predict_proba(cases[k].judged[0])[:, 1]
        for corpus in sorted({one.corpus for one in cases}):
            members = [k for k in everything if cases[k].corpus == corpus]
            found += figures(
                corpus, split, [cases[k] for k in members], {m: [s[k] for k in members] for m, s in said.items()}
            )
    return found


def figures(corpus: str, split: str, cases: Sequence[Case], said: dict[str, list[Floats]]) -> list[Row]:
    """The figures of one file and one split."""
    labels = np.concatenate([one.judged[1] for one in cases])
    found = [Row(corpus, "(moments)", f"{split}: judged", labels.size, ""),
             Row(corpus, "(moments)", f"{split}: base rate", 100 * float(labels.mean()), "%")]  # fmt: skip
    scores = {name: np.concatenate(parts) for name, parts in said.items()}
    scores |= {name: np.concatenate([one.simple[name] for one in cases]) for name in cases[0].simple}
    for name, score in scores.items():
        found.append(
            Row(corpus, name, f"{split}: average precision", float(average_precision_score(labels, score)), "")
        )
        if name in said:
            found.append(Row(corpus, name, f"{split}: Brier score", float(brier_score_loss(labels, score)), ""))
    base = np.full(labels.size, labels.mean())
    found.append(
        Row(corpus, "always the base rate", f"{split}: Brier score", float(brier_score_loss(labels, base)), "")
    )
    return found + reliability(corpus, split, labels, scores[OURS])


def reliability(corpus: str, split: str, labels: Any, said: Floats) -> list[Row]:
    """What was said and what came, in ten bins."""
    bins = np.minimum((said * 10).astype(int), 9)
    found = []
    for b in range(10):
        if (inside := bins == b).any():
            name = f"{split}: said {b / 10:.1f}-{b / 10 + 0.1:.1f}"
            found += [Row(corpus, OURS, f"{name}, mean", float(said[inside].mean()), ""),
                      Row(corpus, OURS, f"{name}, came", float(labels[inside].mean()), ""),
                      Row(corpus, OURS, f"{name}, moments", int(inside.sum()), "")]  # fmt: skip
    return found


def logistic(given: Sequence[Samples]) -> Any:
    """A logistic regression on the same features, missing ones as their median."""
    used = [one for one in given if one[1].size]
    line = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=500))
    return line.fit(np.concatenate([one[0] for one in used]), np.concatenate([one[1] for one in used]))


if __name__ == "__main__":
    main()
