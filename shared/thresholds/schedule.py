"""Weekly schedules: when a limit is in force. A window is written as `mon-fri 06:00-22:00`, in UTC."""

from __future__ import annotations

import re
from functools import lru_cache

from shared.durations import DAY_US, WEEK_US

MONDAY_US = 4 * DAY_US
"""The first Monday: 1970-01-05. Weeks begin on Monday (ISO 8601)."""

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"([a-z,-]+)(?: ([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2}))?\Z")


def of_week(t_us: int) -> int:
    """Microseconds since Monday 00:00 UTC."""
    return (t_us - MONDAY_US) % WEEK_US


def in_force(schedule: tuple[str, ...], t_us: int) -> bool:
    """Whether a UTC time is in one of the windows; an empty schedule is always in force."""
    if not schedule:
        return True
    now = of_week(t_us)
    return any(start <= now < end for start, end in week_windows(schedule))


@lru_cache(1024)
def week_windows(schedule: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """The windows as [start, end) in microseconds of the week, split at its end. Raises ValueError for a bad window.

    An end that is not after its start is on the next day: `sat 22:00-06:00`.
    """
    found: list[tuple[int, int]] = []
    for text in schedule:
        match = _WINDOW.match(text)
        days = _days(match[1]) if match else []
        hours = [int(part or 0) for part in match.groups()[1:]] if match else []
        if not match or not days or max(hours[::2]) > 24 or max(hours[1::2]) > 59:
            raise ValueError(f"'{text[:60]}' is no window of the week: write 'mon-fri 06:00-22:00' or 'sat,sun' (UTC)")
        begin, end = ((60 * hours[i] + hours[i + 1]) * 60_000_000 for i in (0, 2))
        if max(begin, end) > DAY_US:
            raise ValueError(f"'{text}' goes beyond 24:00")
        length = end - begin if end > begin else end - begin + DAY_US
        for day in days:
            found += _cut(day * DAY_US + begin, length)
    return tuple(sorted(found))


def _days(text: str) -> list[int]:
    """`mon-fri,sun` as numbers; [] for an unknown day."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            return []
        start, end = DAYS.index(first), DAYS.index(last or first)
        found += [(start + i) % 7 for i in range((end - start) % 7 + 1)]
    return found


def _cut(start: int, length: int) -> list[tuple[int, int]]:
    start %= WEEK_US
    if start + length <= WEEK_US:
        return [(start, start + length)]
    return [(start, WEEK_US), (0, start + length - WEEK_US)]
