"""The table of the specification's statements is whole, and the tests that it names are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).parents[3]
TABLE = tomllib.loads((Path(__file__).parent / "statements.toml").read_text("utf-8"))
PER_CHAPTER = {
    "1 Introduction": 8, "2 Principles": 4, "3 Components": 1, "4 Topics": 67, "5 Operational Behavior": 99,
    "6 Payloads": 108, "10 Conformance": 12,
}  # fmt: skip
"""Statements of each chapter of the specification 3.0.0."""


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_the_table_has_all_299_statements_of_the_specification() -> None:
    counts: dict[str, int] = {}
    for row in TABLE.values():
        counts[row["chapter"]] = counts.get(row["chapter"], 0) + 1
    assert len(TABLE) == 299
    assert counts == PER_CHAPTER
    assert all(name.startswith("tck-id-") for name in TABLE)


def test_each_statement_has_tests_or_a_reason_why_not() -> None:
    def is_complete(row: dict[str, Any]) -> bool:
        said = row.keys() - {"chapter"}
        return said in ({"tests"}, {"not_applicable"}, {"not_done"}) and all(row[key] for key in said)

    assert [name for name, row in TABLE.items() if not is_complete(row)] == []


def test_each_test_that_the_table_names_is_there() -> None:
    named = {test for row in TABLE.values() for test in row.get("tests", [])}
    missing = [test for test in named if test.split("::")[1] not in names_in(test.split("::")[0])]
    assert missing == []


def test_the_page_has_the_counts_of_the_table_and_each_statement_that_is_not_covered() -> None:
    text = (ROOT / "docs" / "scada" / "conformance.md").read_text("utf-8")
    rows: dict[str, list[int]] = {}
    for row in TABLE.values():
        count = rows.setdefault(row["chapter"], [0, 0, 0])
        count[("tests", "not_applicable", "not_done").index(next(iter(row.keys() - {"chapter"})))] += 1
    total = [sum(column) for column in zip(*rows.values(), strict=True)]
    for chapter, count in (*rows.items(), ("all", total)):
        assert f"| {chapter} | {sum(count)} | {count[0]} | {count[1]} | {count[2]} |" in text
    shown = set(re.findall(r"`(tck-id-[\w-]+)`", text))
    assert {name for name, row in TABLE.items() if "tests" not in row} <= shown
