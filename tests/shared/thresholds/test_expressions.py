"""Conditions over several metrics: read as they were meant, refused with the place, never run as code."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from shared.thresholds import expressions
from shared.thresholds.expressions import parse

FIXED = settings(max_examples=400, deadline=None, derandomize=True, database=None)
NAMES = ("cpu.load", "queue.length", "line-camera/score", "a")
Tree = Any
"""A number, a name, or (operator, part, ...)."""

NUMBERS = st.recursive(
    st.sampled_from([0.0, 1.0, 2.5, 90.0, 1e300]) | st.sampled_from(NAMES),
    lambda inner: st.tuples(st.sampled_from("+-*/%"), inner, inner) | st.tuples(st.just("neg"), inner),
    max_leaves=5,
)
TRUTHS = st.recursive(
    st.tuples(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), NUMBERS, NUMBERS),
    lambda inner: st.tuples(st.sampled_from(["and", "or"]), inner, inner) | st.tuples(st.just("not"), inner),
    max_leaves=5,
)
VALUES = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0.0, 1.0, 2.5, 95.0, -3.0, 1e300]), min_size=2)
BINDS = {"or": 0, "and": 1, "not": 2, "<": 3, "<=": 3, ">": 3, ">=": 3, "==": 3, "!=": 3, "+": 4, "-": 4,
         "*": 5, "/": 5, "%": 5, "neg": 6}  # fmt: skip


def written(tree: Tree, least: int = 0) -> str:
    """With no more parentheses than needed: `least` is what the place around binds."""
    if not isinstance(tree, tuple):
        return tree if isinstance(tree, str) else f"{tree:g}".replace("+", "")
    binds = BINDS[tree[0]]
    if tree[0] in {"not", "neg"}:
        text = f"{'not ' if tree[0] == 'not' else '-'}{written(tree[1], binds)}"
    else:
        left = binds + 1 if binds == 3 else binds
        text = f"{written(tree[1], left)} {tree[0]} {written(tree[2], binds + 1)}"
    return f"({text})" if binds < least else text


def names(tree: Tree) -> set[str]:
    if isinstance(tree, tuple):
        return set().union(*map(names, tree[1:]))
    return {tree} if isinstance(tree, str) else set()


def meant(tree: Tree, values: dict[str, float]) -> float:
    """The value of a tree, by Python's own rules for one operator at a time; ArithmeticError where there is none."""
    if not isinstance(tree, tuple):
        return values[tree] if isinstance(tree, str) else tree
    parts = [meant(part, values) for part in tree[1:]]
    if tree[0] in {"and", "or"}:
        return all(parts) if tree[0] == "and" else any(parts)
    if tree[0] == "not":
        return not parts[0]
    if tree[0] == "neg":
        return -parts[0]
    result: float = eval(f"x {tree[0]} y", {"x": parts[0], "y": parts[1]})
    if not math.isfinite(result):
        raise ArithmeticError
    return result


def check(asked: Any, example: tuple[Tree, dict[str, float]]) -> None:
    tree, values = example
    condition = asked(written(tree))
    assert condition.metrics == names(tree)
    try:
        wanted = meant(tree, values)
    except (ArithmeticError, KeyError):
        assert condition.holds(values) is None, "judged what has no value"
    else:
        assert condition.holds(values) is bool(wanted)


@FIXED
@given(st.tuples(TRUTHS, VALUES))
def test_a_condition_is_read_as_it_was_meant(example: tuple[Tree, dict[str, float]]) -> None:
    check(parse, example)


def or_binds_stronger(text: str) -> expressions.Condition:
    return parse(text.replace(" and ", " & ").replace(" or ", " and ").replace(" & ", " or "))


def missing_is_zero(text: str) -> Any:
    condition = parse(text)

    class Zeros:
        metrics = condition.metrics

        def holds(self, values: dict[str, float]) -> bool | None:
            return condition.holds(dict.fromkeys(NAMES, 0.0) | values)

    return Zeros()


@pytest.mark.parametrize("bug", [or_binds_stronger, missing_is_zero])
def test_the_meaning_catches(bug: Any) -> None:
    @settings(FIXED, max_examples=2000, phases=[Phase.generate], report_multiple_bugs=False)
    @given(st.tuples(TRUTHS, VALUES))
    def run(example: Any) -> None:
        check(bug, example)

    with pytest.raises(AssertionError):
        run()


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("", 1, "expected a metric"), ("cpu.load >", 11, "the end"), ("cpu.load", 1, "compare it"),
        ("a > 1 and b", 11, "expected a condition"), ("1 < a < 3", 7, "two comparisons"), ("a > (1", 7, "expected ')'"),
        ("A > 1", 1, "lower case"), ("a > 1 2", 7, "an operator"), ("a > 90-b", 5, "blanks round operators"),
        ("(a > 1) + 1 > 2", 1, "a number or a metric"), ("not a", 5, "expected a condition"),
        ("a > 1e999", 5, "too large"),
        ("a ; b", 3, "means nothing"), ("-(a > 1) > 2", 2, "a number or a metric"), ("a > 1 or", 9, "the end"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(text: str, place: int, reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as no:
        parse(text)
    assert f", at {place}: " in str(no.value)
    assert reason in str(no.value)


@FIXED
@given(st.text("a1.><=()-+*/% _andort\n\u00e4\x00", max_size=40) | st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        condition = parse(text)
    except ValueError:
        return
    assert condition.text == text
    condition.holds(dict.fromkeys(condition.metrics, 1.0))


@pytest.mark.parametrize(
    "text", ["(" * 200 + "a > 1" + ")" * 200, "not " * 100 + "a > 1", "a > " + "-" * 300 + "1", "a" * 501]
)
def test_what_is_too_deep_or_too_long_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"30 deep|500 characters"):
        parse(text)
