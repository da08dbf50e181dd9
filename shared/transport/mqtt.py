"""Keeps an MQTT connection alive: MQTT 5, or 3.1.1 for foreign brokers. Agent and hub use it.

The only module that imports the MQTT client (paho). A `Connection` runs in its own thread: it locates a broker,
connects, passes on what it receives, and reconnects with backoff after a loss. It stores nothing: `publish` returns
False while the connection is down, because the outbox is the only store. Nagle's algorithm is off (78 ms a round trip
with it, about 1 ms without).
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from shared.backoff import Backoff
from shared.errors import ConfigError, NotReady
from shared.protocol.codec import JSON, MAX_PAYLOAD
from shared.transport.tls import TlsVersion, check_dates, client_context

log = logging.getLogger(__name__)

Address = tuple[str, int]

CLOSED = "the broker or the network closed the connection"
UNANSWERED = "broker ended the connection in place of answering the subscription"

STEADY_S = 10.0
"""A connection that lasted this long resets the backoff. One that is evicted at once (two devices with the same id)
does not, so that they do not evict each other at full speed."""


def parse_address(text: str, place: str) -> Address:
    """`host:port` as a pair; raises ConfigError naming `place`."""
    found = _ADDRESS.match(text.strip())
    if found is None or not 0 < int(found["port"]) < 65536:
        raise ConfigError(place, f"'{text}' is no address{_why(text)}", 'Write for example: address = "10.0.0.5:8883"')
    return found["ip6"] or found["name"], int(found["port"])


_ADDRESS = re.compile(r"(?:\[(?P<ip6>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<name>[\w.-]+)):(?P<port>[0-9]{1,5})\Z", re.ASCII)


def _why(text: str) -> str:
    """A hint about a common mistake in HOST:PORT, or ''."""
    scheme, slashes, rest = text.partition("://")
    if slashes:
        tls = "TLS comes from [mqtt.tls] at the hub, from enrolment or [link.tls] on the device"
        return f": leave '{scheme}://' away, HOST:PORT alone is wanted ({rest.partition('/')[0]}). {tls}"
    if text.count(":") > 1 and "[" not in text:
        return ": put an IPv6 address in brackets, as in [fd00::5]:8883"
    return ": the port is missing" if ":" not in text and text.strip() else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Paths of PEM files for mutual TLS, read again for each connection attempt; `minimum` is the oldest version.

    With `now_us` the validity of the broker's certificate is checked against that time, not the system clock.
    """

    ca: str
    certificate: str
    key: str
    now_us: Callable[[], int] | None = None
    minimum: TlsVersion = "1.3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """A received message. Call `acknowledge` when it has been processed, if `manual_ack` is set (`acknowledge_all` for
    many).

    `response_topic` and `correlation` are MQTT 5's request and response (MQTT 5.0 section 4.10), empty when absent.
    `signature` is the hub's signature of topic and payload (`shared.protocol.signatures`), not verified here.
    `retained`: the broker had stored it before this client subscribed.
    """

    topic: str
    payload: bytes
    traceparent: str
    acknowledge: Callable[[], None]
    response_topic: str = ""
    correlation: bytes = b""
    content_type: str = ""
    signature: str = ""
    retained: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a connection. With `session_s` above 0 the broker queues messages that long while disconnected.

    `newest` are the filters of retained messages of which only the last one matters: subscribed at QoS 0, so that the
    broker does not queue earlier ones. All other filters are subscribed at QoS 1.

    `max_packet` is the largest packet in bytes that the broker may send (with MQTT 5).

    `password_file` is read again for each attempt, its last line end is left out. With `protocol` "3.1.1" messages
    carry no properties, and a `session_s` above 0 is a session without end.
    """

    client_id: str
    filters: Sequence[str]
    newest: Collection[str] = ()
    manual_ack: bool = False
    session_s: int = 0
    receive_maximum: int = 200
    max_packet: int = MAX_PAYLOAD + 4096
    keepalive_s: int = 20
    tls: Tls | None = None
    protocol: Literal["5", "3.1.1"] = "5"
    username: str = ""
    password_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    """The message that the broker publishes at QoS 1, retained by default, when the connection is lost."""

    topic: str
    payload: bytes
    retain: bool = True


