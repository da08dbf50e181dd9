"""Finds the broker: tries the configured addresses in order, then brokers announced by zeroconf.

Anybody on the network can announce a broker, so announcements are used last and only if they can be verified: with
`[link.tls]` the certificate of the broker must be issued by the configured CA and contain the announced IP address,
else the next one is tried. Without TLS only announced brokers on loopback are used.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from typing import Any

from edge_agent.config import Link
from shared.errors import NotReady
from shared.transport.mqtt import Address, parse_address

log = logging.getLogger(__name__)

SERVICE = "_tidegate._tcp.local."
BROWSE_S = 3.0
SETTLE_S = 0.5
"""Time to wait for further announcements after the first one, which need not be the right one."""
PLACE = "link.address"
MOST = 8
"""Maximum number of announced brokers tried in one round, so that a flood of announcements cannot block the device."""


def browse(interfaces: list[str], wait_s: float = BROWSE_S, hub: str = "") -> list[Address]:
    """Brokers announced within `wait_s` seconds, in order of arrival, as IP addresses; only those of `hub` if given."""
    from zeroconf import InterfaceChoice, ServiceBrowser, ServiceListener, Zeroconf  # noqa: PLC0415 - 6 MB, seldom

    found: list[Address] = []
    heard = threading.Event()

    class Listener(ServiceListener):
        """Collects announcements."""

        def add_service(self, zc: Any, type_: str, name: str) -> None:
            """Add an announced service."""
            if (hub and name != f"{hub}.{SERVICE}") or len(found) >= MOST:
                return
            info = zc.get_service_info(type_, name, timeout=1000)
            if info is not None and info.port and info.parsed_addresses():
                address = (info.parsed_addresses()[0], info.port)
                found.extend([address] if address not in found else [])
                heard.set()

        update_service = add_service

        def remove_service(self, zc: Any, type_: str, name: str) -> None:
            """Do nothing: the connection itself detects that a broker is down."""

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
    """Returns the next address for the connection: each address once per round, then a wait.

    After `confirm()` (a hub answered) the next loss starts a new round with the first address.
    `address` and `found_by` (`address`, `zeroconf`) describe the last attempt.
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
        """The next address; raises NotReady if there is none."""
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
        """Whether this round has more addresses."""
        return bool(self._left) or not self._browsed

    def confirm(self) -> None:
        """Record that a hub answered at the last address."""
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
