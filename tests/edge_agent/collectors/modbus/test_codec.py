"""Values in registers and back, in all orders of words and bytes; addresses as manuals write them."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.collectors.modbus.core import codec
from edge_agent.collectors.modbus.core.addresses import parse_address
from edge_agent.collectors.modbus.core.codec import Codec, Layout, registers_of

ORDERS = st.sampled_from(["big", "little"])
RANGES = {
    "int16": (-(1 << 15), (1 << 15) - 1), "uint16": (0, (1 << 16) - 1), "int32": (-(1 << 31), (1 << 31) - 1),
    "uint32": (0, (1 << 32) - 1), "int64": (-(1 << 53), 1 << 53), "uint64": (0, 1 << 53),
}  # fmt: skip


def layout(kind: Any, **more: Any) -> Layout:
    return Layout(type=kind, count=registers_of(kind, more.pop("length", 0)), **more)


def check_round_trip(kind: str, value: float, words: str, order: str) -> None:
    both = Codec(layout(kind, word_order=words, byte_order=order))
    data = both.encode(value)
    assert both.decode(data) == value
    assert both.decode(b"\xff\xff" + data, 2) == value
    assert both.matches(value, both.decode(data))


@given(st.data(), st.sampled_from(sorted(RANGES)), ORDERS, ORDERS)
def test_integers_survive_all_orders(data: st.DataObject, kind: str, words: str, order: str) -> None:
    check_round_trip(kind, data.draw(st.integers(*RANGES[kind])), words, order)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), ORDERS, ORDERS)
def test_floats_survive_all_orders(value: float, words: str, order: str) -> None:
    check_round_trip("float32", value, words, order)
    check_round_trip("float64", value, words, order)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=10), ORDERS)
def test_text_survives_swapped_bytes_and_is_never_reordered_by_words(text: str, order: str) -> None:
    for words in ("big", "little"):
        both = Codec(layout("string", length=20, word_order=words, byte_order=order))
        assert both.decode(both.encode(text)) == text


@pytest.mark.parametrize(
    ("words", "order", "registers"),
    [
        ("big", "big", [0x1122, 0x3344]), ("little", "big", [0x3344, 0x1122]),
        ("big", "little", [0x2211, 0x4433]), ("little", "little", [0x4433, 0x2211]),
    ],
)  # fmt: skip
def test_the_four_orders_are_those_of_the_manuals(words: str, order: str, registers: list[int]) -> None:
    """ABCD, CDAB, BADC and DCBA."""
    data = struct.pack(">2H", *registers)
    assert Codec(layout("uint32", word_order=words, byte_order=order)).decode(data) == 0x11223344


def test_a_bit_is_counted_from_the_least_significant_one() -> None:
    data = struct.pack(">H", 0b1000_0000_0000_0010)
    read = [Codec(Layout(type="bool", count=1, bit=bit)).decode(data) for bit in range(16)]
    assert [bit for bit, value in enumerate(read) if value] == [1, 15]
    swapped = Codec(Layout(type="bool", count=1, bit=1, byte_order="little"))
    assert swapped.decode(struct.pack(">H", 0b10_0000_0000)) == 1.0


def test_scale_and_offset_are_applied_and_undone() -> None:
    both = Codec(layout("int16", scale=0.1, offset=-40.0))
    assert both.decode(struct.pack(">h", 655)) == pytest.approx(25.5)
    assert both.encode(25.5) == struct.pack(">h", 655)
    assert both.matches(25.5, both.decode(both.encode(25.5)))
    with pytest.raises(ValueError, match=r"would be 655\.2 .* write a full step"):
        both.encode(25.52)  # rounded it might be beyond a limit
    assert not both.matches(25.5, 25.6)


def test_a_register_may_hold_no_number() -> None:
    assert math.isnan(float(Codec(layout("float32")).decode(b"\x7f\xc0\x00\x00")))


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("uint16", 65_536, "65536 does not fit into uint16"), ("int16", -40_000, "does not fit into int16"),
        ("uint16", 10.6, "it would be 10.6"),
        ("uint32", -1, "does not fit into uint32"), ("float32", 1e39, "does not fit into float32"),
        ("uint16", math.nan, "no finite number"), ("uint16", "on", "'on' is text, the tag is uint16"),
    ],
)  # fmt: skip
def test_a_value_that_the_registers_cannot_hold_is_refused_with_the_reason(kind: str, value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Codec(layout(kind)).encode(value)


@pytest.mark.parametrize("kind", ["float64", "float32", "int16"])
def test_a_value_that_overflows_by_its_scale_is_not_written_as_infinite(kind: str) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Codec(layout(kind, scale=1e-10)).encode(1e300)


def test_text_that_is_too_long_or_no_text_is_refused() -> None:
    both = Codec(layout("string", length=2))
    assert both.encode("abcd") == b"abcd"
    with pytest.raises(ValueError, match="5 bytes, the registers hold 4"):
        both.encode("abcde")
    with pytest.raises(ValueError, match="no text"):
        both.encode(4.5)


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert Codec(layout("string", length=3)).decode(b"A\xff\x07B\0C") == "A\ufffd\ufffdB"


# -- seeded bugs -----------------------------------------------------------------------------------------


def forgets_bytes(given_: Layout) -> list[int]:
    """Swapped bytes are not swapped."""
    words = list(range(given_.count))[:: -1 if given_.word_order == "little" else 1]
    return [2 * word + byte for word in words for byte in (0, 1)]


def rotates(given_: Layout) -> list[int]:
    """An order that is not its own inverse."""
    places = list(range(2 * given_.count))
    return places[1:] + places[:1]


@pytest.mark.parametrize("bug", [forgets_bytes, rotates])
def test_the_laws_catch_a_seeded_bug(bug: Callable[[Layout], list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_order", bug)
    with pytest.raises(AssertionError):
        test_the_four_orders_are_those_of_the_manuals("little", "little", [0x4433, 0x2211])


# -- addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "table", "found"),
    [
        (40001, "", ("holding", 0)), ("40108", "", ("holding", 107)), ("465536", "", ("holding", 65_535)),
        ("30001", "", ("input", 0)), ("10001", "", ("discrete", 0)), ("00001", "", ("coil", 0)),
        (0, "coil", ("coil", 0)), ("40001", "holding", ("holding", 40_001)), ("0x1F40", "input", ("input", 8000)),
    ],
)  # fmt: skip
def test_both_ways_of_numbering_are_read(given_: int | str, table: Any, found: tuple[str, int]) -> None:
    assert parse_address(given_, table) == found


@pytest.mark.parametrize(
    ("given_", "table", "reason"),
    [
        (100, "", "needs a table"), ("50001", "", "needs a table"), ("40000", "", "counts from 1"),
        ("465537", "", "counts from 1"), (65_536, "holding", "above 65535"), ("4x1", "holding", "is no number"),
        (-1, "holding", "is no number"),
    ],
)  # fmt: skip
def test_a_wrong_address_is_refused_with_the_cure(given_: int | str, table: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_address(given_, table)
