"""An MQTT broker without sockets, for worlds of Sparkplug sessions: it loses, doubles and delays messages as told.

Time is a number that the test moves (`run(now_ms)`). Messages of one publisher stay in their order for a subscriber
unless `Faults` say otherwise. QoS 1 messages are never lost, only doubled.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from shared.sparkplug.effects import Publish, Will

Deliver = Callable[[str, bytes, bool], None]
"""topic, payload, retained."""


@dataclass
class Faults:
    """Probabilities for each delivery: lost and late for QoS 0 only."""

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    delay_ms: int = 500
    """How much later than its successors a late message comes, at most."""


@dataclass
class Client:
    """A connection. `deliver` is called for each message, `closed` once when the broker ends it."""

    name: str
    deliver: Deliver
    closed: Callable[[], None]
    will: Will | None = None
    filters: tuple[str, ...] = ()
    open: bool = True


@dataclass
class SimulatedBroker:
    """The broker. `published` is called for each message that a client publishes, and for Wills."""

    random: Random
    faults: Faults = field(default_factory=Faults)
    published: Callable[[str, Publish], None] = lambda _client, _message: None
    now_ms: int = 0
    clients: dict[str, Client] = field(default_factory=dict)
    retained: dict[str, bytes] = field(default_factory=dict)
    _queue: list[tuple[int, int, Client, str, bytes, bool]] = field(default_factory=list)
    _number: itertools.count[int] = field(default_factory=itertools.count)

    def connect(self, client: Client) -> None:
        """A CONNECT with a clean session; an older connection of this name is ended, its Will published."""
        if client.name in self.clients:
            self.cut(client.name)
        self.clients[client.name] = client

    def subscribe(self, client: Client, filters: Iterable[str]) -> None:
        """SUBSCRIBE at QoS 1; retained messages follow."""
        client.filters = tuple(filters)
        for topic, payload in self.retained.items():
            if any(matches(one, topic) for one in client.filters):
                self._deliver(client, topic, payload, qos=1, retained=True)

    def publish(self, client: Client, message: Publish) -> None:
        """A PUBLISH from a client; nothing happens if it is not connected any more."""
        if client.open:
            self._accept(client.name, message)

    def disconnect(self, client: Client, *, with_will: bool = False) -> None:
        """The client ends its connection."""
        if client.open:
            self._close(client, with_will=with_will)

    def cut(self, name: str) -> None:
        """The connection is lost: its Will is published."""
        client = self.clients.get(name)
        if client is not None:
            self._close(client, with_will=True)

    def restart(self, *, keep_retained: bool = True) -> None:
        """All connections end without a Will, and what was on its way is gone."""
        self._queue.clear()
        for client in list(self.clients.values()):
            self._close(client, with_will=False)
        if not keep_retained:
            self.retained.clear()

    def run(self, now_ms: int) -> None:
        """Deliver what is due until `now_ms`, also what that causes."""
        while self._queue and self._queue[0][0] <= now_ms:
            at, _, client, topic, payload, retained = heapq.heappop(self._queue)
            self.now_ms = max(self.now_ms, at)
            if client.open:
                client.deliver(topic, payload, retained)
        self.now_ms = now_ms

    def _close(self, client: Client, *, with_will: bool) -> None:
        client.open = False
        if self.clients.get(client.name) is client:
            del self.clients[client.name]
        will = client.will
        client.closed()
        if with_will and will is not None:
            self._accept(client.name, Publish(topic=will.topic, payload=will.payload, qos=1, retain=will.retain))

    def _accept(self, name: str, message: Publish) -> None:
        self.published(name, message)
        if message.retain:
            self.retained[message.topic] = message.payload
        for client in list(self.clients.values()):
            if any(matches(one, message.topic) for one in client.filters):
                self._deliver(client, message.topic, message.payload, qos=message.qos, retained=False)

    def _deliver(self, client: Client, topic: str, payload: bytes, *, qos: int, retained: bool) -> None:
        faults, draw = self.faults, self.random.random
        if qos == 0 and draw() < faults.lost:
            return
        late = self.random.randrange(1, faults.delay_ms) if qos == 0 and draw() < faults.late else 0
        copies = 2 if draw() < faults.doubled else 1
        for copy in range(copies):
            at = self.now_ms + 1 + late + copy * 3
            heapq.heappush(self._queue, (at, next(self._number), client, topic, payload, retained))


def matches(pattern: str, topic: str) -> bool:
    """Whether an MQTT filter matches a topic (MQTT 5.0 section 4.7)."""
    if not topic.startswith(pattern.partition("+")[0].partition("#")[0][:-1]):
        return False
    wanted, levels = pattern.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in {"+", levels[index]}:
            return False
    return len(wanted) == len(levels)
