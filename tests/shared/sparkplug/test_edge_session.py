"""The session of an edge node: bdSeq, births, seq, aliases, commands, the primary host."""

from __future__ import annotations

from typing import Any

import pytest

from shared.sparkplug import state
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.decode import decode
from shared.sparkplug.edge_session import EdgeOptions, EdgeSession, EdgeState
from shared.sparkplug.effects import Disconnect, EdgeEffect, Publish, Refused, Write
from shared.sparkplug.encode import encode
from shared.sparkplug.payload import BD_SEQ, QUALITY, REBIRTH, STALE, Metric, Payload, Property
from shared.sparkplug.state import HostState
from shared.sparkplug.topics import NodeId

NODE = NodeId("plant", "press")
NCMD, DCMD, STATE = "spBv1.0/plant/NCMD/press", "spBv1.0/plant/DCMD/press/axis", "spBv1.0/STATE/scada"
TEMPERATURE = Metric(name="temperature", datatype=DataType.Double, value=20.5)
SPEED = Metric(name="speed", datatype=DataType.Int16, value=-3)


def edge(bd_seq: int = -1, **options: Any) -> EdgeSession:
    """A node with one metric and one device, offline."""
    session = EdgeSession(EdgeOptions(node=NODE, **options), bd_seq)
    assert session.set_node([TEMPERATURE], 0) == []
    assert session.set_device("axis", [SPEED], 0) == []
    return session


def online(**options: Any) -> tuple[EdgeSession, list[EdgeEffect]]:
    """A node that is born at 1,000 ms, and its births."""
    session = edge(**options)
    session.connecting(1_000)
    return session, session.subscribed(1_000)


def read(effect: EdgeEffect) -> tuple[str, Payload]:
    """Type of a message and its payload; every message of a session but NDEATH is QoS 0 and not retained."""
    assert isinstance(effect, Publish)
    kind = effect.topic.split("/")[2]
    assert (effect.qos, effect.retain) == (1 if kind == "NDEATH" else 0, False)
    return kind, decode(effect.payload)


def sequence(effects: list[EdgeEffect]) -> list[tuple[str, int | None]]:
    return [(kind, payload.seq) for kind, payload in map(read, effects)]


def values(payload: Payload) -> dict[str | int | None, Any]:
    return {one.name if one.name is not None else one.alias: one.value for one in payload.metrics}


def command(topic: str, *metrics: Metric, **fields: Any) -> tuple[str, bytes]:
    return topic, encode(Payload(timestamp=1, metrics=metrics), **fields)


def rebirth() -> tuple[str, bytes]:
    return command(NCMD, Metric(name=REBIRTH, datatype=DataType.Boolean, value=True))


def host(online: bool, timestamp: int) -> bytes:
    return state.encode(HostState(online=online, timestamp=timestamp))


# -- bdSeq and Will --------------------------------------------------------------------------------


def test_bd_seq_counts_connects_and_follows_255_with_0() -> None:
    session = edge(253)
    wills = [session.connecting(now) for now in range(4)]
    assert [values(decode(one.payload))[BD_SEQ] for one in wills] == [254, 255, 0, 1]
    assert edge().connecting(0).payload == edge(255).connecting(0).payload, "the first ever is 0"


def test_the_will_is_an_ndeath_with_nothing_but_bd_seq() -> None:
    will = edge().connecting(5)
    payload = decode(will.payload)
    assert (will.topic, will.retain, payload.seq) == ("spBv1.0/plant/NDEATH/press", False, None)
    assert [(one.name, one.datatype, one.value) for one in payload.metrics] == [(BD_SEQ, DataType.Int64, 0)]


# -- births ----------------------------------------------------------------------------------------


def test_births_are_nbirth_with_seq_0_then_each_device() -> None:
    session, births = online()
    assert sequence(births) == [("NBIRTH", 0), ("DBIRTH", 1)]
    _, node = read(births[0])
    assert values(node) == {BD_SEQ: 0, REBIRTH: False, "temperature": 20.5}
    assert all(one.datatype is not None and one.timestamp == 1_000 and one.alias is None for one in node.metrics)
    assert session.state is EdgeState.ONLINE


def test_seq_counts_all_messages_and_follows_255_with_0() -> None:
    session, _ = online()
    numbers = [sequence(session.data("", [Metric(name="temperature", value=1.0)], 2_000))[0] for _ in range(256)]
    assert [seq for _, seq in numbers] == [*range(2, 256), 0, 1]


