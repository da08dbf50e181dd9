"""A mosquitto set up by `tidegate-hub broker setup`, with the hub's CA: what is proven of it holds for a user's.

`Plant.identity(cn)` gives certificate files of that CA; `Peer` is a bare MQTT client whose every step is answered.
"""

from __future__ import annotations

import os
import queue
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from simulators.brokers import BrokerProcess, free_port, mosquitto_program

from cloud_hub.__main__ import main
from cloud_hub.certificates.core.authority import Authority
from cloud_hub.certificates.files import CaFolder
from cloud_hub.clock import now_us
from shared.transport.mqtt import Tls

WAIT_S = 10.0


@dataclass
class Plant:
    """A folder with a CA, and a broker that trusts it; not started yet."""

    folder: Path
    broker: BrokerProcess
    ca: CaFolder
    authority: Authority

    @classmethod
    def make(cls, folder: Path, *options: str) -> Plant:
        """`options` are more of those of `broker setup`. Skips the test without mosquitto."""
        program = mosquitto_program()
        port, ca = free_port(), CaFolder(folder / "hub")
        (folder / "hub.toml").write_text(f'state_dir = "{folder}/hub"\n', "utf-8")
        plant = cls(
            folder, BrokerProcess([program, "-c", str(folder / "broker/mosquitto.conf")], port, folder), ca,
            ca.make("plant", now_us()),
        )  # fmt: skip
        user = ("--user", "root") if os.geteuid() == 0 else ()
        plant.command("setup", "--name", "127.0.0.1", "--name", "localhost", "--port", str(port), "--bind", "127.0.0.1",
                      *user, *options)  # fmt: skip
        return plant

    @property
    def hub(self) -> Tls:
        """The hub's own certificate, made by the setup."""
        return Tls(ca=str(self.ca.certificate), certificate=f"{self.ca.path}/mqtt.pem", key=f"{self.ca.path}/mqtt.key")

    def command(self, what: str, *arguments: str) -> None:
        """A subcommand of `tidegate-hub broker` on this folder."""
        config = ["--config", str(self.folder / "hub.toml")]
        assert main(["broker", what, *arguments, "--folder", str(self.folder / "broker"), *config]) == 0

    def identity(self, cn: str, *, authority: Authority | None = None, begin_us: int = 0, days: float = 1.0) -> Tls:
        """Files that prove `cn`, by this plant's CA or another `authority`, valid from `begin_us` (now)."""
        issued = (authority or self.authority).client(cn, begin_us or now_us(), days)
        base = self.folder / f"{cn}-{len(list(self.folder.iterdir()))}"
        tls = Tls(ca=str(self.ca.certificate), certificate=f"{base}.pem", key=f"{base}.key")
        Path(tls.certificate).write_bytes(issued.certificate)
        Path(tls.key).write_bytes(issued.key)
        return tls

    def peer(self, cn: str, **more: Any) -> Peer:
        """A connected client of this identity."""
        return Peer(self.broker.port, self.identity(cn), **({"client_id": cn} | more))

    def rules(self, old: str, new: str) -> None:
        """Edit the access list, as a seeded mistake."""
        path = self.folder / "broker" / "access.acl"
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")


class Refused(Exception):
    """The broker did not let the client in."""


class Peer:
    """A connected MQTT 5 client. `heard` is [(topic, payload, retained)]; raises Refused when it is not let in."""

    def __init__(
        self, port: int, tls: Tls | None, *, client_id: str = "", will: tuple[str, bytes, bool] | None = None,
        session_s: int = 0, protocol: int = paho.MQTTv5,
    ) -> None:  # fmt: skip
        self.heard: list[tuple[str, bytes, bool]] = []
        self.downs: queue.Queue[Any] = queue.Queue()
        self._answers: queue.Queue[Any] = queue.Queue()
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=protocol, reconnect_on_failure=False
        )  # type: ignore[call-overload]
        if tls is not None:
            client.tls_set(tls.ca, tls.certificate, tls.key)
        if will is not None:
            client.will_set(will[0], will[1], 1, will[2])
        client.on_socket_open = lambda _c, _d, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.on_socket_register_write = lambda *_: (
            None
        )  # one thread alone touches the socket (shared/transport/mqtt.py)
        client.on_connect = lambda _c, _d, _flags, reason, _p: self._answers.put(reason)
        client.on_subscribe = lambda _c, _d, _mid, reasons, _p: self._answers.put(reasons)
        client.on_publish = lambda _c, _d, _mid, reason, _p: self._answers.put(reason)
        client.on_message = lambda _c, _d, m: self.heard.append((m.topic, bytes(m.payload), bool(m.retain)))
        client.on_disconnect = self._lost
        self._connect(port, session_s, protocol)

    def _connect(self, port: int, session_s: int, protocol: int) -> None:
        properties = None
        if protocol == paho.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = session_s
        try:
            self._client.connect("127.0.0.1", port, 20, properties=properties)
        except OSError as error:
            raise Refused(str(error)) from error
        self._client.loop_start()
        answer = self._answers.get(timeout=WAIT_S)
        if answer.is_failure:
            self.close()
            raise Refused(str(answer))

    def _lost(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.downs.put(reason)
        self._answers.put(reason)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Say it with QoS 1 and wait for the answer; False when it is "not authorized" (MQTT 5.0, 3.4.2.1)."""
        self._client.publish(topic, payload, 1, retain)
        code = self._answers.get(timeout=WAIT_S).value
        assert code in {0, 16, 135}, code
        return bool(code != 135)

    def subscribe(self, topic: str) -> int:
        """Ask for it and wait for the answer; returns its reason code: below 128 it is granted."""
        self._client.subscribe(topic, 1)
        code: int = self._answers.get(timeout=WAIT_S)[0].value
        return code

    def payloads(self) -> set[bytes]:
        """What it has heard so far."""
        return {payload for _, payload, _ in self.heard}

    def vanish(self) -> None:
        """Lose the connection without a word: the broker publishes the Will."""
        self._client._sock_close()  # type: ignore[no-untyped-call]
        self._client.loop_stop()

    def close(self) -> None:
        """End."""
        self._client.disconnect()
        self._client.loop_stop()
