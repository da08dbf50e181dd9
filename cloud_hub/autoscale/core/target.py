"""The policy of a target: what a person writes in the targets file. Pure.

    signals:
      - {name: requests, per_instance: 25, unit: 1/s, target: 0.7}
    minimum: 1
    maximum: 40
    boot_s: 300
    prediction: {worth: 40}

Times are seconds, shares lie in 0..1. `problems` says what does not fit together.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from cloud_hub.autoscale.core.signals import SignalRule

MOST = 10_000
"""The most instances of a target."""


class StepRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most `value` pods, or per cent of the instances, within `period_s`: a scaling policy of the HPA."""

    type: Literal["Pods", "Percent"]
    value: int
    period_s: float = 60.0


class Behavior(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One direction of scaling, as `behavior.scaleUp` or `behavior.scaleDown` of the HPA v2.

    `select` chooses the rule that allows the most (Max), the least (Min), or no scaling (Disabled). Without rules any
    change is allowed. The most cautious recommendation within `stabilization_s` is followed.
    """

    stabilization_s: float = 0.0
    tolerance: float = 0.1
    select: Literal["Max", "Min", "Disabled"] = "Max"
    rules: tuple[StepRule, ...] = ()


class Prediction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Provide for the demand that is forecast for the time when an instance asked for now has booted.

    `auto` uses the forecast only while a backtest on the target's own history wins on cost at equal violations.
    `worth` is the price of a violation: the minutes of an instance that avoiding one minute of overload is worth.
    Together with a forecast, the present demand is provided for at `target` instead of the signal's own.
    """

    mode: Literal["auto", "always", "never"] = "auto"
    worth: float = 40.0
    target: float = 1.0
    history_days: float = 28.0


class ScaleToZero(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Remove the last instance after `idle_s` without demand above `activation` (instances' worth), add it above."""

    idle_s: float = 600.0
    activation: float = 0.0


class CostRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Money, in one currency. `price` is for one instance and hour; `daily_cap` is the most that a UTC day may cost.

    The first `reserved` instances cost `reserved_price` whether they run or not. Of the others, `spot_share` cost
    `spot_price`.
    """

    price: float
    daily_cap: float | None = None
    reserved: int = 0
    reserved_price: float = 0.0
    spot_share: float = 0.0
    spot_price: float = 0.0


class TargetPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The policy of one target.

    `boot_s` is the time from the request of an instance until it serves; `drain_s` the longest that a busy instance may
    take to finish after scale-in was decided. `warm` instances are kept beyond what is wanted. A step changes at most
    `max_step` instances, opposite steps are `cooldown_s` apart, and there are at most `actions_per_hour`.
    After `timeout_s` a call without an answer is given up, and the platform is asked what holds.
    """

    signals: tuple[SignalRule, ...]
    maximum: int
    minimum: int = 1
    boot_s: float = 300.0
    drain_s: float = 0.0
    warm: int = 0
    max_step: int = 4
    cooldown_s: float = 60.0
    actions_per_hour: int = 20
    timeout_s: float = 120.0
    scale_out: Behavior = Behavior()
    scale_in: Behavior = Behavior(stabilization_s=300.0)
    prediction: Prediction = Prediction()
    scale_to_zero: ScaleToZero | None = None
    cost: CostRule | None = None

    def problems(self) -> list[str]:
        """What does not fit together, each with its cure; empty if the policy can be used."""
        return [*_counts(self), *_times(self), *_signals(self), *_parts(self)]


def _counts(policy: TargetPolicy) -> list[str]:
    found = []
    if not 0 <= policy.minimum <= policy.maximum or policy.maximum < 1:
        found.append(f"0 <= minimum <= maximum does not hold for {policy.minimum} and {policy.maximum}")
    if policy.maximum > MOST:
        found.append(f"maximum {policy.maximum} is more than {MOST}")
    if policy.minimum == 0 and policy.scale_to_zero is None:
        found.append("minimum 0 needs scale_to_zero, or write minimum: 1")
    if not (1 <= policy.max_step <= MOST and 1 <= policy.actions_per_hour <= MOST and 0 <= policy.warm <= MOST):
        found.append(f"max_step and actions_per_hour must lie in 1..{MOST}, warm in 0..{MOST}")
    return found


def _times(policy: TargetPolicy) -> list[str]:
    names = ("boot_s", "drain_s", "cooldown_s", "timeout_s")
    wrong = [name for name in names if not 0 <= getattr(policy, name) <= 86_400]
    return [f"{name} must lie in 0..86400 seconds" for name in wrong]


def _signals(policy: TargetPolicy) -> list[str]:
    names = [rule.name for rule in policy.signals]
    found = [text for rule in policy.signals if (text := rule.problem())]
    if not names:
        found.append("signals is empty: name at least one signal")
    found += [f"signal {name} stands twice" for name in {n for n in names if names.count(n) > 1}]
    loads = {rule.name for rule in policy.signals if rule.kind == "load"}
    found += [
        f"signal {rule.name} adds to '{rule.adds_to}', which is no load of this target"
        for rule in policy.signals
        if rule.adds_to and rule.adds_to not in loads
    ]
    return found


def _parts(policy: TargetPolicy) -> list[str]:
    found = []
    for name, part in (("scale_out", policy.scale_out), ("scale_in", policy.scale_in)):
        if not 0 <= part.stabilization_s <= 3600:
            found.append(f"{name}.stabilization_s must lie in 0..3600")
        if not 0 <= part.tolerance < 1:
            found.append(f"{name}.tolerance must lie in 0..1")
        if any(not (1 <= rule.value <= MOST and 0 < rule.period_s <= 1800) for rule in part.rules):
            found.append(f"{name}.rules: value must lie in 1..{MOST}, period_s in 0..1800")
    prediction = policy.prediction
    if not (math.isfinite(prediction.worth) and prediction.worth > 0 and 0 < prediction.target <= 1):
        found.append("prediction.worth must be above 0, prediction.target lie in 0..1")
    if not 0 < prediction.history_days <= 400:
        found.append("prediction.history_days must lie in 0..400")
    zero = policy.scale_to_zero
    if zero is not None and not 0 <= zero.idle_s <= 86_400:
        found.append("scale_to_zero.idle_s must lie in 0..86400 seconds")
    if zero is not None and not 0 <= zero.activation <= policy.maximum:
        found.append("scale_to_zero.activation must lie in 0..maximum")
    if policy.cost is not None:
        found += _cost(policy, policy.cost)
    return found


def _cost(policy: TargetPolicy, cost: CostRule) -> list[str]:
    prices = (cost.price, cost.reserved_price, cost.spot_price)
    if not all(math.isfinite(price) and price >= 0 for price in prices) or cost.price <= 0:
        return ["cost.price must be a number above 0, the other prices at least 0"]
    if not (0 <= cost.spot_share <= 1 and 0 <= cost.reserved <= MOST):
        return [f"cost.spot_share must lie in 0..1, cost.reserved in 0..{MOST}"]
    least = 24 * hourly(cost, policy.minimum)
    if cost.daily_cap is not None and not cost.daily_cap >= least:
        return [f"cost.daily_cap {cost.daily_cap:g} is less than the minimum costs a day, {least:g}"]
    return []


def hourly(cost: CostRule, count: int) -> float:
    """What `count` instances cost an hour."""
    beyond = max(0, count - cost.reserved)
    spot = math.floor(beyond * cost.spot_share)
    return cost.reserved * cost.reserved_price + spot * cost.spot_price + (beyond - spot) * cost.price
