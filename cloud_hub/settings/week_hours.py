"""Parses hours of the week such as `mon-fri 08:00-18:00`, and computes when they next apply in a time zone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FORM = re.compile(r"(?P<days>[a-z,-]+) (?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d)\Z")


@dataclass(frozen=True, slots=True)
class Hours:
    """From `start` to `end` on these days (0 is Monday); an end at or before the start is on the next day."""

    days: frozenset[int]
    start: time
    end: time


def parse_hours(text: str) -> Hours:
    """Read `mon-fri 08:00-18:00` or `sat,sun 22:00-06:00`; raises ValueError that shows the format."""
    match = _FORM.match(text)
    try:
        if match is None:
            raise ValueError
        days = frozenset(day for part in match["days"].split(",") for day in _span(part))
        return Hours(days, _clock(match["start"]), _clock(match["end"]))
    except ValueError:
        raise ValueError(
            f"'{text[:60]}' are no hours: write them as 'mon-fri 08:00-18:00' or 'sat,sun 22:00-06:00'"
        ) from None


def parse_time_zone(name: str) -> tzinfo:
    """A time zone by its IANA name; raises ValueError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"'{name[:60]}' is no time zone: write it as 'Europe/Berlin' or 'Asia/Shanghai'") from None


def next_us(spans: Sequence[Hours], where: tzinfo, now_us: int) -> int:
    """`now_us` if it is within the hours (or there are none), else the next start; UTC."""
    if not spans:
        return now_us
    today = datetime.fromtimestamp(now_us / 1e6, timezone.utc).astimezone(where).date()
    coming = []
    for start_us, end_us in _around(spans, where, today):
        if start_us <= now_us < end_us:
            return now_us
        if start_us > now_us:
            coming.append(start_us)
    return min(coming)


def _around(spans: Sequence[Hours], where: tzinfo, today: date) -> Iterator[tuple[int, int]]:
    for offset in range(-1, 9):
        day = today + timedelta(days=offset)
        for span in spans:
            if day.weekday() in span.days:
                last = day + timedelta(days=span.end <= span.start)
                yield _us(day, span.start, where), _us(last, span.end, where)


def _us(day: date, clock: time, where: tzinfo) -> int:
    return round(datetime.combine(day, clock, where).timestamp() * 1e6)


def _span(part: str) -> Iterator[int]:
    first, dash, last = part.partition("-")
    begin, end = DAYS.index(first), DAYS.index(last if dash else first)
    return iter([(begin + step) % 7 for step in range((end - begin) % 7 + 1)])


def _clock(text: str) -> time:
    return time.fromisoformat(text)
