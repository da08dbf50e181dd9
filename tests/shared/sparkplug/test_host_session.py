"""The session of a host: STATE, births and deaths, order, rebirth requests, limits, faults of other libraries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.sparkplug import state
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.decode import decode
from shared.sparkplug.effects import (
    Data,
    DeviceBorn,
    DeviceDied,
    Disconnect,
    Flapping,
    HostEffect,
    HostStateSeen,
    NodeBorn,
    NodeDied,
    Publish,
    RebirthRequested,
    Refused,
)
from shared.sparkplug.encode import encode
from shared.sparkplug.host_session import HostOptions, HostSession, Liveness
from shared.sparkplug.payload import BD_SEQ, REBIRTH, Metric, Payload
from shared.sparkplug.state import HostState
from shared.sparkplug.topics import NodeId

NODE = NodeId("plant", "press")
STATE = "spBv1.0/STATE/hub"
NOW = 1_700_000_000_000
SPEED = Metric(name="speed", alias=7, timestamp=NOW, datatype=DataType.Int16, value=-3)


def host(known: Iterable[NodeId] = (), **options: Any) -> HostSession:
    """A host that is online since NOW."""
    session = HostSession(HostOptions(host_id="hub", **options), known)
    session.connecting(NOW)
    session.subscribed(NOW)
    return session


def birth(
    *metrics: Metric, bd_seq: int | None = 0, seq: int | None = 0, kind: DataType = DataType.Int64,
    rebirth: bool = True, at: int = NOW,
) -> bytes:  # fmt: skip
    own = [Metric(name=BD_SEQ, timestamp=NOW, datatype=kind, value=bd_seq)] if bd_seq is not None else []
    own += [Metric(name=REBIRTH, timestamp=NOW, datatype=DataType.Boolean, value=False)] if rebirth else []
    return encode(Payload(timestamp=at, metrics=(*own, *metrics), seq=seq))


def death(bd_seq: int, kind: DataType = DataType.Int64) -> bytes:
    return encode(Payload(metrics=(Metric(name=BD_SEQ, datatype=kind, value=bd_seq),)))


def data(seq: int | None, *metrics: Metric, with_datatypes: bool = False, at: int = NOW) -> bytes:
    return encode(Payload(timestamp=at, metrics=metrics, seq=seq), with_datatypes=with_datatypes)


def speed(value: int | None = 5, **fields: Any) -> Metric:
    return Metric(name="speed", timestamp=NOW, datatype=DataType.Int16, value=value, **fields)


def by_alias(value: int = 5, alias: int = 7) -> Metric:
    return Metric(alias=alias, timestamp=NOW, datatype=DataType.Int16, value=value)


def send(session: HostSession, kind: str, payload: bytes, now: int = NOW, node: str = "press") -> list[HostEffect]:
    """A message; `kind` is the type, with '/device' behind it for devices."""
    kind, _, device = kind.partition("/")
    return session.received(f"spBv1.0/plant/{kind}/{node}" + (f"/{device}" if device else ""), payload, now)


def online(**options: Any) -> HostSession:
    """A host with the node and its device `axis` online; the next seq is 2."""
    session = host(**options)
    send(session, "NBIRTH", birth(SPEED))
    send(session, "DBIRTH/axis", data(1, SPEED, with_datatypes=True))
    return session


def gaps(effects: list[HostEffect]) -> list[bool]:
    return [one.gap for one in effects if isinstance(one, DeviceBorn | Data)]


def kinds(effects: list[HostEffect]) -> list[type]:
    return [type(one) for one in effects]


def values(effects: list[HostEffect]) -> list[Any]:
    return [metric.value for one in effects if isinstance(one, Data) for metric in one.metrics]


def requests(effects: list[HostEffect]) -> list[str]:
    return [one.reason for one in effects if isinstance(one, RebirthRequested)]


# -- STATE -----------------------------------------------------------------------------------------


def test_will_and_birth_have_the_time_of_the_connect() -> None:
    session = HostSession(HostOptions(host_id="hub"))
    will = session.connecting(NOW)
    assert will is not None
    assert (will.topic, will.retain) == (STATE, True)
    assert state.parse(will.payload) == HostState(online=False, timestamp=NOW)
    (born,) = session.subscribed(NOW + 900)
    assert isinstance(born, Publish)
    assert (born.topic, born.qos, born.retain) == (STATE, 1, True)
    assert state.parse(born.payload) == HostState(online=True, timestamp=NOW)
    assert session.filters == (STATE, "spBv1.0/#")


def test_its_own_state_as_offline_is_answered_at_once_but_not_without_end() -> None:
    session = host()
    late = state.encode(HostState(online=False, timestamp=NOW - 5))
    (again,) = session.received(STATE, late, NOW + 10)
    assert isinstance(again, Publish)
    assert state.parse(again.payload) == HostState(online=True, timestamp=NOW)
    flood = [session.received(STATE, late, NOW + 20) for _ in range(1_000)]
    assert sum(map(len, flood)) < 10
    assert kinds(session.tick(NOW + 5_000)) == [Publish], "the last one is answered too"


def test_a_clean_end_publishes_offline_with_the_time_of_the_end() -> None:
    session = host()
    last, end = session.disconnecting(NOW + 50)
    assert isinstance(last, Publish)
    assert isinstance(end, Disconnect)
    assert (last.qos, last.retain) == (1, True)
    assert state.parse(last.payload) == HostState(online=False, timestamp=NOW + 50)
    assert session.received(STATE, last.payload, NOW + 51) == [], "its own death is not answered"


def test_another_host_with_the_same_id_is_reported_and_other_hosts_are_seen() -> None:
    session = host()
    newer = state.encode(HostState(online=True, timestamp=NOW + 5))
    assert kinds(session.received(STATE, newer, NOW + 6)) == [Refused]
    seen = session.received("spBv1.0/STATE/scada", newer, NOW + 6)
    assert seen == [HostStateSeen(host="scada", online=True, timestamp=NOW + 5)]
    assert kinds(session.received("spBv1.0/STATE/old", b"ONLINE", NOW)) == [Refused]


def test_a_host_without_id_has_no_will_and_publishes_no_state() -> None:
    session = HostSession(HostOptions(groups=("plant",)))
    assert session.connecting(NOW) is None
    assert session.subscribed(NOW) == []
    assert kinds(session.disconnecting(NOW)) == [Disconnect]
    assert session.filters == ("spBv1.0/plant/#",)


# -- births, data, deaths --------------------------------------------------------------------------


def test_births_data_and_deaths_of_a_node_and_its_device() -> None:
    session = host()
    (born,) = send(session, "NBIRTH", birth(SPEED))
    assert isinstance(born, NodeBorn)
    assert (born.node, born.bd_seq, born.asked, born.alive, born.ahead_ms) == (NODE, 0, False, False, 0)
    assert born.metrics[-1] == SPEED
    (device,) = send(session, "DBIRTH/axis", data(1, SPEED, with_datatypes=True))
    assert isinstance(device, DeviceBorn)
    assert (device.device, device.metrics) == ("axis", (SPEED,))
    (found,) = send(session, "DDATA/axis", data(2, by_alias(-9)))
    assert isinstance(found, Data)
    assert [(one.name, one.datatype, one.value) for one in found.metrics] == [("speed", DataType.Int16, -9)]
    assert send(session, "DDEATH/axis", data(3, at=NOW - 5)) == [DeviceDied(node=NODE, device="axis", at_ms=NOW - 5)]
    assert send(session, "NDEATH", death(0), NOW + 9) == [NodeDied(node=NODE, devices=(), at_ms=NOW + 9)]


def test_null_and_historical_values_are_passed_on() -> None:
    session = online()
    (found,) = send(session, "NDATA", data(2, speed(None), speed(1, is_historical=True, is_transient=True)))
    assert isinstance(found, Data)
    assert [(one.value, one.is_historical, one.is_transient) for one in found.metrics] == [
        (None, False, False), (1, True, True),
    ]  # fmt: skip


def test_an_ndeath_takes_all_devices_along_and_data_after_it_does_not_count() -> None:
    session = online()
    assert send(session, "NDEATH", death(0)) == [NodeDied(node=NODE, devices=("axis",), at_ms=NOW)]
    assert send(session, "NDEATH", death(0)) == [], "the Will after the published one"
    effects = send(session, "DDATA/axis", data(2, speed()))
    assert kinds(effects) == [Refused, Publish, RebirthRequested]


def test_an_ndeath_of_another_session_is_ignored() -> None:
    session = online()
    assert kinds(send(session, "NDEATH", death(1))) == [Refused], "pysparkplug's disconnect, and a late Will"
    assert values(send(session, "NDATA", data(2, speed()))) == [5]


def test_bd_seq_counts_whatever_integer_type_it_has() -> None:
    session = host()
    send(session, "NBIRTH", birth(SPEED, bd_seq=3, kind=DataType.UInt64))
    assert kinds(send(session, "NDEATH", death(3, DataType.UInt64))) == [NodeDied]


def test_a_birth_without_bd_seq_is_ended_by_any_ndeath() -> None:
    session = host()
    send(session, "NBIRTH", birth(SPEED, bd_seq=None))
    assert kinds(send(session, "NDEATH", death(9))) == [NodeDied]


def test_a_rebirth_replaces_all_definitions() -> None:
    session = online()
    (born,) = send(session, "NBIRTH", birth(Metric(name="other", timestamp=NOW, datatype=DataType.Float, value=1.0)))
    assert isinstance(born, NodeBorn)
    assert born.alive
    assert requests(send(session, "NDATA", data(1, by_alias()))) == ["NDATA has metrics that are not in the birth"]
    assert values(send(session, "DDATA/axis", data(2, speed()))) == []


def test_a_message_type_with_bad_metrics_keeps_the_good_ones() -> None:
    session = host()
    nameless = Metric(alias=1, timestamp=NOW, datatype=DataType.Int8, value=1)
    effects = send(session, "NBIRTH", birth(SPEED, nameless, Metric(name="speed", datatype=DataType.Text, value="x")))
    assert kinds(effects) == [NodeBorn, Refused, Refused]
    unfit = Metric(name="speed", timestamp=NOW, datatype=DataType.String, value="fast")
    effects = send(session, "NDATA", data(1, unfit, speed(), with_datatypes=True))
    assert values(effects) == [None, 5]
    assert kinds(effects) == [Data, Refused], "a wrong type is no reason for a rebirth"


def test_a_name_decides_the_datatype_of_a_metric_with_the_alias_of_another() -> None:
    session = host()
    send(session, "NBIRTH", birth(SPEED, Metric(name="count", alias=8, datatype=DataType.Int32, value=0)))
    both = Metric(name="count", alias=7, timestamp=NOW, datatype=DataType.Int32, value=65_531)
    assert values(send(session, "NDATA", data(1, both))) == [65_531]


def test_a_value_that_does_not_fit_is_null_because_the_one_before_is_not_the_present_one() -> None:
    session = online()
    far = Metric(alias=7, timestamp=NOW, datatype=DataType.Int32, value=1_000_000)
    effects = send(session, "NDATA", data(2, far))
    assert values(effects) == [None]
    assert [one.reason for one in effects if isinstance(one, Refused)] == [
        "metric with alias 7: Int16 is -32768 to 32767, not the bits 0xf4240"
    ]


def test_an_alias_that_two_metrics_have_stays_with_the_first() -> None:
    session = host()
    twin = Metric(name="twin", alias=7, timestamp=NOW, datatype=DataType.Int16, value=1)
    assert kinds(send(session, "NBIRTH", birth(SPEED, twin))) == [NodeBorn, Refused]
    (found,) = send(session, "NDATA", data(1, by_alias()))
    assert isinstance(found, Data)
    assert found.metrics[0].name == "speed"


# -- order -----------------------------------------------------------------------------------------


def test_messages_out_of_order_are_put_in_order_without_a_request() -> None:
    session = online()
    assert send(session, "NDATA", data(4, speed(4))) == []
    assert send(session, "NDATA", data(3, speed(3))) == []
    assert values(send(session, "NDATA", data(2, speed(2)))) == [2, 3, 4]
    assert session.tick(NOW + 60_000) == []


def test_a_lost_message_leads_to_one_request_after_the_reorder_timeout() -> None:
    session = online(reorder_timeout_ms=2_000)
    send(session, "NDATA", data(3, speed(3)), NOW)
    send(session, "NDATA", data(4, by_alias(4)), NOW + 500)
    assert session.tick(NOW + 1_999) == []
    effects = session.tick(NOW + 2_000)
    assert requests(effects) == ["the message with seq 2 is missing"]
    assert values(effects) == [3], "by name it is certain; the alias may mean something else since the lost message"
    assert kinds(effects)[0] is Publish
    request = effects[0]
    assert isinstance(request, Publish)
    assert (request.topic, request.qos, request.retain) == ("spBv1.0/plant/NCMD/press", 0, False)
    payload = decode(request.payload, types={REBIRTH: DataType.Boolean})
    assert payload.seq is None
    assert [(one.name, one.value) for one in payload.metrics] == [(REBIRTH, True)]
    (born,) = send(session, "NBIRTH", birth(SPEED), NOW + 2_100)
    assert isinstance(born, NodeBorn)
    assert born.asked
    assert values(send(session, "NDATA", data(1, by_alias(9)), NOW + 2_200)) == [9]
    assert session.tick(NOW + 999_000) == []


def test_what_follows_a_lost_message_says_that_there_is_a_gap_until_the_next_birth() -> None:
    session = online(reorder_timeout_ms=2_000)
    send(session, "DBIRTH/saw", data(3, SPEED, with_datatypes=True), NOW)
    send(session, "DDATA/axis", data(4, speed(4)), NOW)
    assert gaps(session.tick(NOW + 2_000)) == [True, True]
    assert gaps(send(session, "DBIRTH/axis", data(5, SPEED, with_datatypes=True))) == [True]
    send(session, "NBIRTH", birth(SPEED))
    assert gaps(send(session, "DBIRTH/axis", data(1, SPEED, with_datatypes=True))) == [False]


def test_after_a_gap_is_filled_a_second_gap_has_a_timeout_of_its_own() -> None:
    session = online(reorder_timeout_ms=2_000)
    send(session, "NDATA", data(3, speed(3)), NOW)
    send(session, "NDATA", data(5, speed(5)), NOW)
    assert values(send(session, "NDATA", data(2, speed(2)), NOW + 1_500)) == [2, 3]
    assert session.tick(NOW + 3_400) == []
    assert requests(session.tick(NOW + 3_500)) == ["the message with seq 4 is missing"]


def test_seq_follows_255_with_0_also_for_those_who_leave_out_zeros() -> None:
    session = host()
    send(session, "NBIRTH", birth(SPEED, seq=254))
    assert values(send(session, "NDATA", data(255, speed(1)))) == [1]
    assert values(send(session, "NDATA", data(None, speed(2)))) == [2]
    assert values(send(session, "NDATA", data(1, speed(3)))) == [3]


def test_a_duplicate_is_dropped_and_a_gap_of_more_than_half_the_numbers_is_a_gap() -> None:
    session = online()
    assert values(send(session, "NDATA", data(2, speed(2)))) == [2]
    assert kinds(send(session, "NDATA", data(2, speed(2)))) == [Refused]
    assert kinds(send(session, "DBIRTH/axis", data(1, SPEED, with_datatypes=True))) == [Refused]
    assert kinds(send(session, "NBIRTH", birth(SPEED))) == [Refused]
    assert send(session, "NDATA", data(250, speed(250))) == []
    assert requests(session.tick(NOW + 2_000)) == ["the message with seq 3 is missing"]


def test_a_full_reorder_buffer_is_a_loss_at_once() -> None:
    session = online(max_waiting=10)
    effects = [one for seq in range(3, 20) for one in send(session, "NDATA", data(seq, speed(seq)))]
    assert requests(effects) == ["the message with seq 2 is missing"]
    assert values(effects) == list(range(3, 20))
    big = online(max_waiting_bytes=100)
    assert requests([one for seq in (3, 4, 5, 6) for one in send(big, "NDATA", data(seq, speed(seq)))]) != []


def test_a_seq_beyond_255_is_malformed() -> None:
    session = online()
    assert kinds(send(session, "NDATA", data(2, speed()) + b"\x18\x80\x02")) == [Refused]


# -- rebirth requests ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["NDATA", "DDATA/axis", "DBIRTH/axis", "DDEATH/axis"])
def test_what_comes_before_nbirth_asks_for_a_rebirth(kind: str) -> None:
    session = host()
    effects = send(session, kind, data(5, speed(), with_datatypes=True))
    assert kinds(effects) == [Refused, Publish, RebirthRequested]
    assert send(session, kind, data(6, speed()), NOW + 100)[1:] == [], "once"


def test_data_of_an_unknown_device_and_unknown_metrics_ask_for_a_rebirth() -> None:
    for kind, metric in (
        ("DDATA/new", speed()),
        ("NDATA", by_alias(alias=99)),
        ("NDATA", Metric(name="x", value=None)),
    ):
        session = online()
        payload = data(2, metric) if metric.datatype else b"\x18\x02\x12\x05\x0a\x01x\x38\x01"
        assert requests(send(session, kind, payload)) != []


def test_requests_to_one_node_are_ever_further_apart_while_it_does_not_help() -> None:
    session = host(rebirth_first_ms=1_000, rebirth_limit_ms=60_000)
    asked: list[int] = []
    for now in range(NOW, NOW + 600_000, 200):
        effects = send(session, "NDATA", data(5, speed()), now) + session.tick(now)
        asked += [now - NOW] * len(requests(effects))
    assert asked == [0, 1_000, 3_000, 7_000, 15_000, 31_000, 63_000, *range(123_000, 600_000, 60_000)]


def test_requests_to_a_silent_node_end_and_begin_again_when_it_is_heard() -> None:
    session = host(rebirth_first_ms=1_000)
    send(session, "NDATA", data(5, speed()), NOW)
    count = sum(len(requests(session.tick(now))) for now in range(NOW, NOW + 3_600_000, 500))
    assert count == 5, "with the first one six"
    assert len(requests(send(session, "NDATA", data(6, speed()), NOW + 3_600_000))) == 1


def test_births_that_leave_a_gap_each_time_do_not_loop() -> None:
    """A node that answers each request at once, but loses the next message each time."""
    session = host(reorder_timeout_ms=100, rebirth_first_ms=1_000)
    send(session, "NBIRTH", birth(SPEED))
    asked = 0
    for step in range(6_000):
        now = NOW + step * 100
        if requests(session.tick(now)):
            asked += 1
            send(session, "NBIRTH", birth(SPEED, at=now), now)
        send(session, "NDATA", data(2 + step % 200, speed(step % 100)), now)
    assert 5 <= asked <= 15


def test_all_requests_together_are_bounded() -> None:
    session = host(rebirth_per_s=20.0, rebirth_burst=50)
    first = [one for number in range(1_000) for one in send(session, "NDATA", data(1, speed()), NOW, f"n{number}")]
    assert len(requests(first)) == 50
    later = [len(requests(session.tick(NOW + ms))) for ms in range(100, 10_100, 100)]
    assert set(later) == {2}
    assert len({one.topic for one in first if isinstance(one, Publish)}) == 50


def test_a_person_s_request_does_not_wait_for_the_backoff() -> None:
    session = online()
    assert requests(session.rebirth(NODE, "asked by eve", NOW)) == ["asked by eve"]
    assert requests(session.rebirth(NODE, "asked by eve", NOW)) == ["asked by eve"]


def test_nothing_is_asked_while_the_host_is_not_connected() -> None:
    session = online()
    session.lost(NOW)
    assert requests(session.rebirth(NODE, "asked by eve", NOW)) == []
    session.connecting(NOW)
    session.subscribed(NOW)
    assert requests(session.tick(NOW + 100)) == ["asked by eve"]


# -- after the host was away -----------------------------------------------------------------------


def test_nodes_of_before_that_do_not_answer_are_dead() -> None:
    session = online()
    gone = NodeId("plant", "gone")
    session = host([NODE, gone])
    send(session, "NBIRTH", birth(SPEED), NOW + 1_000)
    effects = [one for ms in range(0, 120_000, 100) for one in session.tick(NOW + ms)]
    assert {one.node for one in effects if isinstance(one, RebirthRequested)} == {gone}
    deaths = [one for one in effects if isinstance(one, NodeDied)]
    assert [(one.node, one.presumed) for one in deaths] == [(gone, True)]


def test_a_node_that_answers_after_a_reconnect_of_the_host_lives() -> None:
    session = online()
    session.lost(NOW)
    session.connecting(NOW + 1_000)
    session.subscribed(NOW + 1_000)
    (request, _) = session.tick(NOW + 6_000)
    assert isinstance(request, Publish)
    send(session, "NBIRTH", birth(SPEED, at=NOW + 6_050), NOW + 6_100)
    assert [one for ms in range(6_200, 200_000, 500) for one in session.tick(NOW + ms)] == []


def test_a_node_that_cannot_be_asked_is_not_presumed_dead() -> None:
    session = host()
    send(session, "NBIRTH", birth(SPEED, rebirth=False))
    session.lost(NOW)
    session.connecting(NOW)
    session.subscribed(NOW)
    effects = [one for ms in range(0, 600_000, 500) for one in session.tick(NOW + ms)]
    assert NodeDied not in kinds(effects)


# -- two nodes with one id -------------------------------------------------------------------------


def test_two_nodes_with_one_id_are_reported_once_and_do_not_loop() -> None:
    session = host()
    reports, asked = [], 0
    for step in range(600):
        now = NOW + step * 1_000
        effects = send(session, "NBIRTH", birth(SPEED, bd_seq=10 + 50 * (step % 2), at=now), now)
        effects += send(session, "NDATA", data(step % 200, speed()), now) + session.tick(now)
        reports += [one for one in effects if isinstance(one, Flapping)]
        asked += len(requests(effects))
    assert [(one.node, one.two_nodes) for one in reports] == [(NODE, True)]
    assert asked < 15
    assert session.nodes()[0].flapping


def test_a_node_that_reconnects_again_and_again_is_flapping_but_one_node() -> None:
    session = host()
    effects = [one for number in range(8) for one in send(session, "NBIRTH", birth(SPEED, bd_seq=number))]
    assert [one.two_nodes for one in effects if isinstance(one, Flapping)] == [False]


def test_births_that_were_asked_for_are_no_flapping() -> None:
    session = online()
    for number in range(20):
        now = NOW + number * 1_000
        session.rebirth(NODE, "test", now)
        assert kinds(send(session, "NBIRTH", birth(SPEED, at=now), now)) == [NodeBorn]


# -- hostile and large -----------------------------------------------------------------------------


def test_a_birth_of_10_000_metrics_is_taken() -> None:
    session = host()
    many = [Metric(name=f"m{n}", alias=n, timestamp=NOW, datatype=DataType.Int16, value=n) for n in range(10_000)]
    (born,) = send(session, "NBIRTH", birth(*many))
    assert isinstance(born, NodeBorn)
    assert len(born.metrics) == 10_002
    (found,) = send(session, "NDATA", data(1, by_alias(3, alias=9_999)))
    assert isinstance(found, Data)
    assert found.metrics[0].name == "m9999"


def test_a_node_or_device_beyond_the_limits_is_refused_once_and_not_asked_again() -> None:
    session = online(max_metrics=10, max_devices=2)
    many = [Metric(name=f"m{n}", timestamp=NOW, datatype=DataType.Int16, value=n) for n in range(9)]
    assert kinds(send(session, "DBIRTH/big", data(2, *many, with_datatypes=True))) == [Refused]
    assert send(session, "DDATA/big", data(3, Metric(name="m1", datatype=DataType.Int16, value=1))) == []
    assert kinds(send(session, "DBIRTH/two", data(4, with_datatypes=True))) == [DeviceBorn]
    assert kinds(send(session, "DBIRTH/three", data(5, with_datatypes=True))) == [Refused]
    assert kinds(send(session, "NBIRTH", birth(*many, at=NOW + 1))) == [NodeDied, Refused]
    assert send(session, "NDATA", data(1, speed())) == []
    assert session.nodes()[0].liveness is Liveness.REFUSED
    assert kinds(send(session, "NBIRTH", birth(SPEED))) == [NodeBorn]


def test_dead_nodes_make_place_for_new_ones_but_living_ones_do_not() -> None:
    session = host(max_nodes=2)
    for number in range(2):
        send(session, "NBIRTH", birth(SPEED), node=f"n{number}")
    assert kinds(send(session, "NBIRTH", birth(SPEED), node="n2")) == [Refused]
    send(session, "NDEATH", death(0), node="n0")
    assert kinds(send(session, "NBIRTH", birth(SPEED), node="n2")) == [NodeBorn]
    assert {one.node.node for one in session.nodes()} == {"n1", "n2"}


def test_ids_that_are_only_heard_of_are_bounded_and_do_not_push_out_real_nodes() -> None:
    session = online()
    for number in range(3_000):
        send(session, "NDATA", data(1, speed()), node=f"x{number}")
    assert len(session.nodes()) == 1_001
    assert values(send(session, "NDATA", data(2, speed()))) == [5]


@pytest.mark.parametrize(
    "topic",
    [
        "spBv1.0/plant/NBIRTH/press/", "spBv1.0/plant/NBIRTH/a/b", "spBv1.0/plant/DDATA/press", "spBv1.0/plant/X/press",
        "spBv1.0//NDATA/press", "spBv1.0/plant/NDATA/\x00\x1b[2J", "spBv1.0/p+/NDATA/press", "spBv1.0/plant/NDATA/#",
        "spAv1.0/plant/NDATA/press", "spBv1.0", "", "/" * 500, "spBv1.0/plant/NDATA/" + "n" * 60_000,
    ],
)  # fmt: skip
def test_a_hostile_topic_is_refused_and_safe_to_log(topic: str) -> None:
    (effect,) = host().received(topic, birth(SPEED), NOW)
    assert isinstance(effect, Refused)
    assert effect.topic.isprintable() or not effect.topic
    assert len(effect.topic) < 1_000


def test_a_malformed_payload_is_refused_and_the_node_lives_on() -> None:
    session = online()
    for kind in ("NBIRTH", "NDATA", "NDEATH", "DBIRTH/axis", "DDATA/axis", "DDEATH/axis"):
        assert kinds(send(session, kind, b"\xff\xff")) == [Refused]
    assert values(send(session, "NDATA", data(2, speed()))) == [5]


def test_retained_messages_are_old() -> None:
    session = host()
    effects = session.received("spBv1.0/plant/NBIRTH/press", birth(SPEED), NOW, retained=True)
    assert kinds(effects) == [Refused, Publish, RebirthRequested]
    session = online()
    assert kinds(session.received("spBv1.0/plant/NDEATH/press", death(0), NOW, retained=True)) == [Refused]
    assert session.nodes()[0].liveness is Liveness.ONLINE


def test_times_in_the_future_are_flagged_and_change_no_order() -> None:
    session = host(future_ms=60_000)
    (born,) = send(session, "NBIRTH", birth(SPEED, at=NOW + 90_000))
    assert isinstance(born, NodeBorn)
    assert born.ahead_ms == 90_000
    (found,) = send(session, "NDATA", data(1, speed(8), at=NOW + 59_000))
    assert isinstance(found, Data)
    assert found.ahead_ms == 0
    send(session, "DBIRTH/axis", data(2, SPEED, with_datatypes=True))
    (dead,) = send(session, "DDEATH/axis", data(3, at=2**64 - 1))
    assert dead == DeviceDied(node=NODE, device="axis", at_ms=NOW)


def test_commands_of_other_hosts_are_no_news() -> None:
    assert send(online(), "NCMD", data(None, speed())) == []


MESSAGE_TYPES = ["NBIRTH", "NDEATH", "NDATA", "DBIRTH/a", "DDEATH/a", "DDATA/a", "NCMD"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(MESSAGE_TYPES), st.integers(0, 300), st.sampled_from(["press", "lathe"]),
            st.sampled_from([None, *range(8), 255]), st.integers(0, 3), st.binary(max_size=8), st.booleans(),
        ),
        max_size=60,
    )
)  # fmt: skip
def test_no_order_of_messages_breaks_a_host(steps: list[tuple[Any, ...]]) -> None:
    """Data only counts for what is online, whatever comes in whatever order."""
    session, now = host(), NOW
    alive: set[tuple[str, str]] = set()
    for kind, passed, node, seq, number, junk, retained in steps:
        now += passed * 20
        payload = death(number) if kind == "NDEATH" else birth(SPEED, bd_seq=number, seq=seq or 0)
        if kind[1:5] == "DATA":
            payload = data(seq, by_alias(number, 7 + number % 2), speed(number))
        word, _, device = kind.partition("/")
        topic = f"spBv1.0/plant/{word}/{node}" + (f"/{device}" if device else "")
        for one in session.received(topic, payload + junk, now, retained=retained) + session.tick(now):
            if isinstance(one, NodeBorn):
                alive = {place for place in alive if place[0] != one.node.node} | {(one.node.node, "")}
            elif isinstance(one, DeviceBorn):
                assert (one.node.node, "") in alive
                alive.add((one.node.node, one.device))
            elif isinstance(one, Data):
                assert (one.node.node, one.device) in alive
            elif isinstance(one, NodeDied):
                alive = {place for place in alive if place[0] != one.node.node}
            elif isinstance(one, DeviceDied):
                alive.discard((one.node.node, one.device))


# -- commands of the host --------------------------------------------------------------------------


def test_a_command_uses_the_alias_and_leaves_out_datatypes_as_the_node_does() -> None:
    session = online()
    send(session, "DDATA/axis", data(2, by_alias()))
    (message,) = session.command(NODE, "axis", [Metric(name="speed", value=12)], NOW)
    assert isinstance(message, Publish)
    assert (message.topic, message.qos, message.retain) == ("spBv1.0/plant/DCMD/press/axis", 0, False)
    payload = decode(message.payload, types={7: DataType.Int16})
    assert payload.seq is None
    assert payload.timestamp == NOW
    assert [(one.name, one.alias, one.value) for one in payload.metrics] == [(None, 7, 12)]
    assert decode(message.payload).metrics[0].datatype is None


def test_a_command_has_datatypes_for_a_node_that_sends_them() -> None:
    session = online()
    send(session, "NDATA", data(2, speed(), with_datatypes=True))
    (message,) = session.command(NODE, "", [Metric(name="speed", value=12)], NOW)
    assert isinstance(message, Publish)
    assert message.topic == "spBv1.0/plant/NCMD/press"
    assert decode(message.payload).metrics[0].datatype is DataType.Int16


@pytest.mark.parametrize(
    ("node", "device", "name", "value"),
    [
        ("other", "", "speed", 1), ("press", "none", "speed", 1), ("press", "", "nothing", 1),
        ("press", "", "speed", 40_000), ("press", "", "speed", "fast"), ("press", "", "speed", True),
    ],
)  # fmt: skip
def test_a_command_that_cannot_be_right_is_refused(node: str, device: str, name: str, value: Any) -> None:
    assert kinds(online().command(NodeId("plant", node), device, [Metric(name=name, value=value)], NOW)) == [Refused]


def test_a_command_while_the_host_or_the_node_is_offline_is_refused() -> None:
    session = online()
    send(session, "NDEATH", death(0))
    assert kinds(session.command(NODE, "", [Metric(name="speed", value=1)], NOW)) == [Refused]
    session = online()
    session.lost(NOW)
    assert kinds(session.command(NODE, "", [Metric(name="speed", value=1)], NOW)) == [Refused]
