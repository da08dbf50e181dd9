"""A strict SCADA host for tests: hears one edge node on one broker, and fails on what breaks Sparkplug's rules."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from simulators.brokers import until

from shared.sparkplug import topics
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.decode import decode, typed
from shared.sparkplug.encode import encode
from shared.sparkplug.payload import BD_SEQ, REBIRTH, Metric, Payload, Untyped
from shared.sparkplug.topics import MessageType, NodeId, StateTopic, Topic


@dataclass(frozen=True)
class Seen:
    """One message, with names and typed values by the births before it."""

    kind: str
    device: str
    payload: Payload
    metrics: tuple[Metric, ...]

    def values(self) -> dict[str, Any]:
        return {metric.name or "": metric.value for metric in self.metrics}


@dataclass
class ScadaHost:
    """`faults` are broken rules; read `seen` under no lock, it only grows."""

    port: int
    node: NodeId
    host: str = "scada"
    seen: list[Seen] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    latest: dict[tuple[str, str], Metric] = field(default_factory=dict)
    _client: paho.Client = field(init=False)
    _seq: int | None = None
    _bd_seq: int | None = None
    _alive: set[str] = field(default_factory=set)
    _definitions: dict[tuple[str, str], Metric] = field(default_factory=dict)
    _aliases: dict[int, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"host-{self.port}-{id(self)}")
        self._client.on_connect = lambda client, *_: client.subscribe("spBv1.0/#", 1)
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_message = lambda _client, _data, message: self._received(message)
        self._client.connect("127.0.0.1", self.port)
        self._client.loop_start()
        assert ready.wait(20), "no SUBACK"

    def close(self) -> None:
        """Disconnect, and fail if a rule was broken."""
        self._client.disconnect()
        self._client.loop_stop()
        assert not self.faults, self.faults[:3]

    # -- what it sends -----------------------------------------------------------------------------------

    def state(self, online: bool, timestamp: int | None = None) -> None:
        """Publish the STATE of this host application."""
        body = {"online": online, "timestamp": timestamp or time.time_ns() // 1_000_000}
        self._client.publish(str(StateTopic(self.host)), msgspec.json.encode(body), 1, retain=True)

    def command(self, name: str, value: Any, datatype: DataType, device: str = "", *, retain: bool = False) -> None:
        """Write one metric, by name."""
        kind = MessageType.DCMD if device else MessageType.NCMD
        now = time.time_ns() // 1_000_000
        metric = Metric(name=name, timestamp=now, datatype=datatype, value=value)
        topic = topics.node_topic(kind, self.node, device)
        self._client.publish(str(topic), encode(Payload(timestamp=now, metrics=(metric,))), 0, retain=retain)

    def raw(self, kind: MessageType, payload: bytes, device: str = "") -> None:
        """Publish anything to the node."""
        self._client.publish(str(topics.node_topic(kind, self.node, device)), payload, 0)

    def ask_rebirth(self) -> None:
        """Ask for all births."""
        self.command(REBIRTH, True, DataType.Boolean)

    # -- what it waits for -------------------------------------------------------------------------------

    def wait(self, kind: str, device: str = "", after: int = 0) -> Seen:
        """The first such message from number `after` on."""
        return until(
            f"{kind} {device}",
            lambda: next((one for one in self.seen[after:] if (one.kind, one.device) == (kind, device)), None),
        )

    def wait_value(self, name: str, accept: Callable[[Any], bool], device: str = "") -> Any:
        """The current value of a metric, once `accept` says so."""

        def found() -> list[Any] | None:
            metric = self.latest.get((device, name))
            return [metric.value] if metric is not None and accept(metric.value) else None

        return until(f"{name} of {device or 'the node'}", found)[0]

    def points(self, name: str, device: str = "", *, historical: bool | None = None) -> list[Metric]:
        """All points of a metric in DATA messages."""
        data = [one for one in self.seen if one.kind in {"NDATA", "DDATA"} and one.device == device]
        return [
            metric
            for one in data
            for metric in one.metrics
            if metric.name == name and historical in {None, metric.is_historical}
        ]

    # -- what it hears -----------------------------------------------------------------------------------

    def _received(self, message: paho.MQTTMessage) -> None:
        topic = topics.parse(message.topic)
        if isinstance(topic, StateTopic) or topic.node_id != self.node or topic.type.value.endswith("CMD"):
            return
        try:
            self._take(topic, decode(message.payload), message)
        except AssertionError as error:
            self.faults.append(f"{topic}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
            self.faults.append(f"{topic}: {type(error).__name__}: {error}")

    def _take(self, topic: Topic, payload: Payload, message: paho.MQTTMessage) -> None:
        kind = str(topic.type)
        assert not message.retain, "is retained"
        if kind == "NDEATH":
            self._take_death(topic, payload)
            return
        assert message.qos == 0, f"QoS {message.qos}"
        assert payload.timestamp, "no timestamp"
        if kind == "NBIRTH":
            self._seq, self._alive = 0, {""}
            self._definitions.clear()
            self._aliases.clear()
        assert payload.seq == self._seq, f"seq {payload.seq}, not {self._seq}"
        self._seq = (payload.seq + 1) % 256
        if kind.endswith("BIRTH"):
            self._define(topic, payload)
        else:
            assert topic.device in self._alive, "data before the birth"
        metrics = tuple(self._resolved(topic.device, metric) for metric in payload.metrics)
        if kind.endswith("DATA"):
            times = [metric.timestamp or 0 for metric in metrics if not metric.is_historical]
            assert times == sorted(times), "not in chronological order"
        for metric in metrics:
            if not metric.is_historical:
                self.latest[topic.device, metric.name or ""] = metric
        self.seen.append(Seen(kind, topic.device, payload, metrics))

    def _take_death(self, topic: Topic, payload: Payload) -> None:
        assert payload.seq is None, "NDEATH has a seq"
        assert [metric.name for metric in payload.metrics] == [BD_SEQ]
        if self._bd_seq is not None and "" in self._alive:
            assert payload.metrics[0].value == self._bd_seq, "bdSeq of the NDEATH is not that of the NBIRTH"
        self._alive = set()
        self.seen.append(Seen("NDEATH", topic.device, payload, payload.metrics))

    def _define(self, topic: Topic, payload: Payload) -> None:
        """A device may be born again, with other metrics."""
        self._definitions = {key: found for key, found in self._definitions.items() if key[0] != topic.device}
        self._aliases = {alias: key for alias, key in self._aliases.items() if key[0] != topic.device}
        for metric in payload.metrics:
            assert metric.name, "a metric without name"
            assert metric.datatype is not None, f"{metric.name} has no datatype"
            self._definitions[topic.device, metric.name] = metric
            if metric.alias is not None:
                assert metric.name != REBIRTH
                assert metric.alias not in self._aliases, f"alias {metric.alias} is there twice"
                self._aliases[metric.alias] = (topic.device, metric.name)
        self._alive.add(topic.device)
        if topic.type is MessageType.NBIRTH:
            values = {metric.name: metric for metric in payload.metrics}
            assert values[BD_SEQ].datatype is DataType.Int64
            assert values[REBIRTH].value is False
            self._bd_seq = int(values[BD_SEQ].value)  # type: ignore[arg-type]

    def _resolved(self, device: str, metric: Metric) -> Metric:
        if metric.name is None:
            of_device, name = self._aliases[metric.alias if metric.alias is not None else -1]
            assert of_device == device, "alias of another device"
            metric = msgspec.structs.replace(metric, name=name)
        definition = self._definitions[device, metric.name or ""]
        if isinstance(metric.value, Untyped):
            assert definition.datatype is not None
            metric = typed(metric, definition.datatype)
        return metric
