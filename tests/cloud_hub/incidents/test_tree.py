"""The decision tree: what its file may hold, where it is heard, and that it beats the rules on unseen sites."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulators.incident_worlds import CAUSES, cases, named

from cloud_hub.incidents import desk
from cloud_hub.incidents.core import rules
from cloud_hub.incidents.core.evidence import AlarmFact, Diagnosis, Evidence, EvidenceItem
from cloud_hub.incidents.core.rule_table import compile_rules
from cloud_hub.incidents.core.rules import RuleBook
from cloud_hub.incidents.core.tree import Node, Tree, course, features
from cloud_hub.settings import Desk
from cloud_hub.yaml_files import decode
from shared.errors import ConfigError

WITH, WITHOUT = desk.open_desk(), desk.open_desk(Desk(tree=False))


def always(cause: str, asked_after: list[str]) -> Tree:
    return Tree(trained_on="", minimum=0.5, asked_after=asked_after, root=Node(cause=cause, confidence=0.9, samples=9))


def evidence(metric: str, **changes: object) -> Evidence:
    facts: dict[str, object] = {
        "kind": "high",
        "priority": "low",
        "value": 2.0,
        "limit": 1.0,
        "state": "raised",
        "t_us": 0,
    }
    return Evidence(incident="i", device="d", alarms=[AlarmFact(metric=metric, **(facts | changes))])  # type: ignore[arg-type]


def diagnosed(given: Evidence, tree: Tree, book: RuleBook = WITHOUT.book) -> Diagnosis:
    return rules.diagnose(given, RuleBook(rules=book.rules, tree=tree, own=book.own), WITH.catalogue)


def test_it_is_heard_only_where_the_rules_leave_the_cause_open() -> None:
    tree = always("fan-failed", ["unknown", "unusual-course", "overheating", "no-data"])
    assert diagnosed(evidence("flow"), tree).cause == "fan-failed"
    assert diagnosed(evidence("flow", about="anomaly"), tree).cause == "fan-failed"
    assert diagnosed(evidence("temp.cpu"), tree).cause == "overheating", "a rule of its own"
    assert diagnosed(evidence("flow", about="no-data"), tree).cause == "no-data"
    assert diagnosed(evidence("flow", state="cleared"), tree).cause == "unknown", "nothing is raised"
    assert diagnosed(evidence("flow"), always("fan-failed", ["unusual-course"])).cause == "unknown", "not asked"
    assert diagnosed(evidence("flow"), always("unknown", ["unknown"])).cause == "unknown"


def test_it_never_overrules_a_rule_of_the_site() -> None:
    text = "rules: [{name: own, cause: own, confidence: 0.1, when: [{metric: flow}]}]"
    own = compile_rules(decode(text, desk.RuleFile, "f", "").rules, "f")
    book = RuleBook(rules=own, own=frozenset({"own"}))
    assert diagnosed(evidence("flow"), always("fan-failed", ["own", "unknown"]), book).cause == "own"


def test_it_says_what_it_is_and_proposes_only_a_look() -> None:
    said = diagnosed(evidence("flow"), always("model-stalled", ["unknown"]))
    assert "decision tree" in said.explanation
    assert "no language model" in said.explanation
    assert [p.parameters["verb"] for p in said.proposals] == ["diagnose"]
    assert said.claims[0].cites == ("E1",)


@pytest.mark.parametrize(
    "text",
    ["{}", "{cause: a, then: {cause: a}, otherwise: {cause: b}}", "{feature: x, then: {cause: a}}", "{cuase: a}"],
)
def test_a_broken_file_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"tree\.yaml, line 4"):
        decode(f"trained_on: x\nminimum: 0.5\nasked_after: []\nroot: {text}", Tree, "tree.yaml", "")


def test_the_tree_of_this_version_is_readable_and_says_where_it_is_from() -> None:
    tree = desk.builtin_tree()
    assert tree is not None
    assert "no incident of a plant" in tree.trained_on
    leaves = list(_leaves(tree.root))
    assert {leaf.cause for leaf in leaves} <= set(CAUSES)
    assert len(leaves) < 200


def _leaves(node: Node) -> list[Node]:
    if node.then is None or node.otherwise is None:
        return [node]
    return _leaves(node.then) + _leaves(node.otherwise)


def test_it_beats_the_rules_alone_on_sites_that_it_was_not_trained_on() -> None:
    unseen = cases(range(20_001, 20_041))

    def right(book: RuleBook) -> int:
        return sum(named(rules.diagnose(case.evidence, book, WITH.catalogue).cause) in case.causes for case in unseen)

    assert right(WITH.book) > right(WITHOUT.book) > len(unseen) // 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0] * 20, "still"), ([float(n) for n in range(20)], "rising"), ([0.0] * 16 + [9.0] * 4, "jumped"),
     ([0.0, 5.0] * 8 + [0.0], "other"), ([1.0, 2.0], "other"), ("text", "other"), (None, "other")],
)  # fmt: skip
def test_the_course_of_a_window(values: object, expected: str) -> None:
    assert course(values) == expected


data = st.dictionaries(
    st.sampled_from(["metric", "values", "about", "state", "kind", "priority", "relation"]),
    st.one_of(
        st.none(), st.text(max_size=9), st.floats(), st.lists(st.one_of(st.floats(), st.text(max_size=3)), max_size=12)
    ),
)
items = st.builds(
    EvidenceItem,
    id=st.sampled_from(["E1", "E2"]),
    kind=st.sampled_from(["alarm", "metric", "twin", "change", "event", "peer", "case", "command", "topology", "note"]),
    device=st.text(max_size=5),
    t_us=st.integers(-(2**63), 2**63 - 1),
    summary=st.text(max_size=20),
    data=data,
)


@given(st.lists(items, max_size=6))
def test_any_items_are_diagnosed(given_items: list[EvidenceItem]) -> None:
    features(given_items)
    said = rules.diagnose(Evidence(incident="i", device="d", items=given_items), WITH.book, WITH.catalogue)
    msgspec.json.encode(said)
    assert {number for claim in said.claims for number in claim.cites} <= {item.id for item in given_items}
