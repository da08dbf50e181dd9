"""The HPA algorithm gives the counts of Kubernetes' own documentation and unit tests (numbers of release 1.33)."""

from __future__ import annotations

from typing import Any

import pytest

from cloud_hub.autoscale.core.hpa import Change, count_for, largest, limited, stabilized
from cloud_hub.autoscale.core.target import Behavior, StepRule
from shared.durations import MINUTE_US, SECOND_US

NOW = 10_000 * SECOND_US
NONE = Behavior(stabilization_s=0.0)


@pytest.mark.parametrize(
    ("current", "value", "aim", "expected"),
    [
        (3, 600, 100, 6),  # documentation: twice the aim doubles the count
        (4, 200, 100, 2),  # half the aim halves it
        (50, 50 * 90, 75, 60),  # blog on configurable tolerance: 50 * 90/75
        (10, 1090, 100, 10), (10, 910, 100, 10), (10, 1110, 100, 12), (10, 890, 100, 9),  # tolerance of 10 %
        (3, 2700, 300, 9), (5, 100 + 200 + 300 + 400 + 500, 300, 5), (3, 60_000, 15_000, 4),
        (0, 250, 100, 3), (0, 0, 100, 0), (3, 0, 100, 0),
    ],
)  # fmt: skip
def test_the_count_follows_the_ratio_of_use_to_aim(current: int, value: float, aim: float, expected: int) -> None:
    assert count_for(current, value, aim) == expected


def test_each_direction_has_its_own_tolerance() -> None:
    assert count_for(50, 52 * 75, 75, out_tolerance=0.0, in_tolerance=0.05) == 52
    assert count_for(50, 48 * 75, 75, out_tolerance=0.0, in_tolerance=0.05) == 50
    assert count_for(50, 47 * 75, 75, out_tolerance=0.0, in_tolerance=0.05) == 47


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((2, 7, 3), 7), ((2, 3), 3), ((None, 7), 7), ((None, 2), 5), ((None, None), None), ((), None)],
)
def test_the_largest_metric_decides_and_an_unknown_one_prevents_scale_in(
    counts: tuple[int | None, ...], expected: int | None
) -> None:
    assert largest(5, counts) == expected


@pytest.mark.parametrize(
    ("past_minutes", "wanted", "expected"),
    [
        ((), 5, 5), (((2, 4), (1, 5)), 3, 5), (((2, 1), (1, 2)), 3, 3), (((10, 10), (9, 9)), 3, 3),
        (((10, 10), (1, 4), (2, 5), (9, 9)), 3, 5),
    ],
)  # fmt: skip
def test_the_highest_recommendation_of_the_window_is_followed_in(
    past_minutes: tuple[tuple[int, int], ...], wanted: int, expected: int
) -> None:
    past = [(NOW - minutes * MINUTE_US, count) for minutes, count in past_minutes]
    assert stabilized(100, wanted, past, NOW, NONE, Behavior(stabilization_s=300.0)) == expected


@pytest.mark.parametrize(
    ("current", "wanted", "past", "windows", "expected"),
    [
        (100, 5, (), (0, 300), 5), (1, 5, (), (300, 0), 5),
        (2, 5, ((60, 1), (30, 7)), (300, 0), 2), (2, 5, ((60, 4), (30, 7)), (300, 0), 4),
        (10, 3, ((60, 6), (30, 4)), (0, 300), 6), (5, 3, ((60, 9),), (0, 300), 5), (5, 9, ((60, 3),), (300, 0), 5),
    ],
)  # fmt: skip
def test_each_direction_has_its_own_window(
    current: int, wanted: int, past: tuple[tuple[int, int], ...], windows: tuple[int, int], expected: int
) -> None:
    out, down = (Behavior(stabilization_s=float(w)) for w in windows)
    assert stabilized(current, wanted, [(NOW - s * SECOND_US, n) for s, n in past], NOW, out, down) == expected


def rules(pods: int, pods_s: float, percent: int, percent_s: float) -> dict[str, Any]:
    made = []
    if pods:
        made.append(StepRule(type="Pods", value=pods, period_s=pods_s))
    if percent:
        made.append(StepRule(type="Percent", value=percent, period_s=percent_s))
    return {"rules": tuple(made)}


