"""Curves of violation against cost, and how much of the gap to perfect foresight one closes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVELS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
"""Shares of violation minutes at which costs are compared."""


@dataclass(frozen=True, slots=True)
class Point:
    """A setting of a policy: share of violation minutes, instance-hours, changes of the count."""

    setting: str
    violations: float
    hours: float
    changes: int


def best(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both, by falling violations."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.hours, p.violations)):
        if not found or point.violations < found[-1].violations:
            found.append(point)
    return found


def hours_at(points: Sequence[Point], violations: float) -> float:
    """The cost at a share of violations, linear between the best points; NaN beyond the curve's safest end."""
    curve = best(points)
    if violations >= curve[0].violations:
        return curve[0].hours
    if violations < curve[-1].violations:
        return float("nan")
    return float(np.interp(violations, [p.violations for p in reversed(curve)], [p.hours for p in reversed(curve)]))


def violations_at(points: Sequence[Point], hours: float) -> float:
    """The share of violations at a cost, linear between the best points; NaN below the curve's cheapest end."""
    curve = best(points)
    if hours < curve[0].hours:
        return float("nan")
    return float(np.interp(hours, [p.hours for p in curve], [p.violations for p in curve]))


def cost_gap_closed(points: Sequence[Point], reference: Sequence[Point], bound: float, violations: float) -> float:
    """Of the cost by which the reference exceeds the bound at equal violations, the share that is saved."""
    theirs = hours_at(reference, violations)
    return (theirs - hours_at(points, violations)) / (theirs - bound) if theirs > bound else float("nan")


def violation_gap_closed(points: Sequence[Point], reference: Sequence[Point], hours: float) -> float:
    """Of the reference's violations at an equal cost, the share that is avoided. Foresight has none."""
    theirs = violations_at(reference, hours)
    return 1 - violations_at(points, hours) / theirs if theirs > 0 else float("nan")
