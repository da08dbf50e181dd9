"""The language alone: what is read as what, where an error points, and that no text can do harm."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from simulators.queries import conditions, written

from cloud_hub.query.core import parser, tree
from cloud_hub.query.core.lexer import QueryError
from cloud_hub.query.core.tree import (
    EVERYTHING,
    Aggregate,
    And,
    Compare,
    Condition,
    In,
    Is,
    Item,
    Literal,
    Not,
    Or,
    Path,
    Query,
    TextTest,
)

SITE, LINE = Path("tags", ("site",)), Path("tags", ("line",))
VERSION = Path("twin", ("reported", "agent", "version"))
A, B, C = (Compare("=", Path("tags", (name,)), Literal(1)) for name in "abc")


@pytest.mark.parametrize(
    ("text", "tree_of_it"),
    [
        ("tags.site = 'a'", Compare("=", SITE, Literal("a"))),
        ('tags.site <> "a"', Compare("!=", SITE, Literal("a"))),
        ("1.50 <= tags.site", Compare("<=", Literal(1.5), SITE)),
        ("tags.site = tags.line", Compare("=", SITE, LINE)),
        ("tags.site=-3e2", Compare("=", SITE, Literal(-300.0))),
        ("tags.site = TRUE", Compare("=", SITE, Literal(True))),
        ("tags.site = null", Compare("=", SITE, Literal(None))),
        ("tags.site", Compare("=", SITE, Literal(True))),
        ("tags.site in ['a', 2]", In(SITE, ("a", 2))),
        ("tags.site IN ('a')", In(SITE, ("a",))),
        ("tags.site NIN [null]", Not(In(SITE, (None,)))),
        ("IS_DEFINED(tags.site)", Is("defined", SITE)),
        ("is_array(reported)", Is("array", Path("twin", ("reported",)))),
        ("starts_with(tags.site, 'a')", TextTest("startswith", SITE, "a")),
        ("Contains(tags.site, '%')", TextTest("contains", SITE, "%")),
        ("deviceId = 'd'", Compare("=", Path("device", ("id",)), Literal("d"))),
        ("reported.agent.version = 1", Compare("=", VERSION, Literal(1))),
        ("properties.reported.agent.version = 1", Compare("=", VERSION, Literal(1))),
        ("shadow.gates.desired.x = 1", Compare("=", Path("twin", ("desired", "x"), "gates"), Literal(1))),
        ("tags.line-3.order = 1", Compare("=", Path("tags", ("line-3", "order")), Literal(1))),
        ("tags.[[a. b]] = 1", Compare("=", Path("tags", ("a. b",)), Literal(1))),
        (r"tags.site = 'it''s \'\"\\ \u00e9\ud834\udd1e'", Compare("=", SITE, Literal("it's '\"\\ é𝄞"))),
        ("tags.a=1 or tags.b=1 AND NOT tags.c=1", Or((A, And((B, Not(C)))))),
        ("(tags.a=1 or tags.b=1) and tags.c=1", And((Or((A, B)), C))),
        ("*", EVERYTHING),
        ("SELECT id FROM devices WHERE tags.a = 1 ORDER BY id", A),
        ("SELECT * FROM devices", EVERYTHING),
    ],
)
def test_a_condition_is_read(text: str, tree_of_it: Condition) -> None:
    assert parser.condition(text) == tree_of_it


def test_whole_queries_are_read() -> None:
    assert parser.parse("select * from devices where tags.a = 1") == Query((), A)
    assert parser.parse("SELECT id, reported.agent.version AS v FROM devices ORDER BY deviceId desc") == Query(
        (Item("id", Path("device", ("id",))), Item("v", VERSION)), EVERYTHING, descending=True
    )
    assert parser.parse("SELECT tags.site, COUNT() AS n, avg(tags.line) FROM devices GROUP BY tags.site") == Query(
        (Item("site", SITE), Item("n", Aggregate("count", None)), Item("avg", Aggregate("avg", LINE))),
        EVERYTHING, (SITE,),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("", (1, 1), "expected a condition"),
        ("tags.site =", (1, 12), "expected a value"),
        ("tags.site = AND", (1, 13), "found 'AND'"),
        ("tags.site = 'a", (1, 13), "no end"),
        ("tags.a = 1\n  AND tags..b = 1", (2, 12), "expected a name"),
        ("tags.a = 1 tags", (1, 12), "expected the end, AND or OR"),
        ("tags.a = 1 -- all", (1, 12), "unexpected '-'"),
        ("tags.a = 1; DROP TABLE devices", (1, 11), "unexpected ';'"),
        ("tags.a = 1 /* */", (1, 12), "unexpected '/'"),
        ("tags.{a} = 1", (1, 6), "unexpected '{'"),
        ("Tags.a = 1", (1, 1), "tags.x"),
        ("id.x = 1", (1, 1), "found 'id.x'"),
        ("shadow.gates.x = 1", (1, 1), "found 'shadow.gates.x'"),
        ("metrics = 1", (1, 1), "found 'metrics'"),
        ("sqlite_version() = 1", (1, 1), "expected one of is_defined"),
        ("tags.a IN []", (1, 12), "expected a value"),
        ("tags.a IN 1", (1, 11), "a list such as"),
        ("tags.a IN [tags.b]", (1, 12), "expected a value"),
        ("1 = 1", (1, 1), "a field on one side"),
        ("'a'", (1, 4), "expected = !="),
        ("tags.a = 1e999", (1, 10), "too large"),
        ("tags.a = '\\n'", (1, 10), "after a backslash"),
        ("tags.a = '\\ud800'", (1, 10), "surrogate"),
        ("tags.a = '\ud800'", (1, 10), "surrogate"),
        ("tags.a = '\\u0000'", (1, 10), "NUL"),
        ("tags.a = '\0'", (1, 10), "NUL"),
        ('tags.[[a"b]] = 1', (1, 6), "double quote"),
        ("tags.[[a\\]] = 1", (1, 6), "backslash"),
        ("startswith(tags.a, 1)", (1, 20), "expected a string"),
        ("SELECT * FROM jobs", (1, 15), "expected devices"),
        ("SELECT id, COUNT() FROM devices", (1, 1), "neither counted"),
        ("SELECT * FROM devices GROUP BY tags.a", (1, 1), "named items"),
        ("SELECT tags.a, desired.a FROM devices", (1, 16), "two columns"),
        ("SELECT id FROM devices ORDER BY tags.a", (1, 33), "ordered by id only"),
        ("SELECT COUNT() FROM devices ORDER BY id", (1, 29), "leave ORDER BY out"),
        ("SELECT COUNT() FROM devices", (1, 1), "a condition is wanted"),
    ],
)
def test_an_error_names_its_place_and_points_at_it(text: str, place: tuple[int, int], reason: str) -> None:
    with pytest.raises(QueryError) as caught:
        parser.condition(text)
    message, line, caret = str(caught.value).split("\n")
    assert message.startswith(f"line {place[0]}, column {place[1]}: ")
    assert reason in message
    assert caret == " " * (place[1] - 1) + "^"
    assert len(line) == len(text.split("\n")[place[0] - 1])


def test_an_error_far_to_the_right_shows_what_is_around_it() -> None:
    with pytest.raises(QueryError) as caught:
        parser.condition("tags.a = 1 AND " * 30 + "tags.b = ?" + " AND tags.a = 1" * 20)
    message, line, caret = str(caught.value).split("\n")
    assert "column 460" in message
    assert line[len(caret) - 1] == "?"
    assert len(line) <= 100


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(" * 4000 + "tags.a = 1" + ")" * 4000, "nested"),
        ("NOT " * 2000 + "tags.a = 1", "nested"),
        (" OR ".join(["tags.a"] * (tree.MAX_TERMS + 1)), "fields in one query"),
        (f"tags.a IN [{','.join(['1'] * (tree.MAX_VALUES + 1))}]", "values in one list"),
        ("tags" + ".a" * (tree.MAX_NAMES + 1), "names on one path"),
        (" OR ".join(f"shadow.s{n}.desired.a" for n in range(tree.MAX_DOCUMENTS + 1)), "documents in one query"),
        ("tags.a = '" + "é" * tree.MAX_BYTES + "'", "longer than 8192 bytes"),
        ("tags.a = " + "9" * 8000, "too large"),
    ],
)
def test_what_would_cost_too_much_is_refused(text: str, reason: str) -> None:
    with pytest.raises(QueryError, match=reason):
        parser.condition(text)


def test_the_bounds_themselves_are_allowed() -> None:
    parser.condition("(" * tree.MAX_NESTING + "tags.a" + ")" * tree.MAX_NESTING)
    parser.condition(" OR ".join(["tags.a"] * tree.MAX_TERMS))


@given(conditions())
def test_what_is_written_is_read_again(wanted: Condition) -> None:
    assert parser.condition(written(wanted)) == wanted
    assert parser.parse(f"SELECT * FROM devices WHERE {written(wanted)}").where == wanted


FRAGMENTS = ["SELECT ", "*", " FROM devices", " WHERE ", "tags", ".a", "[[", "]]", "'", '"', "\\", "(", ")", " IN ",
             "[", "]", ",", " AND ", " NOT ", "=", "<", "1", "-", ".", "is_null(", "COUNT()", " GROUP BY ",
             " ORDER BY id", "\0", "\ud800", "é", "\n", "--", ";", "{}", "%"]  # fmt: skip


@hypothesis_settings(max_examples=500)
@given(st.one_of(st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join), st.text(max_size=200)))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    for reader in (parser.parse, parser.condition):
        with suppress(QueryError):
            reader(text)
