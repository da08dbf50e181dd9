"""What Sparkplug needs of the connection: MQTT 3.1.1 and 5, passwords, Wills, and an end that sends all before it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import BrokerProcess, free_port, mosquitto_program, until

from shared.transport.mqtt import Connection, Inbound, Options, Will

PROTOCOLS = ["5", "3.1.1"]
WILL, DATA, NCMD = (f"spBv1.0/plant/{kind}/press" for kind in ("NDEATH", "NDATA", "NCMD"))
CONF = """
{user}listener {port} 127.0.0.1
allow_anonymous false
password_file {folder}/passwords
log_type error
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A mosquitto that wants a password: user `scada`, password `pass word`."""
    program = mosquitto_program()
    tool = shutil.which("mosquitto_passwd") or str(Path(program).with_name("mosquitto_passwd"))
    if not Path(tool).exists():
        tool = "/usr/bin/mosquitto_passwd"
    folder, port = tmp_path_factory.mktemp("broker"), free_port()
    subprocess.run([tool, "-c", "-b", str(folder / "passwords"), "scada", "pass word"], check=True, capture_output=True)
    user = "user root\n" if os.geteuid() == 0 else ""  # else it drops to one that may not read the folder
    (folder / "mosquitto.conf").write_text(CONF.format(port=port, folder=folder, user=user), "utf-8")
    (folder / "password").write_text("pass word\n", "utf-8")
    process = BrokerProcess(command=[program, "-c", str(folder / "mosquitto.conf")], port=port, folder=folder)
    process.start()
    yield process
    process.stop()


@dataclass
class Peer:
    """A connection and what happened to it."""

    connection: Connection
    heard: list[Inbound]
    ups: list[str]
    downs: list[str]

    def payloads(self) -> list[bytes]:
        return [one.payload for one in self.heard]


@contextmanager
def peer(
    broker: BrokerProcess, name: str, protocol: Any, filters: list[str], will: Callable[[], Will] | None = None,
    password: str = "password", **options: Any,
) -> Iterator[Peer]:  # fmt: skip
    heard: list[Inbound] = []
    ups: list[str] = []
    downs: list[str] = []
    connection = Connection(
        Options(
            client_id=name, filters=filters, protocol=protocol, username="scada",
            password_file=str(broker.folder / password), **options,
        ),
        lambda: ("127.0.0.1", broker.port), on_message=heard.append, on_up=lambda: ups.append("up"),
        on_down=downs.append, will=will,
    )  # fmt: skip
    made = Peer(connection, heard, ups, downs)
    connection.start()
    try:
        yield made
    finally:
        connection.stop()


def up(peer: Peer) -> None:
    until("connected", lambda: peer.ups)


def death() -> Will:
    return Will(topic=WILL, payload=b"death", retain=False)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_messages_go_both_ways_without_properties(broker: BrokerProcess, protocol: str) -> None:
    with peer(broker, "both", protocol, [DATA]) as client:
        up(client)
        assert client.connection.publish(DATA, b"\x00\xff", qos=0, content_type="")
        until("the message", lambda: client.heard)
        assert (client.heard[0].payload, client.heard[0].content_type) == (b"\x00\xff", "")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_wrong_or_missing_password_is_the_reason(broker: BrokerProcess, protocol: str) -> None:
    (broker.folder / "wrong").write_text("guess", "utf-8")
    for file, reason in (("wrong", "ot authori"), ("missing", "missing")):
        with peer(broker, "guest", protocol, [DATA], password=file) as client:
            until("refused", lambda client=client: client.downs)  # type: ignore[misc]
            assert reason in client.downs[0]
            assert not client.ups


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_lost_connection_publishes_the_will_and_the_broker_does_not_keep_it(
    broker: BrokerProcess, protocol: str
) -> None:
    with peer(broker, "watch", "5", [WILL]) as watch:
        up(watch)
        with peer(broker, "node", protocol, [DATA], death) as node:
            up(node)
            node.connection.drop("cut")
            until("the Will", lambda: watch.heard)
        assert watch.payloads() == [b"death"], "a clean end afterwards publishes none"
        with peer(broker, "later", "5", [WILL, DATA]) as later:
            up(later)
            later.connection.publish(DATA, b"end")
            until("the end", lambda: later.heard)
            assert later.payloads() == [b"end"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_will_is_retained_unless_it_says_otherwise(broker: BrokerProcess, protocol: str) -> None:
    topic = f"spBv1.0/STATE/{protocol}"
    with peer(broker, "host", protocol, [DATA], lambda: Will(topic=topic, payload=b"offline")) as host:
        up(host)
        host.connection.drop("cut")
        until("connected again", lambda: len(host.ups) > 1)
    with peer(broker, "later", "5", [topic]) as later:
        until("the Will", lambda: later.heard)
        assert later.heard[0].retained


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("with_will", [False, True])
def test_disconnect_sends_what_was_published_before_and_connects_again(
    broker: BrokerProcess, protocol: str, with_will: bool
) -> None:
    with peer(broker, "watch", "5", [WILL, DATA]) as watch, peer(broker, "node", protocol, [NCMD], death) as node:
        up(watch)
        up(node)
        if not with_will or protocol == "5":  # 3.1.1 with Will closes at once
            node.connection.publish(DATA, b"last", qos=1)
        node.connection.disconnect("next server", with_will=with_will)
        until("connected again", lambda: len(node.ups) > 1)
        watch.connection.publish(DATA, b"end")
        until("the end", lambda: b"end" in watch.payloads())
        assert node.downs == ["next server"]
        assert [one for one in watch.payloads() if one == b"death"] == ([b"death"] if with_will else [])
        assert (b"last" in watch.payloads()) is (not with_will or protocol == "5")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_stop_sends_what_was_published_before(broker: BrokerProcess, protocol: str) -> None:
    with peer(broker, "watch", "5", [WILL, DATA]) as watch:
        up(watch)
        with peer(broker, "node", protocol, [NCMD], death) as node:
            up(node)
            for number in range(50):
                assert node.connection.publish(DATA, b"%d" % number, qos=0)
            assert node.connection.publish(WILL, b"published", qos=1)
            node.connection.stop(with_will=protocol == "5")
        expected = [*(b"%d" % number for number in range(50)), b"published", *([b"death"] if protocol == "5" else [])]
        until("all", lambda: len(watch.heard) >= len(expected))
        assert watch.payloads() == expected
