"""The best time a device has, whatever its clock says: a core without I/O. It never goes back.

`floor_us` is kept on disk: the latest time that the hub's signature, the device's own certificate or the build vouch
for. The machine's clock alone never raises it: one wrong year would be believed for ever.
"""

from __future__ import annotations

BUILD_US = 1_793_491_200_000_000
"""1 November 2026: no device runs this before."""

TOLERANCE_US = 300_000_000


class HubTime:
    """`now_us` is the hub's time counted on since it was heard, else the machine's clock, but never below the floor."""

    def __init__(self, floor_us: int = 0) -> None:
        self.floor_us = max(floor_us, BUILD_US)
        self._heard: tuple[int, float] | None = None

    @property
    def known(self) -> bool:
        """Whether the hub has told its time since this program started."""
        return self._heard is not None

    def set_hub_time(self, hub_us: int, now_s: float) -> None:
        """The hub's signed time came in answer to a fresh question. ValueError when it is before what was known."""
        if hub_us < self.floor_us - TOLERANCE_US:
            raise ValueError("the hub's time is before one that it told earlier: set its clock right")
        self._heard = (max(hub_us, self.floor_us), now_s)
        self.raise_floor(hub_us)

    def raise_floor(self, t_us: int) -> None:
        """Something signed says that it is this late at least."""
        self.floor_us = max(self.floor_us, t_us)

    def now_us(self, clock_us: int, now_s: float) -> int:
        """The time now; `now_s` is monotonic."""
        if self._heard is None:
            return max(clock_us, self.floor_us)
        told_us, at_s = self._heard
        return max(told_us + int((now_s - at_s) * 1e6), self.floor_us)
