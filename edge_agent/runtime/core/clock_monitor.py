"""Detects jumps of the wall clock and changes of its synchronization. No I/O: both clocks are parameters."""

from __future__ import annotations

from dataclasses import dataclass

from shared.protocol.messages import ClockQuality, Event

JUMP_S = 5.0
"""Minimum jump between two checks, one second apart; NTP slews far less (adjtimex(2): 0.5 ms per second)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockChange:
    """A change of the wall clock: it jumped by `jump_s` (0: it did not), and its quality."""

    jump_s: float
    quality: ClockQuality

    def event(self, now_us: int) -> Event:
        """The event that reports a jump."""
        fields: dict[str, str | float] = {"jump_s": round(self.jump_s, 3), "quality": self.quality}
        text = f"the clock was moved by {self.jump_s:+.0f} s"
        return Event(t_us=now_us, source="clock", text=text, level="warning", fields=fields)


class ClockMonitor:
    """Compares two clocks; `quality` is the last reported quality."""

    def __init__(self, quality: ClockQuality) -> None:
        self.quality = quality
        self._before: tuple[int, float] | None = None

    def check(self, wall_us: int, boottime_s: float, quality: ClockQuality) -> ClockChange | None:
        """Compare the clocks since the last check; returns a change, or None. Each jump is reported once.

        `boottime_s` must include time in which the machine is asleep, or each sleep would look like a jump.
        """
        before, self._before = self._before or (wall_us, boottime_s), (wall_us, boottime_s)
        moved_s = (wall_us - before[0]) / 1e6 - (boottime_s - before[1])
        jump_s = moved_s if abs(moved_s) > JUMP_S else 0.0
        if not jump_s and quality == self.quality:
            return None
        self.quality = quality
        return ClockChange(jump_s=jump_s, quality=quality)
