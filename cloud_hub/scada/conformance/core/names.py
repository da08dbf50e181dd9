"""Reads the topics of a namespace tolerantly: what is wrong in a topic is a finding.

Source: specification 3.0, chapter 4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NAMESPACE = "spBv1.0"
NODE_TYPES = ("NBIRTH", "NDATA", "NDEATH", "NCMD")
DEVICE_TYPES = ("DBIRTH", "DDATA", "DDEATH", "DCMD")
EDGE_TYPES = ("NBIRTH", "NDATA", "NDEATH", "DBIRTH", "DDATA", "DDEATH")
STATE = "STATE"
REBIRTH = "Node Control/Rebirth"

_FORBIDDEN = re.compile("[+#/\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class NodeKey:
    """An edge node on one broker; the text is its descriptor."""

    server: int
    group: str
    node: str

    def __str__(self) -> str:
        return f"{self.group}/{self.node}"


@dataclass(frozen=True, slots=True)
class Name:
    """A topic. `type` is '' where it is none of Sparkplug's; `parts` counts the levels.

    For STATE `node` is the id of the host.
    """

    group: str = ""
    type: str = ""
    node: str = ""
    device: str = ""
    parts: int = 0

    @property
    def of_device(self) -> bool:
        """Whether the type is one of a device's."""
        return self.type in DEVICE_TYPES

    @property
    def well_formed(self) -> bool:
        """Whether the number of levels fits the type."""
        if self.type == STATE:
            return self.parts == 3
        return bool(self.type) and self.parts == (5 if self.of_device else 4)


def read_topic(topic: str) -> Name | None:
    """The levels of a topic; None outside `spBv1.0/`."""
    levels = topic.split("/")
    if levels[0] != NAMESPACE:
        return None
    if len(levels) > 1 and levels[1] == STATE:
        return Name(type=STATE, node="/".join(levels[2:]), parts=len(levels))
    group, kind, node, *device = [*levels[1:], "", "", ""][: max(3, len(levels) - 1)]
    known = kind if kind in NODE_TYPES or kind in DEVICE_TYPES else ""
    return Name(group=group, type=known, node=node, device="/".join(device), parts=len(levels))


def fault_of_id(text: str) -> str:
    """Why an id is not valid; '' if it is."""
    if not text:
        return "is empty"
    found = _FORBIDDEN.search(text)
    return f"contains {found.group()!r}" if found else ""


def covers(topic_filter: str, topic: str) -> bool:
    """Whether an MQTT filter matches a topic."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)
