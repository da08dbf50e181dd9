"""Evaluates alarm rules on samples and raises or clears alarms, online or offline. No clock, store or randomness.

The site's own rules (`hard_limits`, `hard_alarm_rules`) are evaluated in addition to the rules desired by the hub,
which cannot delay, weaken or suppress them (invariant P3). When a rule of the hub and one of the site agree, a single
alarm is raised (see `_raised`).

The agent stores `standing()` so that active alarms survive a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any, get_args

from shared.codec import from_plain
from shared.messages import Alarm, Priority, Sample
from shared.thresholds import AlarmRules, Expression, Flat, JudgeState, Limits, NoData, Rate, refusal
from shared.thresholds.evaluators import RuleEvaluator, RuleTransition, make_evaluator

Rule = Limits | Rate | NoData | Flat | Expression
NewId = Callable[[], str]
RANK: dict[Priority, int] = {priority: rank for rank, priority in enumerate(get_args(Priority))}
SITE = "site:"
"""Prefix of the keys of the site's own rules; metric names contain no colon."""


class LimitRules:
    """The rules in force on this device and their state, by key: `cpu.load`, `site:rate:cpu.load`."""

    def __init__(
        self,
        site: Iterable[Limits] = (),
        states: dict[str, JudgeState] | None = None,
        site_rules: AlarmRules | None = None,
    ) -> None:
        self._site = {limits.metric: limits for limits in site}
        self._orphans: dict[str, JudgeState] = dict(states or {})
        """Active alarms without a rule: from before a restart, or of a removed rule."""
        self._limits: dict[str, Limits] = {}
        self._rules = AlarmRules()
        self._evaluators: dict[str, RuleEvaluator[Any]] = {}
        self._by_metric: dict[str, list[RuleEvaluator[Any]]] = {}
        self._seen: set[str] = set()
        self._hard = [*self._site.values(), *(site_rules or AlarmRules())]
        self._arrange()

    # -- the rules -----------------------------------------------------------------------------------

    def use_limits(self, limits: Iterable[Limits]) -> str:
        """Replace the set of limits, atomically; returns why it is refused, or ''."""
        chosen: dict[str, Limits] = {}
        for entry in limits:
            twice = f"limits of {entry.metric} are there twice" if entry.metric in chosen else ""
            reason = twice or refusal(entry, self._site.get(entry.metric))
            if reason:
                return reason
            chosen[entry.metric] = entry
        self._limits = chosen
        self._arrange()
        return ""

    def use_rules(self, rules: AlarmRules) -> None:
        """Replace the set of alarm rules."""
        self._rules = rules
        self._arrange()

    def desired_limits(self, wanted: Any) -> Any:
        """Apply a desired set of limits atomically (invariant P2); raises ValueError.

        Returns `wanted` unchanged: the twin compares arrays as one value, so added defaults would never match.
        """
        reason = self.use_limits(from_plain(list[Limits], wanted))
        if reason:
            raise ValueError(reason)
        return wanted

    def desired_rules(self, wanted: Any) -> Any:
        """Apply a desired set of alarm rules atomically; raises ValueError."""
        self.use_rules(from_plain(AlarmRules, wanted))
        return wanted

    def without_source(self, declared: Collection[str]) -> list[str]:
        """Metrics that have a rule but were neither declared nor received."""
        return sorted(self._by_metric.keys() - declared - self._seen)

    def flags(self, declared: Collection[str], now_us: int) -> dict[str, list[str]]:
        """Metrics with stale limits (which stay in force, P6), and metrics with a rule but without a source."""
        stale = sorted(limits.metric for limits in self._limits.values() if limits.stale(now_us))
        return {"stale": stale, "without_source": self.without_source(declared)}

    def limits(self) -> list[Limits]:
        """The limits in force."""
        return list(self._limits.values())

    def _arrange(self) -> None:
        """Create an evaluator for each rule. Unchanged rules keep their evaluator, changed ones their active alarm."""
        before, self._evaluators, self._by_metric = self._evaluators, {}, {}
        rules: list[tuple[str, Rule]] = [("", rule) for rule in (*self._limits.values(), *self._rules)]
        rules += [(SITE, rule) for rule in self._hard]
        # Higher priority first, so that a rule of lower priority finds the alarm of the same sample already raised.
        for origin, rule in sorted(rules, key=lambda pair: -RANK[pair[1].priority]):
            made = make_evaluator(rule, JudgeState())
            key = f"{origin}{made.about}:{rule.metric}" if made.about else f"{origin}{rule.metric}"
            old = before.pop(key, None)
            if old is not None and old.rule == rule:
                made = old
            elif state := old.state if old is not None else self._orphans.pop(key, None):
                made = make_evaluator(rule, state)
            self._evaluators[key] = made
            for metric in made.metrics:
                self._by_metric.setdefault(metric, []).append(made)
        self._orphans |= {key: old.state for key, old in before.items() if old.state.id}
        self._partners = self._pairs()
        self._inherit()

    def _pairs(self) -> dict[int, RuleEvaluator[Any]]:
        """Map the hub's rule and the site's rule of the same metric and kind to each other."""
        pairs: dict[int, RuleEvaluator[Any]] = {}
        for key, evaluator in self._evaluators.items():
            other = self._evaluators.get(f"{SITE}{key}")
            if other is not None:
                pairs |= {id(evaluator): other, id(other): evaluator}
        return pairs

    def _inherit(self) -> None:
        """An active rule without an alarm of its own takes over the alarm of its removed partner."""
        for key, state in list(self._orphans.items()):
            heir = self._evaluators.get(key.removeprefix(SITE) if key.startswith(SITE) else f"{SITE}{key}")
            if heir is not None and heir.state.active == state.active and state.id and not heir.state.id:
                heir.state = replace(heir.state, id=self._orphans.pop(key).id)

    # -- judging -------------------------------------------------------------------------------------

    def judge(self, sample: Sample, new_id: NewId) -> list[Alarm]:
        """Evaluate a sample; returns the alarms it raises or clears. An alarm whose rule was removed is cleared."""
        if sample.value is None:
            return []
        value = None if isinstance(sample.value, str) else float(sample.value)
        alarms = [] if value is None else self._clear_orphans(sample.metric, sample.t_us, value)
        evaluators = self._by_metric.get(sample.metric, ())
        if evaluators:
            self._seen.add(sample.metric)
        for evaluator in evaluators:
            before = evaluator.state
            alarms += self._alarms(evaluator, before, evaluator.sample(sample.metric, sample.t_us, value), new_id)
        return alarms

    def tick(self, now_us: int, new_id: NewId) -> list[Alarm]:
        """Evaluate no-data rules and clear alarms of removed rules; called about once a second."""
        alarms: list[Alarm] = []
        for key in [key for key in self._orphans if ":" in key.removeprefix(SITE)]:
            alarms += self._clear_orphans(key, now_us, 0.0)
        for evaluator in self._evaluators.values():
            before = evaluator.state
            alarms += self._alarms(evaluator, before, evaluator.tick(now_us), new_id)
        return alarms

    def _alarms(
        self, evaluator: RuleEvaluator[Any], before: JudgeState, change: RuleTransition | None, new_id: NewId
    ) -> list[Alarm]:
        if change is None:
            return []
        if evaluator.state.active:
            return self._raised(evaluator, change, new_id)
        return self._cleared(evaluator, before.id, change, new_id)

    def _raised(self, evaluator: RuleEvaluator[Any], change: RuleTransition, new_id: NewId) -> list[Alarm]:
        """Raise an alarm, unless the partner has raised one of the same kind with at least this priority."""
        other = self._partners.get(id(evaluator))
        raised = other is not None and other.state.id and other.state.active == evaluator.state.active
        if other is not None and raised and RANK[other.priority] >= RANK[evaluator.priority]:
            return []
        evaluator.state = replace(evaluator.state, id=new_id())
        return [_alarm(evaluator, evaluator.state.id, change)]

    def _cleared(
        self, evaluator: RuleEvaluator[Any], alarm_id: str, change: RuleTransition, new_id: NewId
    ) -> list[Alarm]:
        """Clear an alarm. An active partner without an alarm takes it over, or raises its own at another priority."""
        if not alarm_id:
            return []
        other = self._partners.get(id(evaluator))
        if other is None or other.state.id or other.state.active != change.transition.kind:
            return [_alarm(evaluator, alarm_id, change)]
        if other.priority == evaluator.priority:
            other.state = replace(other.state, id=alarm_id)
            return []
        other.state = replace(other.state, id=new_id())
        raised = replace(change, transition=replace(change.transition, state="raised"))
        return [_alarm(evaluator, alarm_id, change), _alarm(other, other.state.id, raised)]

    def _clear_orphans(self, key: str, t_us: int, value: float) -> list[Alarm]:
        """Clear the alarms of removed rules."""
        alarms: list[Alarm] = []
        for name in (key, f"{SITE}{key}"):
            state = self._orphans.pop(name, None)
            if state is None or state.active is None or not state.id:
                continue
            about, _, metric = name.removeprefix(SITE).rpartition(":")
            alarms.append(
                Alarm(
                    id=state.id, metric=metric, kind=state.active, state="cleared", priority="low", t_us=t_us,
                    value=value, limit=value, about=about,  # type: ignore[arg-type]
                )
            )  # fmt: skip
        return alarms

    def standing(self) -> dict[str, JudgeState]:
        """The states of active alarms, to be stored."""
        states = {key: evaluator.state for key, evaluator in self._evaluators.items()}
        return {key: state for key, state in (states | self._orphans).items() if state.active is not None}


def _alarm(evaluator: RuleEvaluator[Any], alarm_id: str, change: RuleTransition) -> Alarm:
    transition = change.transition
    return Alarm(
        id=alarm_id, metric=evaluator.metric, kind=transition.kind, state=transition.state,
        priority=evaluator.priority, t_us=change.t_us, value=change.value, limit=transition.limit,
        about=evaluator.about,
    )  # fmt: skip
