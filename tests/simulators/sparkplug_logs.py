"""Logs of MQTT packets of a Sparkplug edge node and host that keep every rule, for tests that break one at a time.

A payload is a dict of fields by name, so that a test can leave one out or write a wrong one, which encoders refuse.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cloud_hub.scada.conformance.core.events import (
    AnyEvent,
    Closed,
    Confirmed,
    Connect,
    ConnectAck,
    Delivery,
    Disconnect,
    Publish,
    Subscribe,
    Tick,
    Will,
)  # fmt: skip
from cloud_hub.scada.conformance.core.fields import PAYLOAD, Table

T0 = 1_800_000_000_000
HOST = "scada"
NODE = "spBv1.0/g/{}/n"
INT32, INT64, DOUBLE, BOOLEAN, STRING, DATASET, TEMPLATE = 3, 4, 10, 11, 12, 16, 19


def varint(number: int) -> bytes:
    """A protobuf varint."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def encode(tree: dict[str, Any], table: Table = PAYLOAD) -> bytes:
    """Protobuf bytes of a tree; the order is that of the fields' numbers."""
    out = bytearray()
    for number, (name, kind) in sorted(table.fields.items()):
        values = tree.get(name, [])
        for value in values if isinstance(values, list) else [values]:
            out += _field(number, kind, value)
    return bytes(out)


def _field(number: int, kind: str | Table, value: Any) -> bytes:
    if kind == "uint":
        return varint(number << 3) + varint(int(value))
    if kind in ("float", "double"):
        wire, code = (5, "<f") if kind == "float" else (1, "<d")
        return varint(number << 3 | wire) + struct.pack(code, value)
    data = encode(value, kind) if isinstance(kind, Table) else value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def state(online: object, time: object) -> bytes:
    """A STATE payload."""
    return json.dumps({"online": online, "timestamp": time}).encode()


@dataclass
class Step:
    """One event: its class and its arguments, to be changed by a test. A payload may be a dict."""

    label: str
    kind: type
    at_ms: int
    values: dict[str, Any]

    @property
    def payload(self) -> dict[str, Any]:
        """The payload's tree."""
        return self.values["will"]["payload"] if "will" in self.values else self.values["payload"]  # type: ignore[no-any-return]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The metrics of the payload's tree."""
        return self.payload["metrics"]  # type: ignore[no-any-return]

    def metric(self, name: str) -> dict[str, Any]:
        """The metric with this name or alias."""
        return next(one for one in self.metrics if name in (one.get("name"), str(one.get("alias"))))

    def event(self) -> AnyEvent:
        """The event."""
        values = dict(self.values)
        if isinstance(values.get("payload"), dict):
            values["payload"] = encode(values["payload"])
        if isinstance(values.get("will"), dict):
            will = values["will"]
            payload = encode(will["payload"]) if isinstance(will["payload"], dict) else will["payload"]
            values["will"] = Will(**{**will, "payload": payload})
        event: AnyEvent = self.kind(at_ms=self.at_ms, **values)
        return event


@dataclass
class Log:
    """Steps in order; `log["nbirth"]` is the first with that label."""

    steps: list[Step] = field(default_factory=list)
    now: int = T0

    def add(self, label: str, kind: type, after_ms: int = 10, **values: Any) -> Step:
        """Add a step some time after the one before."""
        self.now += after_ms
        self.steps.append(Step(label, kind, self.now, values))
        return self.steps[-1]

    def __getitem__(self, label: str) -> Step:
        return next(step for step in self.steps if step.label == label)

    def remove(self, *labels: str) -> None:
        """Leave steps out."""
        self.steps = [step for step in self.steps if step.label not in labels]

    def move(self, label: str, *, before: str) -> None:
        """Change the order; the step takes the other's time."""
        step = self[label]
        self.steps.remove(step)
        target = self[before]
        step.at_ms = target.at_ms
        self.steps.insert(self.steps.index(target), step)

    def copy_of(self, label: str, **values: Any) -> Step:
        """Repeat a step right after itself, with other values."""
        step = self[label]
        twin = Step(f"{label}-again", step.kind, step.at_ms + 1, {**step.values, **values})
        self.steps.insert(self.steps.index(step) + 1, twin)
        return twin

    def events(self) -> Iterable[AnyEvent]:
        """The events."""
        return [step.event() for step in self.steps]


