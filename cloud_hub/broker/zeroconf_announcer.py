"""Announces the broker by zeroconf (`_tidegate._tcp.local.`), so that devices find it without an address.

The address announced is the broker's; on loopback only loopback hears it.
"""

from __future__ import annotations

import logging
import socket
import threading

from zeroconf import Error, InterfaceChoice, ServiceInfo, Zeroconf

from cloud_hub.settings import Settings
from shared.mqtt import parse_address

log = logging.getLogger(__name__)

SERVICE = "_tidegate._tcp.local."


class ZeroconfAnnouncer:
    """One announcement, from `start` to `stop`. Without multicast it says so in the log and does nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._zeroconf: Zeroconf | None = None
        self._thread = threading.Thread(target=self._announce, name="announcer", daemon=True)

    def start(self) -> None:
        """Announce; returns at once (registering takes a second or two)."""
        if self._settings.discovery.announce:
            self._thread.start()

    def _announce(self) -> None:
        host, port = parse_address(self._settings.mqtt.address, "mqtt.address")
        try:
            address = socket.gethostbyname(host)
            info = ServiceInfo(
                SERVICE, f"{self._settings.name}.{SERVICE}", port=port,
                addresses=[socket.inet_aton(address)], server=f"{self._settings.name}.local.",
            )  # fmt: skip
            self._zeroconf = Zeroconf(interfaces=self._interfaces(address))
            self._zeroconf.register_service(info, allow_name_change=True)
            log.info("discovery.announced", extra={"fields": {"service": info.name, "port": port}})
        except (OSError, ValueError, Error) as error:
            log.warning("discovery.unavailable", extra={"fields": {"reason": str(error)}})

    def _interfaces(self, address: str) -> list[str] | InterfaceChoice:
        """Those configured; else only loopback for a broker that only loopback reaches, all for any other."""
        if self._settings.discovery.interfaces:
            return list(self._settings.discovery.interfaces)
        return ["127.0.0.1"] if address.startswith("127.") else InterfaceChoice.All

    def stop(self) -> None:
        """Take the announcement back."""
        if self._thread.is_alive():
            self._thread.join(5)
        if self._zeroconf is not None:
            self._zeroconf.close()
