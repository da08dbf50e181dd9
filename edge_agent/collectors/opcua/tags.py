"""Tags of an OPC UA server."""

from __future__ import annotations

import re

from edge_agent.collectors.opcua.core.values import Type
from edge_agent.collectors.plant.tags import Tag

_NODE = re.compile(
    r"(?:ns=\d{1,5};|nsu=[^;]{1,500};)?(?:i=\d{1,10}|s=.{1,1000}|g=[0-9a-fA-F-]{36}|b=[A-Za-z0-9+/=]+)\Z", re.S
)


class OpcuaTag(Tag, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A variable of an OPC UA server. `node` is its NodeId, such as `ns=2;s=Line.Speed`, or with the namespace's URI
    `nsu=http://plant.example/line;s=Line.Speed`, which holds when the server numbers its namespaces anew. `index` is
    the element of an array.
    """

    node: str
    type: Type = "number"
    index: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _NODE.match(self.node):
            raise ValueError("node must be a NodeId such as ns=2;s=Line.Speed, ns=2;i=1001 or nsu=URI;s=Line.Speed")
        if self.index is not None and (self.index < 0 or self.writable):
            raise ValueError("index must be 0 or more, and an element of an array is not writable")
        if self.type in {"bool", "string"} and (self.scale, self.offset) != (1.0, 0.0):
            raise ValueError("scale and offset are for numbers")
