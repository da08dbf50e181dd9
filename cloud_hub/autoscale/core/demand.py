"""The demand of a target, from the readings of its signals. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cloud_hub.autoscale.core.hpa import count_for, largest
from cloud_hub.autoscale.core.signals import Reading, SignalRule, unknown_because
from cloud_hub.autoscale.core.state import Candidate
from cloud_hub.autoscale.core.target import TargetPolicy


@dataclass(frozen=True, slots=True)
class Demand:
    """`load` is the largest load in instances' worth at full use, None if no load is known.

    `count` is what the signals ask for by the HPA's formula, `without_backlog` the same if nothing waited; None if
    nothing is known. `candidates` says why.
    """

    load: float | None
    count: int | None
    without_backlog: int | None
    candidates: tuple[Candidate, ...]


def measure(
    policy: TargetPolicy, readings: tuple[Reading, ...], current: int, now_us: int, predicted: str = ""
) -> Demand:
    """The demand at `now_us`; `predicted` is the signal that a forecast provides for, at the target of `prediction`."""
    by_name = {reading.signal: reading for reading in readings}
    values, why = {}, {}
    for rule in policy.signals:
        reading = by_name.get(rule.name)
        why[rule.name] = unknown_because(rule, reading, now_us)
        values[rule.name] = None if why[rule.name] or reading is None else reading.value
    counts: list[int | None] = []
    bare: list[int | None] = []
    candidates, loads = [], []
    for rule in policy.signals:
        if rule.adds_to:
            continue
        waiting = _waiting(policy, rule, values)
        value = _value(rule, values[rule.name], waiting)
        if value is None:
            candidates.append(
                Candidate(rule=rule.name, count=current, reason=why[rule.name] or "its backlog is unknown")
            )
            if rule.required:
                counts.append(None)
                bare.append(None)
            continue
        own = values[rule.name] if rule.kind == "load" else 0.0
        loads.append((own or 0.0) / rule.per_instance)
        count = _count(policy, rule, value, current, predicted)
        counts.append(count)
        bare.append(_count(policy, rule, own or 0.0, current, predicted))
        candidates.append(Candidate(rule=rule.name, count=count, reason=_reason(rule, value, waiting, count)))
    return Demand(max(loads) if loads else None, largest(current, counts), largest(current, bare), tuple(candidates))


def _waiting(policy: TargetPolicy, rule: SignalRule, values: dict[str, float | None]) -> float | None:
    """The load that clears the backlogs which add to `rule`, in its unit; None if a required one is unknown."""
    total = 0.0
    for other in policy.signals:
        if other.adds_to != rule.name:
            continue
        value = values[other.name]
        if value is not None:
            total += value / (other.per_instance * other.clear_s) * rule.per_instance
        elif other.required:
            return None
    return total


def _value(rule: SignalRule, value: float | None, waiting: float | None) -> float | None:
    if value is None or waiting is None:
        return None
    return value / rule.clear_s if rule.kind == "backlog" else value + waiting


def _count(policy: TargetPolicy, rule: SignalRule, value: float, current: int, predicted: str) -> int:
    if rule.name == predicted:
        return count_for(0, value, rule.per_instance * policy.prediction.target)
    if rule.kind == "backlog":  # nothing waits: nothing is asked for
        return count_for(0, value, rule.per_instance)
    aim = rule.per_instance * rule.target
    return count_for(current, value, aim, policy.scale_out.tolerance, policy.scale_in.tolerance)


def _reason(rule: SignalRule, value: float, waiting: float | None, count: int) -> str:
    unit = f" {rule.unit}" if rule.unit else ""
    extra = f", {waiting:.4g} of it to clear a backlog" if waiting else ""
    return f"{value:.4g}{unit}{extra}; an instance carries {rule.per_instance:g}: {count} are needed"
