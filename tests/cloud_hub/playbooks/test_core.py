"""Reading, planning and drawing playbooks: faults are named with their line, and no text costs more than its size."""

from __future__ import annotations

import contextlib
import itertools
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulators import queries

from cloud_hub.playbooks.core import conditions, document, drawing, graph, plan, spec
from cloud_hub.playbooks.core.problems import PlaybookError
from cloud_hub.query.core import parser
from cloud_hub.query.core.lexer import QueryError

EXAMPLE = """
description: Restart a model
parameters:
  device: {type: string}
  model: {type: string, default: line-camera}
deadline: 10m
steps:
  restart:
    action: command
    device: ${device}
    parameters: {verb: restart, target: "${model}"}
  settle:
    needs: [restart]
    wait: 5s
  done:
    needs: [settle]
    when: steps.restart.state = 'succeeded'
    wait: {until: "reported.models.line-camera.state = 'running'", timeout: 1m}
"""


def nothing(name: str) -> spec.Playbook:
    raise AssertionError(f"'{name}' was asked for")


def wrong(text: str, name: str = "it") -> str:
    with pytest.raises(PlaybookError) as caught:
        spec.read(text, name)
    return str(caught.value)


def plan_of(steps: str, **values: Any) -> plan.Plan:
    return plan.make(spec.read(f"parameters: {{device: {{type: string}}}}\nsteps:\n{steps}", "it"),
                     {"device": "press-3"} | values, nothing)  # fmt: skip


def test_the_example_of_the_format_is_read_and_planned() -> None:
    made = plan.make(spec.read(EXAMPLE, "restart-model"), {"device": "press-3"}, nothing)
    assert [step.id for step in made.steps] == ["restart", "settle", "done"]
    assert made.steps[0].parameters == {"verb": "restart", "target": "line-camera"}
    assert (made.steps[0].device, made.steps[0].retries, made.steps[0].retry_s) == ("press-3", 3, 10.0)
    assert (made.steps[1].wait_s, made.steps[2].wait_s, made.deadline_s) == (5.0, 60.0, 600.0)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("steps:\n  a: {action: command, neds: [b]}", 2, "did you mean 'needs'?"),
        ("steps:\n  a: {action: command}\n  b: {wait: 1s, needs: [c]}", 3, "there is no step 'c'"),
        ("steps:\n  a: {wait: 1s, needs: [b]}\n  b: {wait: 1s, needs: [a]}", 0, "wait for each other"),
        ("steps:\n  a: {wait: 1s, needs: [a]}", 2, "wait for each other: a -> a"),
        ("steps:\n  a:\n    action: command\n    repeat: {until: \"id = 'x'\"}", 4, "missing required field `times`"),
        ("steps:\n  a:\n    action: command\n    repeat: {times: 1000}", 4, "is not 1 to 100"),
        ("steps:\n  a: {wait: 10}", 2, "Expected `str | object | null`, got `int`"),
        ("steps:\n  a: {wait: ten}", 2, "'ten' is no duration"),
        ("steps:\n  a: {wait: 30d}", 2, "longer than 7 days"),
        ("steps:\n  a: {wait: {until: \"id = 'x'\"}}", 2, "missing required field `timeout`"),
        ("steps:\n  a: {action: command, wait: 1s}", 2, "exactly one of"),
        ("steps:\n  a: {}", 2, "exactly one of"),
        ("steps:\n  a: {wait: 1s, when: id ~ 3}", 2, "unexpected '~'"),
        ("steps:\n  a: {wait: 1s, when: steps.b.state = 'failed'}", 2, "neither state nor outcome"),
        ("steps:\n  a: {wait: 1s, when: parameters.x = 1}", 2, "parameters.x is no parameter"),
        ("steps:\n  a: {action: command, device: '${who}'}", 2, "${who} is no parameter"),
        ("steps:\n  A B: {wait: 1s}", 2, "is no name of a step"),
        ("steps:\n  a: {wait: 1s}\n  a: {wait: 2s}", 3, "'a' is there twice"),
        ("steps: {}", 1, "no mapping of 1 to 200 steps"),
        ("stesp: {a: {wait: 1s}}", 1, "did you mean 'steps'?"),
        ("parameters:\n  n: {type: integer, default: no}\nsteps: {a: {wait: 1s}}", 2, "is no integer"),
        ("deadline: soon\nsteps: {a: {wait: 1s}}", 1, "'soon' is no duration"),
        ("- a\n- b", 0, "the file is no mapping"),
        ("a: b: c", 1, "this is no YAML"),
        ("", 0, "the file is empty"),
        ("a: 1\n---\nb: 2", 0, "more than one document"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(text: str, line: int, reason: str) -> None:
    message = wrong(text)
    assert reason in message
    if line:
        assert f"line {line}: " in message


def test_all_problems_are_shown_at_once() -> None:
    message = wrong("steps:\n  a: {wait: x}\n  b: {needs: [q]}\n  c: {action: command, retry: {times: 99}}")
    assert [f"line {line}" in message for line in (2, 3, 4)] == [True] * 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]", "anchors and aliases"),
        ("<<: *x", "anchors and aliases"),
        ("steps: !!python/object/apply:os.system [id]", "tags (!) are not allowed"),
        ("a: " + "[" * 5000, "nested deeper than 16"),
        ("steps: {" + ", ".join(f"s{n}: 1" for n in range(12_000)) + "}", "longer than 65536 bytes"),
        ("s: [" + "1," * 25_000 + "]", "more than 20000 values"),
        ("steps:\n" + "".join(f"  s{n}: {{wait: 1s}}\n" for n in range(201)), "1 to 200 steps"),
        ("steps: {a: {wait: 1s, title: \"\\0\"}}", "NUL"),
    ],
)  # fmt: skip
def test_no_text_costs_more_than_its_size(text: str, reason: str) -> None:
    assert reason in wrong(text)


