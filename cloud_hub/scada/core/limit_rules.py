"""Judges the limits and alarm rules of one Sparkplug device. Pure.

Our own agents judge their limits themselves. A foreign node does not, so the hub does it with the same evaluators
(`shared.thresholds`), in the order of their times: of one metric, a sample that is older than the last is not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from shared.protocol.messages import Alarm, AlarmKind
from shared.thresholds import AlarmRules, JudgeState, Limits
from shared.thresholds.evaluators import RuleEvaluator, RuleTransition, make_evaluator

ABOUT = ("", "rate", "no-data", "flat", "expression")
"""What alarms of these rules are about; others are raised by the hub's monitoring."""
Active = Mapping[tuple[str, str], tuple[str, AlarmKind]]
"""Active alarms: (metric, about) to (alarm id, kind)."""
NewId = Callable[[], str]


class DeviceRules:
    """The rules of a device, which go on with its `active` alarms."""

    def __init__(self, limits: Iterable[Limits], rules: AlarmRules, active: Active) -> None:
        self._evaluators: list[RuleEvaluator[Any]] = []
        self._by_metric: dict[str, list[RuleEvaluator[Any]]] = {}
        self._last_us: dict[str, int] = {}
        left = dict(active)
        for rule in (*limits, *rules):
            made = make_evaluator(rule, JudgeState())
            alarm = left.pop((made.metric, made.about), None)
            if alarm is not None:
                made = make_evaluator(rule, JudgeState(active=alarm[1], id=alarm[0]))
            self._evaluators.append(made)
            for metric in made.metrics:
                self._by_metric.setdefault(metric, []).append(made)
        self._orphans = left

    def orphans(self, now_us: int) -> list[Alarm]:
        """Clear the alarms of rules that are gone."""
        orphans, self._orphans = self._orphans, {}
        return [
            Alarm(id=number, metric=metric, kind=kind, state="cleared", priority="low", t_us=now_us, value=0.0,
                  limit=0.0, about=about)  # type: ignore[arg-type]
            for (metric, about), (number, kind) in orphans.items()
        ]  # fmt: skip

    def judge(self, metric: str, t_us: int, value: float | None, now_us: int, new_id: NewId) -> list[Alarm]:
        """Judge a sample: the alarms that it raises or clears. `value` is None for a text.

        One from the future counts as of now, so that those after it are judged too.
        """
        evaluators, t_us = self._by_metric.get(metric), min(t_us, now_us)
        if evaluators is None or t_us < self._last_us.get(metric, 0) <= now_us:
            return []
        self._last_us[metric] = t_us
        return [
            alarm for evaluator in evaluators
            for alarm in _alarms(evaluator, evaluator.state.id, evaluator.sample(metric, t_us, value), new_id)
        ]  # fmt: skip

    def tick(self, now_us: int, new_id: NewId) -> list[Alarm]:
        """Judge the time without samples; called about once a second."""
        return [
            alarm for evaluator in self._evaluators
            for alarm in _alarms(evaluator, evaluator.state.id, evaluator.tick(now_us), new_id)
        ]  # fmt: skip


def _alarms(evaluator: RuleEvaluator[Any], before: str, change: RuleTransition | None, new_id: NewId) -> list[Alarm]:
    if change is None:
        return []
    if evaluator.state.active:
        evaluator.state = replace(evaluator.state, id=new_id())
        before = evaluator.state.id
    if not before:
        return []
    transition = change.transition
    return [
        Alarm(id=before, metric=evaluator.metric, kind=transition.kind, state=transition.state,
              priority=evaluator.priority, t_us=change.t_us, value=change.value, limit=transition.limit,
              about=evaluator.about)
    ]  # fmt: skip
