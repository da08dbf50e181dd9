"""Evaluates forecasts of limit crossings within 15 minutes: all models, the selected one, and simple baselines.

    python -m benchmarks.crossing --nab FILE --kpi FILE [--quantile 0.95] [--seed 7] [--json FILE]

Files as in `benchmarks.thresholds`. A series' limit is the 95 % quantile of its first half, or another. A moment
counts if the series is not above the limit then, has a day of history, and a sample in the 15 minutes before and after.
Learned from the first 70 % of time, judged on the last 30 %. Of the first 70 % the last 30 % are validation data, on
which each series chooses its model. Five folds of series, dealt by the seed: the shared trees (and a logistic
regression of all series) are of series of the other four folds only.

The metric is average precision and not accuracy, because never predicting a crossing is right nine times in ten. It is
given for all samples together, and as mean of the series with a crossing. Also the Brier score, and predicted and
observed frequency in ten equal bins of the probability.
Limits: the structure (which models compete, margin, lift, pull) was chosen on the development half of NAB and on KPI by
such folds, so figures on these files are in-sample for that choice; only files that were never looked at give held-out
ones. A series that is not forecast counts with its base rate. Processor time is of a noisy machine.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.report import Row, publish
from benchmarks.series import Floats, Ints, Series, read
from cloud_hub.thresholds.forecasts.classifier import NAMES, SHARED, CrossingClassifier, Samples, samples, train
from cloud_hub.thresholds.forecasts.models import BLEND, BLENDED, OWN, blended, fitted
from cloud_hub.thresholds.forecasts.selection import NoForecaster, SelectedModel, select_model
from cloud_hub.thresholds.monitoring.forecasters import single_thread

NOTE = (
    "Structure chosen on NAB's development half and KPI: figures on those files are in-sample. On held-out series, "
    "before models competed: average precision 0.261, time of day 0.350, logistic regression 0.437."
)
LEARNED, LIMIT_FROM, QUANTILE, FOLDS = 0.7, 0.5, 0.95, 5
OURS, LOGISTIC = "Tidegate: chosen by series", "logistic regression of all series"
SIMPLE = {
    "distance to the limit": "distance in a day's spread",
    "straight line": "straight line ahead",
    "share of past days": "share of 14 days above",
}


@dataclass(frozen=True)
class Case:
    """One series: its samples to learn from and those that are judged, with all times; simple scores of the judged."""

    corpus: str
    learn: Samples
    judged: Samples
    t_us: Ints
    simple: dict[str, Floats]


@dataclass
class Cost:
    """Cost and result of the model selection."""

    seconds: list[float] = field(default_factory=list)
    shared_s: list[float] = field(default_factory=list)
    chosen: Counter[str] = field(default_factory=Counter)


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
    with single_thread():
        publish("crossing", options.seed, rows(cases, options.seed), options.json, NOTE)


def case(corpus: str, one: Series, quantile: float = QUANTILE) -> Case:
    """A series with its limit, cut in time; labels of the learned part end with it."""
    cut, half = int(LEARNED * one.values.size), int(LIMIT_FROM * one.values.size)
    limit = float(np.quantile(one.values[:half], quantile))
    found, labels, index = samples(one.t_us, one.values, limit)
    later = index >= cut
    judged = found[later], labels[later], index[later]
    return Case(corpus, samples(one.t_us[:cut], one.values[:cut], limit), judged, one.t_us, simple(judged[0]))


def simple(found: Any) -> dict[str, Floats]:
    """Baselines that are single features."""
    if not found.size:
        return {}
    return {name: np.nan_to_num(found[:, NAMES.index(column)].astype(np.float64)) for name, column in SIMPLE.items()}


def rows(cases: Sequence[Case], seed: int) -> list[Row]:
    """All figures."""
    fold = np.random.default_rng(seed).permutation(len(cases)) % FOLDS
    predictions: list[dict[str, Floats]] = [{} for _ in cases]
    cost = Cost()
    for number in range(FOLDS):
        others = [one.learn for one, mine in zip(cases, fold, strict=True) if mine != number or len(cases) < FOLDS]
        began = time.process_time()
        shared = train(others, seed)
        cost.shared_s.append(time.process_time() - began)
        line = logistic(others)
        for k in np.flatnonzero(fold == number).tolist():
            predictions[k] = predictions_of(cases[k], shared, cost) | cases[k].simple
            predictions[k][LOGISTIC] = line.predict_proba(cases[k].judged[0])[:, 1]
    found = []
    for corpus in sorted({one.corpus for one in cases}):
        members = [k for k, one in enumerate(cases) if one.corpus == corpus]
        found += figures(corpus, [cases[k] for k in members], [predictions[k] for k in members])
    return found + costs(cost)


def predictions_of(one: Case, shared: CrossingClassifier, cost: Cost) -> dict[str, Floats]:
    """Predictions of every model, and of the selected one, at the judged moments of one series."""
    (rows, labels, index), (later, _, when) = one.learn, one.judged
    past_us, later_us = one.t_us[index], one.t_us[when]
    found = {name: fitted(name, rows, labels, past_us)(later, later_us) for name in OWN} | {SHARED: shared.of(later)}
    found[BLEND] = blended([found[name] for name in BLENDED])
    began = time.process_time()
    forecaster = select_model(one.learn, one.t_us, shared)
    cost.seconds.append(time.process_time() - began)
    cost.chosen["none" if isinstance(forecaster, NoForecaster) else forecaster.skill.model] += 1
    if isinstance(forecaster, SelectedModel):
        found[OURS] = forecaster.of(later, later_us)
    elif isinstance(forecaster, NoForecaster):
        found[OURS] = np.full(len(later), labels.mean())
    else:
        found[OURS] = found[SHARED]
    return found


def costs(cost: Cost) -> list[Row]:
    """Rows of the cost and result of the model selection."""
    mean = float(np.mean(cost.seconds))
    found = [Row("all", name, "series that chose it", count, "") for name, count in cost.chosen.most_common()]
    return [
        *found,
        Row("all", SHARED, "to train, processor", float(np.mean(cost.shared_s)), "s"),
        Row("all", OURS, "to choose, processor", mean, "s a series"),
        Row("all", OURS, "1,000 series, once a day", 1000 * mean / 86_400 * 100, "% of a core"),
    ]


def figures(corpus: str, cases: Sequence[Case], predictions: Sequence[dict[str, Floats]]) -> list[Row]:
    """The figures of one file."""
    each = [one.judged[1] for one in cases]
    labels = np.concatenate(each)
    found = [Row(corpus, "(moments)", "judged", labels.size, ""),
             Row(corpus, "(moments)", "series", len(cases), ""),
             Row(corpus, "(moments)", "base rate", 100 * float(labels.mean()), "%")]  # fmt: skip
    for name in predictions[0]:
        score = np.concatenate([one[name] for one in predictions])
        parts = [average_precision_score(y, one[name]) for y, one in zip(each, predictions, strict=True) if y.any()]
        found.append(Row(corpus, name, "average precision", float(average_precision_score(labels, score)), ""))
        found.append(Row(corpus, name, "the same, mean of series", float(np.mean(parts)), ""))
        if name not in SIMPLE:
            found.append(Row(corpus, name, "Brier score", float(brier_score_loss(labels, score)), ""))
    base = np.full(labels.size, labels.mean())
    found.append(Row(corpus, "always the base rate", "Brier score", float(brier_score_loss(labels, base)), ""))
    return found + reliability(corpus, labels, np.concatenate([one[OURS] for one in predictions]))


def reliability(corpus: str, labels: Any, predictions: Floats) -> list[Row]:
    """Reliability: predicted probability and observed frequency, in ten bins."""
    bins = np.minimum((predictions * 10).astype(int), 9)
    found = []
    for b in range(10):
        if (inside := bins == b).any():
            name = f"said {b / 10:.1f}-{b / 10 + 0.1:.1f}"
            found += [Row(corpus, OURS, f"{name}, mean", float(predictions[inside].mean()), ""),
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
