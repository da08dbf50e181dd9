"""A simulated edge node with one device, for provoking hosts. It does what the specification says, and on demand not.

Everything that it publishes is also given to the watch, as the cause of what the host does; it is not judged.
"""

from __future__ import annotations

import threading

from cloud_hub.scada.conformance.brokers import Broker, Client
from cloud_hub.scada.conformance.core.events import Publish
from cloud_hub.scada.conformance.watch import Watch, now_ms
from shared.errors import WireError
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.decode import decode
from shared.sparkplug.encode import encode
from shared.sparkplug.payload import BD_SEQ, REBIRTH, Metric, Payload

PREFIX = "tidegate-check-"
"""Simulated nodes have ids that begin so."""
DEVICE = "press"
NODE_METRIC, DEVICE_METRIC = "Line/Speed", "Temperature"
NODE_ALIAS, DEVICE_ALIAS = 10, 20
_NAMES: tuple[str | int, ...] = (NODE_ALIAS, DEVICE_ALIAS, NODE_METRIC, DEVICE_METRIC)
_TYPES = dict.fromkeys(_NAMES, DataType.Double)


class SimulatedNode:
    """Connects at once, is born with `birth()`, and answers rebirth requests and writes in the client's thread."""

    def __init__(self, watch: Watch, server: int, broker: Broker, group: str, node: str) -> None:
        self._watch, self._server, self.group, self.node = watch, server, group, node
        self._lock = threading.Lock()
        self._seq, self._born = 0, False
        self._values = {NODE_ALIAS: 1.0, DEVICE_ALIAS: 20.0}
        self.requests = self.writes = self.device_writes = 0
        self._death = encode(Payload(metrics=(self._bdseq(),)))
        will = (self._topic("NDEATH"), self._death, 1, False)
        self._client = Client(broker, self._received, name=f"check-{node}", will=will)
        self._client.subscribe(self._topic("NCMD"), 1)
        self._client.subscribe(self._topic("DCMD"), 1)

    def _bdseq(self) -> Metric:
        return Metric(name=BD_SEQ, timestamp=now_ms(), datatype=DataType.Int64, value=0)

    def _topic(self, kind: str) -> str:
        return f"spBv1.0/{self.group}/{kind}/{self.node}" + (f"/{DEVICE}" if kind[0] == "D" else "")

    # -- what it publishes -------------------------------------------------------------------------

    def birth(self) -> None:
        """NBIRTH and DBIRTH."""
        with self._lock:
            at_ms = now_ms()
            rebirth = Metric(name=REBIRTH, timestamp=at_ms, datatype=DataType.Boolean, value=False)
            self._seq, self._born = 0, True
            self._send("NBIRTH", (self._bdseq(), rebirth, self._full(NODE_METRIC, NODE_ALIAS, at_ms)), seq=0)
            self._send("DBIRTH", (self._full(DEVICE_METRIC, DEVICE_ALIAS, at_ms),), seq=self._next())

    def data(self) -> None:
        """NDATA and DDATA, in order."""
        with self._lock:
            self._data("NDATA", self._next())
            self._data("DDATA", self._next())

    def gap(self) -> None:
        """DDATA whose predecessor never comes."""
        with self._lock:
            self._next()
            self._data("DDATA", self._next())

    def swapped(self) -> None:
        """Two messages in the wrong order."""
        with self._lock:
            first, second = self._next(), self._next()
            self._data("DDATA", second)
            self._data("DDATA", first)

    def data_unborn(self) -> None:
        """DDATA before any birth."""
        with self._lock:
            self._data("DDATA", self._next())

    def device_death(self) -> None:
        """DDEATH."""
        with self._lock:
            self._send("DDEATH", (), seq=self._next())

    def end(self) -> None:
        """NDEATH, then DISCONNECT with the Will, as MQTT 5 needs it."""
        with self._lock:
            if self._born:
                self._born = False
                self._out("NDEATH", self._death)
        self._client.close(with_will=True)

    def _next(self) -> int:
        self._seq = (self._seq + 1) % 256
        return self._seq

    def _full(self, name: str, alias: int, at_ms: int) -> Metric:
        value = self._values[alias]
        return Metric(name=name, alias=alias, timestamp=at_ms, datatype=DataType.Double, value=value)

    def _data(self, kind: str, seq: int) -> None:
        alias = NODE_ALIAS if kind[0] == "N" else DEVICE_ALIAS
        self._values[alias] += 0.5
        metric = Metric(alias=alias, timestamp=now_ms(), datatype=DataType.Double, value=self._values[alias])
        self._send(kind, (metric,), seq=seq)

    def _send(self, kind: str, metrics: tuple[Metric, ...], *, seq: int) -> None:
        payload = Payload(timestamp=now_ms(), metrics=metrics, seq=seq)
        self._out(kind, encode(payload, with_datatypes=not kind.endswith("DATA")))

    def _out(self, kind: str, payload: bytes) -> None:
        topic = self._topic(kind)
        self._watch.observe(
            Publish(
                at_ms=now_ms(), server=self._server, topic=topic, payload=payload, qos=0, retain=False, simulated=True,
            )
        )  # fmt: skip
        self._client.send(topic, payload)

    # -- what it receives --------------------------------------------------------------------------

    def _received(self, topic: str, payload: bytes, _qos: int, _retain: bool) -> None:
        try:
            message = decode(payload, types=_TYPES)
        except WireError:
            return  # the watch judges the host's bytes
        for metric in message.metrics:
            if metric.name == REBIRTH:
                self.requests += 1
                self.birth()
            else:
                self._write(topic, metric)

    def _write(self, topic: str, metric: Metric) -> None:
        of_device = topic == self._topic("DCMD")
        if not isinstance(metric.value, float):
            return
        with self._lock:
            alias = DEVICE_ALIAS if of_device else NODE_ALIAS
            self._values[alias] = metric.value - 0.5  # the data that follows adds it
            self._data("DDATA" if of_device else "NDATA", self._next())
            self.device_writes += of_device
            self.writes += not of_device