class _Edge:
    """Writes the packets of one edge node into a log."""

    def __init__(self, log: Log, node: str, *, protocol: int = 5, prefix: str = "") -> None:
        self.log, self.node, self.protocol, self.prefix = log, node, protocol, prefix
        self.seq, self.bdseq, self.client, self.server = 0, -1, "", 0

    def _where(self) -> dict[str, Any]:
        return {"server": self.server, "client": self.client}

    def add(self, label: str, kind: type, **values: Any) -> Step:
        return self.log.add(self.prefix + label, kind, **self._where(), **values)

    def bdseq_metric(self) -> dict[str, Any]:
        now = self.log.now
        return {"name": "bdSeq", "timestamp": now, "datatype": INT64, "long_value": self.bdseq}

    def connect(self, server: int) -> None:
        self.bdseq, self.server = self.bdseq + 1, server
        self.client = f"{server}:{self.node}:{self.bdseq}"
        will = {
            "topic": f"spBv1.0/g/NDEATH/{self.node}", "payload": {"metrics": [self.bdseq_metric()]}, "qos": 1,
            "retain": False,
        }  # fmt: skip
        self.add("connect", Connect, client_id=self.node, protocol=self.protocol, clean=True, will=will)
        self.add("connack", ConnectAck, accepted=True)
        filters = (
            (f"spBv1.0/g/NCMD/{self.node}", 1),
            (f"spBv1.0/g/DCMD/{self.node}/#", 1),
            (f"spBv1.0/STATE/{HOST}", 1),
        )
        self.add("subscribe", Subscribe, filters=filters)

    def host(self, label: str, online: bool, time: int, host: str = HOST) -> None:
        self.add(label, Delivery, topic=f"spBv1.0/STATE/{host}", payload=state(online, time), qos=1, retain=True)

    def send(self, label: str, kind: str, metrics: list[dict[str, Any]], device: str = "") -> Step:
        self.seq = 0 if kind == "NBIRTH" else (self.seq + 1) % 256
        topic = f"spBv1.0/g/{kind}/{self.node}" + (f"/{device}" if device else "")
        tree = {"timestamp": self.log.now, "seq": self.seq, "metrics": metrics}
        return self.add(label, Publish, topic=topic, payload=tree, qos=0, retain=False)

    def births(self, again: str = "") -> None:
        now = self.log.now
        rebirth = {"name": "Node Control/Rebirth", "timestamp": now, "datatype": BOOLEAN, "boolean_value": 0}
        self.send(f"nbirth{again}", "NBIRTH", [self.bdseq_metric(), rebirth, *node_metrics(now)])
        self.send(f"dbirth{again}", "DBIRTH", device_metrics(now), "d")

    def data(self, again: str = "", value: float = 2.0) -> None:
        now = self.log.now
        instance = {"alias": 4, "timestamp": now, "template_value": template(definition=False, members=("b",))}
        changed = {"alias": 2, "timestamp": now, "double_value": value}
        self.send(f"ndata{again}", "NDATA", [changed, instance])
        self.send(f"ddata{again}", "DDATA", [{"alias": 11, "timestamp": now, "double_value": value}], "d")

    def end(self) -> None:
        tree = {"metrics": [self.bdseq_metric()]}
        self.add("ndeath", Publish, topic=f"spBv1.0/g/NDEATH/{self.node}", payload=tree, qos=1, retain=False)
        self.add("disconnect", Disconnect, reason=4 if self.protocol == 5 else 0)
        self.add("closed", Closed)


def template(*, definition: bool, members: tuple[str, ...] = ("a", "b"), now: int = T0) -> dict[str, Any]:
    """A definition, or an instance of it."""
    tree: dict[str, Any] = {
        "version": "1", "is_definition": int(definition),
        "metrics": [{"name": name, "timestamp": now, "datatype": INT32, "int_value": 1} for name in members],
        "parameters": [{"name": "p", "type": INT32, "int_value": 1}],
    }  # fmt: skip
    return tree if definition else {**tree, "template_ref": "T"}


def node_metrics(now: int) -> list[dict[str, Any]]:
    """Metrics of the node: a number with properties, a definition, an instance, a DataSet."""
    quality = {"type": INT32, "int_value": 192}
    inner = {"type": 20, "propertyset_value": {"keys": ["unit"], "values": [{"type": STRING, "string_value": "m"}]}}
    table = {
        "num_of_columns": 2, "columns": ["x", "y"], "types": [INT32, DOUBLE],
        "rows": [{"elements": [{"int_value": 1}, {"double_value": 1.5}]}],
    }  # fmt: skip
    return [
        {"name": "speed", "alias": 2, "timestamp": now, "datatype": DOUBLE, "double_value": 1.0,
         "properties": {"keys": ["Quality", "more"], "values": [quality, inner]}},
        {"name": "T", "timestamp": now, "datatype": TEMPLATE, "template_value": template(definition=True)},
        {"name": "instance", "alias": 4, "timestamp": now, "datatype": TEMPLATE,
         "template_value": template(definition=False)},
        {"name": "table", "timestamp": now, "datatype": DATASET, "dataset_value": table},
        {"name": "empty", "timestamp": now, "datatype": DOUBLE, "is_null": 1},
    ]  # fmt: skip


def device_metrics(now: int) -> list[dict[str, Any]]:
    """Metrics of the device."""
    return [
        {"name": "temperature", "alias": 11, "timestamp": now, "datatype": DOUBLE, "double_value": 1.0},
        {"name": "empty", "timestamp": now, "datatype": DOUBLE, "is_null": 1},
    ]


def command(value_field: str, value: object, now: int, **names: object) -> dict[str, Any]:
    """The tree of a command with one metric."""
    return {"timestamp": now, "metrics": [{**names, "timestamp": now, value_field: value}]}


