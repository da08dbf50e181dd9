"""A hostile namespace: whatever is published is a finding or nothing, never an exception, and never unbounded."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulators.sparkplug_logs import HOST, T0, edge_log, encode, host_log, state

from cloud_hub.scada.conformance.core import world
from cloud_hub.scada.conformance.core.checker import Checker, Scope
from cloud_hub.scada.conformance.core.events import Delivery, Publish, Tick
from cloud_hub.scada.conformance.core.fields import Unreadable, read_payload
from cloud_hub.scada.conformance.core.report import as_text
from cloud_hub.scada.conformance.core.rules import Role

NAMES = ["g", "", "a/b", "+", "#", "\x00", "\ud800", "<script>", "STATE", "n" * 300]
TYPES = ["NBIRTH", "NDEATH", "NDATA", "NCMD", "DBIRTH", "DDEATH", "DDATA", "DCMD", "STATE", "XX", ""]
topics = st.builds(
    "/".join,
    st.tuples(st.sampled_from(["spBv1.0", "spAv1.0", ""]), *[st.sampled_from(NAMES + TYPES)] * 4)
    | st.tuples(st.just("spBv1.0"), st.just("g"), st.sampled_from(TYPES), st.just("n"), st.sampled_from(NAMES)),
)
numbers = st.integers(0, 40) | st.integers(0, 2**64 - 1)
leaves: dict[str, Any] = {"name": st.sampled_from(["speed", "bdSeq", "Node Control/Rebirth", ""]), "alias": numbers,
          "timestamp": numbers, "datatype": numbers, "is_null": numbers, "int_value": numbers, "long_value": numbers,
          "boolean_value": numbers, "string_value": st.just("x"), "double_value": st.floats()}  # fmt: skip
metrics = st.fixed_dictionaries({}, optional=leaves)
templates = st.fixed_dictionaries({}, optional={
    "version": st.just("1"), "template_ref": st.sampled_from(["T", ""]), "is_definition": numbers,
    "metrics": st.lists(metrics, max_size=3), "parameters": st.lists(st.fixed_dictionaries({}, optional={
        "name": st.just("p"), "type": numbers, "int_value": numbers}), max_size=2)})  # fmt: skip
rich = st.fixed_dictionaries({}, optional={**leaves, "template_value": templates})
payloads = st.binary(max_size=40) | st.builds(
    encode,
    st.fixed_dictionaries({}, optional={"timestamp": numbers, "seq": numbers, "metrics": st.lists(rich, max_size=4)}),
)


@settings(max_examples=60)
@given(messages=st.lists(st.tuples(topics, payloads, st.sampled_from(["", "0:n:0", "0:host:"])), max_size=8))
@pytest.mark.parametrize("role", [Role.EDGE, Role.HOST])
def test_no_message_raises(role: Role, messages: list[tuple[str, bytes, str]]) -> None:
    checker = Checker(Scope(role=role, host_id=HOST, servers=2))
    for event in (edge_log() if role is Role.EDGE else host_log()).steps[:8]:
        checker.observe(event.event())
    for index, (topic, payload, client) in enumerate(messages):
        at_ms = T0 + 1000 * index
        checker.observe(Publish(at_ms=at_ms, client=client, topic=topic, payload=payload, qos=0, retain=False))
        checker.observe(Delivery(at_ms=at_ms, client=client, topic=topic, payload=payload, qos=0, retain=False))
    checker.observe(Tick(at_ms=T0 + 10**6))
    assert as_text(checker.verdicts(), details=True)


@given(data=st.binary(max_size=60))
def test_bytes_that_are_no_payload_are_unreadable_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(Unreadable):
        read_payload(data)


def test_nesting_is_bounded() -> None:
    tree: dict[str, Any] = {"name": "leaf"}
    for _ in range(40):
        tree = {"name": "T", "template_value": {"metrics": [tree]}}
    with pytest.raises(Unreadable, match="nested deeper"):
        read_payload(encode({"metrics": [tree]}))


def test_nodes_and_evidence_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "MAX_NODES", 10)
    checker = Checker(Scope(role=Role.EDGE))
    for number in range(100):
        topic = f"spBv1.0/g/NBIRTH/{number}"
        checker.observe(Publish(at_ms=T0, topic=topic, payload=encode({}), qos=2, retain=True))
    tally = checker.ledger.tallies["nbirth.qos"]
    assert (len(checker.world.nodes), checker.world.dropped) == (10, 90)
    assert (tally.violated, len(tally.evidence)) == (100, 5)


@pytest.mark.parametrize(
    "payload", [b"ONLINE", b"[]", b"\xff", b"{" * 5000, state("yes", 1), state(True, 1.5), state(True, True)]
)
def test_a_bad_state_is_a_finding(payload: bytes) -> None:
    checker = Checker(Scope(role=Role.HOST))
    checker.observe(Publish(at_ms=T0, topic="spBv1.0/STATE/scada", payload=payload, qos=1, retain=True))
    assert checker.ledger.tallies["state.birth-payload"].violated == 1