class Connection:
    """An MQTT connection that reconnects by itself.

    `locate` returns the broker's address or raises NotReady. `on_message(inbound)`, `on_up()` and
    `on_down(reason)` are called from the connection's thread. `will()` is called for each attempt. `more()` returns
    whether another address can be tried without backoff after a failed attempt.
    """

    def __init__(
        self,
        options: Options,
        locate: Callable[[], Address],
        on_message: Callable[[Inbound], None],
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        will: Callable[[], Will] | None = None,
        more: Callable[[], bool] = lambda: False,
    ) -> None:
        self._options, self._locate, self._will, self._more = options, locate, will, more
        self._on_message, self._on_up, self._on_down = on_message, on_up, on_down
        self._backoff = Backoff(0.5, 30.0, random.random)
        self._stopping = threading.Event()
        self._client: paho.Client | None = None
        self._reason = ""
        self._asking = False
        self._up_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{options.client_id}", daemon=True)

    def start(self) -> None:
        """Start to connect; returns at once."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0, *, with_will: bool = False) -> None:
        """Disconnect cleanly after what has been published was sent, and end the thread.

        The broker publishes the Will only if `with_will` is set; see `disconnect`.
        """
        self._stopping.set()
        self.disconnect(self._reason, with_will=with_will)
        self._thread.join(timeout_s)

    def disconnect(self, reason: str, *, with_will: bool = False) -> None:
        """End this connection and connect again, to what `locate` gives then. Messages published before are sent first.

        `with_will`: the broker publishes the Will. MQTT 3.1.1 has no reason code for that, so the connection is closed
        without DISCONNECT, and messages that are not sent yet are lost. Without it the broker may still publish the
        Will: if it was sending to us at that moment, it may see the connection as lost.
        """
        client = self._client
        if client is None:
            return
        if with_will and self._options.protocol != "5":
            self.drop(reason)
            return
        self._reason = reason
        client.disconnect(_WITH_WILL if with_will else None)

    def drop(self, reason: str) -> None:
        """Close the socket without DISCONNECT and reconnect. May be called from any thread."""
        client = self._client
        sock = client.socket() if client is not None else None
        if isinstance(sock, socket.socket):
            self._reason = reason
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, traceparent: str = "",
        response_topic: str = "", correlation: bytes = b"", content_type: str = JSON, signature: str = "",
    ) -> bool:  # fmt: skip
        """Pass a message to the client; False while there is no connection. True does not mean that it was received.

        With `content_type` '' the message has none.
        """
        client = self._client
        if client is None or not client.is_connected():
            return False
        properties: Properties | None = _PLAIN
        if self._options.protocol != "5":
            properties = None
        elif traceparent or response_topic or correlation or signature or content_type != JSON:
            properties = _properties(content_type, traceparent, response_topic, correlation, signature)
        return client.publish(topic, payload, qos, retain, properties).rc == paho.MQTT_ERR_SUCCESS

    def renew(self) -> None:
        """Reconnect with the current certificate files. The Will is not sent; a birth follows at once."""
        client = self._client
        if client is not None:
            client.disconnect()

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._reason, self._asking, self._up_at = "", False, 0.0
            try:
                self._connect_once()
            except NotReady as error:
                self._reason = error.reason
            except (OSError, ValueError) as error:
                self._reason = f"{type(error).__name__}: {error}"
            self._client = None
            if self._up_at and time.monotonic() - self._up_at > STEADY_S:
                self._backoff.reset()
            self._on_down(self._reason or "connection closed")
            if self._up_at or not self._more():
                self._stopping.wait(self._backoff.wait())

    def _connect_once(self) -> None:
        host, port = self._locate()
        client = self._new_client()
        if self._options.protocol == "5":
            clean, connect = not self._options.session_s, self._connect_properties()
            client.connect(host, port, self._options.keepalive_s, clean_start=clean, properties=connect)
        else:
            client.connect(host, port, self._options.keepalive_s)
        self._client = client
        while client.loop() == paho.MQTT_ERR_SUCCESS:
            pass

    def _connect_properties(self) -> Properties:
        connect = Properties(PacketTypes.CONNECT)
        connect.ReceiveMaximum = self._options.receive_maximum
        connect.MaximumPacketSize = self._options.max_packet
        connect.SessionExpiryInterval = self._options.session_s
        return connect

    def _new_client(self) -> paho.Client:
        """A new client for each attempt, so that paho does not resend messages of an old session."""
        mqtt5 = self._options.protocol == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._options.client_id,
            clean_session=None if mqtt5 else not self._options.session_s,
            protocol=paho.MQTTv5 if mqtt5 else paho.MQTTv311,
            manual_ack=self._options.manual_ack,
            reconnect_on_failure=False,
        )
        if self._options.tls is not None:
            tls = self._options.tls
            context = client_context(
                tls.ca, tls.certificate, tls.key, own_clock=tls.now_us is None, minimum=tls.minimum
            )
            client.tls_set_context(context)
            client.on_socket_register_write = _on_register_write
        if self._options.username:
            client.username_pw_set(self._options.username, _read_password(self._options.password_file))
        if self._will is not None:
            will = self._will()
            client.will_set(will.topic, will.payload, 1, will.retain)
        client.on_socket_open = self._opened
        client.on_connect = self._connected
        client.on_subscribe = self._subscribed
        client.on_message = self._message
        client.on_disconnect = self._disconnected
        return client

    def _opened(self, _client: paho.Client, _data: Any, sock: Any) -> None:
        """Called after the TLS handshake, before CONNECT; an exception ends this attempt."""
        if isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = self._options.tls
        if tls is not None and tls.now_us is not None:
            try:
                check_dates(sock, tls.now_us())
            except OSError:
                sock.close()
                raise

    def _connected(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._reason = f"broker refused the connection: {reason}"
            client.disconnect()
            return
        self._asking = True
        client.subscribe([(topic, int(topic not in self._options.newest)) for topic in self._options.filters])

    def _subscribed(self, client: paho.Client, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        self._asking = False
        refused = [topic for topic, reason in zip(self._options.filters, reasons, strict=False) if reason.is_failure]
        if refused:
            self._reason = f"broker refused the subscription to {', '.join(refused)}"
            client.disconnect()
            return
        self._up_at = time.monotonic()
        self._on_up()

    def _message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        pairs = getattr(message.properties, "UserProperty", None) or []
        self._on_message(
            Inbound(
                topic=message.topic,
                payload=bytes(message.payload),
                traceparent=next((value for name, value in pairs if name == "traceparent"), ""),
                signature=next((value for name, value in pairs if name == "signature"), ""),
                acknowledge=_Receipt(client, message.mid, message.qos),
                response_topic=getattr(message.properties, "ResponseTopic", ""),
                correlation=getattr(message.properties, "CorrelationData", b""),
                content_type=getattr(message.properties, "ContentType", ""),
                retained=bool(message.retain),
            )
        )

    def _disconnected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._reason = self._reason or (UNANSWERED if self._asking else _ended(str(reason)))


def _ended(reason: str) -> str:
    """paho calls a connection that ended without DISCONNECT an "Unspecified error"."""
    return CLOSED if reason == "Unspecified error" else reason


@dataclass(slots=True)
class _Receipt:
    """Acknowledges on the connection that delivered the message; after a reconnect the broker delivers it again."""

    client: paho.Client
    mid: int
    qos: int

    def __call__(self) -> None:
        self.client.ack(self.mid, self.qos)


def acknowledge_all(batch: Iterable[Inbound]) -> None:
    """Acknowledge many messages, with one socket write for each connection."""
    together: dict[paho.Client, bytearray] = {}
    for inbound in batch:
        receipt = inbound.acknowledge
        if isinstance(receipt, _Receipt) and receipt.qos == 1:
            together.setdefault(receipt.client, bytearray()).extend(_PUBACK.pack(paho.PUBACK, 2, receipt.mid))
        else:
            receipt()
    for client, packets in together.items():
        client._packet_queue(paho.PUBACK, packets, 0, 1)


_PUBACK = struct.Struct("!BBH")
"""Fixed header and packet identifier (MQTT 5.0 section 3.4); an omitted reason code means success."""


def _properties(
    content_type: str = JSON, traceparent: str = "", response_topic: str = "", correlation: bytes = b"",
    signature: str = "",
) -> Properties:  # fmt: skip
    properties = Properties(PacketTypes.PUBLISH)
    if content_type:
        properties.ContentType = content_type
    if traceparent:
        properties.UserProperty = ("traceparent", traceparent)
    if signature:
        properties.UserProperty = ("signature", signature)
    if response_topic:
        properties.ResponseTopic = response_topic
    if correlation:
        properties.CorrelationData = correlation
    return properties


_PLAIN = _properties()
"""Properties of most messages, created once and never changed."""


_WITH_WILL = ReasonCode(PacketTypes.DISCONNECT, identifier=0x04)
"""Disconnect with Will Message (MQTT 5.0 section 3.14.2.1)."""


def _read_password(file: str) -> str | None:
    """The password in `file` without its line end, None without a file."""
    return Path(file).read_text("utf-8").rstrip("\r\n") if file else None


def _on_register_write(_client: paho.Client, _data: Any, _sock: Any) -> None:
    """With this hook `publish` and `ack` only queue and wake the loop, so that one thread alone uses the socket.

    Without it paho also writes from the caller's thread. That is faster, but two threads in one TLS connection break
    it ("decryption failed or bad record mac": 17 of 60 connections on a busy machine, with the hook 0 of 120).
    """
