"""Takes the messages of nodes in their order and says what they mean for a host."""

from __future__ import annotations

from collections.abc import Iterable

from shared.errors import WireError
from shared.sparkplug import topics
from shared.sparkplug.decode import NO_TYPES, decode
from shared.sparkplug.definitions import Definitions, Reading, read_birth, read_data
from shared.sparkplug.effects import (
    Data,
    DeviceBorn,
    DeviceDied,
    Flapping,
    HostEffect,
    NodeBorn,
    NodeDied,
    Refused,
    refused,
)
from shared.sparkplug.flapping import WINDOW_MS
from shared.sparkplug.host_node import Liveness, Node
from shared.sparkplug.host_nodes import NodeTable
from shared.sparkplug.payload import BD_SEQ, REBIRTH, Metric, Payload, Untyped
from shared.sparkplug.rebirth_queue import RebirthQueue
from shared.sparkplug.sequence import MODULUS, Message, Place
from shared.sparkplug.topics import MessageType, Topic


class Receiver:
    """Messages of nodes and devices in, effects out. Methods raise WireError for what is no payload."""

    def __init__(
        self, nodes: NodeTable, queue: RebirthQueue, reorder_timeout_ms: int, future_ms: int,
        max_devices: int, max_metrics: int,
    ) -> None:  # fmt: skip
        self._nodes, self._queue = nodes, queue
        self._reorder_timeout_ms, self._future_ms = reorder_timeout_ms, future_ms
        self._max_devices, self._max_metrics = max_devices, max_metrics

    def received(self, topic: Topic, payload: bytes, now_ms: int, *, retained: bool) -> list[HostEffect]:
        """A message of a node, other than a command."""
        if topic.type is MessageType.NDEATH:
            return self._node_death(topic, payload, now_ms, retained)
        if retained:
            return self._retained(topic, now_ms)
        if topic.type is MessageType.NBIRTH:
            return self._node_birth(topic, payload, now_ms)
        return self._in_order(topic, payload, now_ms)

    def tick(self, now_ms: int) -> list[HostEffect]:
        """Reorder timeouts that are over."""
        effects: list[HostEffect] = []
        for node in list(self._nodes.gaps.values()):
            if not 0 <= now_ms - node.gap_ms < self._reorder_timeout_ms:
                effects += self._give_up(node, now_ms)
        return effects

    # -- nodes -------------------------------------------------------------------------------------

    def _retained(self, topic: Topic, now_ms: int) -> list[HostEffect]:
        node = self._nodes.find_or_add(topic.node_id, now_ms)
        effects: list[HostEffect] = [refused(str(topic), "a retained message is old; births and data are not retained")]
        if node.liveness is not Liveness.ONLINE:
            effects += self._queue.want(node, "only a retained message of it is known", now_ms)
        return effects

    def _node_birth(self, topic: Topic, payload: bytes, now_ms: int) -> list[HostEffect]:
        message = decode(payload)
        seq = _seq(message)
        node = self._nodes.admit(topic.node_id, now_ms)
        if node is None:
            return [refused(str(topic), "there are too many nodes; raise max_nodes or limit the groups")]
        if node.liveness is Liveness.ONLINE and node.birth == hash(payload) and not node.asked:
            return [refused(str(topic), "duplicate of the last NBIRTH")]
        if len(message.metrics) > self._max_metrics:
            return self._refuse_node(topic, node, len(message.metrics), now_ms)
        defined, reading = read_birth(message.metrics)
        return self._born(topic, node, message, defined, reading, seq, payload, now_ms)

    def _born(
        self, topic: Topic, node: Node, message: Payload, defined: Definitions, reading: Reading, seq: int,
        payload: bytes, now_ms: int,
    ) -> list[HostEffect]:  # fmt: skip
        asked, alive = node.asked, node.liveness is Liveness.ONLINE
        number = _bd_seq(reading.metrics)
        returned = node.history.returned(number, now_ms)
        flapping = node.history.born(now_ms, asked=asked)
        node.born(now_ms, number, defined, can_rebirth=REBIRTH in defined.types)
        node.birth = hash(payload)
        node.sequence.start(seq, payload)
        self._nodes.gaps.pop(node.id, None)
        self._queue.forget(node)
        effects: list[HostEffect] = [
            NodeBorn(
                node=node.id, bd_seq=number, timestamp=message.timestamp, metrics=tuple(reading.metrics),
                ahead_ms=self._ahead(message, now_ms), asked=asked, alive=alive,
            ),
            *_problems(topic, reading),
        ]  # fmt: skip
        if flapping:
            history = node.history
            effects.append(
                Flapping(
                    node=node.id, births=history.recent(now_ms), window_ms=WINDOW_MS,
                    two_nodes=history.two_nodes(now_ms),
                )
            )  # fmt: skip
        if returned:
            effects += self._queue.want(node, "an old bdSeq came back: a late birth, or two nodes with one id", now_ms)
        return effects

    def _refuse_node(self, topic: Topic, node: Node, count: int, now_ms: int) -> list[HostEffect]:
        effects: list[HostEffect] = []
        alive = node.liveness is Liveness.ONLINE
        devices = node.died(Liveness.REFUSED)
        self._forget(node)
        if alive:
            effects.append(NodeDied(node=node.id, devices=devices, at_ms=now_ms))
        return [*effects, refused(str(topic), f"{count} metrics, at most {self._max_metrics} are kept of one node")]

    def _node_death(self, topic: Topic, payload: bytes, now_ms: int, retained: bool) -> list[HostEffect]:
        """The current birth's NDEATH ends the node; any other is late, or of a library that counts wrongly."""
        number = _bd_seq(decode(payload).metrics)
        node = self._nodes.get(topic.node_id)
        if node is None or node.liveness is Liveness.OFFLINE:
            return []
        if retained:
            return [refused(str(topic), "a retained message is old; NDEATH must not be retained")]
        node.heard_ms = now_ms
        if node.liveness is Liveness.ONLINE and node.bd_seq is not None and number != node.bd_seq:
            return [refused(str(topic), f"NDEATH of bdSeq {number} is not for the birth with bdSeq {node.bd_seq}")]
        known = node.liveness is Liveness.ONLINE or node.expected_back
        late: list[HostEffect] = []
        for one in node.sequence.give_up():
            late += self._apply_late(node, one, now_ms)
        devices = node.died(Liveness.OFFLINE)
        self._forget(node)
        return [*late, NodeDied(node=node.id, devices=devices, at_ms=now_ms)] if known else []

    def _forget(self, node: Node) -> None:
        self._queue.forget(node)
        self._nodes.gaps.pop(node.id, None)
        self._nodes.silent.pop(node.id, None)

    # -- order -------------------------------------------------------------------------------------

    def _in_order(self, topic: Topic, payload: bytes, now_ms: int) -> list[HostEffect]:
        node = self._nodes.find_or_add(topic.node_id, now_ms)
        if node.liveness is Liveness.REFUSED:
            return []
        if node.liveness is not Liveness.ONLINE:
            why = f"{topic.type} came before NBIRTH"
            return [refused(str(topic), why), *self._queue.want(node, why, now_ms)]
        node.expected_back = False
        defined = node.tables.get(topic.device)
        message = decode(payload, types=defined.types if defined is not None else NO_TYPES)
        waits = Message(str(topic), payload)
        place = node.sequence.offer(_seq(message), waits)
        if place is Place.NEXT:
            return self._next(node, topic, message, payload, now_ms)
        if place is Place.DUPLICATE:
            return [refused(str(topic), f"duplicate of the message with seq {message.seq}")]
        if place is Place.OVERFLOW:
            return self._give_up(node, now_ms)
        if node.id not in self._nodes.gaps:
            self._nodes.gaps[node.id], node.gap_ms = node, now_ms
        return []

    def _next(self, node: Node, topic: Topic, message: Payload, payload: bytes, now_ms: int) -> list[HostEffect]:
        effects = self._apply(node, topic, message, payload, now_ms)
        if node.sequence.waiting:
            before = node.sequence.waiting
            for late in node.sequence.following():
                effects += self._apply_late(node, late, now_ms)
            if not node.sequence.waiting:
                self._nodes.gaps.pop(node.id, None)
            elif node.sequence.waiting < before:
                node.gap_ms = now_ms
        return effects

    def _give_up(self, node: Node, now_ms: int) -> list[HostEffect]:
        """Messages are lost: take those that waited, trust no aliases any more, and ask for a rebirth."""
        self._nodes.gaps.pop(node.id, None)
        node.gap = True
        effects = self._queue.want(node, f"the message with seq {node.sequence.expected} is missing", now_ms)
        for late in node.sequence.give_up():
            effects += self._apply_late(node, late, now_ms)
        return effects

    def _apply_late(self, node: Node, late: Message, now_ms: int) -> list[HostEffect]:
        try:
            topic = topics.parse(late.topic)
            if not isinstance(topic, Topic):  # cannot be: only messages of nodes wait
                return []
            defined = node.tables.get(topic.device)
            message = decode(late.payload, types=defined.types if defined is not None else NO_TYPES)
            return self._apply(node, topic, message, late.payload, now_ms)
        except WireError as error:
            return [refused(late.topic, error.reason)]

    # -- meaning -----------------------------------------------------------------------------------

    def _apply(self, node: Node, topic: Topic, message: Payload, payload: bytes, now_ms: int) -> list[HostEffect]:
        if topic.type is MessageType.DBIRTH:
            return self._device_birth(node, topic, decode(payload), now_ms)
        if topic.type is MessageType.DDEATH:
            return self._device_death(node, topic, message, now_ms)
        return self._data(node, topic, message, payload, now_ms)

    def _device_birth(self, node: Node, topic: Topic, message: Payload, now_ms: int) -> list[HostEffect]:
        old = node.tables.pop(topic.device, None)
        refusal = ""
        if len(node.tables) > self._max_devices:
            refusal = f"at most {self._max_devices} devices are kept of one node"
        elif node.metrics + len(message.metrics) > self._max_metrics:
            refusal = f"at most {self._max_metrics} metrics are kept of one node and its devices"
        if refusal:
            if len(node.refused_devices) < self._max_devices:
                node.refused_devices.add(topic.device)
            died = DeviceDied(node=node.id, device=topic.device, at_ms=now_ms)
            return [*([died] if old is not None else []), refused(str(topic), refusal)]
        defined, reading = read_birth(message.metrics)
        node.tables[topic.device] = defined
        node.refused_devices.discard(topic.device)
        born = DeviceBorn(
            node=node.id, device=topic.device, timestamp=message.timestamp, metrics=tuple(reading.metrics),
            ahead_ms=self._ahead(message, now_ms), gap=node.gap,
        )  # fmt: skip
        return [born, *_problems(topic, reading)]

    def _device_death(self, node: Node, topic: Topic, message: Payload, now_ms: int) -> list[HostEffect]:
        node.refused_devices.discard(topic.device)
        if node.tables.pop(topic.device, None) is None:
            return [refused(str(topic), "DDEATH of a device that is not online")]
        at = message.timestamp
        if at is None or at > now_ms + self._future_ms:
            at = now_ms
        return [DeviceDied(node=node.id, device=topic.device, at_ms=at)]

    def _data(self, node: Node, topic: Topic, message: Payload, payload: bytes, now_ms: int) -> list[HostEffect]:
        defined = node.tables.get(topic.device)
        if defined is None:
            if topic.device in node.refused_devices:
                return []
            why = "DDATA came before DBIRTH"
            return [refused(str(topic), why), *self._queue.want(node, why, now_ms)]
        if node.data_datatypes is None and message.metrics:
            node.data_datatypes = any(one.datatype is not None for one in decode(payload).metrics)
        reading = read_data(defined, message.metrics, trust_aliases=not node.gap)
        effects: list[HostEffect] = []
        if reading.metrics:
            effects.append(
                Data(
                    node=node.id, device=topic.device, timestamp=message.timestamp, metrics=tuple(reading.metrics),
                    ahead_ms=self._ahead(message, now_ms), gap=node.gap,
                )
            )  # fmt: skip
        effects += _problems(topic, reading)
        if reading.unknown:
            effects += self._queue.want(node, f"{topic.type} has metrics that are not in the birth", now_ms)
        return effects

    def _ahead(self, message: Payload, now_ms: int) -> int:
        latest = max((one.timestamp or 0 for one in message.metrics), default=0)
        ahead = max(latest, message.timestamp or 0) - now_ms
        return ahead if ahead > self._future_ms else 0


def _problems(topic: Topic, reading: Reading) -> list[Refused]:
    return [refused(str(topic), one) for one in reading.problems]


def _seq(message: Payload) -> int:
    """The seq; encoders that leave out zeros leave it out when it is 0."""
    seq = message.seq or 0
    if not 0 <= seq < MODULUS:
        raise WireError(f"seq {seq} is not 0 to 255")
    return seq


def _bd_seq(metrics: Iterable[Metric]) -> int | None:
    """The bdSeq among the metrics, of whatever integer type it is."""
    for one in metrics:
        if one.name == BD_SEQ:
            value = one.value.raw if isinstance(one.value, Untyped) else one.value
            return value if isinstance(value, int) and not isinstance(value, bool) else None
    return None
