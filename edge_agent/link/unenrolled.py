"""Stands in for `trust.TrustManager` on a device that is not enrolled: it has no identity and verifies nothing.

A separate module, because `trust` imports `cryptography`: 10 MB that such a device does not need.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_agent import clock
from shared.protocol.messages import ClockQuality
from shared.transport.mqtt import Inbound, Tls


class Unenrolled:
    """The TrustManager interface without an identity."""

    enrolled = False
    url = ca = ""

    def __init__(self, clock_quality: Callable[[], ClockQuality]) -> None:
        self._quality = clock_quality

    def start(self, on_renewed: Callable[[], None]) -> None:
        """Do nothing: there is no certificate to renew."""

    def stop(self) -> None:
        """Do nothing: no thread is running."""

    def tls(self) -> Tls | None:
        """None: only `[link.tls]` can configure TLS."""
        return None

    def signing_key(self) -> None:
        """None: no hub is pinned."""
        return

    def clock(self) -> tuple[int, ClockQuality]:
        """The time by which commands expire, and its quality."""
        return clock.now_us(), self._quality()

    def refusal(self, _inbound: Inbound) -> str:
        """'': without the hub's key the device has to trust its broker."""
        return ""
