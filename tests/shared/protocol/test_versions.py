"""Versions of the wire: who serves whom, and what was recorded in protocol 1 is read for as long as it is served."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from simulators.wire import Recorded, recorded, with_unknown_fields

from shared import PROTOCOL
from shared.errors import WireError
from shared.protocol import messages, versions
from shared.protocol.codec import ITEM_TYPE, decode, encode, from_plain
from shared.protocol.topics import TOPIC_STREAM, split

GOLD = recorded()
TYPED = {name: word for name, word in GOLD.items() if word.kind != "json"}


@pytest.mark.parametrize(
    ("agent", "hub", "spoken"),
    [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 2), (3, 1, None), (1, 3, None), (3, 2, 2), (0, 1, None), (-1, -1, None)],
)
def test_each_version_is_served_with_the_one_before(agent: int, hub: int, spoken: int | None) -> None:
    assert versions.agreed(agent, hub) == versions.agreed(hub, agent) == spoken
    assert bool(versions.refusal(agent, hub)) == (spoken is None)


def test_a_refusal_says_who_must_be_updated() -> None:
    assert "update the hub first" in versions.refusal(3, 1)
    assert "update the agent" in versions.refusal(1, 3)


def read(word: Recorded, payload: Any) -> Any:
    """The message with its items, as today's code reads it."""
    message = decode(getattr(messages, word.kind), json.dumps(payload).encode())
    if word.kind != "Batch":
        return message
    _, rest = split(word.topic) or ("", "")
    items = [from_plain(ITEM_TYPE[TOPIC_STREAM[rest]], item) for item in message.items]
    return message.epoch, message.first, message.clock, message.lost, items


def contains(whole: Any, part: Any) -> bool:
    """Whether `whole` says all that `part` says; it may say more."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and contains(whole[name], part[name]) for name in part)
    if isinstance(part, list):
        return isinstance(whole, list) and len(whole) == len(part) and all(map(contains, whole, part))
    return bool(whole == part)


@pytest.mark.parametrize("name", TYPED)
def test_what_was_recorded_is_read_whole(name: str) -> None:
    word = TYPED[name]
    read(word, word.payload)
    message = decode(getattr(messages, word.kind), json.dumps(word.payload).encode())
    assert contains(json.loads(encode(message)), word.payload)


def test_every_message_of_the_wire_was_recorded() -> None:
    kinds = {"Birth", "Session", "Batch", "Ack", "Applied", "CommandRequest", "CommandCancel", "CommandResult",
             "EscalationAnswer"}  # fmt: skip
    assert {word.kind for word in TYPED.values()} == kinds
    assert {word.topic.rpartition("/")[2] for word in TYPED.values() if word.kind == "Batch"} == set(TOPIC_STREAM)


@pytest.mark.parametrize("name", TYPED)
def test_unknown_fields_at_every_level_change_nothing(name: str) -> None:
    word, before = TYPED[name], read(TYPED[name], TYPED[name].payload)
    for seed in range(50):
        more = with_unknown_fields(word.payload, random.Random(seed))
        assert more != word.payload
        assert read(word, more) == before, f"seed {seed}"


def test_the_property_would_see_a_reader_that_forbids_unknown_fields() -> None:
    class Strict(msgspec.Struct, forbid_unknown_fields=True):
        epoch: str
        stream: str
        upto: int

    word = TYPED["ack"]
    decode(Strict, json.dumps(word.payload).encode())
    with pytest.raises(WireError, match="unknown field"):
        decode(Strict, json.dumps(with_unknown_fields(word.payload, random.Random(1))).encode())


def test_a_stream_that_the_hub_does_not_know_does_not_cost_the_birth() -> None:
    birth = read(TYPED["birth"], TYPED["birth"].payload | {"acked": {"telemetry": 3, "spectra": 9}, "protocol": 2})
    assert (birth.acked["telemetry"], birth.protocol) == (3, PROTOCOL + 1)
