"""Local switches for writes: off by default, switched on at the plant for a time. No I/O.

A switch is on only between its own beginning and end by the wall clock, and, until the machine is restarted, no longer
than its duration by a clock that nobody can set. So neither a clock that is set back nor one that is wrong after a
restart prolongs it.
"""

from __future__ import annotations

import msgspec

MAX_S = 31 * 86_400.0
"""Longest time for which writes can be enabled."""


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    """Writes to `metric` are enabled; `by` is the user of the operating system. `boot_s` belongs to boot `boot_id`."""

    metric: str
    since_us: int
    until_us: int
    boot_id: str
    boot_s: float
    by: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.since_us <= self.until_us < 1 << 63:
            raise ValueError(f"the times of the switch of {self.metric[:200]} are no times in microseconds")

    @property
    def duration_s(self) -> float:
        """How long it was enabled for."""
        return (self.until_us - self.since_us) / 1e6


def is_on(switch: Switch | None, now_us: int, boot_id: str, boot_s: float) -> bool:
    """Whether writes are enabled now; `boot_s` are seconds since the machine's start (CLOCK_BOOTTIME)."""
    if switch is None or not switch.since_us <= now_us < switch.until_us or switch.duration_s > MAX_S:
        return False
    return switch.boot_id != boot_id or 0 <= boot_s - switch.boot_s < switch.duration_s
