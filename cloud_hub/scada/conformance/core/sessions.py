"""Judges the connections of edge nodes: CONNECT, SUBSCRIBE, DISCONNECT. Source: specification 3.0, chapter 5."""

from __future__ import annotations

from cloud_hub.scada.conformance.core.edge import MAX_SEQ, check_ndeath
from cloud_hub.scada.conformance.core.events import Connect, Publish, Will
from cloud_hub.scada.conformance.core.fields import Unreadable, read_payload
from cloud_hub.scada.conformance.core.ledger import Case, Ledger
from cloud_hub.scada.conformance.core.metrics import bdseq_of
from cloud_hub.scada.conformance.core.names import NAMESPACE, Name, NodeKey, covers, read_topic
from cloud_hub.scada.conformance.core.world import Client, Node, World
from shared.sparkplug.datatypes import DataType

WITH_WILL = 0x04
"""Reason code of DISCONNECT: Disconnect with Will Message (MQTT 5.0 section 3.14.2.1)."""


class EdgeSessionJudge:
    """Judges connections that act as an edge node."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self._world, self._ledger = world, ledger
        self._bdseqs: dict[str, int] = {}

    def connected(self, client: Client, name: Name) -> None:
        """CONNECT with an NDEATH as Will."""
        event, will = client.connect, client.connect.will
        node = self._world.node(NodeKey(event.server, name.group, name.node))
        client.node, node.client = node.key, client.key
        node.born = False
        with self._ledger.case(event.at_ms, _where(client)) as case:
            self._clean(case, event)
            case.check("will.present", will is not None, "no Will")
            if will is not None:
                self._will(case, node, name, will)

    def _clean(self, case: Case, event: Connect) -> None:
        if event.protocol >= 5:
            expiry = event.session_expiry_s
            kept = event.clean and expiry == 0
            case.check("connect.clean-50", kept, f"Clean Start {event.clean}, session expiry {expiry} s")
        else:
            case.check("connect.clean-311", event.clean, "Clean Session is false")

    def _will(self, case: Case, node: Node, name: Name, will: Will) -> None:
        ours = name.type == "NDEATH" and name.well_formed
        case.check("will.topic", ours, f"the Will's topic is {will.topic}")
        case.check("will.qos", will.qos == 1, f"QoS {will.qos}")
        case.check("will.retain", not will.retain, "retained")
        try:
            payload = read_payload(will.payload)
        except Unreadable as error:
            case.check("will.payload", False, str(error))
            return
        case.check("will.payload", True)
        check_ndeath(case, payload)
        value, kind = bdseq_of(payload.all("metrics"))
        good = value is not None and value <= MAX_SEQ and kind == DataType.Int64
        case.check("will.bdseq", good, f"bdSeq {value} of datatype {kind}, not an Int64 of 0 to 255")
        self._increment(case, node, value)

    def _increment(self, case: Case, node: Node, value: int | None) -> None:
        before = self._bdseqs.get(str(node.key))
        node.will_bdseq = value
        if value is None:
            return
        if before is not None:
            case.check("will.bdseq-next", value == (before + 1) % 256, f"bdSeq {value} after {before}")
        self._bdseqs[str(node.key)] = value

    def accepted(self, client: Client) -> None:
        """CONNACK of an edge node's connection."""
        twins = self._world.others(client, node=client.node)
        elsewhere = [one for one in twins if one.connect.server != client.connect.server]
        at_ms = client.connect.at_ms
        here = len(elsewhere) == len(twins)
        text = f"{len(twins)} other connection(s) are this node"
        self._ledger.judge("node.unique", here, at_ms, _where(client), text)
        self._ledger.judge("servers.single", not elsewhere, at_ms, _where(client), "still connected to another server")

    def published(self, client: Client, event: Publish, name: Name) -> None:
        """A message of an edge node; called before it is judged itself."""
        with self._ledger.case(event.at_ms, event.topic) as case:
            if client.node is None and name.type == "NBIRTH":
                client.node = NodeKey(event.server, name.group, name.node)
                self._clean(case, client.connect)
                case.check("will.present", client.connect.will is not None, "CONNECT had no Will")
                case.check("will.topic", client.connect.will is None, "the Will is not this node's NDEATH")
            if name.type.endswith("BIRTH"):
                case.check("connect.first", client.accepted, "published before the broker accepted the connection")
            if client.published == 1 and name.type != "NDEATH":
                case.check("birth.first", name.type == "NBIRTH", f"the first message is {name.type}")
            if name.type in ("NBIRTH", "DBIRTH"):
                self._subscriptions(case, client, name)

    def _subscriptions(self, case: Case, client: Client, name: Name) -> None:
        kind = "NCMD" if name.type == "NBIRTH" else "DCMD"
        topic = "/".join(part for part in (NAMESPACE, name.group, kind, name.node, name.device) if part)
        levels = [qos for topic_filter, qos in client.filters if covers(topic_filter, topic)]
        if kind == "NCMD":
            case.check("ncmd.subscribed", 1 in levels, f"subscriptions to {topic} have QoS {levels or 'none'}")
        elif levels:
            case.check("dcmd.subscribed", 1 in levels, f"the subscription to {topic} has QoS {levels}")

    def ended(self, client: Client, at_ms: int) -> None:
        """The connection is closed, after DISCONNECT or without it."""
        packet = client.disconnect
        if packet is None:
            return
        published, with_will = client.ndeath_ms is not None, packet.reason == WITH_WILL
        with self._ledger.case(at_ms, _where(client)) as case:
            case.check("ndeath.disconnect", published or with_will, "DISCONNECT without NDEATH")
            if client.born:
                case.check("ndeath.published", published, "DISCONNECT, but no NDEATH was published")
            if published:
                case.check("disconnect.packet", True)
            if client.connect.protocol >= 5:
                case.check("ndeath.disconnect-50", with_will, f"DISCONNECT has reason {packet.reason:#04x}, not 0x04")
            else:
                case.check("ndeath.disconnect-311", published, "DISCONNECT without NDEATH")


def _where(client: Client) -> str:
    return f"client '{client.connect.client_id}'" + (f" ({client.node})" if client.node else "")


def will_name(connect: Connect) -> Name | None:
    """The topic of a Will in the namespace."""
    return read_topic(connect.will.topic) if connect.will is not None else None
