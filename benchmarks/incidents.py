"""Diagnosis of simulated incidents: rules, rules with the decision tree, a GLM (`--url`), and baselines.

    python -m benchmarks.incidents                      the figures, on sites that nothing was chosen or trained on
    python -m benchmarks.incidents --url http://127.0.0.1:8000/v1 --model glm --cases 100
    python -m benchmarks.incidents --train cloud_hub/incidents/tree.yaml

The simulator (`tests/simulators/incident_worlds.py`) and the rules have the same author: the figures compare methods,
and do not say how often a diagnosis is right in a plant. A conclusion that only says what kind of alarm it is counts as
'unknown'; 'causes made up' is how often a listed cause is named where none is right. Time to mitigate is in assumed
steps: 1 for the right action done at once, 3 for a person with the right cause, 13 with a wrong one, 10 with none, and
2 more for a wrong restart.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Row, publish
from cloud_hub.database.schema import migrate
from cloud_hub.database.sessions import Database
from cloud_hub.incidents.core import rules
from cloud_hub.incidents.core.evidence import Diagnosis, Evidence
from cloud_hub.incidents.core.rules import RuleBook
from cloud_hub.incidents.core.tree import features
from cloud_hub.incidents.desk import catalogue, open_desk
from cloud_hub.incidents.diagnosis import diagnose
from cloud_hub.inference.gateway.blocking import GatewayModel, serving
from cloud_hub.inference.gateway.build import open_gateway
from cloud_hub.settings import Desk
from cloud_hub.settings.inference import Inference

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from simulators.incident_worlds import CAUSES, Case, cases, named

TRAINING = range(1, 121)
"""The sites that the tree is trained, and its form chosen, on."""
UNSEEN = range(9001, 9121)
"""The sites of the figures."""
NOTHING = "unknown"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method says: the main cause, others, and whether it proposes to restart a model."""

    cause: str
    also: tuple[str, ...] = ()
    restarts: bool = False


Method = Callable[[Case], Answer]


def by_diagnosis(diagnosed: Callable[[Evidence], Diagnosis]) -> Method:
    """A method from the hub's own diagnosis."""

    def answer(case: Case) -> Answer:
        said = diagnosed(case.evidence)
        restarts = any(p.parameters.get("verb") == "restart" for p in said.proposals)
        return Answer(named(said.cause), tuple(map(named, said.also)), restarts)

    return answer


def by_book(book: RuleBook) -> Method:
    """The rules, with or without the tree."""
    texts = catalogue()
    return by_diagnosis(lambda evidence: rules.diagnose(evidence, book, texts))


def majority(training: Sequence[Case]) -> Method:
    """Always the most frequent cause."""
    ((cause, _),) = Counter(case.causes[0] for case in training).most_common(1)
    return lambda case: Answer(cause, restarts=cause == "model-stalled")


def nearest(training: Sequence[Case], neighbours: int) -> Method:
    """The cause of most of the nearest incidents, by the features of the tree."""
    known = [(features(case.evidence.items), case.causes[0]) for case in training]

    def answer(case: Case) -> Answer:
        own = features(case.evidence.items)
        near = sorted(known, key=lambda pair: _distance(own, pair[0]))[:neighbours]
        ((cause, _),) = Counter(cause for _, cause in near).most_common(1)
        return Answer(cause, restarts=cause == "model-stalled")

    return answer


def _distance(one: dict[str, float], other: dict[str, float]) -> float:
    return sum(abs(one.get(key, 0.0) - other.get(key, 0.0)) for key in one.keys() | other.keys())


@contextmanager
def language_model(url: str, model: str, key_file: str) -> Iterator[Method]:
    """A configured GLM behind the gateway, with all checks of the hub."""
    pool = {"name": "asked", "addresses": [url], "model": model, "key_file": key_file}
    with tempfile.TemporaryDirectory() as folder:
        address = f"sqlite:///{Path(folder) / 'hub.sqlite'}"
        db = Database(address)
        migrate(db.engine, address)
        gateway = open_gateway(db, Inference.model_validate({"pools": [pool]}))
        assert gateway is not None
        with serving(gateway):
            engine, desk = GatewayModel(gateway), open_desk()
            yield by_diagnosis(lambda evidence: diagnose(evidence, engine, desk))
        db.close()


