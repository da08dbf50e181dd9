"""In place of `trust.TrustManager` on a device that was never enrolled: it proves nothing and can check nothing.

A module of its own, because `trust` loads `cryptography`: 10 MB that such a device has no use for.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_agent import clock
from shared.messages import ClockQuality
from shared.mqtt import Inbound, Tls


class Unenrolled:
    """No identity and no hub to check."""

    enrolled = False
    url = ca = ""

    def __init__(self, clock_quality: Callable[[], ClockQuality]) -> None:
        self._quality = clock_quality

    def start(self, on_renewed: Callable[[], None]) -> None:
        """There is nothing to renew."""

    def stop(self) -> None:
        """Nothing runs."""

    def tls(self) -> Tls | None:
        """None: `[link.tls]` or nothing."""
        return None

    def signing_key(self) -> None:
        """None: no hub is pinned."""
        return

    def clock(self) -> tuple[int, ClockQuality]:
        """The time by which commands expire, and what it is worth."""
        return clock.now_us(), self._quality()

    def refusal(self, _inbound: Inbound) -> str:
        """'': a device without the hub's key has to believe its broker."""
        return ""