def test_a_rebirth_has_the_same_bd_seq_and_the_current_values() -> None:
    session, _ = online()
    session.data("", [Metric(name="temperature", value=99.0)], 2_000)
    births = session.received(*rebirth(), 5_000)
    assert sequence(births) == [("NBIRTH", 0), ("DBIRTH", 1)]
    assert values(read(births[0])[1]) == {BD_SEQ: 0, REBIRTH: False, "temperature": 99.0}


def test_a_flood_of_rebirth_requests_gives_one_birth_an_interval_and_no_data_before_it() -> None:
    session, _ = online(rebirth_interval_ms=1_000)
    assert [session.received(*rebirth(), now) for now in range(1_001, 1_900)] == [[]] * 899
    assert not session.publishing
    assert session.data("", [Metric(name="temperature", value=7.0)], 1_950) == []
    (node, device) = session.tick(2_000)
    assert values(read(node)[1])["temperature"] == 7.0
    assert session.publishing
    assert read(device)[0] == "DBIRTH"


def test_a_clock_that_steps_back_does_not_hold_a_rebirth() -> None:
    session, _ = online()
    assert sequence(session.received(*rebirth(), 10)) == [("NBIRTH", 0), ("DBIRTH", 1)]


def test_a_changed_definition_is_a_rebirth_and_an_equal_one_is_nothing() -> None:
    session, _ = online()
    assert session.set_node([TEMPERATURE], 9_000) == []
    births = session.set_node([TEMPERATURE, Metric(name="new", datatype=DataType.Boolean, value=None)], 9_000)
    assert sequence(births) == [("NBIRTH", 0), ("DBIRTH", 1)]
    assert values(read(births[0])[1])["new"] is None


def test_a_device_dies_and_comes_back() -> None:
    session, _ = online()
    assert sequence(session.device_died("axis", 2_000)) == [("DDEATH", 2)]
    assert session.device_died("axis", 2_000) == []
    assert session.data("axis", [Metric(name="speed", value=1)], 2_000) == []
    assert sequence(session.received(*rebirth(), 9_000)) == [("NBIRTH", 0)]
    assert sequence(session.set_device("axis", [SPEED], 9_500)) == [("DBIRTH", 1)]


@pytest.mark.parametrize(
    "metrics",
    [
        [Metric(datatype=DataType.Int8, value=1)],
        [Metric(name="a", value=1)],
        [Metric(name="a", datatype=DataType.Int8, value=200)],
        [Metric(name="a", datatype=DataType.PropertySet, value=None)],
        [TEMPERATURE, TEMPERATURE],
        [Metric(name=BD_SEQ, datatype=DataType.Int64, value=1)],
        [Metric(name=REBIRTH, datatype=DataType.Boolean, value=False)],
    ],
)
def test_a_wrong_definition_is_refused_and_the_old_one_stays(metrics: list[Metric]) -> None:
    session = edge()
    with pytest.raises(ValueError, match=r"metric"):
        session.set_node(metrics, 0)
    session.connecting(0)
    assert "temperature" in values(read(session.subscribed(0)[0])[1])


@pytest.mark.parametrize("device", ["", "a/b", "+", "#", "\x00"])
def test_a_device_id_that_no_topic_may_hold_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="device id"):
        edge().set_device(device, [SPEED], 0)


# -- data ------------------------------------------------------------------------------------------


def test_data_leaves_out_datatypes_unless_asked() -> None:
    for wanted in (False, True):
        session, _ = online(data_datatypes=wanted)
        _, payload = read(session.data("axis", [Metric(name="speed", value=-9, timestamp=5)], 2_000)[0])
        (metric,) = payload.metrics
        assert (metric.datatype is DataType.Int16) is wanted
        assert (metric.name, metric.timestamp, payload.timestamp) == ("speed", 5, 2_000)


def test_with_aliases_data_has_no_names_and_rebirth_no_alias() -> None:
    session, births = online(aliases=True)
    metrics = [one for effect in births for one in read(effect)[1].metrics]
    aliases = {one.name: one.alias for one in metrics}
    assert aliases.pop(REBIRTH) is None
    assert sorted(aliases.values(), key=str) == [0, 1, 2], "unique on the node and all its devices"
    _, payload = read(session.data("axis", [Metric(name="speed", value=4)], 2_000)[0])
    assert [(one.name, one.alias) for one in payload.metrics] == [(None, aliases["speed"])]


