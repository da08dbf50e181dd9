"""Finds the broker: at the configured addresses in their order, else where zeroconf (`_tidegate._tcp.local.`) says.

An announcement is a hint that anybody on the wire can give, so it is used last and believed only where something
proves it: with `[link.tls]` the broker's certificate must be of our CA and name the announced IP address, or the
connection fails and the next one is tried. Without TLS nothing proves it, so only brokers on loopback are used.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from typing import Any

from edge_agent.config import Link
from shared.errors import NotReady
from shared.mqtt import Address, parse_address

log = logging.getLogger(__name__)

SERVICE = "_tidegate._tcp.local."
BROWSE_S = 3.0
SETTLE_S = 0.5
"""After the first announcement others get this long: the first to shout need not be the right one."""
PLACE = "link.address"
MOST = 8
"""Announced brokers tried in one round: who announces a thousand must not keep us from the addresses we know."""


def browse(interfaces: list[str], wait_s: float = BROWSE_S, hub: str = "") -> list[Address]:
    """Brokers announced (by `hub`, where it is named) within `wait_s` seconds, as they were heard; never a name."""
    from zeroconf import InterfaceChoice, ServiceBrowser, ServiceListener, Zeroconf  # noqa: PLC0415 - 6 MB, seldom

    found: list[Address] = []
    heard = threading.Event()

    class Listener(ServiceListener):
        """Keeps the answers."""

        def add_service(self, zc: Any, type_: str, name: str) -> None:
            """A service was announced."""
            if (hub and name != f"{hub}.{SERVICE}") or len(found) >= MOST:
                return
            info = zc.get_service_info(type_, name, timeout=1000)
            if info is not None and info.port and info.parsed_addresses():
                address = (info.parsed_addresses()[0], info.port)
                found.extend([address] if address not in found else [])
                heard.set()

        update_service = add_service

        def remove_service(self, zc: Any, type_: str, name: str) -> None:
            """Not interesting: the connection itself tells when a broker is gone."""

    try:
        zeroconf = Zeroconf(interfaces=interfaces or InterfaceChoice.All)
    except OSError as error:
        log.warning("discovery.unavailable", extra={"fields": {"reason": str(error)}})
        return []
    try:
        ServiceBrowser(zeroconf, SERVICE, Listener())
        if heard.wait(wait_s):
            time.sleep(SETTLE_S)
    finally:
        zeroconf.close()
    return found[:MOST]


class BrokerLocator:
    """Answers `locate()` for the connection: a round is every address once, then a wait.

    `worked()` says that a hub answered there: after the next loss a round begins with the first address again.
    `address` and `found_by` (`address`, `zeroconf`) tell where the last try went.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        texts = [link.address, *link.fallback] if link.address else link.fallback
        self._configured = [parse_address(text, PLACE) for text in texts]
        self._left: list[Address] = []
        self._browsed = True
        self._anew = True
        self.address, self.found_by = "", ""

    def locate(self) -> Address:
        """The next address; raises NotReady when nobody answers and none is configured."""
        if self._anew or not self.has_more():
            self._anew = False
            self._left, self._browsed = list(self._configured), not self._link.discover
        found_by = "address"
        if not self._left and not self._browsed:
            self._left, self._browsed, found_by = self._announced(), True, "zeroconf"
        elif self._browsed and self._link.discover:
            found_by = "zeroconf"
        if not self._left:
            self.address = ""
            where = "and none at the configured addresses" if self._configured else "and link.address is not set"
            raise NotReady(f"no broker answered by zeroconf {where}", 5.0)
        host, port = self._left.pop(0)
        self.address, self.found_by = f"{host}:{port}", found_by
        return host, port

    def has_more(self) -> bool:
        """Whether this round is not over."""
        return bool(self._left) or not self._browsed

    def confirm(self) -> None:
        """A hub answered at the last address."""
        self._anew = True

    def _announced(self) -> list[Address]:
        found = browse(self._link.interfaces, hub=self._link.hub)
        if self._link.tls is not None:
            return found
        unproven = [host for host, _ in found if not ipaddress.ip_address(host.partition("%")[0]).is_loopback]
        if unproven:
            reason = "without [link.tls] only an announcement on loopback is believed: set link.address, or [link.tls]"
            log.warning("discovery.untrusted", extra={"fields": {"addresses": unproven, "reason": reason}})
        return [(host, port) for host, port in found if host not in unproven]
