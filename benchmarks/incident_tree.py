"""Trains the decision tree of the incident desk, and writes it as a file that people can read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from cloud_hub.incidents.core import rules
from cloud_hub.incidents.core.rules import RuleBook
from cloud_hub.incidents.core.tree import Node, Tree, features
from cloud_hub.incidents.desk import builtin_rules, catalogue

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from simulators.incident_worlds import named

FOLDS = 6
FORMS = [(depth, leaf, minimum) for depth in (6, 8, 12) for leaf in (5, 10, 20) for minimum in (0.5, 0.65, 0.8)]
"""Depth, fewest incidents of a leaf, and confidence from which the tree is heard."""
FEWEST = 30
"""How often the rules must have come to a cause before it is judged who does better after it."""

HEAD = """\
# The decision tree of the incident desk, written by `python -m benchmarks.incidents --train`. Read it as: is the
# feature above the number? then `then`, else `otherwise`. Features: cloud_hub/incidents/core/tree.py.
"""


@dataclass(frozen=True, slots=True)
class _Labelled:
    """An incident as features, with its causes and what the rules say of it."""

    seed: int
    values: dict[str, float]
    causes: tuple[str, ...]
    ruled: str
    open: bool


def train(cases: Sequence[Any], file: Path) -> None:
    """Choose the form by cross-validation over whole sites, train on all of them, and write the file."""
    book = RuleBook(rules=builtin_rules())
    rows = [_labelled(case, book) for case in cases]
    names = sorted({name for row in rows for name in row.values})
    scored = [(_validated(rows, names, *form), form) for form in FORMS]
    (score, asked), (depth, leaf, minimum) = max(scored, key=lambda pair: (pair[0][0], -pair[1][0], pair[1][1]))
    print(f"cross-validated over sites: depth {depth}, leaf {leaf}, minimum {minimum}: {score:.4f}; after {asked}")
    rules_alone = sum(named(row.ruled) in row.causes for row in rows) / len(rows)
    print(f"rules alone on the same sites: {rules_alone:.4f}")
    seeds = sorted({row.seed for row in rows})
    origin = f"{len(rows)} simulated incidents of the sites {seeds[0]} to {seeds[-1]}; no incident of a plant"
    tree = Tree(trained_on=origin, minimum=minimum, asked_after=asked, root=_grown(rows, names, depth, leaf))
    text = yaml.safe_dump(msgspec.to_builtins(tree), sort_keys=False, allow_unicode=True, width=120)
    file.write_text(HEAD + text, "utf-8")


def _labelled(case: Any, book: RuleBook) -> _Labelled:
    said = rules.diagnose(case.evidence, book, catalogue())
    match = next(iter(rules.matching(case.evidence.items, book.rules)), None)
    return _Labelled(
        case.seed, features(case.evidence.items), case.causes, said.cause, rules.is_open(match, book)
    )  # fmt: skip


def _validated(
    rows: Sequence[_Labelled], names: Sequence[str], depth: int, leaf: int, minimum: float
) -> tuple[float, list[str]]:  # fmt: skip
    """The accuracy of rules and tree on sites that the tree has not seen, and after which causes it is better."""
    seeds = sorted({row.seed for row in rows})
    opinions: list[tuple[_Labelled, str]] = []
    for fold in range(FOLDS):
        held = set(seeds[fold::FOLDS])
        root = _grown([row for row in rows if row.seed not in held], names, depth, leaf)
        tree = Tree(trained_on="", minimum=minimum, asked_after=[], root=root)
        for row in rows:
            if row.seed in held:
                opinion = tree.decide(row.values) if row.open else None
                opinions.append((row, row.ruled if opinion is None else opinion.cause))
    asked = []
    for cause in sorted({row.ruled for row in rows}):
        mine = [(row, said) for row, said in opinions if row.ruled == cause]
        gain = sum((named(said) in row.causes) - (named(row.ruled) in row.causes) for row, said in mine)
        changed = sum(said != row.ruled for row, said in mine)
        if len(mine) >= FEWEST and gain > 2 * changed**0.5:
            asked.append(cause)
    final = [said if row.ruled in asked else row.ruled for row, said in opinions]
    right = sum(named(said) in row.causes for (row, _), said in zip(opinions, final, strict=True))
    return right / len(opinions), asked


def _grown(rows: Sequence[_Labelled], names: Sequence[str], depth: int, leaf: int) -> Node:
    from sklearn.tree import DecisionTreeClassifier  # noqa: PLC0415 - for training only

    table = [[row.values.get(name, 0.0) for name in names] for row in rows]
    labels = [row.causes[0] for row in rows]
    model = DecisionTreeClassifier(max_depth=depth, min_samples_leaf=leaf, random_state=0).fit(table, labels)
    return _node(model.tree_, [str(cause) for cause in model.classes_], names, 0)


def _node(grown: Any, causes: Sequence[str], names: Sequence[str], index: int) -> Node:
    left, right = int(grown.children_left[index]), int(grown.children_right[index])
    if left < 0:
        shares = grown.value[index][0] / grown.value[index][0].sum()
        best = int(shares.argmax())
        samples = int(grown.n_node_samples[index])
        return Node(cause=causes[best], confidence=round(float(shares[best]), 2), samples=samples)
    then, otherwise = _node(grown, causes, names, right), _node(grown, causes, names, left)
    if then.cause and then.cause == otherwise.cause:  # both say the same
        samples = then.samples + otherwise.samples
        share = (then.confidence * then.samples + otherwise.confidence * otherwise.samples) / samples
        return Node(cause=then.cause, confidence=round(share, 2), samples=samples)
    above = round(float(grown.threshold[index]), 3)
    return Node(feature=names[int(grown.feature[index])], above=above, then=then, otherwise=otherwise)
