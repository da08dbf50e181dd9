"""What `encode` accepts, `decode` gives back; and Google's protobuf runtime reads the same from it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from simulators.sparkplug_payloads import payloads

from shared.sparkplug.decode import decode
from shared.sparkplug.encode import encode
from shared.sparkplug.payload import Payload, Untyped

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck))


def check_round_trip(payload: Payload) -> None:
    content = encode(payload)
    assert decode(content) == payload
    assert encode(decode(content)) == content


def check_untyped_round_trip(payload: Payload) -> None:
    """Without datatypes the values come back with the birth's types, and as they are without them."""
    content = encode(payload, with_datatypes=False)
    types = {f"{n}": one.datatype for n, one in enumerate(payload.metrics) if one.datatype is not None}
    named = Payload(metrics=tuple(_renamed(payload)))
    content = encode(named, with_datatypes=False)
    assert decode(content, types=types) == named
    untyped = decode(content)
    assert all(one.value is None or isinstance(one.value, Untyped) for one in untyped.metrics)
    assert encode(untyped) == content


def _renamed(payload: Payload):  # type: ignore[no-untyped-def]
    """The metrics with distinct names and without aliases."""
    import msgspec

    for n, metric in enumerate(payload.metrics):
        yield msgspec.structs.replace(metric, name=f"{n}", alias=None)


def check_peer(payload: Payload) -> None:
    peer = pytest.importorskip("benchmarks.sparkplug_protobuf")
    content = encode(payload)
    message = peer.MESSAGE.FromString(content)
    assert message.SerializeToString() == content


@QUICK
@given(payloads)
def test_a_payload_comes_back_as_it_was_sent(payload: Payload) -> None:
    check_round_trip(payload)


@QUICK
@given(payloads)
def test_a_payload_without_datatypes_comes_back_with_those_of_the_birth(payload: Payload) -> None:
    check_untyped_round_trip(payload)


@QUICK
@given(payloads)
def test_the_protobuf_runtime_reads_and_writes_the_same_bytes(payload: Payload) -> None:
    check_peer(payload)


@pytest.mark.nightly
@pytest.mark.parametrize("check", [check_round_trip, check_untyped_round_trip, check_peer])
def test_many_payloads_come_back(check) -> None:  # type: ignore[no-untyped-def]
    LONG(given(payloads)(check))()
