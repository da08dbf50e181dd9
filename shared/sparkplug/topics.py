"""Sparkplug topics (specification 3.0, chapter 4).

`spBv1.0/<group>/<type>/<node>[/<device>]` for nodes and devices, `spBv1.0/STATE/<host>` for host applications.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from shared.errors import WireError
from shared.protocol.topics import SPARKPLUG

STATE = "STATE"
CERTIFICATES = "$sparkplug/certificates/"
"""Prefix under which a Sparkplug-aware broker keeps births as retained messages (section 10.1.5)."""

MAX_ID = 256
"""Longest id in characters that we accept. The specification sets no limit; MQTT's is 65,535 bytes a topic."""

_FORBIDDEN = re.compile("[+/#\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""The reserved characters, and those that MQTT 5.0 section 1.5.4 forbids or lets a receiver refuse."""


class MessageType(str, Enum):
    """Types of messages of edge nodes (N) and devices (D)."""

    NBIRTH = "NBIRTH"
    NDEATH = "NDEATH"
    DBIRTH = "DBIRTH"
    DDEATH = "DDEATH"
    NDATA = "NDATA"
    DDATA = "DDATA"
    NCMD = "NCMD"
    DCMD = "DCMD"

    __str__ = str.__str__

    @property
    def of_device(self) -> bool:
        """Whether the topic has a device id."""
        return self.value[0] == "D"


_TYPES: dict[str, MessageType] = {str(one): one for one in MessageType}


@dataclass(frozen=True, slots=True, order=True)
class NodeId:
    """The edge node descriptor: `group/node`, unique on a broker."""

    group: str
    node: str

    def __str__(self) -> str:
        return f"{self.group}/{self.node}"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of an edge node or one of its devices; `device` is '' for messages of the node."""

    group: str
    type: MessageType
    node: str
    device: str = ""

    @property
    def node_id(self) -> NodeId:
        """The edge node that the message is from or for."""
        return NodeId(self.group, self.node)

    def __str__(self) -> str:
        return f"{SPARKPLUG}/{self.group}/{self.type}/{self.node}" + (f"/{self.device}" if self.device else "")


@dataclass(frozen=True, slots=True)
class StateTopic:
    """The topic on which a host application says whether it is online."""

    host: str

    def __str__(self) -> str:
        return f"{SPARKPLUG}/{STATE}/{self.host}"


def check_id(text: str, what: str = "id") -> str:
    """`text`, if it may be a group, node, device or host id. Raises ValueError with the reason."""
    if not text:
        raise ValueError(f"the {what} is empty")
    if len(text) > MAX_ID:
        raise ValueError(f"the {what} has {len(text)} characters, at most {MAX_ID} are allowed")
    if found := _FORBIDDEN.search(text):
        raise ValueError(
            f"the {what} contains {found[0]!a}; +, / and # are reserved and control characters not allowed"
        )
    if what == "group" and text == STATE:
        raise ValueError(f"the group must not be named {STATE}: topics of hosts begin so")
    return text


def node_topic(kind: MessageType, node: NodeId, device: str = "") -> Topic:
    """The topic of a message; raises ValueError if the type needs a device id and there is none, or the reverse."""
    if kind.of_device != bool(device):
        raise ValueError(f"{kind} topics {'need a' if kind.of_device else 'have no'} device id")
    return Topic(node.group, kind, node.node, device)


def parse(topic: str) -> Topic | StateTopic:
    """Read a topic. Raises WireError for all that Sparkplug 3.0 does not define, also for the STATE topics of 2.2."""
    levels = topic.split("/", 6)
    try:
        if levels[0] != SPARKPLUG:
            raise ValueError(f"the first level is not {SPARKPLUG}")
        if len(levels) == 3 and levels[1] == STATE:
            return StateTopic(check_id(levels[2], "host id"))
        return _parse_node(levels)
    except ValueError as error:
        raise WireError(str(error), _shown(topic)) from None


def _parse_node(levels: list[str]) -> Topic:
    if not 4 <= len(levels) <= 5:
        raise ValueError("a topic has 4 levels, or 5 with a device")
    kind = _TYPES.get(levels[2])
    if kind is None:
        raise ValueError("the third level is no type of Sparkplug message")
    if kind.of_device != (len(levels) == 5):
        raise ValueError(f"{kind} topics have {5 if kind.of_device else 4} levels")
    device = check_id(levels[4], "device id") if kind.of_device else ""
    return Topic(check_id(levels[1], "group"), kind, check_id(levels[3], "node id"), device)


def _shown(topic: str) -> str:
    """The topic for a log: escaped, and cut."""
    return ascii(topic[:200])[1:-1]


def command_filters(node: NodeId) -> tuple[str, str]:
    """Filters of an edge node: commands to itself, and to its devices."""
    return str(
        Topic(node.group, MessageType.NCMD, node.node)
    ), f"{SPARKPLUG}/{node.group}/{MessageType.DCMD}/{node.node}/+"


def host_filters(groups: Iterable[str] = ()) -> tuple[str, ...]:
    """Filters of a host application for these groups; none are all groups (and all hosts' STATE)."""
    return tuple(f"{SPARKPLUG}/{check_id(one, 'group')}/#" for one in groups) or (f"{SPARKPLUG}/#",)