def score(name: str, method: Method, tested: Sequence[Case]) -> list[Row]:
    """The figures of a method."""
    answers, times = [], []
    for case in tested:
        began = time.perf_counter()
        answers.append(method(case))
        times.append(time.perf_counter() - began)
    pairs = list(zip(tested, answers, strict=True))
    right = [answer.cause in case.causes for case, answer in pairs]
    named = [len({a.cause, *a.also} & set(c.causes)) / len(c.causes) for c, a in pairs]
    made_up = [answer.cause != NOTHING for case, answer in pairs if case.causes == (NOTHING,)]
    false = [answer.restarts and not case.restart_is_right for case, answer in pairs]
    wanted = [case.restart_is_right for case, _ in pairs]
    done = [answer.restarts for case, answer in pairs if case.restart_is_right]
    unfounded = sum(false) / max(len(wanted) - sum(wanted), 1)

    def row(metric: str, value: float, unit: str = "share") -> Row:
        return Row("simulated, unseen sites", name, metric, value, unit)

    return [
        row("cause right", statistics.mean(right)),
        row("  +- (95 %, by site)", _half_width(tested, right)),
        row("causes named", statistics.mean(named)),
        row("causes made up", _mean(made_up)),
        row("false restarts", unfounded),
        row("right restarts", _mean(done)),
        row("steps to mitigate", statistics.mean(_steps(c, a) for c, a in pairs), "steps"),
        row("time, p95", sorted(times)[int(len(times) * 0.95)] * 1e3, "ms"),
    ]


def _mean(values: Sequence[bool]) -> float:
    """NaN where there is nothing to count."""
    return statistics.mean(values) if values else float("nan")


def _half_width(tested: Sequence[Case], right: Sequence[bool]) -> float:
    """Of the 95 % interval of the accuracy: incidents of one site are alike, so sites are counted."""
    sites: dict[int, list[bool]] = {}
    for case, good in zip(tested, right, strict=True):
        sites.setdefault(case.seed, []).append(good)
    means = [statistics.mean(site) for site in sites.values()]
    return 1.96 * statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else 0.0


def _steps(case: Case, answer: Answer) -> float:
    penalty = 2 if answer.restarts and not case.restart_is_right else 0
    if answer.cause in case.causes and answer.cause != NOTHING:
        return 1 if answer.restarts and case.restart_is_right else 3 + penalty
    return (10 if answer.cause == NOTHING else 13) + penalty


def main() -> None:
    """Train the tree, or print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, metavar="FILE", help="train the tree and write it there")
    parser.add_argument("--url", default="", help="base URL of an OpenAI-compatible server")
    parser.add_argument("--model", default="glm")
    parser.add_argument("--key-file", default="")
    parser.add_argument("--cases", type=int, default=0, help="only so many incidents (default all)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--history", type=int, default=200, metavar="DEVICES", help="of the hub with history; 0: none")
    parser.add_argument("--grouping", type=int, default=3, metavar="DAYS", help="simulated days; 0: none")
    options = parser.parse_args()
    training = cases(TRAINING)
    if options.train is not None:
        from benchmarks.incident_tree import train  # noqa: PLC0415 - scikit-learn

        train(training, options.train)
        return
    publish("incidents", UNSEEN[0], list(_figures(options, training)), options.json, LIMITS)


LIMITS = (
    f"{len(CAUSES) - 1} causes, and incidents of none of them; rules and simulator have the same author: compare the "
    "methods, expect less in a plant. Steps are assumed, see --help"
)


def _figures(options: argparse.Namespace, training: Sequence[Case]) -> Iterable[Row]:
    tested = cases(UNSEEN)
    tested = tested[:: max(len(tested) // options.cases, 1)] if options.cases else tested
    yield from score("majority", majority(training), tested)
    yield from score("nearest neighbours (5)", nearest(training[:1200], 5), tested)
    yield from score("rules", by_book(open_desk(Desk(tree=False)).book), tested)
    yield from score("rules with tree", by_book(open_desk().book), tested)
    if options.url:
        with language_model(options.url, options.model, options.key_file) as method:
            yield from score(f"{options.model} with rules", method, tested)
    if options.history:
        from benchmarks.incident_hub import hub_figures  # noqa: PLC0415 - a database

        yield from hub_figures(options.history)
    if options.grouping:
        yield from _grouping(options.grouping)


def _grouping(seeds: int) -> Iterable[Row]:
    """How alarms are grouped; `benchmarks.incident_grouping` says of what."""
    from benchmarks.incident_grouping import measure  # noqa: PLC0415 - a database

    for mode, found in measure(range(seeds)).items():
        for metric, values in (
            ("alarms of a group", [quality.alarms_per_group for quality in found]),
            ("groups of several causes", [quality.mixed / quality.groups for quality in found]),
            ("groups of a cause", [quality.spread for quality in found]),
        ):
            yield Row("simulated days", f"grouping: {mode}", metric, statistics.mean(values), "mean")


if __name__ == "__main__":
    main()
