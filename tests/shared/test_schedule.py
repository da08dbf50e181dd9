"""Windows of the week, held against the calendar; the calendar is shown to catch a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from shared.durations import MINUTE_US
from shared.thresholds import in_force
from shared.thresholds.schedule import DAYS, week_windows

FIXED = settings(max_examples=300, deadline=None, derandomize=True, database=None)
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
Window = tuple[int, int, int, int]
"""First day, last day, first minute of the day, last one."""

WINDOWS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 1439), st.integers(1, 1440)), min_size=1, max_size=3
)
TIMES = st.integers(0, 4_000_000_000).map(lambda s: s * 1_000_000) | st.integers(0, 4_000_000).map(
    lambda m: m * MINUTE_US * 10
)


def text(window: Window) -> str:
    first, last, begin, end = window
    days = DAYS[first] if first == last else f"{DAYS[first]}-{DAYS[last]}"
    return f"{days} {begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"


def by_the_calendar(windows: list[Window], t_us: int) -> bool:
    """Whether a window holds at a time, day by day with the calendar's own names of days."""
    now = EPOCH + timedelta(microseconds=t_us)
    for day in (now, now - timedelta(days=1)):  # one that began yesterday may still go on
        midnight = day.replace(hour=0, minute=0, second=0, microsecond=0)
        for first, last, begin, end in windows:
            number = DAYS.index(f"{day:%a}".lower())
            if (number - first) % 7 <= (last - first) % 7:
                stop = end if end > begin else end + 1440
                if midnight + timedelta(minutes=begin) <= now < midnight + timedelta(minutes=stop):
                    return True
    return False


def check(asked: Callable[[tuple[str, ...], int], bool], example: tuple[list[Window], int]) -> None:
    windows, t_us = example
    assert asked(tuple(map(text, windows)), t_us) == by_the_calendar(windows, t_us)


@FIXED
@given(st.tuples(WINDOWS, TIMES))
def test_a_schedule_is_in_force_as_the_calendar_says(example: tuple[list[Window], int]) -> None:
    check(in_force, example)


def a_week_from_thursday(schedule: tuple[str, ...], t_us: int) -> bool:
    return in_force(schedule, t_us + 4 * 86_400_000_000)


def deaf_to_midnight(schedule: tuple[str, ...], t_us: int) -> bool:
    return in_force(tuple(one for one in schedule if one[-11:-6] < one[-5:]), t_us)


@pytest.mark.parametrize("bug", [a_week_from_thursday, deaf_to_midnight])
def test_the_calendar_catches(bug: Callable[[tuple[str, ...], int], bool]) -> None:
    @settings(FIXED, max_examples=2000, phases=[Phase.generate], report_multiple_bugs=False)
    @given(st.tuples(WINDOWS, TIMES))
    def run(example: tuple[list[Window], int]) -> None:
        check(bug, example)

    with pytest.raises(AssertionError):
        run()


def test_days_without_hours_are_whole_and_no_schedule_is_always() -> None:
    assert week_windows(("sat,sun",)) == week_windows(("sat-sun 00:00-24:00",))
    assert in_force((), 5)


@pytest.mark.parametrize(
    "bad",
    ["", "mo", "mon-", "mon 6:00-22:00", "mon 25:00-26:00", "mon 06:60-07:00", "mon 06:00", "MON", "mon 24:01-01:00"],
)
def test_what_is_no_window_is_refused_with_an_example(bad: str) -> None:
    with pytest.raises(ValueError, match=r"mon-fri 06:00-22:00|beyond 24:00"):
        week_windows((bad,))
