"""The table of all MQTT topics. `<id>` is the device, `<name>` a named twin document, `<cid>` a command id,
`<model>` the name of a model.

All topics begin with a prefix, `tidegate/v1` by default. Tests compare the brokers' access lists, docs/topics.md and
asyncapi.yaml with this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared.ids import DEVICE_ID, device_of_thing, thing_of_device
from shared.protocol.messages import Stream

PREFIX = "tidegate/v1"
AWS = "$aws"
"""Prefix of the topics that AWS clients use: `$aws/things/<id>/shadow/...`."""
SPARKPLUG = "spBv1.0"
"""First level of every Sparkplug B topic (Sparkplug 3.0, section 4.1)."""

Sender = Literal["device", "hub"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic: the part after `things/<id>/`, the sender and the payload."""

    rest: str
    sender: Sender
    payload: str
    qos: int = 1
    retained: bool = False
    note: str = ""
    for_hub: bool = True
    """False: sent by the device for other machines on site; the hub does not subscribe to it."""


_SHADOW_VERBS: tuple[tuple[str, Sender], ...] = (
    ("get", "device"), ("update", "device"), ("delete", "device"),
    ("get/accepted", "hub"), ("get/rejected", "hub"),
    ("update/accepted", "hub"), ("update/rejected", "hub"), ("update/delta", "hub"), ("update/documents", "hub"),
    ("delete/accepted", "hub"), ("delete/rejected", "hub"),
)  # fmt: skip

TABLE: tuple[Topic, ...] = (
    Topic(rest="birth", sender="device", payload="Birth", retained=True, note="also the Will, with state offline"),
    Topic(rest="session", sender="hub", payload="Session", note="the hub's answer to a birth"),
    Topic(rest="telemetry", sender="device", payload="Batch", note="of Sample"),
    Topic(rest="alarms", sender="device", payload="Batch", note="of Alarm"),
    Topic(rest="alarms/life", sender="hub", payload="AlarmStateMessage", note="state of an alarm on the hub"),
    Topic(rest="events", sender="device", payload="Batch", note="of Event"),
    Topic(rest="escalations", sender="device", payload="Batch", note="of Escalation"),
    Topic(rest="escalations/answers", sender="hub", payload="EscalationAnswer"),
    Topic(rest="results/<model>", sender="device", payload="ModelOutput", qos=0, note="for machines on site",
          for_hub=False),
    Topic(rest="acks", sender="hub", payload="Ack", note="after the hub's commit"),
    Topic(rest="applied", sender="device", payload="Applied", note="progress of desired state"),
    Topic(rest="commands/<cid>/request", sender="hub", payload="CommandRequest"),
    Topic(rest="commands/<cid>/cancel", sender="hub", payload="CommandCancel"),
    Topic(rest="commands/<cid>/response", sender="device", payload="CommandResult"),
    *(
        Topic(rest=f"shadow{named}/{verb}", sender=sender, payload="AWS device shadow document")
        for named in ("", "/name/<name>")
        for verb, sender in _SHADOW_VERBS
    ),
    Topic(rest="inference/request", sender="device", payload="InferenceRequest", note="asks a language model"),
    Topic(rest="inference/response", sender="hub", payload="InferenceResponse", note="or why there is none"),
    Topic(rest="heartbeat", sender="device", payload="Heartbeat", qos=0, note="of a link that was silent"),
    Topic(rest="heartbeat/answer", sender="hub", payload="Heartbeat", qos=0, note="the same, at once"),
)  # fmt: skip

STREAM_TOPIC: dict[Stream, str] = {
    "alarm": "alarms", "escalation": "escalations", "event": "events", "telemetry": "telemetry",
}  # fmt: skip
TOPIC_STREAM: dict[str, Stream] = {topic: stream for stream, topic in STREAM_TOPIC.items()}


def thing(device: str, rest: str, prefix: str = PREFIX) -> str:
    """Full topic of a device: `thing('press-3', 'acks')` is `tidegate/v1/things/press-3/acks`.

    Below `$aws` it contains the AWS thing name.
    """
    return f"{prefix}/things/{thing_of_device(device) if prefix == AWS else device}/{rest}"


def shadow(device: str, name: str, verb: str, prefix: str = PREFIX) -> str:
    """Full topic of a twin document; an empty `name` is the classic document."""
    return thing(device, f"shadow/name/{name}/{verb}" if name else f"shadow/{verb}", prefix)


def split(topic: str, prefix: str = PREFIX) -> tuple[str, str] | None:
    """(device, rest) of a full topic, or None if it is not below `<prefix>/things/`."""
    head = f"{prefix}/things/"
    if not topic.startswith(head):
        return None
    device, _, rest = topic[len(head) :].partition("/")
    if prefix == AWS:
        device = device_of_thing(device) or ""
    return (device, rest) if rest and DEVICE_ID.match(device) else None


def split_shadow(rest: str) -> tuple[str, str] | None:
    """(document name, verb) of the part after `things/<id>/`, or None: ('', 'update/delta')."""
    parts = rest.split("/")
    if parts[0] != "shadow":
        return None
    if len(parts) > 3 and parts[1] == "name":
        return parts[2], "/".join(parts[3:])
    return "", "/".join(parts[1:])


def device_filters(device: str, prefix: str = PREFIX) -> list[str]:
    """Topic filters that a device subscribes to: one for each topic on which the hub sends."""
    rows = {t.rest.replace("<cid>", "+").replace("<name>", "+") for t in TABLE if t.sender == "hub"}
    return [thing(device, rest, prefix) for rest in sorted(rows) if not rest.endswith("/documents")]


def hub_filters(prefix: str = PREFIX) -> list[str]:
    """Topic filters that the hub subscribes to: all topics on which devices send; below `$aws` only shadow requests."""
    rows = {t.rest.replace("<cid>", "+").replace("<name>", "+") for t in TABLE if t.sender == "device" and t.for_hub}
    return [thing("+", rest, prefix) for rest in sorted(rows) if prefix != AWS or rest.startswith("shadow/")]


def newest_filters(prefix: str = PREFIX) -> list[str]:
    """The hub's filters of retained topics, of which only the latest message matters after a reconnect."""
    return [thing("+", row.rest, prefix) for row in TABLE if row.sender == "device" and row.retained]


def twin_topic(topic: str) -> str | None:
    """The same topic below the other prefix, for messages published on both; None for replies to one client."""
    if not topic.endswith(("/update/delta", "/update/documents")):
        return None
    here, there = (AWS, PREFIX) if topic.startswith(AWS) else (PREFIX, AWS)
    found = split(topic, here)
    return None if found is None else thing(*found, there)
