"""Notices that the wall clock was moved, or began or ceased to be kept right. A core: both clocks are handed in."""

from __future__ import annotations

from dataclasses import dataclass

from shared.messages import ClockQuality, Event

JUMP_S = 5.0
"""Between two looks, a second apart: what disciplines a clock moves it by far less (adjtimex(2): 0.5 ms a s)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockChange:
    """What is to be said: the wall clock moved by `jump_s` against the other one (0: it did not), and its quality."""

    jump_s: float
    quality: ClockQuality

    def event(self, now_us: int) -> Event:
        """The event that tells of a jump."""
        fields: dict[str, str | float] = {"jump_s": round(self.jump_s, 3), "quality": self.quality}
        text = f"the clock was moved by {self.jump_s:+.0f} s"
        return Event(t_us=now_us, source="clock", text=text, level="warning", fields=fields)


class ClockMonitor:
    """`quality` is what was told last."""

    def __init__(self, quality: ClockQuality) -> None:
        self.quality = quality
        self._before: tuple[int, float] | None = None

    def check(self, wall_us: int, boottime_s: float, quality: ClockQuality) -> ClockChange | None:
        """Compare the clocks since the last look; each jump is told once, where it happens.

        `boottime_s` must go on while the machine sleeps, or each sleep would be a jump.
        """
        before, self._before = self._before or (wall_us, boottime_s), (wall_us, boottime_s)
        moved_s = (wall_us - before[0]) / 1e6 - (boottime_s - before[1])
        jump_s = moved_s if abs(moved_s) > JUMP_S else 0.0
        if not jump_s and quality == self.quality:
            return None
        self.quality = quality
        return ClockChange(jump_s=jump_s, quality=quality)
