"""The daily cost cap (A8). Pure.

A count is affordable if it can still be taken back to the minimum before the cap is reached, however unlucky the limits
of steps and actions are; so the cap holds without breaking any of them. The same must hold for the next day, because
the count is carried over midnight (UTC).
"""

from __future__ import annotations

from cloud_hub.autoscale.core.state import Spend
from cloud_hub.autoscale.core.target import CostRule, TargetPolicy, hourly
from shared.durations import DAY_US, HOUR_US, SECOND_US

TURN_S = 120.0
"""The longest time between two decisions that is provided for."""
HOURS_A_DAY = 24.0


def spent_until(spend: Spend, cost: CostRule, count: int, now_us: int) -> Spend:
    """The spend of the day of `now_us` until then; `count` runs from now on. At a gap, the last count is assumed."""
    day = now_us // DAY_US
    if spend.t_us == 0:
        return Spend(day=day, t_us=now_us, count=count)
    since = max(spend.t_us, day * DAY_US)
    hours = max(0, now_us - since) / HOUR_US
    before = spend.amount if spend.day == day else 0.0
    return Spend(day=day, amount=before + hours * hourly(cost, spend.count), t_us=max(now_us, spend.t_us), count=count)


def affordable(policy: TargetPolicy, spend: Spend, wanted: int, now_us: int) -> int:
    """The largest count up to `wanted` that the cap allows, at least the minimum."""
    cost = policy.cost
    if cost is None or cost.daily_cap is None:
        return wanted
    rest_h = (DAY_US - now_us % DAY_US) / HOUR_US
    least = hourly(cost, policy.minimum)
    for count in range(wanted, policy.minimum, -1):
        excess = (hourly(cost, count) - least) * _descent_h(policy, count)
        if spend.amount + excess + least * rest_h <= cost.daily_cap and excess + least * HOURS_A_DAY <= cost.daily_cap:
            return count
    return min(wanted, policy.minimum)


def _descent_h(policy: TargetPolicy, count: int) -> float:
    """The longest time, in hours, until `count` instances are back at the minimum."""
    steps = -(-(count - policy.minimum) // policy.max_step)
    waits = -(-steps // policy.actions_per_hour)  # the actions of the hour may be used up
    turns = steps * (policy.drain_s + TURN_S + policy.timeout_s)
    return waits + (policy.cooldown_s + turns) / (HOUR_US / SECOND_US)
