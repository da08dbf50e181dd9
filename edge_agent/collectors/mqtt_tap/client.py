"""The client process of an `mqtt_tap` collector: one connection to the plant's broker."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterable, Iterator
from queue import Empty, Full, Queue
from typing import Any

import msgspec

from edge_agent.clock import now_us
from edge_agent.collectors.mqtt_tap import Options
from edge_agent.collectors.mqtt_tap.readings import Readings
from edge_agent.collectors.mqtt_tap.sparkplug import SparkplugReader
from edge_agent.collectors.mqtt_tap.tags import TapTag
from edge_agent.collectors.mqtt_tap.topics import TopicReader
from edge_agent.collectors.plant.counting import RequestCounter
from edge_agent.collectors.plant.messages import Connected, note
from edge_agent.collectors.sources.protocol import Asked, Produced
from shared.errors import NotReady
from shared.protocol.topics import SPARKPLUG
from shared.sparkplug.effects import Publish
from shared.transport.mqtt import Connection, Inbound, Tls, parse_address
from shared.transport.mqtt import Options as ConnectionOptions

WAITING = 20_000
"""Messages that wait to be read; older ones are left out and counted as `late`."""
TICK_S = 0.1
GATHER_S = 0.05
"""Messages that arrive within this time are read together."""
REPEAT_FAILURES_S = 60.0


class _Up:
    """The connection is subscribed."""


Item = Inbound | _Up | str


class Inbox:
    """What the connection's thread hands over, in order; a text is why the connection is down."""

    def __init__(self) -> None:
        self._items: Queue[Item] = Queue(WAITING)
        self.left_out = 0

    def put(self, item: Item) -> None:
        """Add an item; the oldest makes place."""
        while True:
            try:
                self._items.put_nowait(item)
            except Full:
                with contextlib.suppress(Empty):
                    self._items.get_nowait()
                    self.left_out += 1
            else:
                return

    def receive(self, wait_s: float) -> list[Item]:
        """What arrives within `wait_s`, and shortly after the first of it."""
        try:
            found = [self._items.get(timeout=wait_s)]
        except Empty:
            return []
        until = time.monotonic() + GATHER_S
        while len(found) < WAITING and (left := until - time.monotonic()) > 0:
            try:
                found.append(self._items.get(timeout=left))
            except Empty:
                break
        return found


def produce(given: dict[str, Any], requests: Queue[Asked]) -> Iterator[Produced]:
    """The values of all tags, in the client process. A tap only listens: no request is ever read."""
    chosen = msgspec.convert(given["options"], Options)
    tags = msgspec.convert(given["tags"], list[TapTag])
    inbox, readings = Inbox(), Readings()
    source_times = chosen.timestamps == "source"
    topics = TopicReader(tags, readings, source_times=source_times)
    nodes = SparkplugReader(tags, readings, source_times=source_times, request_births=chosen.request_births)
    yield None
    connection = _connection(
        chosen, chosen.client_id or f"{given['name']}-{secrets.token_hex(4)}", [*topics.topics, *nodes.filters], inbox
    )
    connection.start()
    try:
        yield from _Tap(chosen, connection, inbox, readings, topics, nodes).run()
    finally:
        connection.stop()


def _connection(chosen: Options, client_id: str, filters: list[str], inbox: Inbox) -> Connection:
    address = parse_address(chosen.address, "address")
    tls = Tls(**msgspec.structs.asdict(chosen.tls)) if chosen.tls else None
    wanted = ConnectionOptions(
        client_id=client_id, filters=filters, tls=tls, protocol=chosen.protocol, username=chosen.user,
        password_file=chosen.password_file,
    )  # fmt: skip
    return Connection(
        wanted, lambda: address, inbox.put, lambda: inbox.put(_Up()),
        lambda reason: inbox.put(f"{chosen.address}: {reason}"),
    )  # fmt: skip


class _Tap:
    """Reads through one connection, from its start to its loss."""

    def __init__(
        self, chosen: Options, connection: Connection, inbox: Inbox, readings: Readings, topics: TopicReader,
        nodes: SparkplugReader,
    ) -> None:  # fmt: skip
        self._chosen, self._connection, self._inbox = chosen, connection, inbox
        self._readings, self._topics, self._nodes = readings, topics, nodes
        self._counter = RequestCounter()
        self._wait_s = TICK_S if nodes.filters else 1.0

    def run(self) -> Iterator[Produced]:
        """Read until the connection is lost (NotReady)."""
        repeat_s = time.monotonic() + REPEAT_FAILURES_S
        while True:
            for item in self._inbox.receive(self._wait_s):
                yield from self._item(item)
            self._publish(self._nodes.tick(now_us()))
            if time.monotonic() > repeat_s:
                repeat_s = time.monotonic() + REPEAT_FAILURES_S
                self._readings.repeat_failures()
            yield from map(note, self._readings.drain())
            self._counter.late = self._inbox.left_out
            statistics = self._counter.report(time.monotonic())
            yield None if statistics is None else note(statistics)

    def _item(self, item: Item) -> Iterator[Produced]:
        if isinstance(item, str):
            raise NotReady(item)
        if isinstance(item, _Up):
            self._publish(self._nodes.subscribed(now_us()))
            yield note(Connected(text=self._chosen.address))
            return
        self._counter.requests += 1
        retained = item.retained
        if item.topic.startswith(f"{SPARKPLUG}/"):
            self._publish(self._nodes.received(item.topic, item.payload, now_us(), retained=retained))
        self._topics.received(item.topic, item.payload, now_us(), retained=retained)

    def _publish(self, messages: Iterable[Publish]) -> None:
        for message in messages:
            self._connection.publish(message.topic, message.payload, qos=message.qos, retain=False, content_type="")
