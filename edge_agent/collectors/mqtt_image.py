"""Collector `mqtt_image`: images (JPEG, PNG, ...) that arrive on a topic of a broker, by a client of its own.

The client runs in the source process. A message that holds no image is left out and reported.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import msgspec

from edge_agent.collectors.sources.collector import BackgroundCollector
from edge_agent.collectors.sources.options import ImageOptions, absolute, needs_decoder
from edge_agent.collectors.sources.process import BackgroundSource
from edge_agent.collectors.sources.protocol import Produced, Skipped
from edge_agent.config import CollectorTable, LinkTls, options
from shared.errors import ConfigError, NotReady
from shared.transport.mqtt import Connection, Inbound, Tls, parse_address
from shared.transport.mqtt import Options as ConnectionOptions

PRODUCER = "edge_agent.collectors.mqtt_image:produce"
LOCAL = {"localhost", "127.0.0.1", "::1"}
WAITING = 4
"""Messages that wait for decoding; older ones are left out and counted."""


class Options(ImageOptions, frozen=True, forbid_unknown_fields=True):
    """`address` of the broker as HOST:PORT (MQTT 5), `topic` filter, `tls` files as in `[link.tls]`."""

    address: str = ""
    topic: str = ""
    tls: LinkTls | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.address or not self.topic:
            raise ValueError("address and topic must be set")


class MqttImageCollector(BackgroundCollector):
    """Frames of one topic."""

    def __init__(self, table: CollectorTable, chosen: Options) -> None:
        task = {"options": msgspec.to_builtins(chosen), "client_id": f"{table.name}-images"}
        super().__init__(table, BackgroundSource(PRODUCER, lambda: task), table.period_s or 0.05)
        self._options = chosen

    def warnings(self) -> list[str]:
        """Warnings for `check`."""
        host = parse_address(self._options.address, self.name)[0]
        plain = self._options.tls is None and host not in LOCAL
        return [f"{host} is reached without TLS. Set `tls`"] * plain


class Inbox:
    """Messages in order of arrival, at most WAITING; counts those that had to make place."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Inbound | str] = queue.SimpleQueue()
        self.skipped = 0

    def put(self, item: Inbound | str) -> None:
        """Add a message, or the reason why the connection is down."""
        self._messages.put(item)
        while self._messages.qsize() > WAITING:
            self._messages.get()
            self.skipped += 1

    def get(self, wait_s: float) -> Inbound | None:
        """The next message, None after `wait_s`; raises NotReady when the connection is down."""
        try:
            found = self._messages.get(timeout=wait_s)
        except queue.Empty:
            return None
        if isinstance(found, str):
            raise NotReady(found)
        return found


def produce(given: dict[str, Any]) -> Iterator[Produced]:
    """The images of the topic, in the source process."""
    chosen, inbox = msgspec.convert(given["options"], Options), Inbox()
    address = parse_address(chosen.address, "address")
    tls = Tls(ca=chosen.tls.ca, certificate=chosen.tls.certificate, key=chosen.tls.key) if chosen.tls else None
    connection = Connection(
        ConnectionOptions(client_id=given["client_id"], filters=[chosen.topic], tls=tls),
        lambda: address, inbox.put, lambda: None, lambda reason: inbox.put(f"{chosen.address}: {reason}"),
    )  # fmt: skip
    connection.start()
    try:
        yield from _images(chosen, inbox)
    finally:
        connection.stop()


def _images(chosen: Options, inbox: Inbox) -> Iterator[Produced]:
    import dataclasses  # noqa: PLC0415

    from edge_agent.clock import now_us  # noqa: PLC0415
    from edge_agent.collectors.sources.decoding import Converter, decode_image  # noqa: PLC0415 - PyAV is 30 MB

    converter = Converter(chosen)
    while True:
        message = inbox.get(1.0)
        if message is None:
            yield None
            continue
        try:
            image = decode_image(message.payload, converter, now_us(), message.topic)
            yield dataclasses.replace(image, skipped=inbox.skipped)
        except ValueError as error:
            yield Skipped(token=message.topic, reason=f"a message of {len(message.payload)} bytes {error}")


def open_collector(table: CollectorTable) -> MqttImageCollector:
    """Entry point `mqtt_image`."""
    chosen: Options = options(Options, table)
    place = f"collector '{table.name}'"
    parse_address(chosen.address, f"{place}.address")
    if "\0" in chosen.topic or len(chosen.topic) > 1024:
        raise ConfigError(f"{place}.topic", "is no topic filter", "Write for example: cameras/line-1/image")
    needs_decoder(table)
    if tls := chosen.tls:
        tls = LinkTls(ca=absolute(tls.ca), certificate=absolute(tls.certificate), key=absolute(tls.key))
        chosen = msgspec.structs.replace(chosen, tls=tls)
    return MqttImageCollector(table, chosen)