def test_current_values_are_in_chronological_order_and_historical_ones_do_not_count_as_current() -> None:
    session, _ = online()
    samples = [Metric(name="temperature", value=float(at), timestamp=at, is_historical=at < 3) for at in (4, 3, 1, 2)]
    _, payload = read(session.data("", samples, 2_000)[0])
    assert [one.timestamp for one in payload.metrics] == [1, 2, 3, 4]
    session.data("", [Metric(name="temperature", value=-1.0, timestamp=1, is_historical=True)], 2_000)
    assert values(read(session.rebirth(9_000)[0])[1])["temperature"] == 4.0


def test_quality_in_data_stays_for_the_next_birth() -> None:
    session, _ = online()
    stale = {QUALITY: Property(DataType.Int32, STALE)}
    session.data("", [Metric(name="temperature", value=None, properties=stale)], 2_000)
    (metric,) = [one for one in read(session.rebirth(9_000)[0])[1].metrics if one.name == "temperature"]
    assert (metric.value, metric.properties) == (None, stale)


def test_what_is_not_defined_or_does_not_fit_is_refused_and_costs_no_seq() -> None:
    session, _ = online()
    for device, metric in (("", SPEED), ("no", SPEED), ("axis", Metric(name="speed", value=40_000))):
        with pytest.raises(ValueError, match=r"not defined|Int16 is"):
            session.data(device, [metric], 2_000)
    assert sequence(session.data("axis", [Metric(name="speed", value=1)], 2_000)) == [("DDATA", 2)]


def test_data_while_offline_is_in_the_next_birth() -> None:
    session = edge()
    assert session.data("axis", [Metric(name="speed", value=12)], 1) == []
    session.connecting(2)
    assert values(read(session.subscribed(3)[1])[1]) == {"speed": 12}


# -- commands --------------------------------------------------------------------------------------


def test_a_command_is_a_write_with_the_birth_s_name_and_datatype() -> None:
    session, _ = online()
    for with_datatypes in (True, False):
        written = command(DCMD, Metric(name="speed", datatype=DataType.Int16, value=-7), with_datatypes=with_datatypes)
        (effect,) = session.received(*written, 2_000)
        assert isinstance(effect, Write)
        assert (effect.device, effect.timestamp) == ("axis", 1)
        assert [(one.name, one.datatype, one.value) for one in effect.metrics] == [("speed", DataType.Int16, -7)]


def test_a_command_by_alias_reaches_the_metric_of_its_own_device_only() -> None:
    session, births = online(aliases=True)
    alias = read(births[1])[1].metrics[0].alias
    metric = Metric(alias=alias, datatype=DataType.Int16, value=-7)
    (write,) = session.received(*command(DCMD, metric, with_datatypes=False), 2_000)
    assert isinstance(write, Write)
    assert write.metrics[0].name == "speed"
    (other,) = session.received(*command(NCMD, metric), 2_000)
    assert isinstance(other, Refused)


@pytest.mark.parametrize(
    ("topic", "metric"),
    [
        (NCMD, Metric(name="unknown", datatype=DataType.Int8, value=1)),
        (NCMD, Metric(name="temperature", datatype=DataType.String, value="hot")),
        (NCMD, Metric(name=BD_SEQ, datatype=DataType.Int64, value=1)),
        (NCMD, Metric(alias=9, datatype=DataType.Int8, value=1)),
        (DCMD, Metric(name="speed", datatype=DataType.Int32, value=40_000)),
        ("spBv1.0/plant/DCMD/press/none", Metric(name="speed", datatype=DataType.Int16, value=1)),
    ],
)
def test_a_command_that_does_not_fit_is_refused_and_the_rest_of_it_stands(topic: str, metric: Metric) -> None:
    session, _ = online()
    good = Metric(name="temperature", datatype=DataType.Double, value=1.0)
    effects = session.received(*command(topic, metric, good), 2_000)
    assert isinstance(effects[0], Refused)
    assert [type(one) for one in effects[1:]] == ([Write] if topic == NCMD else [Refused])


@pytest.mark.parametrize("payload", [b"\xff", b"\x12\x05\x0a\x09ab", b"no protobuf at all"])
def test_a_malformed_command_is_refused(payload: bytes) -> None:
    session, _ = online()
    for topic in (NCMD, DCMD):
        (effect,) = session.received(topic, payload, 2_000)
        assert isinstance(effect, Refused)
    assert session.publishing


