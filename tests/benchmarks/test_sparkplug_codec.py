"""The benchmark of Sparkplug codecs compares like with like."""

from __future__ import annotations

import pytest

from benchmarks import sparkplug_protobuf
from benchmarks.sparkplug_codec import as_json, birth, data, own, rows_of
from shared.sparkplug.decode import decode
from shared.sparkplug.encode import encode
from shared.sparkplug.payload import Payload

PAYLOADS = [data(3, aliases=False), birth(3)]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_peer_on_the_protobuf_runtime_does_the_same_work(payload: Payload) -> None:
    content = sparkplug_protobuf.written(payload)
    assert content == encode(payload)
    assert sparkplug_protobuf.decoded(content) == payload == decode(content)


def test_data_without_datatypes_is_decoded_to_the_same_metrics() -> None:
    payload = data(200, aliases=True)
    assert own(payload, with_datatypes=False).decode() == payload


def test_each_codec_gets_three_figures() -> None:
    rows = rows_of("DATA 3", as_json(PAYLOADS[0]), 3, 1)
    assert [row.metric for row in rows] == ["encode", "decode", "size"]
    assert all(row.value > 0 for row in rows)
