"""Trusted time of a device, independent of its clock. It never goes back. No I/O.

`floor_us` is stored on disk: the latest time known from the hub's signature, the device's certificate or the build.
The machine's clock never raises it, or a single wrong year would be trusted for ever.
"""

from __future__ import annotations

BUILD_US = 1_793_491_200_000_000
"""1 November 2026: no device runs this before."""

TOLERANCE_US = 300_000_000


class HubTime:
    """`now_us` is the hub's time plus the time since it was received, else the machine's clock; at least the floor."""

    def __init__(self, floor_us: int = 0) -> None:
        self.floor_us = max(floor_us, BUILD_US)
        self._received: tuple[int, float] | None = None

    @property
    def known(self) -> bool:
        """Whether the hub's time was received since this program started."""
        return self._received is not None

    def set_hub_time(self, hub_us: int, now_s: float) -> None:
        """Set the hub's time; its signature and nonce were verified. Raises ValueError if it is below the floor."""
        if hub_us < self.floor_us - TOLERANCE_US:
            raise ValueError("the hub's time is before one that it told earlier: set its clock right")
        self._received = (max(hub_us, self.floor_us), now_s)
        self.raise_floor(hub_us)

    def raise_floor(self, t_us: int) -> None:
        """Raise the floor to a time known from a signed source."""
        self.floor_us = max(self.floor_us, t_us)

    def now_us(self, clock_us: int, now_s: float) -> int:
        """The time now; `now_s` is monotonic."""
        if self._received is None:
            return max(clock_us, self.floor_us)
        hub_us, received_s = self._received
        return max(hub_us + int((now_s - received_s) * 1e6), self.floor_us)
