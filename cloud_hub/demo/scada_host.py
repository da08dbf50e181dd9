"""A Sparkplug host application made with pysparkplug, in place of a plant's SCADA: reads births and data, sends writes.

It shares no code with Tidegate, and needs an interpreter that has pysparkplug (`make .venv-interop/.pip`):

    .venv-interop/bin/python cloud_hub/demo/scada_host.py --port 1883 --host-id scada

Each message that it receives is one JSON line on stdout. Each line on stdin is a command:

    {"do": "rebirth", "group": "demo", "node": "line-1"}
    {"do": "write", "group": "demo", "node": "line-1", "metric": "settings.period_s", "type": "DOUBLE", "value": 2.0}

A write with a `device` goes to that device of the node. It ends when stdin is closed.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import pysparkplug as sp


def show(event: str, **fields: Any) -> None:
    """One JSON line; values that JSON cannot hold as text."""
    print(json.dumps({"event": event, **fields}, default=str), flush=True)


def received(_client: sp.Client, message: sp.Message) -> None:
    """Show a message of a node or host."""
    topic, payload = message.topic, message.payload
    if isinstance(payload, sp.State):
        show("STATE", host=topic.sparkplug_host_id, online=payload.online)
        return
    metrics = [payload.bd_seq_metric] if isinstance(payload, sp.NDeath) else getattr(payload, "metrics", ())
    show(
        str(topic.message_type.value),
        group=topic.group_id,
        node=topic.edge_node_id,
        device=topic.device_id or "",
        metrics={str(one.name): one.value for one in metrics},
        types={str(one.name): one.datatype.name for one in metrics},
        historical=sum(bool(one.is_historical) for one in metrics),
        seq=getattr(payload, "seq", None),
    )


def state(host_id: str, *, online: bool, at_ms: int) -> sp.Message:
    """The retained message that tells nodes whether this host is online."""
    topic = sp.Topic(message_type=sp.MessageType.STATE, sparkplug_host_id=host_id)
    payload = sp.State(timestamp=at_ms, online=online)
    return sp.Message(topic=topic, payload=payload, qos=sp.QoS.AT_LEAST_ONCE, retain=True)


def command(request: dict[str, Any]) -> sp.Message:
    """An NCMD, or a DCMD if the request names a device."""
    device, now = request.get("device") or None, sp.get_current_timestamp()
    kind = sp.MessageType.DCMD if device else sp.MessageType.NCMD
    if request["do"] == "rebirth":
        name, datatype, value = "Node Control/Rebirth", sp.DataType.BOOLEAN, True
    else:
        name, datatype, value = request["metric"], sp.DataType[request["type"]], request["value"]
    metric = sp.Metric(timestamp=now, name=name, datatype=datatype, value=value)
    payload = (sp.DCmd if device else sp.NCmd)(timestamp=now, metrics=(metric,))
    topic = sp.Topic(message_type=kind, group_id=request["group"], edge_node_id=request["node"], device_id=device)
    return sp.Message(topic=topic, payload=payload, qos=sp.QoS.AT_MOST_ONCE, retain=False)


def main() -> int:
    """Run until stdin is closed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host-id", required=True)
    args = parser.parse_args()
    client, at_ms = sp.Client(client_id=f"{args.host_id}-host"), sp.get_current_timestamp()
    # One message that pysparkplug cannot decode, such as a negative Int8 of other senders, would end its thread.
    client._client.suppress_exceptions = True
    client.set_will(state(args.host_id, online=False, at_ms=at_ms))

    def connected(client: sp.Client) -> None:
        client.publish(state(args.host_id, online=True, at_ms=at_ms))
        show("connected")

    client.subscribe(sp.Topic(group_id=sp.MULTI_LEVEL_WILDCARD), sp.QoS.AT_LEAST_ONCE, received)
    client.connect("127.0.0.1", port=args.port, callback=connected)
    for line in sys.stdin:
        client.publish(command(json.loads(line)), include_dtypes=True)
    client.publish(state(args.host_id, online=False, at_ms=sp.get_current_timestamp()))
    client.disconnect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
