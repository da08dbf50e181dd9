"""Evaluators of alarm rules, one class for each kind of rule. Input is samples and, through `tick`, the time.

A device that was asleep or a clock that jumped does not cause false alarms: of each time interval at most a quarter of
`after_s` counts, so that missing data or a flat signal is observed several times before it raises an alarm.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from shared.durations import SECOND_US
from shared.messages import About, AlarmKind, Priority
from shared.thresholds.expressions import parse
from shared.thresholds.judge import JudgeState, Transition, apply_delays, judge
from shared.thresholds.limits import Limits
from shared.thresholds.rule_kinds import Expression, Flat, NoData, Rate
from shared.thresholds.schedule import in_force

R = TypeVar("R", Limits, Rate, NoData, Flat, Expression)
POINTS = 64
"""Maximum number of samples kept for the span of a rate, evenly spaced."""


@dataclass(frozen=True, slots=True)
class RuleTransition:
    """A transition with its time and the value that caused it (in the unit of the rule's limit)."""

    t_us: int
    value: float
    transition: Transition


class RuleEvaluator(Generic[R]):
    """Evaluates one rule. `metrics` are the metrics whose samples it needs; `about` is the `about` of its alarms."""

    about: About = ""

    def __init__(self, rule: R, state: JudgeState) -> None:
        self.rule: R = rule
        self.state = state
        self.metric: str = rule.metric
        self.priority: Priority = rule.priority
        self.metrics: frozenset[str] = frozenset({rule.metric})

    def sample(self, metric: str, t_us: int, value: float | None) -> RuleTransition | None:
        """Evaluate a sample; `value` is None for a text value."""
        raise NotImplementedError

    def tick(self, now_us: int) -> RuleTransition | None:
        """Evaluate the time without a sample; called about once a second."""
        return None

    def _update(
        self, t_us: int, value: float, limit: float, violated: bool, on_s: float, off_s: float
    ) -> RuleTransition | None:
        kind: AlarmKind | None = "high" if violated else None
        self.state, transition = apply_delays(self.state, t_us, kind, limit, on_s, off_s)
        return RuleTransition(t_us, value, transition) if transition else None


class LimitsEvaluator(RuleEvaluator[Limits]):
    """Compares the value with its limits."""

    def sample(self, metric: str, t_us: int, value: float | None) -> RuleTransition | None:
        self.state, transition = judge(self.rule, self.state, t_us, value)
        return RuleTransition(t_us, value, transition) if transition and value is not None else None


class RateEvaluator(RuleEvaluator[Rate]):
    """Compares the change per second since the newest sample that is at least `span_s` old with its limits."""

    about: About = "rate"

    def __init__(self, rule: Rate, state: JudgeState) -> None:
        super().__init__(rule, state)
        self._past: deque[tuple[int, float]] = deque()
        self._span_us = int(rule.span_s * SECOND_US)

    def sample(self, metric: str, t_us: int, value: float | None) -> RuleTransition | None:
        rate = None if value is None else self._rate(t_us, value)
        self.state, transition = judge(self.rule.limits, self.state, t_us, rate)
        return RuleTransition(t_us, rate, transition) if transition and rate is not None else None

    def _rate(self, t_us: int, value: float) -> float | None:
        """The change per second. None until samples cover the span: at the start, and after the clock stepped back.
        Across a gap it is the mean change, which never exceeds the maximum.
        """
        past, span_us = self._past, self._span_us
        if past and t_us < past[-1][0]:
            past.clear()
        while len(past) > 1 and t_us - past[1][0] >= span_us:
            past.popleft()
        age_us = t_us - past[0][0] if past else 0
        rate = (value - past[0][1]) / age_us * SECOND_US if age_us >= span_us else None
        if not past or t_us - past[-1][0] >= span_us / POINTS:
            past.append((t_us, value))
        return rate


class NoDataEvaluator(RuleEvaluator[NoData]):
    """Raises an alarm after `after_s` seconds without a sample, not counting time in which the device was asleep."""

    about: About = "no-data"

    def __init__(self, rule: NoData, state: JudgeState) -> None:
        super().__init__(rule, state)
        self._after_us = int(rule.after_s * SECOND_US)
        self._quiet_us = self._after_us if state.active else 0
        self._ticked_us: int | None = None

    def sample(self, metric: str, t_us: int, value: float | None) -> RuleTransition | None:
        self._quiet_us = 0
        return self._update(t_us, 0.0, self.rule.after_s, False, 0.0, 0.0)

    def tick(self, now_us: int) -> RuleTransition | None:
        elapsed_us = 0 if self._ticked_us is None else now_us - self._ticked_us
        self._ticked_us = now_us
        self._quiet_us += min(max(elapsed_us, 0), self._after_us // 4)
        if not in_force(self.rule.schedule, now_us):
            self._quiet_us = 0
        silent = self._quiet_us >= self._after_us
        return self._update(now_us, self._quiet_us / SECOND_US, self.rule.after_s, silent, 0.0, 0.0)


class FlatEvaluator(RuleEvaluator[Flat]):
    """Raises an alarm when the value has not changed for `after_s` seconds, by the times of its samples."""

    about: About = "flat"

    def __init__(self, rule: Flat, state: JudgeState) -> None:
        super().__init__(rule, state)
        self._after_us = int(rule.after_s * SECOND_US)
        self._flat_us = self._after_us if state.active else 0
        self._anchor: float | None = None
        self._last_us = 0

    def sample(self, metric: str, t_us: int, value: float | None) -> RuleTransition | None:
        if value is None:
            return None
        if self._anchor is None:
            self._anchor = value
        elif abs(value - self._anchor) > self.rule.tolerance or not in_force(self.rule.schedule, t_us):
            self._anchor, self._flat_us = value, 0
        else:
            self._flat_us += min(max(t_us - self._last_us, 0), self._after_us // 4)
        self._last_us = t_us
        flat = self._flat_us >= self._after_us
        return self._update(t_us, self._flat_us / SECOND_US, self.rule.after_s, flat, 0.0, 0.0)


class ExpressionEvaluator(RuleEvaluator[Expression]):
    """Evaluates a condition over the newest samples of its metrics."""

    about: About = "expression"

    def __init__(self, rule: Expression, state: JudgeState) -> None:
        super().__init__(rule, state)
        self._condition = parse(rule.when)
        self.metrics = self._condition.metrics
        self._newest: dict[str, tuple[int, float]] = {}

    def sample(self, metric: str, t_us: int, value: float | None) -> RuleTransition | None:
        if value is None:
            return None
        rule = self.rule
        self._newest[metric] = (t_us, value)
        stale_us = rule.stale_s * SECOND_US
        values = {name: found for name, (at_us, found) in self._newest.items() if abs(t_us - at_us) <= stale_us}
        holds = self._condition.holds(values)
        if holds is None:
            return None
        holds = holds and in_force(rule.schedule, t_us)
        return self._update(t_us, float(holds), 1.0, holds, rule.on_delay_s, rule.off_delay_s)


def make_evaluator(rule: Limits | Rate | NoData | Flat | Expression, state: JudgeState) -> RuleEvaluator[Any]:
    """The evaluator of `rule`, starting from `state`."""
    kinds: dict[type[Any], Any] = {Limits: LimitsEvaluator, Rate: RateEvaluator, NoData: NoDataEvaluator,
                                   Flat: FlatEvaluator, Expression: ExpressionEvaluator}  # fmt: skip
    made: RuleEvaluator[Any] = kinds[type(rule)](rule, state)
    return made
