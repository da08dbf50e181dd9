"""Addresses of brokers, their TLS, and MQTT clients for the subscriber and the stimulus."""

from __future__ import annotations

import secrets
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from shared.errors import ConfigError, NotReady
from shared.transport.mqtt import parse_address
from shared.transport.tls import client_context

CONNECT_S = 10.0
WITH_WILL = 0x04
"""Reason code of DISCONNECT: Disconnect with Will Message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A broker: host and port, files for TLS (`ca` '' is plain MQTT), user and password file for our own clients."""

    host: str
    port: int
    ca: str = ""
    certificate: str = ""
    key: str = ""
    username: str = ""
    password_file: str = ""

    def context(self) -> ssl.SSLContext | None:
        """The TLS context; None for plain MQTT. Raises ConfigError."""
        if not self.ca:
            return None
        try:
            return client_context(self.ca, self.certificate, self.key)
        except (OSError, ValueError) as error:
            raise ConfigError("--ca, --cert, --key", f"cannot be used: {error}", "Give PEM files that exist") from None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_broker(text: str, **files: str) -> Broker:
    """A broker from HOST:PORT, mqtt://HOST:PORT or mqtts://HOST:PORT. Raises ConfigError."""
    scheme, slashes, rest = text.partition("://")
    address = rest if slashes else text
    if slashes and scheme not in ("mqtt", "mqtts", "tcp", "ssl"):
        raise ConfigError("--broker", f"'{scheme}' is no scheme of MQTT", "Write mqtt://HOST:PORT or mqtts://HOST:PORT")
    host, port = parse_address(address.rstrip("/"), "--broker")
    if scheme in ("mqtts", "ssl") and slashes and not files.get("ca"):
        raise ConfigError("--broker", "TLS needs the CA of the broker", "Give --ca FILE")
    return Broker(host=host, port=port, **files)


Received = Callable[[str, bytes, int, bool], None]
"""Called with topic, payload, QoS and retain flag."""


class Client:
    """A connected MQTT 5 client of the checker itself."""

    def __init__(
        self, broker: Broker, received: Received, *, name: str = "", will: tuple[str, bytes, int, bool] | None = None
    ) -> None:
        self._received = received
        self._up = threading.Event()
        self._granted = threading.Event()
        self._reason = ""
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=name or f"check-{secrets.token_hex(4)}", protocol=paho.MQTTv5
        )
        context = broker.context()
        if context is not None:
            self._client.tls_set_context(context)
        if broker.username:
            self._client.username_pw_set(broker.username, _password(broker.password_file))
        if will is not None:
            self._client.will_set(*will)
        self._client.on_connect = self._connected
        self._client.on_message = self._message
        self._client.on_subscribe = lambda *_: self._granted.set()
        self._open(broker)

    def _open(self, broker: Broker) -> None:
        try:
            self._client.connect(broker.host, broker.port, clean_start=True)
        except (OSError, ValueError) as error:
            raise NotReady(f"broker {broker} cannot be reached: {error}") from None
        self._client.loop_start()
        if not self._up.wait(CONNECT_S) or self._reason:
            self._client.loop_stop()
            raise NotReady(f"broker {broker} refused an MQTT 5 connection: {self._reason or 'no answer'}")

    def _connected(self, _client: object, _data: object, _flags: object, reason: object, _properties: object) -> None:
        self._reason = str(reason) if getattr(reason, "is_failure", False) else ""
        self._up.set()

    def _message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self._received(message.topic, bytes(message.payload), message.qos, bool(message.retain))

    def subscribe(self, topic_filter: str, qos: int = 2) -> None:
        """Subscribe with Retain As Published; with QoS 2, QoS and retain are seen as they were published."""
        self._granted.clear()
        self._client.subscribe(topic_filter, options=SubscribeOptions(qos=qos, retainAsPublished=True))
        self._granted.wait(CONNECT_S)

    def publish(self, topic: str, payload: bytes, qos: int = 0, *, retain: bool = False) -> bool:
        """Publish, and wait until it is sent (QoS 0) or acknowledged; whether it was."""
        info = self._client.publish(topic, payload, qos, retain)
        try:
            info.wait_for_publish(CONNECT_S)
        except (RuntimeError, ValueError):
            return False
        return info.is_published()

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 0 without waiting; may be called while a message is received."""
        self._client.publish(topic, payload, 0, retain)

    def close(self, *, with_will: bool = False) -> None:
        """Disconnect; with `with_will` the broker publishes the Will (reason code 0x04)."""
        reason = ReasonCode(PacketTypes.DISCONNECT, identifier=WITH_WILL) if with_will else None
        self._client.disconnect(reason)
        self._client.loop_stop()


def _password(file: str) -> str:
    if not file:
        return ""
    try:
        return Path(file).read_text("utf-8").strip()
    except OSError as error:
        raise ConfigError("--password-file", f"cannot be read: {error}", "Give a file with the password") from None
