"""JSON paths and values of messages, without a broker."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.collectors.mqtt_tap.core.json_path import follow, parse_path, show
from edge_agent.collectors.mqtt_tap.core.values import to_sample, to_time_us

DOCUMENT = {"press": [{"oil temp": 41.5, "ok": True}, {}], "größe": 3, "a.b": {"'": 4}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$", DOCUMENT), ("$.press[0]['oil temp']", 41.5), ('$["press"][0].ok', True), ("$.press[-1]", {}),
        ("$.größe", 3), ("$['a.b'][\"'\"]", 4),
    ],
)  # fmt: skip
def test_a_path_leads_to_a_value(path: str, value: object) -> None:
    assert follow(DOCUMENT, parse_path(path)) == value


@pytest.mark.parametrize("path", ["press", "$.", "$..press", "$[*]", "$.press[0:1]", "$[?@.a]", "$['a", "$.a b"])
def test_a_path_that_is_not_of_one_value_is_refused_with_an_example(path: str) -> None:
    with pytest.raises(ValueError, match="write for example"):
        parse_path(path)


@pytest.mark.parametrize("path", ["$.none", "$.press.ok", "$.press[7]", "$[0]", "$.größe.x"])
def test_a_path_that_leads_nowhere_is_told(path: str) -> None:
    with pytest.raises(ValueError, match="the message has no"):
        follow(DOCUMENT, parse_path(path))


steps = st.lists(st.one_of(st.integers(-9, 9), st.text(st.characters(exclude_characters="'"), max_size=5)), max_size=8)


@given(steps)
def test_a_path_that_is_shown_is_read_as_the_same(path: list[str | int]) -> None:
    assert parse_path(show(tuple(path))) == tuple(path)


@given(st.text(max_size=40))
def test_any_text_is_a_path_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        path = parse_path(f"${text}")
        assert parse_path(show(path)) == path or "'" in show(path)


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [
        (4, "number", 14.0), ("4.5", "number", 14.5), (True, "bool", 1.0), ("OFF", "bool", 0.0), (1, "bool", 1.0),
        ("run", "string", "run"),
    ],
)  # fmt: skip
def test_values_of_messages_become_samples(value: Any, kind: Any, found: Any) -> None:
    assert to_sample(value, kind, 1.0, 10.0 if kind == "number" else 0.0) == found


@pytest.mark.parametrize(
    ("value", "kind", "reason"),
    [
        ("on", "number", "'on' is no number"), ({}, "number", "an object"), (True, "number", "a bool"),
        (None, "number", "null"), ("nan", "number", "NaN"), (10**400, "number", "too large"),
        (float("inf"), "number", "infinite"), (2, "bool", "no bool"),
        ([], "bool", "no bool"), (3, "string", "a number"),
    ],
)  # fmt: skip
def test_values_that_no_sample_can_hold_are_told(value: Any, kind: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        to_sample(value, kind, 1.0, 0.0)


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        (1_767_225_600, "s"), (1_767_225_600_000, "ms"), ("1767225600000000", "us"), ("2026-01-01T00:00:00Z", "iso"),
        ("2026-01-01T01:00:00+01:00", "iso"), ("2026-01-01T00:00:00", "iso"),
    ],
)  # fmt: skip
def test_times_of_messages_are_read_in_their_unit(value: Any, unit: Any) -> None:
    assert to_time_us(value, unit) == 1_767_225_600_000_000


@pytest.mark.parametrize(("value", "unit"), [("noon", "iso"), ({}, "ms"), (True, "s"), (1e308, "s"), (5, "iso")])
def test_what_is_no_time_is_told(value: Any, unit: Any) -> None:
    with pytest.raises(ValueError, match="is no time in"):
        to_time_us(value, unit)
