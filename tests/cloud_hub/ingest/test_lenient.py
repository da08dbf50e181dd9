"""Batches of third-party devices: what cannot be read costs the item alone, and never the head's own rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_hub.ingest.core import lenient
from cloud_hub.ingest.core.lenient import InvalidItem, read_batch
from cloud_hub.ingest.core.router import DataBatch, route, unreadable, validate_items
from shared.errors import WireError
from shared.protocol.codec import MAX_ITEMS
from shared.protocol.messages import Sample
from shared.protocol.topics import thing

TOPIC = thing("press-3", "telemetry")
GOOD = b'{"metric":"cpu.load","t_us":1,"value":2.0}'
UNREADABLE = [
    b'{"metric":"a","t_us":1,"value":NaN}', b'{"metric":"a","t_us":1,"value":1e999}', b"NaN", b"-Infinity",
    b'{"metric":"a","t_us":1,"value":"\\ud800"}', b'{"metric":"a","metric":"b","t_us":1,"value":1}',
    b'{"metric":"a","t_us":1,"value":2,}', b'{"metric":"a","t_us":1,"value":"\xfcber"}', b"{'metric':'a'}", b"",
    b'{"metric":"a","t_us":01,"value":1}', b'{"metric":"a" "t_us":1}', b"{]", b"nil",
    b'{"a":' + b"[" * 99999 + b"]" * 99999 + b"}",
]  # fmt: skip


def framed(items: list[bytes], tail: bytes = b"") -> bytes:
    return b'{"epoch":"e","first":7,"clock":"synced","items":[%b%b],"lost":null}' % (b",".join(items), tail)


def read(payload: bytes) -> tuple[list[int], list[int], int]:
    """(readable sequence numbers, invalid ones, the last)"""
    said = route(TOPIC, payload)
    assert isinstance(said, DataBatch)
    good, bad = validate_items(Sample, enumerate(said.batch.items, said.batch.first))
    return [seq for seq, _ in good], [seq for seq, _ in bad], said.batch.last


@pytest.mark.parametrize("bad", UNREADABLE)
def test_an_unreadable_item_costs_no_other(bad: bytes) -> None:
    assert read(framed([GOOD, bad, GOOD])) == ([7, 9], [8], 9)


@pytest.mark.parametrize("payload", [
    framed([GOOD, GOOD], b","), framed([GOOD, GOOD])[:-1] + b",}", b" \n" + framed([GOOD, GOOD], b" , ") + b"\n",
    framed([GOOD, GOOD]).replace(b"null", b'null,"note":NaN'),
])  # fmt: skip
def test_what_surrounds_the_items_is_read_leniently_too(payload: bytes) -> None:
    assert read(payload) == ([7, 8], [], 8)


@pytest.mark.parametrize("payload", [
    framed([GOOD]).replace(b'"e"', b'"\xfc"'), framed([GOOD]).replace(b"7", b"NaN"), framed([GOOD])[:-1],
    framed([b'{"metric":"a,"t_us":1}']), framed([b'{"metric":"a"']), framed([b"]"]), framed([]),
    framed([GOOD]).replace(b'"first":7', b'"first":7,"first":8,"x":NaN'), framed([b"NaN"]) + b"{}",
    framed([b"NaN"]).replace(b"null", b'{"last":9,"reason":"evicted"}'), b"[NaN]",
    framed([b"NaN"]).replace(b"[", b"{", 1),
])  # fmt: skip
def test_a_head_that_is_not_right_is_refused_and_its_stream_is_known(payload: bytes) -> None:
    with pytest.raises(WireError) as refused:
        route(TOPIC, payload)
    found = unreadable(TOPIC, refused.value.reason)
    assert found is not None
    assert (found.device, found.stream, found.reason) == ("press-3", "telemetry", refused.value.reason)


@pytest.mark.parametrize("topic", [thing("press-3", "birth"), thing("press-3", "applied"), "tidegate/v1/things/P/x"])
def test_only_a_stream_can_stall(topic: str) -> None:
    assert unreadable(topic, "not right") is None


@pytest.mark.parametrize("items", [[GOOD] * MAX_ITEMS, [GOOD] * (MAX_ITEMS - 1) + [b"NaN"]])
def test_a_batch_holds_as_many_items_as_an_agent_writes(items: list[bytes]) -> None:
    said = route(TOPIC, framed(items))
    assert isinstance(said, DataBatch)
    assert not said.invalid


@pytest.mark.parametrize("items", [[GOOD] * (MAX_ITEMS + 1), [b"0"] * 20_000, [GOOD] * MAX_ITEMS + [b"NaN"]])
def test_a_batch_of_more_items_is_invalid_as_a_whole_and_none_is_read(items: list[bytes]) -> None:
    said = route(TOPIC, framed(items))
    assert isinstance(said, DataBatch)
    assert f"{len(items)} items are more than the {MAX_ITEMS}" in said.invalid
    assert said.batch.last == 6 + len(items)


@pytest.mark.parametrize("payload", [
    b"{" * 200_000, b'{"' + b'\\"' * 200_000, b'{"items":[' + b'"' * 200_001, b"{" + b"," * 200_000,
    b'{"a":"' + b"\\" * 200_001,
    b"{" + b"}" * 200_000,
])  # fmt: skip
def test_each_byte_is_looked_at_a_bounded_number_of_times(payload: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern that begins again at each quote would take minutes here; counted by what the matches cover."""
    covered = 0

    class Counting:
        def finditer(self, text: bytes, start: int) -> Any:
            nonlocal covered
            for match in TOKEN.finditer(text, start):
                covered += len(match[0])
                yield match

    TOKEN = lenient._TOKEN  # noqa: N806 - the original
    monkeypatch.setattr(lenient, "_TOKEN", Counting())
    with pytest.raises(WireError):
        read_batch(payload, TOPIC)
    assert covered <= 2 * len(payload)


# -- a property ------------------------------------------------------------------------------------

ITEMS = st.lists(st.one_of(st.just(GOOD), st.sampled_from(UNREADABLE[:-1])), min_size=1, max_size=8)


def each_by_itself(items: list[bytes], read_one: Any) -> None:
    """The batch must say of each item what that item, alone in a batch, says."""
    trailing = not items[-1].strip()
    expected = [7 + n for n, item in enumerate(items) if item == GOOD]
    batch = read_one(framed(items), TOPIC)
    kept = [7 + n for n, item in enumerate(batch.items) if not isinstance(item, InvalidItem)]
    assert kept == expected
    assert batch.last == 6 + len(items) - trailing


def some_item(items: list[bytes]) -> bool:
    return any(item.strip() for item in items[:1]) or len(items) > 1


@settings(max_examples=300, deadline=None)
@given(ITEMS.filter(some_item))
def test_every_item_is_judged_by_itself(items: list[bytes]) -> None:
    each_by_itself(items, read_batch)


@pytest.mark.parametrize("bug", ["drops what it cannot read", "ends at the first"])
def test_that_property_catches_a_reader_that(bug: str) -> None:
    def careless(payload: bytes, topic: str) -> Any:
        batch = read_batch(payload, topic)
        invalid = [isinstance(item, InvalidItem) for item in batch.items]
        cut = invalid.index(True) if True in invalid else len(invalid)
        items = [item for item, bad in zip(batch.items, invalid, strict=True) if not bad]
        batch.items[:] = items if bug == "drops what it cannot read" else batch.items[:cut]
        return batch

    @settings(max_examples=300, deadline=None, database=None)
    @given(ITEMS.filter(some_item))
    def check(items: list[bytes]) -> None:
        each_by_itself(items, careless)

    with pytest.raises(AssertionError):
        check()
