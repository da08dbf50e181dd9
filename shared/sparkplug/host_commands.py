"""Writes NCMD and DCMD messages of a host, from the definitions of the births."""

from __future__ import annotations

from collections.abc import Sequence

from shared.sparkplug import topics
from shared.sparkplug.definitions import Definitions
from shared.sparkplug.effects import Publish, Refused, refused
from shared.sparkplug.encode import encode
from shared.sparkplug.host_node import Liveness, Node
from shared.sparkplug.payload import Metric, Payload
from shared.sparkplug.topics import MessageType, NodeId
from shared.sparkplug.value_checks import misfit


def command(
    node: Node | None, node_id: NodeId, device: str, metrics: Sequence[Metric], now_ms: int
) -> Publish | Refused:
    """The command that writes all of `metrics`, or why none of them is written."""
    place = f"{node_id}/{device}" if device else str(node_id)
    if node is None or node.liveness is not Liveness.ONLINE:
        return refused(place, "the node is not online; wait for its birth")
    defined = node.tables.get(device)
    if defined is None:
        return refused(place, "the device is not online; wait for its birth")
    try:
        written = tuple(_written(defined, node, one, now_ms) for one in metrics)
        payload = Payload(timestamp=now_ms, metrics=written)
        encoded = encode(payload, with_datatypes=node.data_datatypes is not False)
    except ValueError as error:
        return refused(place, str(error))
    kind = MessageType.DCMD if device else MessageType.NCMD
    return Publish(topic=str(topics.node_topic(kind, node_id, device)), payload=encoded)


def _written(defined: Definitions, node: Node, metric: Metric, now_ms: int) -> Metric:
    name = metric.name or ""
    datatype = defined.types.get(name)
    if datatype is None:
        raise ValueError(f"metric {ascii(name)[:100]} was not in the birth; only metrics of the birth can be written")
    if problem := misfit(datatype, metric.value):
        raise ValueError(f"metric {ascii(name)[:100]}: {problem}")
    alias = None if node.gap else defined.alias_of(name)
    at = metric.timestamp if metric.timestamp is not None else now_ms
    return Metric(
        name=name if alias is None else None, alias=alias, timestamp=at, datatype=datatype, value=metric.value
    )
