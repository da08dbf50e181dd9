"""Identities: what is one and what is not."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.ids import (
    DEVICE_ID,
    TRACEPARENT,
    device_id,
    device_of_thing,
    metric_name,
    thing_of_device,
    trace_id,
    traceparent,
    uuid7,
)

FIXED = settings(max_examples=200, deadline=None, derandomize=True, database=None)
NOW = st.integers(0, (1 << 48) * 1000 - 1)
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("good", ["a", "0", "press-3", "line_4", "a" * 60])
def test_device_ids(good: str) -> None:
    assert device_id(good) == good


@pytest.mark.parametrize(
    "bad", ["", "-a", "_a", "A", "a b", "a/b", "a+", "a#", "a.b", "a\n", "\na", "ä", "a" * 61, "a\x00", "２"]
)
def test_what_is_no_device_id(bad: str) -> None:
    with pytest.raises(ValueError, match="is no device id"):
        device_id(bad)


@pytest.mark.parametrize("good", ["cpu", "cpu.load", "line-camera/ok_score", "a.b/c.d", "0", "a" * 128])
def test_metric_names(good: str) -> None:
    assert metric_name(good) == good


@pytest.mark.parametrize(
    "bad", ["", ".", "a.", ".a", "a..b", "a//b", "/a", "a/", "A", "a b", "a\n", "é", "a" * 129, "a.b\n"]
)
def test_what_is_no_metric_name(bad: str) -> None:
    with pytest.raises(ValueError, match="is no metric name"):
        metric_name(bad)


def test_a_huge_name_is_not_told_in_full() -> None:
    with pytest.raises(ValueError, match="is no") as caught:
        device_id("x" * 1_000_000)
    assert len(str(caught.value)) < 300


def test_uuid7_is_the_example_of_rfc_9562() -> None:
    entropy = (0xCC3 << 62) | 0x18C4DC0C0C07398F
    assert uuid7(0x017F22E279B0 * 1000, entropy) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@FIXED
@given(NOW, st.integers(0, (1 << 74) - 1))
def test_uuid7_has_version_and_variant_and_keeps_all_bits(now_us: int, entropy: int) -> None:
    number = uuid.UUID(uuid7(now_us, entropy))
    assert number.version == 7
    assert number.variant == uuid.RFC_4122
    assert number.int >> 80 == now_us // 1000
    assert ((number.int >> 64 & 0xFFF) << 62 | number.int & ((1 << 62) - 1)) == entropy


@FIXED
@given(NOW, NOW, st.integers(0, (1 << 74) - 1), st.integers(0, (1 << 74) - 1))
def test_uuid7_sorts_by_time(one: int, two: int, first: int, second: int) -> None:
    if one // 1000 < two // 1000:
        assert uuid7(one, first) < uuid7(two, second)


@FIXED
@given(st.integers(0, (1 << 130)), st.integers(0, (1 << 66)))
def test_traceparents_are_valid_whatever_the_bits(trace: int, span: int) -> None:
    parent = traceparent(trace, span)
    assert TRACEPARENT.match(parent)
    assert trace_id(parent) == parent.split("-")[1]


def test_trace_id_of_an_example() -> None:
    assert trace_id(PARENT) == "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    "bad",
    [None, "", "00", PARENT.upper(), PARENT + "\n", PARENT[:-1], "01" + PARENT[2:], PARENT.replace("-", "_"),
     "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01"],
)  # fmt: skip
def test_a_malformed_traceparent_has_no_trace(bad: str | None) -> None:
    assert trace_id(bad) == ""


@FIXED
@given(st.from_regex(r"[a-zA-Z0-9:_-]{1,40}\Z") | st.from_regex(r"aws--[a-c_0-]{1,12}\Z"))
def test_every_thing_has_one_device_and_every_device_one_thing(name: str) -> None:
    device = device_of_thing(name)
    if device is not None:
        assert DEVICE_ID.match(device)
        assert thing_of_device(device) == name
    if DEVICE_ID.match(name):
        assert device_of_thing(thing_of_device(name)) == name


@pytest.mark.parametrize("name", ["press-3", "a_b", "aws-line_a", "aws--x", "aws--line_9"])
def test_a_device_is_a_thing_of_its_own_name(name: str) -> None:
    assert (device_of_thing(name), thing_of_device(name)) == (name, name)
