"""Finds the broker: by zeroconf (`_tidegate._tcp.local.`), else at the configured address.

An address found this way is only a hint: what proves the broker is TLS, configured beside it.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from edge_agent.config import Link
from shared.errors import NotReady
from shared.mqtt import Address, parse_address

log = logging.getLogger(__name__)

SERVICE = "_tidegate._tcp.local."
BROWSE_S = 3.0
PLACE = "link.address"


def browse(interfaces: list[str], wait_s: float = BROWSE_S, hub: str = "") -> Address | None:
    """The first broker announced (by `hub`, where it is named) within `wait_s` seconds, or None."""
    from zeroconf import InterfaceChoice, ServiceBrowser, ServiceListener, Zeroconf  # noqa: PLC0415 - 6 MB, seldom

    found: list[Address] = []
    heard = threading.Event()

    class Listener(ServiceListener):
        """Keeps the first answer."""

        def add_service(self, zc: Any, type_: str, name: str) -> None:
            """A service was announced."""
            if hub and name != f"{hub}.{SERVICE}":
                return
            info = zc.get_service_info(type_, name, timeout=1000)
            if info is not None and info.port and info.parsed_addresses():
                found.append((info.parsed_addresses()[0], info.port))
                heard.set()

        update_service = add_service

        def remove_service(self, zc: Any, type_: str, name: str) -> None:
            """Not interesting: the connection itself tells when a broker is gone."""

    try:
        zeroconf = Zeroconf(interfaces=interfaces or InterfaceChoice.All)
    except OSError as error:
        log.info("discovery.unavailable", extra={"fields": {"reason": str(error)}})
        return None
    try:
        ServiceBrowser(zeroconf, SERVICE, Listener())
        heard.wait(wait_s)
    finally:
        zeroconf.close()
    return found[0] if found else None


class Finder:
    """Answers `locate()` for the connection; `found_by` tells how the last address was found."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._configured = parse_address(link.address, PLACE) if link.address else None
        self.found_by = ""

    def locate(self) -> Address:
        """The broker's address; raises NotReady when nobody answers and none is configured."""
        address = browse(self._link.interfaces, hub=self._link.hub) if self._link.discover else None
        if address is not None:
            self.found_by = "zeroconf"
            return address
        if self._configured is None:
            raise NotReady("no broker answered by zeroconf and link.address is not set", 5.0)
        self.found_by = "address"
        return self._configured
