"""Topics of nodes, devices and hosts; and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import WireError
from shared.sparkplug.topics import (
    MAX_ID,
    MessageType,
    NodeId,
    StateTopic,
    Topic,
    check_id,
    command_filters,
    host_filters,
    node_topic,
    parse,
)

HOSTILE = [
    "", "+", "#", "a/b", "a+", "#a", "a\0b", "line\nfeed", "\x1b[31m", "\x7f", "\x85", "\ud800", "\ufffe",
    "x" * (MAX_ID + 1),
]  # fmt: skip
ODD = [
    "Füllstand",
    "Line 1",
    "$SYS",
    "<script>alert(1)",
    "'; DROP TABLE",
    "..",
    "\u202e",
    "STATE",
    "x" * MAX_ID,
]
"""Strange, but allowed by the specification; who shows or stores them must escape."""


@pytest.mark.parametrize("kind", MessageType)
def test_a_topic_is_read_as_it_is_written(kind: MessageType) -> None:
    topic = Topic("Plant 1", kind, "press-3", "robot" if kind.of_device else "")
    text = str(topic)
    assert text == f"spBv1.0/Plant 1/{kind.value}/press-3" + ("/robot" if kind.of_device else "")
    assert parse(text) == topic
    assert topic.node_id == NodeId("Plant 1", "press-3")
    assert node_topic(kind, topic.node_id, topic.device) == topic


def test_the_state_topic_of_a_host_is_read() -> None:
    assert parse("spBv1.0/STATE/scada-1") == StateTopic("scada-1")
    assert str(StateTopic("scada-1")) == "spBv1.0/STATE/scada-1"


@pytest.mark.parametrize(
    "topic",
    [
        "", "/", "spBv1.0", "spBv1.0/", "spBv1.0/g", "spBv1.0/g/NDATA", "spBv1.0/g/NDATA/", "spBv1.0//NDATA/n",
        "spAv1.0/g/NDATA/n", "spbv1.0/g/NDATA/n", "/spBv1.0/g/NDATA/n", "spBv1.0/g/ndata/n", "spBv1.0/g/STATE/n",
        "spBv1.0/g/NDATA/n/d", "spBv1.0/g/DDATA/n", "spBv1.0/g/DDATA/n/", "spBv1.0/g/DDATA/n/d/e", "spBv1.0/STATE/",
        "spBv1.0/STATE/NDATA/n", "STATE/scada-1", "spBv1.0/g/NDATA/n/" + "/" * 10_000,
    ],
)  # fmt: skip
def test_what_sparkplug_does_not_define_is_refused(topic: str) -> None:
    with pytest.raises(WireError):
        parse(topic)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "topic", ["spBv1.0/{}/NDATA/n", "spBv1.0/g/NDATA/{}", "spBv1.0/g/DDATA/n/{}", "spBv1.0/STATE/{}"]
)
def test_a_hostile_id_is_refused_and_logged_escaped(topic: str, text: str) -> None:
    with pytest.raises(WireError) as caught:
        parse(topic.format(text))
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_id_in_a_configuration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the node id"):
        check_id(text, "node id")


@pytest.mark.parametrize("text", ODD)
def test_an_odd_id_that_the_specification_allows_is_kept_as_it_is(text: str) -> None:
    assert parse(f"spBv1.0/g/DDATA/n/{text}") == Topic("g", MessageType.DDATA, "n", text)


def test_a_group_may_not_look_like_a_host() -> None:
    with pytest.raises(ValueError, match="must not be named STATE"):
        check_id("STATE", "group")


@pytest.mark.parametrize(("kind", "device"), [(MessageType.NDATA, "d"), (MessageType.DDATA, "")])
def test_a_message_type_has_a_device_id_exactly_if_it_is_of_a_device(kind: MessageType, device: str) -> None:
    with pytest.raises(ValueError, match="device id"):
        node_topic(kind, NodeId("g", "n"), device)


@given(
    st.text(max_size=40) | st.lists(st.sampled_from(["spBv1.0", "STATE", "NDATA", "DCMD", "g", "+", ""])).map("/".join)
)
def test_every_text_is_a_topic_that_prints_the_same_or_is_refused(text: str) -> None:
    try:
        found = parse(text)
    except WireError:
        return
    assert str(found) == text


def test_an_edge_node_subscribes_its_own_commands_only() -> None:
    assert command_filters(NodeId("g", "n")) == ("spBv1.0/g/NCMD/n", "spBv1.0/g/DCMD/n/+")


def test_a_host_subscribes_its_groups() -> None:
    assert host_filters() == ("spBv1.0/#",)
    assert host_filters(["a", "b"]) == ("spBv1.0/a/#", "spBv1.0/b/#")
    with pytest.raises(ValueError, match="reserved"):
        host_filters(["a/#"])
