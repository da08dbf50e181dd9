"""Collector `mqtt_tap` on a real mosquitto: plain values, JSON, Sparkplug; hostile messages; losses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import paho.mqtt.client as paho
import pytest
from examiners.collectors import Site, examine_collector
from paho.mqtt.enums import CallbackAPIVersion
from simulators.brokers import BrokerProcess, free_port, mosquitto, until
from simulators.plant_collectors import watched

from edge_agent.clock import now_us
from edge_agent.collectors import Writer, mqtt_tap
from edge_agent.config import CollectorTable
from shared.errors import ConfigError
from shared.protocol.messages import Event, Sample
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.decode import decode
from shared.sparkplug.encode import encode
from shared.sparkplug.payload import BAD, QUALITY, REBIRTH, STALE, Metric, Payload, Property

TAGS: list[dict[str, Any]] = [
    {"name": "level", "topic": "tank/level", "scale": 0.1},
    {"name": "temp", "topic": "line/1", "path": "$.sensors[0].temp", "time_path": "$.at"},
    {"name": "state", "topic": "line/1", "path": "$.state", "type": "string"},
    {"name": "on", "topic": "line/1/on", "type": "bool"},
]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    process = mosquitto(tmp_path_factory.mktemp("broker"))
    process.start()
    yield process
    process.stop()


class Plant:
    """Machines of the plant: publishes, and remembers what the tap sent to nodes."""

    def __init__(self, port: int) -> None:
        self.commands: list[tuple[str, bytes]] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
        self.client.on_message = lambda _c, _d, message: self.commands.append((message.topic, message.payload))
        self.client.connect("127.0.0.1", port)
        self.client.subscribe("spBv1.0/Plant/NCMD/#")
        self.client.loop_start()

    def send(self, topic: str, payload: Any, *, retain: bool = False) -> None:
        data = payload if isinstance(payload, (bytes, str)) else json.dumps(payload)
        self.client.publish(topic, data, 1, retain).wait_for_publish(10)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture(scope="module")
def plant(broker: BrokerProcess) -> Iterator[Plant]:
    found = Plant(broker.port)
    yield found
    found.close()


def opened(broker: BrokerProcess, tags: list[dict[str, Any]], **options: Any) -> Any:
    return watched(mqtt_tap.open_collector, "mqtt_tap", address=f"127.0.0.1:{broker.port}", tags=tags, **options)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_plain_values_and_json_are_read_with_both_versions_of_mqtt(
    broker: BrokerProcess, plant: Plant, protocol: str
) -> None:
    with opened(broker, TAGS, protocol=protocol) as seen:
        seen.says("connected to")
        at_us = (now_us() // 1000 - 5000) * 1000
        plant.send("tank/level", "215\n")
        plant.send("line/1", {"sensors": [{"temp": 41.5}], "state": "run", "at": at_us // 1000})
        plant.send("line/1/on", "true")
        seen.shows("level", 21.5)
        seen.shows("temp", 41.5)
        seen.shows("state", "run")
        seen.shows("on", 1.0)
        assert seen.samples("temp")[-1].t_us == at_us, "the time in the message"
        assert seen.collector.warnings() == []
        assert not seen.collector.writable


def test_it_passes_the_examiner_of_collectors(broker: BrokerProcess, plant: Plant) -> None:
    opened_: list[Any] = []

    def open_collector(table: CollectorTable) -> Any:
        opened_.append(mqtt_tap.open_collector(table))
        return opened_[-1]

    def happens() -> None:
        source = opened_[-1].source
        if source._thread is not None:
            until("a value", lambda: plant.send("tank/level", 5) or len(source._waiting) > 2)

    options = {"address": f"127.0.0.1:{broker.port}", "tags": TAGS}
    table = CollectorTable(kind="mqtt_tap", name="the-tap", period_s=None, options=options)
    examine_collector(
        Site(open_collector=open_collector, table=table, happens=happens, kinds=(Sample, Event), source_times=True)
    )
    assert isinstance(opened_[0], Writer)
    assert opened_[0].writable == []


UNREADABLE: list[tuple[Any, str]] = [
    (b"{", "no JSON on line/1"), (b"[" * 50_000, "no JSON on line/1"), (b"\xff\xfe", "no JSON on line/1"),
    ({"sensors": []}, "the message has no $['sensors'][0]['temp']"),
    ({"sensors": [{"temp": "hot"}], "at": 1}, "'hot' is no number"),
    ({"sensors": [{"temp": 1}], "at": "noon"}, "'noon' is no time in ms"),
    (b'{"sensors": [{"temp": 1e999}], "at": 1}', "line/1"),
]  # fmt: skip


def test_a_message_that_cannot_be_read_makes_its_tags_bad_and_the_next_one_good(
    broker: BrokerProcess, plant: Plant
) -> None:
    with opened(broker, TAGS) as seen:
        seen.says("connected to")
        for number, (payload, told) in enumerate(UNREADABLE):
            plant.send("line/1", payload)
            plant.send("tank/level", 10 * number)
            seen.shows("level", float(number))
            seen.shows("temp", None, "bad")
            seen.says(told)
            plant.send("line/1", {"sensors": [{"temp": number}], "at": now_us() // 1000, "state": "run"})
            seen.shows("temp", float(number))


def test_a_retained_message_without_a_time_is_uncertain(broker: BrokerProcess, plant: Plant) -> None:
    plant.send("old/level", 10, retain=True)
    with opened(broker, [{"name": "old", "topic": "old/level"}]) as seen:
        seen.shows("old", 10.0, "uncertain")
        plant.send("old/level", 11)
        seen.shows("old", 11.0)


def test_a_time_in_the_future_is_not_believed(broker: BrokerProcess, plant: Plant) -> None:
    with opened(broker, TAGS) as seen:
        seen.says("connected to")
        plant.send("line/1", {"sensors": [{"temp": 3}], "at": now_us() // 1000 + 86_400_000})
        seen.shows("temp", 3.0)
        assert seen.samples("temp")[-1].t_us <= now_us()


def test_a_broker_that_is_gone_is_told_and_found_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    mine = mosquitto(tmp_path_factory.mktemp("mine"))
    mine.start()
    try:
        with opened(mine, TAGS[:1], groups={"default": {"period_s": 0.1}}, stale_s=0.5) as seen:
            seen.says("connected to")
            plant = Plant(mine.port)
            plant.send("tank/level", 10)
            seen.shows("level", 1.0)
            plant.close()
            mine.kill()
            seen.says("connection lost: 127.0.0.1")
            seen.shows("level", 1.0, "uncertain")
            mine.start()
            plant = Plant(mine.port)
            until("a value", lambda: plant.send("tank/level", 20) or seen.last("level") == (2.0, "good"))
            plant.close()
    finally:
        mine.stop()


def test_an_address_that_nothing_listens_at_is_told(broker: BrokerProcess) -> None:
    with watched(mqtt_tap.open_collector, "mqtt_tap", address=f"127.0.0.1:{free_port()}", tags=TAGS) as seen:
        seen.says("Connection refused")


@pytest.mark.parametrize(
    ("tag", "part"),
    [
        ({"topic": "a/+"}, "one topic, without + and #"), ({"topic": "a", "path": "temp"}, "does not begin with $"),
        ({}, "either topic, or node and metric"), ({"node": "a/b"}, "and metric a name in its births"),
        ({"node": "a", "metric": "x"}, "group/node or group/node/device"),
        ({"topic": "a", "writable": True}, "a tap only listens"), ({"topic": "a", "time_path": "$.t"}, "needs path"),
    ],
)  # fmt: skip
def test_tags_that_cannot_be_used_are_refused(tag: dict[str, Any], part: str) -> None:
    table = CollectorTable(
        kind="mqtt_tap", name="tap", period_s=None, options={"address": "plc:1883", "tags": [{"name": "a"} | tag]}
    )
    with pytest.raises(ConfigError) as caught:
        mqtt_tap.open_collector(table)
    assert part in str(caught.value)


def test_check_warns_of_a_broker_without_tls() -> None:
    options = {"address": "plc:1883", "tags": TAGS, "user": "a", "password_file": "/x"}
    collector = mqtt_tap.open_collector(CollectorTable(kind="mqtt_tap", name="tap", period_s=None, options=options))
    (warning,) = collector.warnings()
    assert "without TLS" in warning
    assert "password can be read" in warning


# -- Sparkplug -------------------------------------------------------------------------------------------

NODES: list[dict[str, Any]] = [
    {"name": "rpm", "node": "Plant/Line1", "metric": "Motor/RPM"},
    {"name": "temp", "node": "Plant/Line1/Press", "metric": "Temp", "scale": 2.0},
    {"name": "running", "node": "Plant/Line1/Press", "metric": "Running", "type": "bool"},
    {"name": "order", "node": "Plant/Line1/Press", "metric": "Order", "type": "string"},
    {"name": "none", "node": "Plant/Line1/Press", "metric": "None"},
]


class Node:
    """An edge node that is born, tells and dies by the book."""

    def __init__(self, plant: Plant) -> None:
        self._plant, self._seq = plant, 0

    def _send(self, topic: str, metrics: list[Metric]) -> None:
        payload = Payload(timestamp=now_us() // 1000, metrics=tuple(metrics), seq=self._seq)
        self._seq = (self._seq + 1) % 256
        self._plant.send(topic, encode(payload))

    def birth(self) -> None:
        self._seq = 0
        bd_seq = Metric(name="bdSeq", datatype=DataType.Int64, value=0, timestamp=now_us() // 1000)
        rebirth = Metric(name=REBIRTH, datatype=DataType.Boolean, value=False, timestamp=now_us() // 1000)
        rpm = Metric(name="Motor/RPM", alias=1, datatype=DataType.Int32, value=1450, timestamp=now_us() // 1000)
        self._send("spBv1.0/Plant/NBIRTH/Line1", [bd_seq, rebirth, rpm])
        self._send(
            "spBv1.0/Plant/DBIRTH/Line1/Press",
            [
                Metric(name="Temp", alias=2, datatype=DataType.Double, value=20.5, timestamp=now_us() // 1000),
                Metric(name="Running", alias=3, datatype=DataType.Boolean, value=True, timestamp=now_us() // 1000),
                Metric(name="Order", alias=4, datatype=DataType.String, value="A7", timestamp=now_us() // 1000),
            ],
        )

    def data(self, alias: int, kind: DataType, value: Any, device: str = "/Press", **more: Any) -> None:
        word = "DDATA" if device else "NDATA"
        metric = Metric(alias=alias, datatype=kind, value=value, timestamp=now_us() // 1000, **more)
        self._send(f"spBv1.0/Plant/{word}/Line1{device}", [metric])

    def death(self) -> None:
        bd_seq = Metric(name="bdSeq", datatype=DataType.Int64, value=0, timestamp=now_us() // 1000)
        self._plant.send("spBv1.0/Plant/NDEATH/Line1", encode(Payload(timestamp=now_us() // 1000, metrics=(bd_seq,))))


def test_metrics_of_sparkplug_nodes_are_followed_by_alias_through_births_and_deaths(
    broker: BrokerProcess, plant: Plant
) -> None:
    node = Node(plant)
    plant.commands.clear()
    with opened(broker, NODES) as seen:
        seen.says("connected to")
        until("the birth is asked for", lambda: seen.read() or plant.commands)
        topic, payload = plant.commands[0]
        (command,) = decode(payload).metrics
        assert (topic, command.name, command.value) == ("spBv1.0/Plant/NCMD/Line1", REBIRTH, True)
        node.birth()
        expected = {"rpm": 1450.0, "temp": 41.0, "running": 1.0, "order": "A7"}
        for name, value in expected.items():
            seen.shows(name, value)
        seen.shows("none", None, "bad")
        seen.says("has no such metric")
        node.data(2, DataType.Double, 30.0)
        seen.shows("temp", 60.0)
        node.data(1, DataType.Int32, -5, device="")
        seen.shows("rpm", -5.0)
        node.data(2, DataType.Double, 31.0, properties={QUALITY: Property(DataType.Int32, STALE)})
        seen.shows("temp", 62.0, "uncertain")
        node.data(2, DataType.Double, 32.0, properties={QUALITY: Property(DataType.Int32, BAD)})
        seen.shows("temp", None, "bad")
        node.data(3, DataType.Boolean, None)
        seen.shows("running", None, "bad")
        node.data(1, DataType.Int32, 99, device="", is_historical=True)
        node.data(1, DataType.Int32, 7, device="")
        seen.shows("rpm", 7.0)
        assert 99.0 not in {sample.value for sample in seen.samples("rpm")}
        node.death()
        seen.shows("rpm", None, "bad")
        seen.says("Plant/Line1 is offline")
        node.birth()
        seen.shows("temp", 41.0)


def test_hostile_sparkplug_messages_change_nothing(broker: BrokerProcess, plant: Plant) -> None:
    node = Node(plant)
    with opened(broker, NODES, request_births=False) as seen:
        seen.says("connected to")
        plant.commands.clear()
        for topic in ("NDATA/Line1", "DDATA/Line1/Press", "NBIRTH/Line1", "NBIRTH/Other", "XXX/Line1", "STATE"):
            plant.send(f"spBv1.0/Plant/{topic}", b"\xff\x00garbage")
        node.birth()
        seen.shows("temp", 41.0)
        assert plant.commands == [], "with request_births = false nothing is ever sent"
