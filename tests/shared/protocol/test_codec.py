"""The codec: every message comes back as it went, and foreign bytes end in WireError, never in anything else."""

from __future__ import annotations

import json
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import WireError
from shared.models.gate import DriftTest, Gate
from shared.protocol import messages
from shared.protocol.codec import (
    DEFLATED,
    ITEM_TYPE,
    JSON,
    MAX_PAYLOAD,
    WORTHWHILE,
    decode,
    deflate,
    encode,
    from_plain,
    inflate,
    plain,
)
from shared.thresholds import Limits

FIXED = settings(max_examples=150, deadline=None, derandomize=True, database=None)
TOPIC = "tidegate/v1/things/press-3/telemetry"

TEXT = st.text(max_size=12)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
TIME = st.integers(0, 1 << 52)
COUNT = st.integers(1, 1 << 52)
NAME = st.from_regex(r"[a-z0-9_-]{1,8}([./][a-z0-9_-]{1,8}){0,2}", fullmatch=True)
DEVICE = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
FIELDS = st.dictionaries(TEXT, TEXT | NUMBER, max_size=3)
FEATURES = st.dictionaries(TEXT, NUMBER, max_size=3)
UPTO = st.dictionaries(st.sampled_from(messages.STREAMS), st.integers(0, 1 << 52), max_size=4)


