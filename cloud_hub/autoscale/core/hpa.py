"""The algorithm of the Kubernetes HorizontalPodAutoscaler v2. Pure.

In the order in which the HPA applies them: a count for each metric (`count_for`), the largest of all (`largest`), the
most cautious one of a window (`stabilized`), the limits of a step (`limited`).

Source: Kubernetes documentation, "Horizontal Pod Autoscaling", and pkg/controller/podautoscaler of Kubernetes 1.33,
whose test vectors are in `tests/cloud_hub/autoscale/test_hpa.py`. Pods that are not ready, or without metrics, are not
modelled: a signal here is one number for the whole target.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cloud_hub.autoscale.core.target import Behavior, StepRule
from shared.durations import SECOND_US

ROUNDING = 1e-9
"""A count may exceed a whole number by this share without adding an instance."""


@dataclass(frozen=True, slots=True)
class Change:
    """Instances that were added (above 0) or removed (below 0) at `t_us`."""

    t_us: int
    instances: int


def count_for(current: int, value: float, aim: float, out_tolerance: float = 0.1, in_tolerance: float = 0.1) -> int:
    """The instances for a metric whose sum over all is `value`, if each should have `aim`.

    `current` is returned while the ratio of use to aim is within the tolerance of its direction. Without instances
    there is no ratio: any value needs at least one.
    """
    if current == 0:
        return _ceil(value / aim)
    ratio = value / (current * aim)
    if 1 - in_tolerance <= ratio <= 1 + out_tolerance:
        return current
    return _ceil(ratio * current)


def _ceil(quotient: float) -> int:
    return 2**31 if quotient > 2**31 else math.ceil(quotient * (1 - ROUNDING))


def largest(current: int, counts: Iterable[int | None]) -> int | None:
    """The largest count of several metrics; None if none is known.

    If one is unknown, the others may scale out but not in.
    """
    known, unknown = [], False
    for count in counts:
        if count is None:
            unknown = True
        else:
            known.append(count)
    if not known:
        return None
    return max(*known, current) if unknown else max(known)


def stabilized(
    current: int, wanted: int, past: Sequence[tuple[int, int]], now_us: int, out: Behavior, down: Behavior
) -> int:
    """The most cautious of `wanted` and the `past` recommendations (time, count) within the windows."""
    low = high = wanted
    for t_us, count in past:
        age_s = (now_us - t_us) / SECOND_US
        if age_s < out.stabilization_s:
            low = min(low, count)
        if age_s < down.stabilization_s:
            high = max(high, count)
    return min(max(current, low), high)


def limited(
    current: int, wanted: int, changes: Sequence[Change], now_us: int, out: Behavior, down: Behavior
) -> tuple[int, str]:
    """`wanted` after the step rules of its direction, and the rule that limits it, or ''."""
    if wanted > current:
        most = max(current, _limit(current, changes, now_us, out, 1))
        return (most, "scale_out.rules") if wanted > most else (wanted, "")
    if wanted < current:
        least = min(current, _limit(current, changes, now_us, down, -1))
        return (least, "scale_in.rules") if wanted < least else (wanted, "")
    return wanted, ""


def _limit(current: int, changes: Sequence[Change], now_us: int, behavior: Behavior, sign: int) -> int:
    if behavior.select == "Disabled":
        return current
    if not behavior.rules:
        return sign * 2**31
    found = [_allowed(current, changes, now_us, rule, sign) for rule in behavior.rules]
    generous = behavior.select == "Max"
    return max(found) if generous == (sign > 0) else min(found)


def _allowed(current: int, changes: Sequence[Change], now_us: int, rule: StepRule, sign: int) -> int:
    """The count that a rule allows, from what there was at the beginning of its period."""
    since = now_us - int(rule.period_s * SECOND_US)
    start = current - sum(change.instances for change in changes if change.t_us > since)
    if rule.type == "Pods":
        return start + sign * rule.value
    share = start * (1 + sign * rule.value / 100)
    return _ceil(share) if sign > 0 else int(share)
