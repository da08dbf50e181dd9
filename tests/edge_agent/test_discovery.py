"""Finding the broker: by a real zeroconf announcement on the loopback interface, else at the configured address."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator

import pytest
from zeroconf import ServiceInfo, Zeroconf

from edge_agent.config import Link
from edge_agent.link import discovery
from edge_agent.link.discovery import Finder, browse
from shared.errors import ConfigError, NotReady
from shared.mqtt import parse_address

LOOPBACK = ["127.0.0.1"]
NOWHERE = ["192.0.2.1"]
unclosed = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""zeroconf leaves a socket to the garbage collector when it cannot join on an interface."""


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
    ["", ":", "broker", "broker:", ":8883", "[]:8883", "broker:mqtt", "broker:0", "broker:65536", "broker:-1",
     "broker:1.5", "broker:8883/x", "broker:²", " :8883"],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"link\.address") as caught:
        parse_address(text, "link.address")
    assert "10.0.0.5:8883" in caught.value.cure


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> str:
    """A service type of this test's own: hubs of other tests announce themselves on the same loopback interface."""
    name = f"_tg-{secrets.token_hex(4)}._tcp.local."
    monkeypatch.setattr(discovery, "SERVICE", name)
    return name


def announced(service: str, hub: str, port: int) -> ServiceInfo:
    return ServiceInfo(
        service, f"{hub}.{service}", port, addresses=[socket.inet_aton("127.0.0.1")], server="hub.local."
    )


@pytest.fixture
def announcer() -> Iterator[Zeroconf]:
    zeroconf = Zeroconf(interfaces=LOOPBACK)
    yield zeroconf
    zeroconf.close()


def test_an_announced_broker_is_found_and_preferred_to_the_address(service: str, announcer: Zeroconf) -> None:
    announcer.register_service(announced(service, "hub-1", 18883), cooperating_responders=True)
    finder = Finder(Link(interfaces=LOOPBACK, address="10.9.9.9:1"))
    assert finder.found_by == ""
    assert finder.locate() == ("127.0.0.1", 18883)
    assert finder.found_by == "zeroconf"


def test_only_the_named_hub_is_believed(service: str, announcer: Zeroconf) -> None:
    announcer.register_service(announced(service, "stranger", 1), cooperating_responders=True)
    assert browse(LOOPBACK, 0.05, hub="ours") is None
    announcer.register_service(announced(service, "ours", 2), cooperating_responders=True)
    assert Finder(Link(interfaces=LOOPBACK, hub="ours")).locate() == ("127.0.0.1", 2)


def test_where_nobody_announces_there_is_nothing(service: str) -> None:
    assert browse(LOOPBACK, 0.05) is None


@unclosed
def test_an_interface_that_is_not_there_is_no_error(service: str) -> None:
    assert browse(NOWHERE, 0.05) is None


@unclosed
def test_without_an_announcement_the_configured_address_is_used(service: str) -> None:
    finder = Finder(Link(interfaces=NOWHERE, address="10.0.0.5:8883"))
    assert finder.locate() == ("10.0.0.5", 8883)
    assert finder.found_by == "address"


def test_discovery_can_be_switched_off(service: str, announcer: Zeroconf) -> None:
    announcer.register_service(announced(service, "hub-1", 18883), cooperating_responders=True)
    finder = Finder(Link(discover=False, interfaces=LOOPBACK, address="10.0.0.5:8883"))
    assert (finder.locate(), finder.found_by) == (("10.0.0.5", 8883), "address")


@unclosed
@pytest.mark.parametrize("link", [Link(discover=False), Link(interfaces=NOWHERE)], ids=["off", "nobody"])
def test_without_either_it_is_not_ready_and_says_why(service: str, link: Link) -> None:
    with pytest.raises(NotReady, match=r"link\.address is not set") as caught:
        Finder(link).locate()
    assert caught.value.wait_s > 0


def test_a_wrong_address_stops_the_start() -> None:
    with pytest.raises(ConfigError):
        Finder(Link(address="nonsense"))