def one_of(kind: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(get_args(kind))


@st.composite
def escalations(draw: st.DrawFn) -> messages.Escalation:
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return messages.Escalation(
        id=draw(TEXT),
        t_us=draw(TIME),
        model=draw(TEXT),
        digest=draw(TEXT),
        number=draw(COUNT),
        reason=draw(one_of(messages.EscalationReason)),
        label=draw(TEXT),
        margin=draw(st.floats(0, 1)),
        shape=(height, width, 1),
        frame=draw(st.binary(min_size=height * width, max_size=height * width)),
        features=draw(FEATURES),
    )


METRICS = st.builds(
    messages.Metric,
    name=NAME,
    unit=TEXT,
    kind=one_of(messages.MetricKind),
    low=st.none() | NUMBER,
    high=st.none() | NUMBER,
    period_s=st.none() | st.floats(0.1, 1e6),
    description=TEXT,
)
ITEMS: dict[messages.Stream, st.SearchStrategy[Any]] = {
    "telemetry": st.builds(
        messages.Sample, metric=NAME, t_us=TIME, value=NUMBER | TEXT, quality=one_of(messages.Quality)
    )
    | st.builds(messages.Sample, metric=NAME, t_us=TIME, value=st.none(), quality=st.just("bad")),
    "alarm": st.builds(
        messages.Alarm,
        id=TEXT,
        metric=NAME,
        kind=one_of(messages.AlarmKind),
        state=st.sampled_from(["raised", "cleared"]),
        priority=one_of(messages.Priority),
        t_us=TIME,
        value=NUMBER,
        limit=NUMBER,
    ),
    "event": st.builds(messages.Event, t_us=TIME, source=TEXT, text=TEXT, level=one_of(messages.Level), fields=FIELDS),
    "escalation": escalations(),
}
LOST = st.builds(
    messages.Lost, last=st.integers(1 << 52, 1 << 53), reason=st.sampled_from(["evicted", "expired", "damaged"])
)
MESSAGES: dict[type[Any], st.SearchStrategy[Any]] = {
    messages.Metric: METRICS,
    messages.Sample: ITEMS["telemetry"],
    messages.Alarm: ITEMS["alarm"],
    messages.AlarmStateMessage: st.builds(
        messages.AlarmStateMessage, id=TEXT, metric=NAME, life=one_of(messages.Life), t_us=TIME, actor=TEXT,
        comment=TEXT, verdict=TEXT
    ),
    messages.Event: ITEMS["event"],
    messages.Escalation: ITEMS["escalation"],
    messages.EscalationAnswer: st.builds(
        messages.EscalationAnswer, id=TEXT, label=TEXT, confidence=st.floats(0, 1), expert=TEXT, values=FEATURES
    ),
    messages.ModelOutput: st.builds(
        messages.ModelOutput, model=NAME, number=COUNT, t_us=TIME, label=TEXT, score=st.floats(0, 1),
        by=one_of(messages.ModelSource), values=FEATURES,
    ),
    messages.Lost: LOST,
    messages.Batch: st.builds(
        messages.Batch, epoch=st.text(min_size=1, max_size=32), first=COUNT, clock=one_of(messages.ClockQuality),
        lost=LOST
    ),
    messages.Ack: st.builds(messages.Ack, epoch=TEXT, stream=st.sampled_from(messages.STREAMS), upto=COUNT),
    messages.Birth: st.builds(
        messages.Birth, device=DEVICE, session=TEXT, state=st.sampled_from(["online", "offline"]), t_us=TIME,
        epoch=TEXT, profile=TEXT, version=TEXT, asset_path=TEXT, clock=one_of(messages.ClockQuality),
        metrics=st.lists(METRICS, max_size=2), acked=UPTO, limits_without_source=st.lists(NAME, max_size=2),
    ),
    messages.Session: st.builds(
        messages.Session, hub_epoch=TEXT, protocol=st.integers(1, 9), session=TEXT, epoch=TEXT, upto=UPTO, refused=TEXT,
        reads=st.lists(TEXT, max_size=2), heartbeat=st.booleans(), hub_link=TEXT,
    ),
    messages.Heartbeat: st.builds(messages.Heartbeat, session=st.text(min_size=1, max_size=64)),
    messages.Applied: st.builds(
        messages.Applied, shadow=TEXT, version=COUNT, path=TEXT, state=one_of(messages.AppliedState), reason=TEXT
    ),
    messages.CommandRequest: st.builds(
        messages.CommandRequest, id=TEXT, verb=TEXT, target=TEXT, expires_us=TIME, args=FIELDS
    ),
    messages.CommandCancel: st.builds(messages.CommandCancel, id=TEXT, expires_us=TIME),
    messages.CommandResult: st.builds(
        messages.CommandResult, id=TEXT, state=one_of(messages.CommandState), t_us=TIME, text=TEXT, output=FIELDS,
        progress=st.none() | st.floats(0, 1),
    ),
    messages.InferenceRequest: st.builds(
        messages.InferenceRequest, id=NAME, prompt=NAME, system=TEXT, request_class=one_of(messages.InferenceClass),
        deadline_s=st.floats(0.1, 3600), max_tokens=st.integers(1, 100_000), schema=st.none() | st.just({"a": 1}),
    ),
    messages.InferenceResponse: st.builds(
        messages.InferenceResponse, id=NAME, state=st.sampled_from(["answered", "refused"]), text=TEXT, code=TEXT,
        reason=TEXT, retry_after_s=st.none() | st.floats(0, 1e6),
    ),
}  # fmt: skip


def test_every_message_is_tried() -> None:
    nouns = {
        thing for thing in vars(messages).values() if isinstance(thing, type) and thing.__module__ == messages.__name__
    }
    assert nouns <= set(MESSAGES)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_roundtrip_and_unknown_fields(kind: type[Any]) -> None:
    @FIXED
    @given(MESSAGES[kind])
    def run(message: Any) -> None:
        payload = encode(message)
        assert decode(kind, payload, TOPIC) == message
        grown = json.loads(payload) | {"of a later version": {"deep": [1, None]}}
        assert decode(kind, json.dumps(grown).encode(), TOPIC) == message

    run()


@pytest.mark.parametrize("stream", messages.STREAMS)
def test_items_of_a_batch_come_back_by_their_stream(stream: messages.Stream) -> None:
    @FIXED
    @given(st.lists(ITEMS[stream], min_size=1, max_size=4), COUNT)
    def run(items: list[Any], first: int) -> None:
        batch = decode(messages.Batch, encode(messages.Batch(epoch="e", first=first, items=items)), TOPIC)
        assert [from_plain(ITEM_TYPE[stream], item) for item in batch.items] == items
        assert batch.last == first + len(items) - 1

    run()


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"hello",
    "half": b'{"metric":"a"',
    "two values": b"{} {}",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "bad UTF-8": b'{"id":"\xff","metric":"\xff","device":"\xff","epoch":"\xff","name":"\xff"}',
    "UTF-16": "{}".encode("utf-16"),
    "NaN": b'{"value":NaN}',
    "Infinity": b"-Infinity",
    "1e999": b'{"value":1e999}',
    "open arrays": b"[" * 200_000,
    "open objects": b'{"a":' * 200_000,
    "deep in an unknown field": b'{"unknown":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep in the items": b'{"epoch":"e","first":1,"items":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "too many bytes": b" " * (MAX_PAYLOAD + 1),
    "half a surrogate pair": b'{"id":"\\ud800","device":"\\ud800"}',
    "5,000 digits": b'{"first":' + b"9" * 5000 + b',"t_us":' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_end_in_wire_error(name: str) -> None:
    for kind in MESSAGES:
        with pytest.raises(WireError, match=TOPIC) as error:
            decode(kind, HOSTILE[name], TOPIC)
        assert error.value.topic == TOPIC, kind
        assert len(error.value.reason) < 500, kind


WRONG: list[tuple[type[Any], dict[str, Any], str]] = [
    (messages.Sample, {"metric": "no name", "t_us": 1, "value": 1}, "is no metric name"),
    (messages.Sample, {"metric": "a", "t_us": 1, "value": None}, "must have quality 'bad'"),
    (messages.Sample, {"metric": "a", "t_us": 1.5, "value": 1}, r"\$\.t_us"),
    (messages.Sample, {"metric": "a", "t_us": 1, "value": True}, r"\$\.value"),
    (messages.Sample, {"metric": "a", "t_us": 1, "value": 1, "quality": "so-so"}, r"\$\.quality"),
    (messages.Sample, {"t_us": 1, "value": 1}, "metric"),
    (messages.Alarm, {"id": "1", "metric": "a", "kind": "odd"}, r"\$\.kind"),
    (messages.Batch, {"epoch": "e", "first": 0, "items": [1]}, "first must be"),
    (messages.Batch, {"epoch": "", "first": 1, "items": [1]}, "epoch"),
    (messages.Batch, {"epoch": "e" * 33, "first": 1, "items": [1]}, "epoch"),
    (messages.Batch, {"epoch": "e", "first": 1}, "just one"),
    (messages.Batch, {"epoch": "e", "first": 1, "items": [1], "lost": {"last": 1, "reason": "expired"}}, "just one"),
    (messages.Batch, {"epoch": "e", "first": 5, "lost": {"last": 4, "reason": "expired"}}, "before it begins"),
    (messages.Birth, {"device": "NOT/ONE", "session": "s"}, "is no device id"),
    (messages.Ack, {"epoch": "e", "stream": "other", "upto": 1}, r"\$\.stream"),
    (
        messages.Escalation,
        {
            "id": "1",
            "t_us": 1,
            "model": "m",
            "digest": "d",
            "number": 1,
            "reason": "audit",
            "label": "x",
            "margin": 0.5,
            "shape": [2, 2, 1],
            "frame": "AAAA",
        },
        "its shape says",
    ),
]


@pytest.mark.parametrize(("kind", "body", "reason"), WRONG)
def test_what_breaks_a_message_is_told(kind: type[Any], body: dict[str, Any], reason: str) -> None:
    with pytest.raises(WireError, match=reason) as error:
        decode(kind, json.dumps(body).encode(), TOPIC)
    assert str(error.value).startswith(TOPIC)


@pytest.mark.parametrize("stream", ITEM_TYPE)
@pytest.mark.parametrize("item", [None, 1, "x", [], {}, {"metric": "NO"}, [[[]]]], ids=str)
def test_a_bad_item_of_a_stream_is_refused(stream: messages.Stream, item: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected|missing|metric name"):
        from_plain(ITEM_TYPE[stream], item)


@FIXED
@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_a_wire_error(payload: bytes) -> None:
    for kind in MESSAGES:
        with suppress(WireError):
            decode(kind, payload, TOPIC)


@pytest.mark.parametrize(
    "value",
    [
        Limits(metric="cpu.load", high=80.0, deadband=2.0),
        Limits(metric="cpu.load", lows=(1.0, 2.0), highs=(5.0, 6.0), source="learned", fitted_us=7),
        Gate(
            digest="d",
            alpha=0.01,
            delta=0.1,
            n=300,
            k=2,
            margin=0.25,
            panel=(DriftTest(feature="mean", at=1.0, p=0.5),),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_settings_travel_as_twin_state_without_nulls(value: Any) -> None:
    state = plain(value)
    assert "null" not in json.dumps(state)
    assert from_plain(type(value), json.loads(json.dumps(state))) == value


def test_wrong_twin_state_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="not below its high"):
        from_plain(Limits, {"metric": "m", "low": 5, "high": 4})


# -- deflated --------------------------------------------------------------------------------------------


@given(payload=st.binary(max_size=2000))
def test_what_is_deflated_comes_back(payload: bytes) -> None:
    sent, content_type = deflate(payload)
    assert inflate(sent, content_type) == payload
    assert len(sent) <= len(payload)


def test_small_and_random_payloads_stay_as_they_are() -> None:
    assert deflate(b"a" * (WORTHWHILE - 1)) == (b"a" * (WORTHWHILE - 1), JSON)
    assert deflate(b"a" * 1000)[1] == DEFLATED


@pytest.mark.parametrize("spoil", [
    lambda sent: zlib.compress(b" " * (MAX_PAYLOAD + 1)), lambda sent: zlib.compress(b" " * (100 * MAX_PAYLOAD)),
    lambda sent: sent[:-1], lambda sent: sent + b"x", lambda sent: b"", lambda sent: b"{}",
    lambda sent: bytes([sent[0], *(byte ^ 255 for byte in sent[1:])]),
], ids=["just too large", "bomb", "cut", "longer", "empty", "plain", "garbage"])  # fmt: skip
def test_what_cannot_be_inflated_is_refused(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(WireError, match="inflate"):
        inflate(spoil(deflate(b"a" * 1000)[0]), DEFLATED, "t")
    assert len(inflate(zlib.compress(b" " * MAX_PAYLOAD), DEFLATED)) == MAX_PAYLOAD


def test_a_bomb_stays_small_in_memory() -> None:
    bomb = zlib.compress(b" " * (200 * MAX_PAYLOAD))
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            inflate(bomb, DEFLATED)
        assert tracemalloc.get_traced_memory()[1] < 8 * MAX_PAYLOAD
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (messages.Heartbeat, b'{"session": "a", "session": "b"}'),
        (messages.Birth, b'{"device": "press-3", "session": "s", "state": "offline", "state": "online"}'),
        (messages.Birth, b'{"device": "press-3", "session": "s", "acked": {"alarm": 1, "\\u0061larm": 2}}'),
        (messages.Ack, b'{"epoch": "e", "stream": "alarm", "upto": 1, "other": {"a": 1, "a": 1}, "upto": 2}'),
        (messages.Batch, b'{"epoch": "e", "first": 1, "items": [{"metric": "a", "t_us": 1, "value": 1, "value": 2}]}'),
    ],
)
def test_a_name_twice_in_one_object_is_refused(kind: type, payload: bytes) -> None:
    """Of two values one reader takes the first and another the last: what was checked is not what is done."""
    with pytest.raises(WireError, match="there twice"):
        decode(kind, payload)


def test_a_name_twice_after_many_others_is_found_at_once() -> None:
    """Each name against each other: 430 kB held a hub up for 48 s."""
    names = ",".join(f'"k{number}":1' for number in range(40_000))
    start = time.process_time()
    with pytest.raises(WireError, match="'k39999' is there twice"):
        decode(dict, f'{{"fields":{{{names},"k39999":1}}}}'.encode())
    assert time.process_time() - start < 5


def _integers(kind: type[Any]) -> list[str]:
    return [name for name, hint in get_type_hints(kind).items() if hint in (int, dict[str, int], tuple[int, int])]


@pytest.mark.parametrize(
    ("kind", "name"),
    [pytest.param(kind, name, id=f"{kind.__name__}.{name}") for kind in MESSAGES for name in _integers(kind)],
)
def test_an_integer_that_no_database_can_hold_is_refused(kind: type[Any], name: str) -> None:
    """Sixty-four bits are what a column holds: one more would undo the transaction in which it came."""

    @settings(max_examples=5, deadline=None, derandomize=True, database=None)
    @given(MESSAGES[kind])
    def run(message: Any) -> None:
        body = json.loads(encode(message))
        for value in (10**30, 1 << 63, -1):
            changed = {"alarm": value} if isinstance(body[name], dict) else value
            if isinstance(getattr(message, name), tuple):
                changed = [value, value]
            with pytest.raises(WireError):
                decode(kind, json.dumps(body | {name: changed}).encode())

    run()
