"""The door of ingest: a budget of messages for each device, told when it is used up, and forgotten when idle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.ingest.door import BURST_S, TELL_S, Door

RATE = 10.0


def entered(door: Door, device: str, count: int, now: float) -> int:
    return sum(door.enters(device, now) for _ in range(count))


def test_a_budget_is_two_seconds_worth_and_fills_again() -> None:
    door = Door(RATE)
    assert entered(door, "a", 100, 0.0) == RATE * BURST_S
    assert entered(door, "a", 100, 1.0) == RATE
    assert entered(door, "a", 100, 1000.0) == RATE * BURST_S
    assert door.refused == 300 - 50


def test_one_that_floods_costs_the_others_nothing() -> None:
    door = Door(RATE)
    for second in range(60):
        assert entered(door, "hostile", 1000, float(second)) <= RATE * BURST_S
        for number in range(50):
            assert entered(door, f"press-{number}", 10, float(second)) == 10


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 40)), min_size=1, max_size=30))
def test_never_more_than_the_rate_and_one_burst(steps: list[tuple[float, int]]) -> None:
    door, now, total = Door(RATE), 0.0, 0
    for wait, count in steps:
        now += wait
        total += entered(door, "a", count, now)
    assert total <= RATE * (now + BURST_S) + 1e-6


def test_what_was_refused_is_told_once_a_minute_and_idle_devices_are_forgotten() -> None:
    door = Door(RATE)
    entered(door, "a", 25, 0.0)
    entered(door, "b", 1, 0.0)
    assert door.told(TELL_S - 1) == {}
    assert door.told(TELL_S) == {"a": 5}
    assert door.told(3 * TELL_S) == {}
    assert not door._left


@pytest.mark.parametrize("rate", [0.0])
def test_no_rate_is_no_limit(rate: float) -> None:
    assert entered(Door(rate), "a", 10_000, 0.0) == 10_000


def test_a_rate_below_one_still_lets_a_message_in() -> None:
    assert entered(Door(0.1), "a", 5, 0.0) == 1