@given(st.text(max_size=300) | st.text(alphabet="abc:{}[]&*!-? \n'\"#|>%@`", max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(PlaybookError):
        document.read(text, "it")


def test_names_of_playbooks_are_plain() -> None:
    for name in ("../etc", "A", "", "a" * 65, "a/b", "a.yaml"):
        assert "is no name of a playbook" in wrong("steps: {a: {wait: 1s}}", name)


# -- plan --------------------------------------------------------------------------------------------


def test_a_sub_playbook_becomes_steps_between_two_joins() -> None:
    outer = spec.read("steps:\n  a: {wait: 1s}\n  b: {playbook: inner, needs: [a], parameters: {n: 3}}\n"
                      "  c: {wait: 1s, needs: [b]}", "outer")  # fmt: skip
    inner = spec.read("parameters: {n: {type: integer}}\nsteps:\n  x: {action: note, parameters: {n: '${n}'}}\n"
                      "  y: {wait: 1s}", "inner")  # fmt: skip
    made = plan.make(outer, {}, {"inner": inner}.__getitem__)
    assert made.graph() == {"a": (), "b/": ("a",), "b/x": ("b/",), "b/y": ("b/",), "b": ("b/x", "b/y"), "c": ("b",)}
    assert made.steps[2].parameters == {"n": 3}
    assert made.parameters["b/"] == {"n": 3}


def test_playbooks_that_call_each_other_are_refused() -> None:
    books = {name: spec.read(f"steps: {{a: {{playbook: {other}}}}}", name)
             for name, other in (("one", "two"), ("two", "one"))}  # fmt: skip
    with pytest.raises(PlaybookError, match="calls itself"):
        plan.make(books["one"], {}, books.__getitem__)


def test_the_depth_and_size_of_sub_playbooks_are_bounded() -> None:
    chain = {f"p{n}": spec.read(f"steps: {{a: {{playbook: p{n + 1}}}}}", f"p{n}") for n in range(5)}
    with pytest.raises(PlaybookError, match="deeper than 3"):
        plan.make(chain["p0"], {}, chain.__getitem__)
    wide = spec.read("steps:\n" + "".join(f"  s{n}: {{wait: 1s}}\n" for n in range(150)), "wide")
    twice = spec.read("steps: {a: {playbook: wide}, b: {playbook: wide}}", "twice")
    with pytest.raises(PlaybookError, match="more than 200 steps"):
        plan.make(twice, {}, lambda _: wide)


def test_parameters_are_checked() -> None:
    book = spec.read(EXAMPLE, "it")
    for values, reason in (({}, "is missing"), ({"device": 3}, "is no string"), ({"device": "x", "y": 1}, "no such"),
                           ({"device": "x" * 1001}, "is no string"), ({"device": "\0"}, "is no string")):  # fmt: skip
        with pytest.raises(PlaybookError, match=reason):
            plan.make(book, values, nothing)


@given(st.text(max_size=30).filter(lambda text: "\0" not in text and text.isprintable()))
def test_what_a_parameter_holds_is_not_read_again(value: str) -> None:
    assert plan.substitute({"a": ["x ${device} y", "${device}"]}, {"device": value + "${device}"}) == {
        "a": [f"x {value}${{device}} y", f"{value}${{device}}"]
    }


def test_the_version_changes_with_anything_that_would_be_done() -> None:
    versions = {plan_of(text).version for text in ("  a: {wait: 1s}", "  a: {wait: 2s}", "  b: {wait: 1s}")}
    versions.add(plan_of("  a: {wait: 1s}", device="press-4").version)
    assert len(versions) == 4
    assert plan_of("  a: {wait: 1s}").version in versions


def test_a_condition_about_a_device_needs_one() -> None:
    book = spec.read("steps: {a: {wait: 1s, when: reported.x = 1}}", "it")
    with pytest.raises(PlaybookError, match="reads a device"):
        plan.make(book, {}, nothing)


# -- graph and drawing ----------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    names = [f"n{number}" for number in range(draw(st.integers(1, 12)))]
    return {name: tuple(draw(st.lists(st.sampled_from(names), max_size=3, unique=True))) for name in names}


def reachable(edges: dict[str, tuple[str, ...]], start: str) -> set[str]:
    seen, todo = set[str](), list(edges[start])
    while todo:
        if (node := todo.pop()) not in seen:
            seen.add(node)
            todo += edges[node]
    return seen


@given(graphs())
def test_a_cycle_is_found_exactly_where_one_is(edges: dict[str, tuple[str, ...]]) -> None:
    cycle = graph.find_cycle(edges)
    assert bool(cycle) == any(name in reachable(edges, name) for name in edges)
    if cycle:
        assert cycle[0] == cycle[-1]
        assert all(before in edges[after] for before, after in itertools.pairwise(cycle))
    else:
        rows = graph.layers(edges)
        depth = {name: place for place, row in enumerate(rows) for name in row}
        assert sorted(depth) == sorted(edges)
        assert all(depth[need] < depth[name] for name, needs in edges.items() for need in needs)


HOSTILE = ["<script>alert(1)</script>", '"]; click s0 "javascript:x"', "a --> b", "]]>", "&amp;<", "\x1b[2J", "\u202e",
           "-->|x|", "`x`", "%%{init}%%", "end", "' onload='x"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_names_with_markup_stay_text_in_drawings(name: str) -> None:
    made = plan_of("  a: {action: command, device: '${device}', title: '${device}'}\n"
                   "  b: {wait: 1s, needs: [a], when: \"steps.a.state != '<b>'\"}", device=name)  # fmt: skip
    picture = drawing.svg(made, {"a": "running"})
    root = ElementTree.fromstring(picture)
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {
        "svg", "title", "defs", "marker", "path", "rect", "g", "text"
    }  # fmt: skip
    assert all(not key.startswith("on") and "href" not in key for element in root.iter() for key in element.attrib)
    lines = drawing.mermaid(made, {"a": "running"}).splitlines()
    assert len(lines) == 5
    for line in lines[1:3]:
        label = line.partition('"')[2].rpartition('"')[0].replace("<br/>", "")
        assert not set(label) & set('<>"&`%|[](){}-')


def test_a_drawing_shows_states_and_every_edge() -> None:
    made = plan_of("  a: {wait: 1s}\n  b: {wait: 1s, needs: [a]}\n  c: {wait: 1s, needs: [a]}\n"
                   "  d: {wait: 1s, needs: [b, c]}")  # fmt: skip
    assert drawing.svg(made).count("marker-end") == 4
    assert drawing.COLOURS["failed"] in drawing.svg(made, {"b": "failed"})
    assert "s1 --> s3" in drawing.mermaid(made)


# -- conditions -----------------------------------------------------------------------------------


@given(queries.fleets(), queries.conditions())
def test_conditions_mean_what_queries_mean(fleet: list[dict[str, Any]], node: Any) -> None:
    for device in fleet:
        view = {"id": "x", **device, **(device["classic"] or {}), "shadow": {"gates": device["gates"] or {}}}
        assert conditions.holds(queries.written(node), view) == (queries.meaning(view, node) is True)


def test_a_condition_reads_steps_and_parameters() -> None:
    view = {"steps": {"a": {"state": "failed", "outcome": "x"}}, "parameters": {"n": 3}, "tags": {"site": "s"}}
    assert conditions.holds("steps.a.state = 'failed' AND parameters.n > 2 AND tags.site = 's'", view)
    assert not conditions.holds("steps.a.state = 3", view)
    assert not conditions.holds("NOT steps.a.state = 3", view)  # undefined
    with pytest.raises(QueryError):
        parser.condition("steps.a.state = 'failed'")  # queries over devices know no steps


@pytest.mark.parametrize("text", ["__import__('os')", "().__class__", "x" * 9000, "(" * 40 + "id" + ")" * 40, "1 = 1"])
def test_a_condition_is_no_program(text: str) -> None:
    assert conditions.check(text, {}, {})
