"""Every topic and payload a device may send, and every way in which it may be wrong: WireError, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_hub.ingest.core import router
from cloud_hub.ingest.core.router import DataBatch, DeviceMessage, ShadowRequest, heartbeat, route, validate_items
from cloud_hub.telemetry import samples
from shared.errors import WireError
from shared.protocol.codec import MAX_PAYLOAD, decode, encode
from shared.protocol.messages import STREAMS, Applied, Batch, Birth, CommandResult, Sample
from shared.protocol.topics import AWS, PREFIX, STREAM_TOPIC, TABLE, thing

BATCH = encode(Batch(epoch="e", first=1, items=[{"metric": "cpu.load", "t_us": 1, "value": 2.0}]))
BIRTH = encode(Birth(device="press-3", session="s"))
APPLIED = encode(Applied(shadow="", version=1, path="settings", state="verified"))
RESULT = encode(CommandResult(id="c1", state="succeeded", t_us=1))
DEEP = b"[" * 100_000 + b"]" * 100_000


def topic(rest: str) -> str:
    return thing("press-3", rest)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_batch_of_each_stream(stream: str) -> None:
    said = route(topic(STREAM_TOPIC[stream]), BATCH)  # type: ignore[index]
    assert isinstance(said, DataBatch)
    assert (said.device, said.stream, said.batch.first, said.size) == ("press-3", stream, 1, len(BATCH))


@pytest.mark.parametrize(("rest", "payload"), [
    ("birth", BIRTH), ("applied", APPLIED), ("commands/c1/response", RESULT),
])  # fmt: skip
def test_words(rest: str, payload: bytes) -> None:
    said = route(topic(rest), payload)
    assert isinstance(said, DeviceMessage)
    assert said.device == "press-3"


@pytest.mark.parametrize(("rest", "payload"), [
    ("birth", encode(Birth(device="press-3", session="s\0"))),
    ("applied", encode(Applied(shadow="", version=1, path="a\0", state="refused"))),
    ("commands/c1/response", encode(CommandResult(id="c1", state="failed", t_us=1, output={"\0": 1.0}))),
    ("telemetry", BATCH.replace(b'"e"', b'"e\\u0000"')),
])  # fmt: skip
def test_a_word_with_nul_is_refused(rest: str, payload: bytes) -> None:
    with pytest.raises(WireError, match="NUL"):
        route(topic(rest), payload)
    route(topic(rest), payload.replace(b"\\u0000", b"\\\\u0000"))  # a backslash and letters are none


@pytest.mark.parametrize("verb", ["get", "update", "delete"])
@pytest.mark.parametrize(("rest", "name"), [("shadow", ""), ("shadow/name/gates", "gates")])
def test_shadow_requests_keep_their_bytes(rest: str, name: str, verb: str) -> None:
    said = route(topic(f"{rest}/{verb}"), b"\xff not judged here")
    assert said == ShadowRequest(device="press-3", name=name, verb=verb, payload=b"\xff not judged here")


@pytest.mark.parametrize("verb", ["get", "update", "delete"])
@pytest.mark.parametrize(("rest", "name"), [("shadow", ""), ("shadow/name/gates", "gates")])
def test_the_alias_carries_shadow_requests(rest: str, name: str, verb: str) -> None:
    full = thing("press-3", f"{rest}/{verb}", AWS)
    said = route(full, b"{}", alias=True)
    assert said == ShadowRequest(device="press-3", name=name, verb=verb, payload=b"{}", prefix=AWS)
    with pytest.raises(WireError, match="the alias is off"):
        route(full, b"{}")


@pytest.mark.parametrize(
    "rest", ["birth", "telemetry", "shadow/get/accepted", "shadow", "commands/c1/response", "jobs"]
)
def test_the_alias_carries_nothing_else(rest: str) -> None:
    with pytest.raises(WireError):
        route(thing("press-3", rest, AWS), BIRTH, alias=True)


@pytest.mark.parametrize("full", ["$aws/things/Press 3/shadow/get", "$aws/things//shadow/get", "$aws/shadow/get"])
def test_a_thing_whose_name_is_no_device_id_is_nobody(full: str) -> None:
    with pytest.raises(WireError, match="no topic of a device"):
        route(full, b"", alias=True)


def test_every_topic_of_the_table_is_taken_or_refused_by_its_sender() -> None:
    payload = {"Batch": BATCH, "Birth": BIRTH, "Applied": APPLIED, "CommandResult": RESULT,
               "InferenceRequest": b'{"id":"q","prompt":"x"}'}  # fmt: skip
    for row in TABLE:
        full = topic(row.rest.replace("<cid>", "c1").replace("<name>", "gates"))
        if row.payload == "Heartbeat" or not row.for_hub:
            continue  # answered at the door: below
        if row.sender == "device":
            assert route(full, payload.get(row.payload, b"{}")).device == "press-3"
        else:
            with pytest.raises(WireError):
                route(full, b"{}")


@pytest.mark.parametrize("payload", [
    b"", b"null", b"[]", b"7", b"{", b"\xff\xfe", b'{"device": "\xc3\x28"}', DEEP, b'{"epoch":' + DEEP + b"}",
    b'{"epoch": NaN}', b'{"first": 1e999}', b'{"epoch": "e", "first": NaN, "items": [1]}', b" " * (MAX_PAYLOAD + 1),
    b'{"epoch": "e", "first": ' + b"9" * 5000 + b', "items": [1]}', b'{"epoch": "\\ud800"}', b"\x00" * 64,
], ids=range(16))  # fmt: skip
def test_hostile_payloads(payload: bytes) -> None:
    for rest in ("telemetry", "alarms", "events", "escalations", "birth", "applied", "commands/c1/response",
                 "inference/request"):  # fmt: skip
        with pytest.raises(WireError) as refused:
            route(topic(rest), payload)
        assert refused.value.topic == topic(rest)
        assert topic(rest) in str(refused.value)


@pytest.mark.parametrize("payload", [
    b"", b"null", b"[]", b"7", b"{", b"{}", b"\xff\xfe", DEEP, b'{"session":' + DEEP + b"}", b'{"session": NaN}',
    b'{"session": ""}', b'{"session": "' + b"s" * 65 + b'"}', b'{"session": 1}', b" " * (MAX_PAYLOAD + 1),
    b'{"session": "\\ud800"}',
])  # fmt: skip
def test_hostile_heartbeats(payload: bytes) -> None:
    with pytest.raises(WireError) as refused:
        heartbeat(topic("heartbeat"), payload)
    assert refused.value.topic == topic("heartbeat")


def test_a_heartbeat() -> None:
    assert heartbeat(topic("heartbeat"), b'{"session": "s"}').session == "s"


@pytest.mark.parametrize("change", [
    {"first": 0}, {"first": -1}, {"first": 1 << 62}, {"first": 1.5}, {"first": "1"}, {"epoch": ""}, {"epoch": "e" * 33},
    {"items": []}, {"items": [1], "lost": {"last": 3, "reason": "evicted"}}, {"items": {}}, {"clock": "sundial"},
    {"items": [], "lost": {"last": 0, "reason": "evicted"}},
    {"items": [], "lost": {"last": 1 << 62, "reason": "evicted"}},
    {"items": [], "lost": {"last": 3, "reason": "bored"}}, {"items": [], "lost": {"last": 10**30, "reason": "evicted"}},
])  # fmt: skip
def test_batches_outside_the_rules(change: dict[str, object]) -> None:
    body = {"epoch": "e", "first": 1, "items": [1]} | change
    with pytest.raises(WireError, match="not a valid Batch"):
        route(topic("telemetry"), msgspec.json.encode(body))


@pytest.mark.parametrize(("rest", "payload", "reason"), [
    ("birth", encode(Birth(device="press-4", session="s")), "is of 'press-4'"),
    ("birth", b'{"device": "Press 4", "session": "s"}', "is no device id"),
    ("commands/c2/response", RESULT, "another command"),
    ("commands//response", RESULT, "another command"),
    ("commands/c1/request", RESULT, "no topic that a device sends"),
    ("session", b"{}", "no topic that a device sends"),
    ("acks", b"{}", "no topic that a device sends"),
    ("shadow/update/accepted", b"{}", "no say in"),
    ("shadow/name/gates/update/delta", b"{}", "no say in"),
    ("shadow/name/gates", b"{}", "no say in"),
    ("shadow/get", b" " * (MAX_PAYLOAD + 1), "more than"),
    ("shadow", b"{}", "no say in"),
    ("telemetry/more", BATCH, "no topic that a device sends"),
])  # fmt: skip
def test_refused_by_name(rest: str, payload: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason) as refused:
        route(topic(rest), payload)
    assert refused.value.topic == topic(rest)


@pytest.mark.parametrize("full", [
    "", "tidegate", f"{PREFIX}/things/", f"{PREFIX}/things/press-3", f"{PREFIX}/things/Press/birth",
    f"{PREFIX}/things/../birth", f"{PREFIX}/things/{'x' * 61}/birth", "tidegate/v2/things/press-3/birth",
    f"{PREFIX}/things/press-3\n/birth", f"x{PREFIX}/things/press-3/birth",
])  # fmt: skip
def test_topics_of_no_device(full: str) -> None:
    with pytest.raises(WireError, match="no topic of a device"):
        route(full, BIRTH)


RESTS = st.one_of(
    st.text(max_size=40),
    st.builds("/".join, st.lists(st.sampled_from(
        ["shadow", "name", "get", "update", "telemetry", "alarms", "birth", "commands", "c1", "response", "applied", ""]
    ), max_size=6)),
)  # fmt: skip
PAYLOADS = st.one_of(
    st.binary(max_size=200),
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
                 lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                     st.sampled_from(["epoch", "first", "items", "lost", "device", "session", "id", "state", "t_us"]),
                     inner, max_size=6), max_leaves=10).map(lambda value: _encoded(value))  # noqa: PLW0108 - defined below,
)  # fmt: skip


def _encoded(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (OverflowError, UnicodeEncodeError):
        return b"{}"


@given(st.sampled_from(["press-3", "", "x/y", "A", "é"]), RESTS, PAYLOADS)
def test_whatever_comes_is_understood_or_a_wire_error(device: str, rest: str, payload: bytes) -> None:
    full = f"{PREFIX}/things/{device}/{rest}"
    try:
        said = route(full, payload)
    except WireError as error:
        assert error.topic == full  # noqa: PT017 - both ends are fine
    else:
        assert said.device == "press-3"


ITEMS = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["metric", "t_us", "value", "quality"]), inner)
    ),
    max_leaves=6,
)


@given(st.lists(ITEMS, max_size=6))
def test_items_are_judged_one_by_one(items: list[object]) -> None:
    good, bad = validate_items(Sample, list(enumerate(items, 1)))
    assert sorted([seq for seq, _ in good] + [seq for seq, _ in bad]) == list(range(1, len(items) + 1))


# -- the quick way ---------------------------------------------------------------------------------

PARTS = [
    '"metric":"cpu.load"', '"t_us":1', '"value":2.5', '"quality":"good"', '"metric":"A b"', '"value":null',
    '"value":"x"', '"quality":"bad"', '"t_us":-1', '"value":1e999', '"more":1', '"value": "\\":"', '"quality" :"good"',
]  # fmt: skip


def framed(items: list[list[str]]) -> bytes:
    """A batch of items, each of these parts."""
    whole = ",".join("{" + ",".join(parts) + "}" for parts in items)
    return f'{{"epoch":"e","first":7,"clock":"synced","items":[{whole}],"lost":null}}'.encode()


ITEM = st.permutations(PARTS).flatmap(lambda parts: st.integers(3, 5).map(lambda count: parts[:count]))
ITEMS = st.lists(st.one_of(ITEM, st.just(PARTS[:4])), min_size=1, max_size=3).map(framed)
"""Batches that come near to good ones, and some that are."""


def both_ways(payload: bytes, quick: Any) -> bool:
    """Whether the quick way took it; the slow one must then say the same."""
    try:
        batch = quick(payload)
    except (ValueError, RecursionError):
        return False
    slow = decode(Batch, payload)
    good, bad = validate_items(Sample, enumerate(slow.items, slow.first))
    assert not bad
    assert (batch.epoch, batch.first, batch.last) == (slow.epoch, slow.first, slow.last)
    assert samples.sample_rows("d", 1, enumerate(batch.items, batch.first)) == samples.sample_rows("d", 1, good)
    return True


@settings(max_examples=500, deadline=None)
@given(payload=ITEMS)
def test_what_the_quick_way_takes_is_what_the_slow_one_reads(payload: bytes) -> None:
    both_ways(payload, router._fast_telemetry)


def test_that_property_catches_a_quick_way_that_does_not_count_names() -> None:
    @settings(max_examples=2000, deadline=None, database=None)
    @given(payload=ITEMS)
    def careless(payload: bytes) -> None:
        both_ways(payload, router._FAST.decode)

    with pytest.raises((AssertionError, WireError)):
        careless()


def test_what_agents_write_goes_the_quick_way() -> None:
    items = [Sample(metric="cpu.load", t_us=1, value=2.0), Sample(metric="state", t_us=2, value="on"),
             Sample(metric="door", t_us=3, value=None, quality="bad")]  # fmt: skip
    assert both_ways(encode(Batch(epoch="e", first=1, items=items)), router._fast_telemetry)