REBIRTH = {"name": "Node Control/Rebirth"}


def edge_log() -> Log:
    """An edge node with a device, a primary host, two servers; another on MQTT 3.1.1: all rules are kept."""
    log = Log()
    edge = _Edge(log, "n")
    edge.connect(0)
    edge.host("offline-first", False, T0)
    edge.host("stale-online", True, T0 - 1000)
    edge.host("online", True, T0 + 100)
    edge.births()
    edge.data()
    edge.add(
        "rebirth", Delivery, topic="spBv1.0/g/NCMD/n", payload=command("boolean_value", 1, log.now, **REBIRTH), qos=0,
        retain=False,
    )  # fmt: skip
    edge.births("-2")
    edge.data("-2", 3.0)
    edge.send("ddeath", "DDEATH", [], "d")
    log.add("asked", Confirmed, rule="ddeath.lost", kept=True)
    edge.host("old-offline", False, T0 + 50)
    log.add("later", Tick, after_ms=6000)
    edge.host("offline", False, T0 + 200)
    edge.end()
    edge.prefix = "second-"
    edge.connect(1)
    edge.host("online", True, T0 + 300)
    edge.births()
    old = _Edge(log, "m", protocol=4, prefix="old-")
    old.connect(0)
    old.host("online", True, T0 + 300)
    old.births()
    old.end()
    log.add("end", Tick, after_ms=150_000)
    return log


class _Host:
    """Writes the packets of one host into a log."""

    def __init__(self, log: Log, server: int, *, protocol: int = 5, prefix: str = "") -> None:
        self.log, self.server, self.protocol, self.prefix = log, server, protocol, prefix
        self.client = f"{server}:host:{prefix}"
        self.time = 0

    def add(self, label: str, kind: type, **values: Any) -> Step:
        return self.log.add(self.prefix + label, kind, server=self.server, client=self.client, **values)

    def state(self, label: str, online: bool, time: int) -> Step:
        topic = f"spBv1.0/STATE/{HOST}"
        return self.add(label, Publish, topic=topic, payload=state(online, time), qos=1, retain=True)

    def start(self) -> None:
        self.time = self.log.now + 10
        topic = f"spBv1.0/STATE/{HOST}"
        will = {"topic": topic, "payload": state(False, self.time), "qos": 1, "retain": True}
        self.add("connect", Connect, client_id="hub", protocol=self.protocol, clean=True, will=will)
        self.add("connack", ConnectAck, accepted=True)
        self.add("subscribe", Subscribe, filters=((topic, 1), ("spBv1.0/+/NBIRTH/#", 0), ("spBv1.0/#", 0)))
        self.state("birth", True, self.time)

    def send(self, label: str, kind: str, tree: dict[str, Any], device: str = "") -> None:
        topic = f"spBv1.0/g/{kind}/n" + (f"/{device}" if device else "")
        self.add(label, Publish, topic=topic, payload=tree, qos=0, retain=False)

    def end(self, *, packet: bool = True) -> None:
        self.state("death", False, self.log.now)
        if packet:
            self.add("disconnect", Disconnect)
        self.add("closed", Closed)


def host_log() -> Log:
    """A host on two servers, and a simulated edge node that loses messages: all rules are kept."""
    log = Log()
    host, other = _Host(log, 0), _Host(log, 1, protocol=4, prefix="other-")
    host.start()
    other.start()
    edge = _Edge(log, "n", prefix="edge-")
    edge.bdseq = 0
    edge.births()
    edge.data()
    for step in log.steps:
        if step.label.startswith("edge-"):
            step.values["simulated"] = True
    host.send("write", "NCMD", command("double_value", 5.0, log.now, alias=2))
    host.send("device-write", "DCMD", command("double_value", 5.0, log.now, alias=11), "d")
    _lose(log, edge, swapped=True)
    log.add("wait", Tick, after_ms=10_000)
    _lose(log, edge, swapped=False)
    log.now += 2000
    host.send("request", "NCMD", command("boolean_value", 1, log.now, **REBIRTH))
    host.add("told-offline", Delivery, topic=f"spBv1.0/STATE/{HOST}", payload=state(False, T0 + 1), qos=1, retain=False)
    host.state("restored", True, host.time)
    log.add("answered", Tick, after_ms=6000)
    for rule in ("node-offline", "node-stale", "devices-offline", "devices-stale", "device-offline", "device-stale"):
        log.add(f"look-{rule}", Confirmed, rule=f"action.{rule}", kept=True)
    host.end()
    other.end(packet=False)
    log.add("end", Tick, after_ms=60_000)
    return log


def _lose(log: Log, edge: _Edge, *, swapped: bool) -> None:
    """A message that comes late, or never."""
    changed = [{"alias": 11, "timestamp": log.now, "double_value": 9.0}]
    label = "swapped" if swapped else "gap"
    edge.seq += 1
    edge.send(f"{label}-second", "DDATA", changed, "d").values["simulated"] = True
    if swapped:
        edge.seq -= 2
        edge.send(f"{label}-first", "DDATA", changed, "d").values["simulated"] = True
        edge.seq += 1
