"""Hours of the week: read as written, through midnight, over the change of clocks."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.settings.week_hours import next_us, parse_hours, parse_time_zone

UTC = timezone.utc


def us(text: str, where: str = "UTC") -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(where)).timestamp() * 1e6)


@pytest.mark.parametrize(
    ("spans", "now", "found"),
    [
        ([], "2026-11-21T03:00", "2026-11-21T03:00"),
        (["mon-fri 08:00-18:00"], "2026-11-20T08:00", "2026-11-20T08:00"),
        (["mon-fri 08:00-18:00"], "2026-11-20T18:00", "2026-11-23T08:00"),
        (["mon-fri 08:00-18:00"], "2026-11-21T03:00", "2026-11-23T08:00"),
        (["fri 22:00-06:00"], "2026-11-21T05:59", "2026-11-21T05:59"),
        (["fri 22:00-06:00"], "2026-11-21T06:00", "2026-11-27T22:00"),
        (["sat-mon 00:00-00:00"], "2026-11-23T23:59", "2026-11-23T23:59"),
        (["sat,sun 10:00-12:00", "wed 09:00-10:00"], "2026-11-22T12:00", "2026-11-25T09:00"),
        (["sat 10:00-11:00"], "2026-11-21T11:00", "2026-11-28T10:00"),
    ],
)
def test_it_is_now_or_when_the_next_hours_begin(spans: list[str], now: str, found: str) -> None:
    assert next_us([parse_hours(one) for one in spans], UTC, us(now)) == us(found)


def test_hours_are_of_the_clock_on_the_wall() -> None:
    berlin = parse_time_zone("Europe/Berlin")
    spans = [parse_hours("mon-sun 08:00-09:00")]
    for day in ("2026-03-28", "2026-03-29", "2026-10-25", "2026-10-26"):
        midnight = us(f"{day}T00:00", "Europe/Berlin")
        assert next_us(spans, berlin, midnight) == us(f"{day}T08:00", "Europe/Berlin")


@given(st.integers(1_700_000_000, 1_900_000_000), st.sampled_from(["UTC", "Europe/Berlin", "Asia/Shanghai"]))
def test_what_is_found_lies_within_the_hours_and_not_before_now(now_s: int, name: str) -> None:
    where = parse_time_zone(name)
    found = next_us([parse_hours("mon-fri 08:00-18:00")], where, now_s * 1_000_000)
    local = datetime.fromtimestamp(found / 1e6, where)
    assert found >= now_s * 1_000_000
    assert local.weekday() < 5
    assert 8 <= local.hour < 18
    assert local - datetime.fromtimestamp(now_s, where) <= timedelta(days=3)


@pytest.mark.parametrize("text", ["", "always", "mon 8-18", "mon 08:00-25:00", "mox 08:00-09:00", "mon 08:00-09:00 "])
def test_what_are_no_hours_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="no hours"):
        parse_hours(text)


def test_what_is_no_time_zone_is_told() -> None:
    for name in ("Mars/Olympus", "../etc/passwd", ""):
        with pytest.raises(ValueError, match="no time zone"):
            parse_time_zone(name)
