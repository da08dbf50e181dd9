"""What a host keeps of one edge node: bounded, and without values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from shared.sparkplug.definitions import Definitions
from shared.sparkplug.edge_metrics import NODE
from shared.sparkplug.flapping import BirthHistory
from shared.sparkplug.rebirths import NodeBackoff
from shared.sparkplug.sequence import Sequence
from shared.sparkplug.topics import NodeId


class Liveness(str, Enum):
    """What the host knows of a node."""

    UNKNOWN = "unknown"
    """Heard of, no NBIRTH yet."""
    ONLINE = "online"
    OFFLINE = "offline"
    REFUSED = "refused"
    """Its NBIRTH broke a limit; its messages are ignored until the next NBIRTH."""

    __str__ = str.__str__


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """What the session knows of one node, for status pages. Times are the host's, in ms."""

    node: NodeId
    liveness: Liveness
    bd_seq: int | None
    born_ms: int | None
    heard_ms: int
    devices: tuple[str, ...]
    metrics: int
    aliases: bool
    rebirth_wanted: str
    """Why a rebirth is wanted, '' if none is."""
    rebirths_requested: int
    flapping: bool


@dataclass(slots=True)
class Node:
    """One edge node. `gap`: messages were lost, so that aliases are not trusted until the next birth."""

    id: NodeId
    sequence: Sequence
    backoff: NodeBackoff
    heard_ms: int
    expected_back: bool = False
    """It was there before; it is dead unless it answers."""
    born_since: bool = False
    """Born since the host connected."""
    liveness: Liveness = Liveness.UNKNOWN
    bd_seq: int | None = None
    born_ms: int | None = None
    can_rebirth: bool = True
    birth: int = 0
    """Hash of the NBIRTH's payload."""
    tables: dict[str, Definitions] = field(default_factory=dict)
    refused_devices: set[str] = field(default_factory=set)
    """Devices whose DBIRTH broke a limit; their data is ignored."""
    gap: bool = False
    gap_ms: int = 0
    wanted: str = ""
    unanswered: int = 0
    asked: bool = False
    data_datatypes: bool | None = None
    """Whether its DATA comes with datatypes; None before the first."""
    history: BirthHistory = field(default_factory=BirthHistory)

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices that are online."""
        return tuple(one for one in self.tables if one)

    @property
    def metrics(self) -> int:
        """Metrics of the node and its devices."""
        return sum(one.count for one in self.tables.values())

    def born(self, now_ms: int, bd_seq: int | None, defined: Definitions, *, can_rebirth: bool) -> None:
        """An NBIRTH was accepted: nothing of before counts any more."""
        self.liveness, self.bd_seq, self.born_ms, self.can_rebirth = Liveness.ONLINE, bd_seq, now_ms, can_rebirth
        self.tables, self.refused_devices = {NODE: defined}, set()
        self.gap, self.wanted, self.unanswered, self.asked, self.expected_back = False, "", 0, False, False
        self.data_datatypes, self.born_since = None, True

    def died(self, liveness: Liveness) -> tuple[str, ...]:
        """The node is not online any more; returns the devices that go with it. Definitions are dropped."""
        devices = self.devices
        self.liveness, self.tables, self.wanted, self.expected_back = liveness, {}, "", False
        return devices

    def status(self, now_ms: int) -> NodeStatus:
        """A copy for status pages."""
        return NodeStatus(
            node=self.id, liveness=self.liveness, bd_seq=self.bd_seq, born_ms=self.born_ms, heard_ms=self.heard_ms,
            devices=self.devices, metrics=self.metrics, aliases=any(one.names for one in self.tables.values()),
            rebirth_wanted=self.wanted, rebirths_requested=self.backoff.requests,
            flapping=self.history.flapping(now_ms),
        )  # fmt: skip