def events(sizes: list[int], sign: int, period_s: float = 120.0) -> list[Change]:
    """Spread evenly over the period, each in the middle of its part."""
    part = period_s / len(sizes)
    return [Change(NOW - int((period_s - part * (n + 0.5)) * SECOND_US), sign * size) for n, size in enumerate(sizes)]


DEFAULT_OUT = {
    "rules": (StepRule(type="Pods", value=4, period_s=15.0), StepRule(type="Percent", value=100, period_s=15.0))
}


@pytest.mark.parametrize(
    ("out", "added", "removed", "current", "wanted", "expected"),
    [
        (rules(0, 0, 1, 60), [], [], 3, 1000, 4),
        (DEFAULT_OUT, [], [], 10, 50, 20),
        (rules(100, 60, 100, 60), [], [], 10, 500, 110),
        (rules(2, 60, 100, 60), [], [], 10, 500, 20),
        (rules(100, 60, 0, 0), [], [], 10, 50, 50),
        (rules(30, 60, 0, 0), [], [], 10, 50, 40),
        (rules(0, 0, 200, 60), [], [], 10, 50, 30),
        (rules(300, 60, 0, 0), [1, 5, 9], [], 100, 500, 391),  # only 9 of the 15 lie within the minute
        (rules(5, 120, 0, 0), [1, 5, 9], [], 100, 500, 100),
        (rules(150, 120, 0, 0), [1, 5, 9], [], 100, 500, 235),
        (rules(0, 0, 200, 120), [1, 5, 9], [], 100, 500, 255),
        (rules(0, 0, 300, 300), [4], [2], 6, 24, 16),
        (rules(1000, 120, 100, 60), [8, 12, 9, 11], [], 100, 200, 200),
    ],
)  # fmt: skip
def test_scale_out_is_limited_as_upstream(
    out: dict[str, Any], added: list[int], removed: list[int], current: int, wanted: int, expected: int
) -> None:
    changes = (events(added, 1) if added else []) + (events(removed, -1) if removed else [])
    assert limited(current, wanted, changes, NOW, Behavior(**out), NONE)[0] == expected


@pytest.mark.parametrize(
    ("down", "added", "removed", "current", "wanted", "expected"),
    [
        (rules(20, 60, 0, 0), [], [], 1000, 3, 980),
        (rules(20, 60, 1, 60), [], [], 100, 2, 80),
        (rules(2, 60, 1, 60), [], [], 100, 2, 98),
        (rules(5, 60, 0, 0), [], [], 10, 2, 5),
        (rules(0, 0, 50, 60), [], [], 10, 5, 5),
        ({}, [], [1, 5, 9], 10, 5, 5),
        (rules(5, 120, 0, 0), [], [1, 5, 9], 100, 2, 100),
        (rules(0, 0, 50, 120), [], [2, 4, 6], 100, 0, 56),
        (rules(0, 0, 50, 180), [2], [4], 10, 1, 6),
        (rules(0, 0, 10, 120), [], [10, 10, 10], 100, 0, 100),
        (rules(0, 0, 1000, 120), [], [10, 10, 10], 10, 5, 5),
        (rules(1000, 30, 100, 60), [], [8, 12, 9, 11], 100, 5, 5),
    ],
)  # fmt: skip
def test_scale_in_is_limited_as_upstream(
    down: dict[str, Any], added: list[int], removed: list[int], current: int, wanted: int, expected: int
) -> None:
    changes = (events(added, 1) if added else []) + (events(removed, -1) if removed else [])
    assert limited(current, wanted, changes, NOW, NONE, Behavior(**down))[0] == expected


def test_the_smallest_rule_or_none_is_chosen_where_it_is_asked_for() -> None:
    least = Behavior(select="Min", **rules(20, 60, 1, 60))
    assert limited(100, 2, [], NOW, NONE, least) == (99, "scale_in.rules")
    assert limited(100, 500, [], NOW, Behavior(select="Min", **rules(100, 60, 5, 60)), NONE)[0] == 105
    off = Behavior(select="Disabled", **rules(20, 60, 1, 60))
    assert limited(100, 2, [], NOW, NONE, off)[0] == limited(100, 500, [], NOW, off, NONE)[0] == 100
