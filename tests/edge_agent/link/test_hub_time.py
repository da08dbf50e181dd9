"""The device's best time: it never goes back, and a wrong clock alone never moves its floor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.link.core.hub_time import BUILD_US, TOLERANCE_US, HubTime
from edge_agent.link.trust import renewal_due_us

DAY = 86_400_000_000
STEP = st.tuples(
    st.sampled_from(["heard", "vouched", "look", "restart"]),
    st.integers(-10 * DAY, 100 * DAY),
    st.floats(0, 86400),
)


class Forgetful(HubTime):
    """A seeded bug: the hub is believed whatever it says, and the floor follows it down."""

    def set_hub_time(self, hub_us: int, now_s: float) -> None:
        self._received, self.floor_us = (hub_us, now_s), hub_us


def world(kind: type[HubTime], steps: list[tuple[str, int, float]]) -> None:
    """The floor never falls, through restarts too, and the time is never below it, whatever the clock says."""
    time, floor, now_s = kind(), BUILD_US, 0.0
    for what, offset, passed_s in steps:
        now_s += passed_s
        if what == "heard":
            try:
                time.set_hub_time(BUILD_US + offset, now_s)
            except ValueError:
                assert BUILD_US + offset < floor - TOLERANCE_US
        elif what == "vouched":
            time.raise_floor(BUILD_US + offset)
        elif what == "restart":
            time = kind(time.floor_us)
        assert time.floor_us >= floor
        floor = time.floor_us
        for clock_us in (0, BUILD_US + offset, 4_102_444_800_000_000):
            assert time.now_us(clock_us, now_s) >= floor
        assert time.floor_us == floor, "looking at a clock moves no floor"


@given(st.lists(STEP, max_size=30))
def test_the_floor_never_falls(steps: list[tuple[str, int, float]]) -> None:
    world(HubTime, steps)


def test_the_property_sees_a_floor_that_falls() -> None:
    with pytest.raises(AssertionError):
        world(Forgetful, [("heard", DAY, 0), ("heard", -DAY, 1)])


def test_the_hubs_time_counts_on_and_the_machines_clock_no_longer() -> None:
    time = HubTime()
    assert (time.known, time.now_us(0, 5.0)) == (False, BUILD_US)
    assert time.now_us(BUILD_US + DAY, 5.0) == BUILD_US + DAY
    time.set_hub_time(BUILD_US + 3 * DAY, 10.0)
    assert (time.known, time.now_us(0, 70.0)) == (True, BUILD_US + 3 * DAY + 60_000_000)


@given(st.integers(0, DAY * 365), st.integers(1, DAY * 365), st.floats(0, 1))
def test_renewal_is_due_before_two_thirds_and_after_half(begin: int, life: int, chance: float) -> None:
    due = renewal_due_us(begin, begin + life, chance)
    assert begin + life * 0.6 - 1 <= due <= begin + life * 2 / 3 + 1
