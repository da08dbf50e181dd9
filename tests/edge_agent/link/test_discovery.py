"""Finding the broker: at the configured addresses in order, else by a real zeroconf announcement that TLS proves."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulators.brokers import documented_mosquitto, until
from simulators.certificates import certificates
from zeroconf import ServiceInfo, Zeroconf

from edge_agent.config import Link, LinkTls
from edge_agent.link import discovery
from edge_agent.link.discovery import BrokerLocator, browse
from shared.errors import ConfigError, NotReady
from shared.protocol import topics
from shared.transport.mqtt import Connection, Options, Tls, parse_address

LOOPBACK = ["127.0.0.1"]
NOWHERE = ["192.0.2.1"]
unclosed = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""zeroconf leaves a socket to the garbage collector when it cannot join on an interface, paho one that TLS refused."""


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.5:8883", ("10.0.0.5", 8883)),
        ("broker.example:1", ("broker.example", 1)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:8883", ("::1", 8883)),
        ("[fe80::1%eth0]:1883", ("fe80::1%eth0", 1883)),
    ],
)
def test_an_address_is_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, "link.address") == address


@pytest.mark.parametrize(
    "text",
    ["", ":", "a b:1", "a@b:1", "broker/x:1", "[broker]:1",
     "broker", "broker:", ":8883", "[]:8883", "broker:mqtt", "broker:0", "broker:65536", "broker:-1",
     "broker:1.5", "broker:8883/x", "broker:²", " :8883"],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"link\.address") as caught:
        parse_address(text, "link.address")
    assert "10.0.0.5:8883" in caught.value.cure


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mqtt://10.0.0.5:1883", r"leave 'mqtt://' away, HOST:PORT alone is wanted \(10\.0\.0\.5:1883\)"),
        ("mqtts://broker.example:8883/", r"leave 'mqtts://' away.*\(broker\.example:8883\)"),
        ("broker.example", "the port is missing"),
        ("fd00::5:8883", "in brackets"),
        ("::1", "in brackets"),
    ],
)
def test_the_usual_mistakes_in_an_address_are_answered_with_their_cure(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_address(text, "link.address")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> str:
    """A service type of this test's own: hubs of other tests announce themselves on the same loopback interface."""
    name = f"_tg-{secrets.token_hex(4)}._tcp.local."
    monkeypatch.setattr(discovery, "SERVICE", name)
    return name


def announced(service: str, hub: str, port: int, address: str = "127.0.0.1") -> ServiceInfo:
    return ServiceInfo(service, f"{hub}.{service}", port, addresses=[socket.inet_aton(address)], server="hub.local.")


@pytest.fixture
def announcer() -> Iterator[Zeroconf]:
    zeroconf = Zeroconf(interfaces=LOOPBACK)
    yield zeroconf
    zeroconf.close()


def test_an_announced_broker_is_tried_after_the_configured_ones(service: str, announcer: Zeroconf) -> None:
    announcer.register_service(announced(service, "hub-1", 18883), cooperating_responders=True)
    finder = BrokerLocator(Link(interfaces=LOOPBACK, address="10.9.9.9:1", fallback=["10.9.9.9:2"]))
    assert finder.found_by == ""
    tried = []
    for more in (True, True, False) * 2:
        tried.append((finder.locate(), finder.found_by))
        assert finder.has_more() is more
    configured = [(("10.9.9.9", 1), "address"), (("10.9.9.9", 2), "address")]
    assert tried == [*configured, (("127.0.0.1", 18883), "zeroconf")] * 2


def test_where_a_hub_answered_is_stayed_and_the_next_loss_begins_with_the_first() -> None:
    finder = BrokerLocator(Link(discover=False, address="a:1", fallback=["b:2", "c:3"]))
    assert [finder.locate() for _ in range(2)] == [("a", 1), ("b", 2)]
    finder.confirm()
    assert [finder.locate() for _ in range(4)] == [("a", 1), ("b", 2), ("c", 3), ("a", 1)]


def test_a_fallback_alone_will_do() -> None:
    assert BrokerLocator(Link(discover=False, fallback=["b:2"])).locate() == ("b", 2)


def test_without_tls_only_an_announcement_on_loopback_is_believed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(discovery, "browse", lambda *_, **__: [("10.6.6.6", 1883), ("127.0.0.1", 2), ("fe80::1%3", 1)])
    finder = BrokerLocator(Link(address="10.9.9.9:1"))
    assert [finder.locate() for _ in range(2)] == [("10.9.9.9", 1), ("127.0.0.1", 2)]
    assert not finder.has_more()
    (said,) = [record for record in caplog.records if record.message == "discovery.untrusted"]
    assert said.fields["addresses"] == ["10.6.6.6", "fe80::1%3"]  # type: ignore[attr-defined]
    tls = LinkTls(ca="ca", certificate="c", key="k")
    finder = BrokerLocator(Link(tls=tls))
    assert [finder.locate() for _ in range(3)] == [("10.6.6.6", 1883), ("127.0.0.1", 2), ("fe80::1%3", 1)]


def test_a_flood_of_announcements_is_bounded(service: str, announcer: Zeroconf) -> None:
    for number in range(discovery.MOST + 4):
        announcer.register_service(announced(service, f"hub-{number}", 1000 + number), cooperating_responders=True)
    assert len(browse(LOOPBACK)) <= discovery.MOST


@unclosed
def test_a_rogue_announcement_is_refused_by_tls_and_the_next_one_is_tried(
    service: str, announcer: Zeroconf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker with a certificate of another CA announces itself as our hub; ours is announced beside it."""
    ours, rogue = tmp_path / "ours", tmp_path / "rogue"
    for folder in (ours, rogue):
        folder.mkdir()
        certificates(folder, "broker", "press-3")
    brokers = [documented_mosquitto(folder) for folder in (rogue, ours)]
    announced_by = [announced(service, "hub", broker.port) for broker in brokers]
    monkeypatch.setattr(discovery, "browse", lambda *_, **__: [("127.0.0.1", one.port) for one in announced_by])
    tls = LinkTls(ca=f"{ours}/ca.pem", certificate=f"{ours}/press-3.pem", key=f"{ours}/press-3.key")
    finder, up, down = BrokerLocator(Link(tls=tls)), threading.Event(), list[str]()
    connection = Connection(
        Options(client_id="press-3", filters=topics.device_filters("press-3"),
                tls=Tls(ca=tls.ca, certificate=tls.certificate, key=tls.key)),
        finder.locate, on_message=print, on_up=up.set, on_down=down.append, more=finder.has_more,
    )  # fmt: skip
    try:
        for broker in brokers:
            broker.start()
        connection.start()
        assert up.wait(20)
        assert finder.address == f"127.0.0.1:{brokers[1].port}"
        (reason,) = down
        assert "CERTIFICATE_VERIFY_FAILED" in reason
    finally:
        connection.stop()
        for broker in brokers:
            broker.stop()
    assert "New client connected" not in (rogue / "broker.log").read_text("utf-8", "replace")


@unclosed
def test_a_certificate_that_names_another_address_proves_nothing(tmp_path: Path) -> None:
    """Of our own CA, as every device's is: it must name the address that was announced."""
    certificates(tmp_path, "broker", "press-3")
    broker = documented_mosquitto(tmp_path)
    tls = Tls(ca=f"{tmp_path}/ca.pem", certificate=f"{tmp_path}/press-3.pem", key=f"{tmp_path}/press-3.key")
    down: list[str] = []
    connection = Connection(
        Options(client_id="press-3", filters=["x"], tls=tls), lambda: ("127.0.0.2", broker.port),
        on_message=print, on_up=lambda: down.append("up"), on_down=down.append,
    )  # fmt: skip
    file = tmp_path / "mosquitto.conf"
    file.write_text(file.read_text("utf-8").replace("127.0.0.1", "0.0.0.0"), "utf-8")
    try:
        broker.start()
        connection.start()
        until("it is refused", lambda: down, 20)
    finally:
        connection.stop()
        broker.stop()
    assert "IP address mismatch" in down[0]


def test_only_the_named_hub_is_believed(service: str, announcer: Zeroconf) -> None:
    announcer.register_service(announced(service, "stranger", 1), cooperating_responders=True)
    assert browse(LOOPBACK, 0.05, hub="ours") == []
    announcer.register_service(announced(service, "ours", 2), cooperating_responders=True)
    assert BrokerLocator(Link(interfaces=LOOPBACK, hub="ours")).locate() == ("127.0.0.1", 2)


def test_where_nobody_announces_there_is_nothing(service: str) -> None:
    assert browse(LOOPBACK, 0.05) == []


@unclosed
def test_an_interface_that_is_not_there_is_no_error(service: str) -> None:
    assert browse(NOWHERE, 0.05) == []


@unclosed
def test_without_an_announcement_the_configured_address_is_used(service: str) -> None:
    finder = BrokerLocator(Link(interfaces=NOWHERE, address="10.0.0.5:8883"))
    assert finder.locate() == ("10.0.0.5", 8883)
    assert finder.found_by == "address"


def test_discovery_can_be_switched_off(service: str, announcer: Zeroconf) -> None:
    announcer.register_service(announced(service, "hub-1", 18883), cooperating_responders=True)
    finder = BrokerLocator(Link(discover=False, interfaces=LOOPBACK, address="10.0.0.5:8883"))
    assert (finder.locate(), finder.found_by) == (("10.0.0.5", 8883), "address")


@unclosed
@pytest.mark.parametrize("link", [Link(discover=False), Link(interfaces=NOWHERE)], ids=["off", "nobody"])
def test_without_either_it_is_not_ready_and_says_why(service: str, link: Link) -> None:
    with pytest.raises(NotReady, match=r"link\.address is not set") as caught:
        BrokerLocator(link).locate()
    assert caught.value.wait_s > 0


def test_a_wrong_address_stops_the_start() -> None:
    with pytest.raises(ConfigError):
        BrokerLocator(Link(address="nonsense"))
