"""A wall clock that was moved is told once; one that is disciplined, a machine that slept or stood still is not."""

from __future__ import annotations

import pytest

from edge_agent.runtime.core.clock_monitor import JUMP_S, ClockChange, ClockMonitor

T0_US = 1_800_000_000_000_000


def looks(wall_s: list[float], boot_s: list[float]) -> list[float]:
    """The jumps that are told when both clocks stand so at each look."""
    watch = ClockMonitor("synced")
    told = [
        watch.check(T0_US + round(wall * 1e6), boot, "synced") for wall, boot in zip(wall_s, boot_s, strict=True)
    ]  # fmt: skip
    return [round(one.jump_s) for one in told if one]


@pytest.mark.parametrize("jump_s", [86_400, -86_400, 10, -10])
def test_a_jump_is_told_once(jump_s: int) -> None:
    wall = [0.0, 1.0, 2.0 + jump_s, 3.0 + jump_s, 4.0 + jump_s]
    assert looks(wall, [10.0, 11.0, 12.0, 13.0, 14.0]) == [jump_s]


def test_there_and_back_are_two_jumps() -> None:
    assert looks([0, 1, 1002, 3], [0, 1, 2, 3]) == [1000, -1000]


@pytest.mark.parametrize(
    ("wall", "boot"),
    [
        ([n * 1.0005 for n in range(50_000)], [float(n) for n in range(50_000)]),
        ([0, 1, 3601, 3602], [0, 1, 3601, 3602]),
        ([0, 1, 2 + JUMP_S - 0.1], [0, 1, 2]),
    ],
    ids=["disciplined", "slept-for-an-hour", "a-step-of-ntp"],
)
def test_what_is_no_jump(wall: list[float], boot: list[float]) -> None:
    assert looks(wall, boot) == []


def test_a_change_of_quality_is_told_once_and_is_no_jump() -> None:
    watch = ClockMonitor("unsynced")
    assert watch.check(T0_US, 0.0, "unsynced") is None
    assert watch.check(T0_US + 1_000_000, 1.0, "synced") == ClockChange(jump_s=0.0, quality="synced")
    assert watch.check(T0_US + 2_000_000, 2.0, "synced") is None
    assert watch.quality == "synced"
