"""A third-party Sparkplug edge node on a real server: a plain MQTT client that sends what a test wants."""

from __future__ import annotations

import time
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from simulators.brokers import until
from simulators.sparkplug_births import metric

from shared.sparkplug.datatypes import DataType
from shared.sparkplug.decode import decode
from shared.sparkplug.encode import encode
from shared.sparkplug.payload import BD_SEQ, REBIRTH, Metric, Payload

RAW = dict[str, Any]


_last_ms = 0


def now_ms() -> int:
    """The time, never the same twice: a value is known by its millisecond."""
    global _last_ms  # noqa: PLW0603
    _last_ms = max(_last_ms + 1, time.time_ns() // 1_000_000)
    return _last_ms


class SparkplugNode:
    """One edge node (MQTT 3.1.1) with devices. `values` are the metrics of the node ('') and of each device.

    A command sets the metrics of `obeys` and reports them; with `applies` they become another value.
    """

    def __init__(self, port: int, group: str, node: str, **values: Any) -> None:
        self.group, self.node, self.port = group, node, port
        self.values: dict[str, RAW] = {"": values}
        self.seq = self.bd_seq = 0
        self.commands: list[tuple[str, Payload]] = []
        self.obeys: set[str] = set()
        self.applies: dict[str, Any] = {}
        self.rebirths = True
        self.born = 0
        self._client: paho.Client | None = None

    # -- the connection ----------------------------------------------------------------------------

    def connect(self) -> SparkplugNode:
        self._client = client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"{self.group}-{self.node}")
        client.will_set(self.topic("NDEATH"), self._death(), 1)
        client.on_message = self._arrived
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        until("the node is connected", client.is_connected)
        client.subscribe([(self.topic("NCMD"), 1), (f"spBv1.0/{self.group}/DCMD/{self.node}/+", 1)])
        self.birth()
        return self

    def close(self, *, cleanly: bool = False) -> None:
        """End the connection: by an NDEATH, or so that the server sends the Will."""
        client, self._client = self._client, None
        if client is None:
            return
        if cleanly:
            client.publish(self.topic("NDEATH"), self._death(), 0).wait_for_publish(10)
            client.disconnect()
        else:
            client._sock_close()
        client.loop_stop()
        self.bd_seq = (self.bd_seq + 1) % 256

    def _death(self) -> bytes:
        number = Metric(name=BD_SEQ, datatype=DataType.Int64, value=self.bd_seq)
        return encode(Payload(timestamp=now_ms(), metrics=(number,)))

    # -- messages ----------------------------------------------------------------------------------

    def topic(self, kind: str, device: str = "") -> str:
        return "/".join(part for part in ("spBv1.0", self.group, kind, self.node, device) if part)

    def publish(self, topic: str, payload: bytes, *, wait: bool = True) -> None:
        assert self._client is not None
        sent = self._client.publish(topic, payload, 0)
        if wait:
            sent.wait_for_publish(10)

    def birth(self, *, wait: bool = True) -> None:
        """NBIRTH, and DBIRTHs of all devices."""
        self.seq, self.born = 0, self.born + 1
        head = [metric(BD_SEQ, self.bd_seq, now_ms()), metric(REBIRTH, False, now_ms())]
        self._send("NBIRTH", "", [*head, *self._metrics("")], wait=wait)
        for device in self.values:
            if device:
                self._send("DBIRTH", device, self._metrics(device), wait=wait)

    def device_birth(self, device: str, **values: Any) -> None:
        self.values[device] = values
        self._send("DBIRTH", device, self._metrics(device))

    def data(self, device: str = "", *, wait: bool = True, **values: Any) -> None:
        """NDATA or DDATA with these values, without datatypes."""
        self.values[device] |= values
        found = [metric(name, value, now_ms()) for name, value in values.items()]
        self._send("DDATA" if device else "NDATA", device, found, datatypes=False, wait=wait)

    def device_death(self, device: str) -> None:
        del self.values[device]
        self._send("DDEATH", device, [])

    def skip(self, count: int = 1) -> None:
        """Lose messages: their numbers are used and nothing is sent."""
        self.seq = (self.seq + count) % 256

    def _metrics(self, device: str) -> list[Metric]:
        return [
            value if isinstance(value, Metric) else metric(name, value, now_ms())
            for name, value in self.values[device].items()
        ]

    def _send(
        self, kind: str, device: str, metrics: list[Metric], *, datatypes: bool = True, wait: bool = True
    ) -> None:
        payload = Payload(timestamp=now_ms(), metrics=tuple(metrics), seq=self.seq)
        self.seq = (self.seq + 1) % 256
        self.publish(self.topic(kind, device), encode(payload, with_datatypes=datatypes), wait=wait)

    def _arrived(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        parts = message.topic.split("/")
        device = parts[4] if len(parts) > 4 else ""
        payload = decode(message.payload)
        self.commands.append((device, payload))
        wanted = {one.name: one for one in payload.metrics if one.name}
        if REBIRTH in wanted:
            if self.rebirths:
                self.birth(wait=False)
            return
        obeyed = {name: self.applies.get(name, _value(one)) for name, one in wanted.items() if name in self.obeys}
        if obeyed:
            self.data(device, wait=False, **obeyed)


def _value(one: Metric) -> Any:
    return getattr(one.value, "raw", one.value)
