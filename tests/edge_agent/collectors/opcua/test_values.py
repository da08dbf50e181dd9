"""Values of OPC UA and samples, without a server."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.collectors.opcua.core.values import same, to_sample, to_write
from edge_agent.collectors.plant.core.times import sample_time


@pytest.mark.parametrize(
    ("value", "kind", "index", "found"),
    [
        (3, "number", None, 3.0), (True, "number", None, 1.0), (True, "bool", None, 1.0), (7, "bool", None, 1.0),
        ("run", "string", None, "run"), ([1.0, 2.5], "number", 1, 2.5),
        (datetime(2026, 1, 1, tzinfo=timezone.utc), "number", None, 1_767_225_600.0),
    ],
)  # fmt: skip
def test_values_become_samples(value: Any, kind: Any, index: int | None, found: Any) -> None:
    assert to_sample(value, kind, index, 1.0, 0.0) == found


@pytest.mark.parametrize(
    ("value", "kind", "index", "reason"),
    [
        ("run", "number", None, 'set type = "string"'), (3, "string", None, "is a number"),
        ([1, 2], "number", None, "array of 2: set `index`"), ([1, 2], "number", 5, "index is 5"),
        (3, "number", 0, "is no array"), (None, "number", None, "empty"), (b"x", "number", None, "is a bytes"),
        (object(), "string", None, "is a object"),
    ],
)  # fmt: skip
def test_values_that_no_sample_can_hold_are_told(value: Any, kind: Any, index: int | None, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("(", r"\(")):
        to_sample(value, kind, index, 1.0, 0.0)


@pytest.mark.parametrize("variant", ["Double", "Float", "Int64"])
def test_a_value_that_overflows_by_its_scale_is_not_written_as_infinite(variant: str) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        to_write(1e300, variant, "number", 1e-10, 0.0)


@pytest.mark.parametrize("variant", ["DateTime", "Guid", "ByteString", ""])
def test_a_bool_is_not_written_to_what_is_neither_bool_nor_number(variant: str) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        to_write(True, variant, "bool", 1.0, 0.0)


def test_a_scaled_value_is_written_as_the_server_holds_it() -> None:
    assert to_sample(215, "number", None, 0.1, -10.0) == pytest.approx(11.5)
    assert to_write(11.5, "Int16", "number", 0.1, -10.0) == 215
    assert to_write(1.0, "Boolean", "number", 1.0, 0.0) is True
    assert to_write("A7", "String", "string", 1.0, 0.0) == "A7"


@pytest.mark.parametrize(
    ("value", "variant", "reason"),
    [
        (40_000.0, "Int16", "does not fit"), (-1.0, "Byte", "does not fit"), (1e39, "Float", "does not fit"),
        (math.nan, "Double", "no finite"), ("x", "Double", "is text"), (1.0, "String", "is no text"),
        (2.0, "Boolean", "no bool"), (1.0, "Guid", "cannot be written"),
    ],
)  # fmt: skip
def test_values_that_a_variable_cannot_hold_are_refused(value: Any, variant: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        to_write(value, variant, "number", 1.0, 0.0)


@given(st.integers(-(1 << 40), 1 << 40), st.sampled_from(["SByte", "Byte", "Int16", "UInt16", "Int32", "UInt32"]))
def test_an_integer_is_written_exactly_or_refused(value: int, variant: str) -> None:
    bits = int("".join(filter(str.isdigit, variant)) or 8)
    low = 0 if variant[0] in "UB" else -(1 << bits - 1)
    if low <= value < low + (1 << bits):
        assert to_write(float(value), variant, "number", 1.0, 0.0) == value
    else:
        with pytest.raises(ValueError, match="does not fit"):
            to_write(float(value), variant, "number", 1.0, 0.0)


def test_a_value_read_back_is_the_same_as_far_as_a_float_holds_it() -> None:
    assert same(0.1, 0.10000000149011612)
    assert not same(0.1, 0.1001)
    assert same("A", "A")
    assert not same(True, False)


def test_a_time_ahead_of_our_clock_is_not_believed() -> None:
    now = 1_700_000_000_000_000
    assert sample_time(now - 5, now) == now - 5
    assert sample_time(now + 3_600_000_000, now) == now
    assert sample_time(None, now) == now
