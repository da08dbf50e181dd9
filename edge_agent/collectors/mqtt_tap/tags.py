"""Tags of a foreign broker: a value in the messages of a topic, or a metric of a Sparkplug node."""

from __future__ import annotations

from edge_agent.collectors.mqtt_tap.core.json_path import parse_path
from edge_agent.collectors.mqtt_tap.core.values import TimeUnit, Type
from edge_agent.collectors.plant.tags import Tag
from shared.sparkplug.topics import NodeId, check_id


class TapTag(Tag, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Either `topic`, whose message is the value, or holds it at `path` if it is JSON, with its time at `time_path`; or
    `metric` of the Sparkplug node `node`: `group/node`, or `group/node/device`.
    """

    topic: str = ""
    path: str = ""
    time_path: str = ""
    time_unit: TimeUnit = "ms"
    node: str = ""
    metric: str = ""
    type: Type = "number"

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.topic) == bool(self.node):
            raise ValueError("give either topic, or node and metric")
        if self.topic:
            self._check_topic()
        else:
            self._check_node()
        if self.writable:
            raise ValueError("writable is not for this kind: a tap only listens")
        if self.type != "number" and (self.scale, self.offset) != (1.0, 0.0):
            raise ValueError("scale and offset are for numbers")

    def _check_topic(self) -> None:
        if any(sign in self.topic for sign in "+#\0") or len(self.topic) > 1024:
            raise ValueError("topic must be one topic, without + and #")
        if self.metric:
            raise ValueError("metric is for a node of Sparkplug; use path")
        for path in (self.path, self.time_path):
            if path:
                parse_path(path)
        if self.time_path and not self.path:
            raise ValueError("time_path needs path")

    def _check_node(self) -> None:
        parts = self.node.split("/")
        if len(parts) not in {2, 3} or not self.metric:
            raise ValueError("node must be group/node or group/node/device, and metric a name in its births")
        if self.path or self.time_path:
            raise ValueError("path and time_path are for a topic")
        for part, what in zip(parts, ("group", "node", "device"), strict=False):
            check_id(part, what)

    @property
    def sparkplug(self) -> tuple[NodeId, str, str] | None:
        """Node, device ('' for the node itself) and metric; None for a tag of a topic."""
        if not self.node:
            return None
        group, node, *device = self.node.split("/")
        return NodeId(group, node), "".join(device), self.metric