@pytest.mark.parametrize(
    "topic", ["spBv1.0/plant/NCMD/other", "spBv1.0/plant/NBIRTH/press", "x", "", "spBv1.0/plant/NCMD/\x00\n", STATE]
)
def test_a_message_that_is_not_for_the_node_is_refused(topic: str) -> None:
    session, _ = online()
    (effect,) = session.received(topic, rebirth()[1], 9_000)
    assert isinstance(effect, Refused)
    assert effect.topic.isprintable()


def test_rebirth_false_and_a_retained_or_early_command_do_nothing() -> None:
    session, _ = online()
    assert session.received(*command(NCMD, Metric(name=REBIRTH, datatype=DataType.Boolean, value=False)), 9_000) == []
    assert [type(one) for one in session.received(*rebirth(), 9_000, retained=True)] == [Refused]
    early = edge()
    early.connecting(0)
    assert [type(one) for one in early.received(*rebirth(), 9_000)] == [Refused]


# -- the primary host ------------------------------------------------------------------------------


def waiting(**options: Any) -> EdgeSession:
    session = edge(primary_host="scada", **options)
    session.connecting(1_000, "a")
    assert session.subscribed(1_000) == []
    return session


def test_births_wait_for_the_primary_host() -> None:
    session = waiting()
    assert STATE in session.filters
    assert session.received("spBv1.0/STATE/other", host(True, 500), 1_100) != []
    assert session.state is EdgeState.WAITING
    assert session.received(STATE, host(False, 400), 1_200) == []
    assert [type(one) for one in session.received(STATE, host(True, 399), 1_300)] == [Refused]
    assert sequence(session.received(STATE, host(True, 400), 1_400)) == [("NBIRTH", 0), ("DBIRTH", 1)]
    assert session.received(STATE, host(True, 401), 1_500) == [], "online again is no reason for a rebirth"


def test_state_that_comes_before_the_subscription_is_acknowledged_counts() -> None:
    session = edge(primary_host="scada")
    session.connecting(1_000)
    assert session.received(STATE, host(True, 500), 1_000) == []
    assert sequence(session.subscribed(1_001)) == [("NBIRTH", 0), ("DBIRTH", 1)]


@pytest.mark.parametrize("mqtt5", [False, True])
def test_the_primary_host_goes_offline(mqtt5: bool) -> None:
    session = waiting(mqtt5=mqtt5)
    session.received(STATE, host(True, 500), 1_100)
    assert [type(one) for one in session.received(STATE, host(False, 499), 2_000)] == [Refused], "an older death"
    assert session.publishing
    death, end = session.received(STATE, host(False, 500), 2_000)
    assert read(death)[0] == "NDEATH"
    assert values(read(death)[1]) == {BD_SEQ: 0}
    assert end == Disconnect(reason="the primary host is offline", with_will=mqtt5, next_server=True)
    assert session.data("", [Metric(name="temperature", value=1.0)], 2_000) == []


def test_on_the_same_server_an_older_online_does_not_count_after_a_reconnect_but_on_another_it_does() -> None:
    session = waiting()
    session.received(STATE, host(True, 500), 1_100)
    session.received(STATE, host(False, 600), 1_200)
    session.lost()
    session.connecting(2_000, "a")
    session.subscribed(2_000)
    assert [type(one) for one in session.received(STATE, host(True, 500), 2_100)] == [Refused]
    session.connecting(3_000, "b")
    session.subscribed(3_000)
    assert sequence(session.received(STATE, host(True, 500), 3_100)) == [("NBIRTH", 0), ("DBIRTH", 1)]


def test_with_one_server_the_node_waits_and_with_several_it_goes_on() -> None:
    alone, several = waiting(), waiting(servers=2, host_wait_ms=5_000)
    assert alone.tick(99_000) == []
    assert several.tick(5_999) == []
    (end,) = several.tick(6_000)
    assert isinstance(end, Disconnect)
    assert (end.next_server, end.with_will) == (True, True)
    again = waiting(servers=2)
    assert [type(one) for one in again.received(STATE, host(False, 1), 1_100)] == [Disconnect]


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mqtt5", [False, True])
def test_an_intentional_disconnect_publishes_ndeath_first(mqtt5: bool) -> None:
    session, _ = online(mqtt5=mqtt5)
    death, end = session.disconnecting(2_000)
    assert read(death)[0] == "NDEATH"
    assert end == Disconnect(reason="stopped", with_will=mqtt5, next_server=False)
    assert session.disconnecting(2_000) == []


def test_a_node_that_was_never_born_leaves_its_death_to_the_will() -> None:
    assert waiting(mqtt5=False).disconnecting(2_000) == [
        Disconnect(reason="stopped", with_will=True, next_server=False)
    ]
