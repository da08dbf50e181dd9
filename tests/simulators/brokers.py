"""Real brokers for tests: the embedded one, and mosquitto where it is installed. `until` waits for a fact."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest

from cloud_hub.broker.embedded import open_broker
from shared.protocol.codec import MAX_PAYLOAD

T = TypeVar("T")
Kind = Literal["embedded", "mosquitto"]
KINDS: tuple[Kind, ...] = ("embedded", "mosquitto")
MOSQUITTO_FIRST = ["mosquitto", pytest.param("embedded", marks=pytest.mark.nightly)]
"""Parameters for a test whose subject is not the broker: the embedded one only in the nightly run."""

MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
{user}set_tcp_nodelay true
persistence true
persistence_location {folder}/
autosave_interval 1
autosave_on_changes true
max_inflight_messages 200
max_queued_messages 10000
message_size_limit {payload}
log_type error
"""


PATIENCE = 3
"""A busy machine may take this many times as long: a test that waits for what comes anyway costs nothing by it."""


def until(what: str, seen: Callable[[], T | None], wait_s: float = 30.0) -> T:
    """Ask `seen` until it gives something true; fails the test naming `what` after `wait_s` patient seconds."""
    deadline = time.monotonic() + wait_s * PATIENCE
    while time.monotonic() < deadline:
        found = seen()
        if found:
            return found
        time.sleep(0.03)
    pytest.fail(f"{what}: not within {wait_s * PATIENCE:g} s")


def free_port() -> int:
    """A port on loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


@dataclass
class BrokerProcess:
    """A broker in a process of its own, that may be killed and started again on the same port and folder."""

    command: list[str]
    port: int
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        """Start, and wait until it listens."""
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until("the broker listens", lambda: listens(self.port), 20)

    def kill(self) -> None:
        """Power off."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End, if it runs."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait(20)


@contextmanager
def embedded_broker(folder: Path) -> Iterator[tuple[int, int]]:
    """The embedded broker in this process; gives its ports for MQTT 3.1.1 and MQTT 5."""
    mqtt3, mqtt5 = free_port(), free_port()
    broker: Any = open_broker(folder, mqtt3, mqtt5).start()
    try:
        until("the embedded broker listens", lambda: listens(mqtt5), 20)
        yield mqtt3, mqtt5
    finally:
        broker.stop()


def mosquitto_program() -> str:
    """Path of mosquitto; skips the test where it is not installed."""
    binary = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    return binary


def _mosquitto() -> tuple[str, str]:
    """(program, line of its configuration that lets it write here); skips the test where it is not installed."""
    return mosquitto_program(), "user root\n" if os.geteuid() == 0 else ""  # else it drops to one that may not


def mosquitto(folder: Path) -> BrokerProcess:
    """A mosquitto, not started yet; skips the test where it is not installed."""
    binary, user = _mosquitto()
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    file = folder / "mosquitto.conf"
    file.write_text(MOSQUITTO.format(port=port, folder=folder, payload=MAX_PAYLOAD + 4096, user=user), "utf-8")
    return BrokerProcess(command=[binary, "-c", str(file)], port=port, folder=folder)


def documented_mosquitto(folder: Path) -> BrokerProcess:
    """A mosquitto with mutual TLS just as docs/broker/by-hand.md has it; its certificates are expected in `folder`."""
    binary, user = _mosquitto()
    page = (Path(__file__).parents[2] / "docs" / "broker" / "by-hand.md").read_text("utf-8")
    conf, acl = re.findall(r"^```conf\n(.*?)^```$", page, re.M | re.S)
    port = free_port()
    conf = conf.replace("listener 8883", f"listener {port} 127.0.0.1").replace("/etc/mosquitto/certs", str(folder))
    conf = conf.replace("/etc/mosquitto/tidegate.acl", str(folder / "tidegate.acl"))
    (folder / "tidegate.acl").write_text(acl, "utf-8")
    (folder / "tidegate.acl").chmod(0o600)
    file = folder / "mosquitto.conf"
    file.write_text(f"{user}persistence_location {folder}/\n{conf}", "utf-8")
    return BrokerProcess(command=[binary, "-c", str(file)], port=port, folder=folder)


def broker_process(kind: Kind, folder: Path) -> BrokerProcess:
    """A broker of this kind in a process of its own, not started yet."""
    if kind == "mosquitto":
        return mosquitto(folder)
    program = shutil.which("tidegate-hub", path=sysconfig.get_path("scripts"))
    assert program, "tidegate is not installed in this environment"
    folder.mkdir(parents=True, exist_ok=True)
    mqtt5 = free_port()
    command = [program, "broker", "--mqtt3", str(free_port()), "--mqtt5", str(mqtt5)]
    return BrokerProcess(command=command, port=mqtt5, folder=folder)


MUTUAL = """
{user}per_listener_settings false
allow_anonymous false
acl_file {folder}/acl
listener {port} 127.0.0.1
cafile {ca}
certfile {folder}/broker.pem
keyfile {folder}/broker.key
tls_version tlsv1.3
require_certificate true
use_identity_as_username true
use_username_as_clientid true
max_inflight_messages 0
log_type error
log_type warning
log_type notice
"""
MUTUAL_ACL = """user tidegate-hub
topic readwrite tidegate/v1/things/#
user between
topic readwrite tidegate/v1/things/#
pattern readwrite tidegate/v1/things/%u/#
"""


def mutual_mosquitto(folder: Path, ca: Path) -> BrokerProcess:
    """A mosquitto with mutual TLS; `broker.pem` and `broker.key` are expected in `folder`. `between` sees all."""
    binary, user = _mosquitto()
    folder.mkdir(parents=True, exist_ok=True)
    port, file = free_port(), folder / "mosquitto.conf"
    file.write_text(MUTUAL.format(user=user, folder=folder, port=port, ca=ca), "utf-8")
    (folder / "acl").write_text(MUTUAL_ACL, "utf-8")
    (folder / "acl").chmod(0o600)
    return BrokerProcess(command=[binary, "-c", str(file)], port=port, folder=folder)
