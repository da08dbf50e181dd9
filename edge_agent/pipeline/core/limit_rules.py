"""Samples and limits in, alarms out; online or offline. A core: no clock, no store, no randomness.

The site's own rules (`hard_limits`, `hard_watches`) are judged themselves, beside what the hub wishes: no wish makes
them later, weaker or silent (invariant P3). Where two rules tell the same, one alarm is told (see `_tell`).

The agent keeps `standing()` (plain data) so that a standing alarm survives a restart.
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
"""Before the keys of the site's own rules; no metric's name holds a colon."""


class LimitRules:
    """The rules in force on this device and what is remembered of each, by key: `cpu.load`, `site:rate:cpu.load`."""

    def __init__(
        self,
        site: Iterable[Limits] = (),
        states: dict[str, JudgeState] | None = None,
        site_rules: AlarmRules | None = None,
    ) -> None:
        self._site = {limits.metric: limits for limits in site}
        self._orphans: dict[str, JudgeState] = dict(states or {})
        """What stood before a restart, or under a rule that went."""
        self._limits: dict[str, Limits] = {}
        self._rules = AlarmRules()
        self._evaluators: dict[str, RuleEvaluator[Any]] = {}
        self._by_metric: dict[str, list[RuleEvaluator[Any]]] = {}
        self._came: set[str] = set()
        self._hard = [*self._site.values(), *(site_rules or AlarmRules())]
        self._arrange()

    # -- the rules -----------------------------------------------------------------------------------

    def use_limits(self, limits: Iterable[Limits]) -> str:
        """Put a whole set of limits in force, or none of it: returns why it is refused, or ''."""
        chosen: dict[str, Limits] = {}
        for one in limits:
            twice = f"limits of {one.metric} are there twice" if one.metric in chosen else ""
            reason = twice or refusal(one, self._site.get(one.metric))
            if reason:
                return reason
            chosen[one.metric] = one
        self._limits = chosen
        self._arrange()
        return ""

    def use_rules(self, rules: AlarmRules) -> None:
        """Put a whole set of alarm rules in force, in the place of the one before."""
        self._rules = rules
        self._arrange()

    def desired_limits(self, wanted: Any) -> Any:
        """Desired set of limits, whole or not at all (invariant P2); raises ValueError.

        Returned as asked: a twin compares arrays whole, so defaults filled in would never settle.
        """
        reason = self.use_limits(from_plain(list[Limits], wanted))
        if reason:
            raise ValueError(reason)
        return wanted

    def desired_rules(self, wanted: Any) -> Any:
        """Desired set of alarm rules, likewise."""
        self.use_rules(from_plain(AlarmRules, wanted))
        return wanted

    def without_source(self, declared: Collection[str]) -> list[str]:
        """Metrics that a rule waits for, and that nobody has declared or sent."""
        return sorted(self._by_metric.keys() - declared - self._came)

    def flags(self, declared: Collection[str], now_us: int) -> dict[str, list[str]]:
        """Limits that nobody has refreshed for long (they stay in force, P6), and rules that wait for no metric."""
        stale = sorted(limits.metric for limits in self._limits.values() if limits.stale(now_us))
        return {"stale": stale, "without_source": self.without_source(declared)}

    def limits(self) -> list[Limits]:
        """The limits in force."""
        return list(self._limits.values())

    def _arrange(self) -> None:
        """An evaluator for each rule. What is remembered stays with rules that stay, a standing alarm with its key."""
        before, self._evaluators, self._by_metric = self._evaluators, {}, {}
        rules: list[tuple[str, Rule]] = [("", rule) for rule in (*self._limits.values(), *self._rules)]
        rules += [(SITE, rule) for rule in self._hard]
        # The stronger is judged first, so that the weaker one of the same sample finds its alarm told already.
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
        """The hub's rule and the site's own that are about the same, each as the partner of the other."""
        pairs: dict[int, RuleEvaluator[Any]] = {}
        for key, one in self._evaluators.items():
            other = self._evaluators.get(f"{SITE}{key}")
            if other is not None:
                pairs |= {id(one): other, id(other): one}
        return pairs

    def _inherit(self) -> None:
        """A rule that stands untold goes on under the alarm of its partner, which is there no more."""
        for key, state in list(self._orphans.items()):
            heir = self._evaluators.get(key.removeprefix(SITE) if key.startswith(SITE) else f"{SITE}{key}")
            if heir is not None and heir.state.active == state.active and state.id and not heir.state.id:
                heir.state = replace(heir.state, id=self._orphans.pop(key).id)

    # -- judging -------------------------------------------------------------------------------------

    def judge(self, sample: Sample, new_id: NewId) -> list[Alarm]:
        """Judge one sample: the alarms that it raises or clears. A metric whose limits went clears its alarm."""
        if sample.value is None:
            return []
        value = None if isinstance(sample.value, str) else float(sample.value)
        told = [] if value is None else self._orphan(sample.metric, sample.t_us, value)
        evaluators = self._by_metric.get(sample.metric, ())
        if evaluators:
            self._came.add(sample.metric)
        for one in evaluators:
            told += self._judged(one, one.state, one.sample(sample.metric, sample.t_us, value), new_id)
        return told

    def tick(self, now_us: int, new_id: NewId) -> list[Alarm]:
        """About once a second: what only time can tell, silence; and alarms of rules that are gone."""
        told: list[Alarm] = []
        for key in [key for key in self._orphans if ":" in key.removeprefix(SITE)]:
            told += self._orphan(key, now_us, 0.0)
        for one in self._evaluators.values():
            told += self._judged(one, one.state, one.tick(now_us), new_id)
        return told

    def _judged(
        self, one: RuleEvaluator[Any], before: JudgeState, change: RuleTransition | None, new_id: NewId
    ) -> list[Alarm]:
        if change is None:
            return []
        return self._raised(one, change, new_id) if one.state.active else self._cleared(one, before.id, change, new_id)

    def _raised(self, one: RuleEvaluator[Any], change: RuleTransition, new_id: NewId) -> list[Alarm]:
        """Not told while the partner's alarm of the same kind is, with at least this priority."""
        other = self._partners.get(id(one))
        told = other is not None and other.state.id and other.state.active == one.state.active
        if other is not None and told and RANK[other.priority] >= RANK[one.priority]:
            return []
        one.state = replace(one.state, id=new_id())
        return [_alarm(one, one.state.id, change)]

    def _cleared(self, one: RuleEvaluator[Any], told_id: str, change: RuleTransition, new_id: NewId) -> list[Alarm]:
        """The partner that stands untold goes on under the same id, or under its own where its priority is another."""
        if not told_id:
            return []
        other = self._partners.get(id(one))
        if other is None or other.state.id or other.state.active != change.transition.kind:
            return [_alarm(one, told_id, change)]
        if other.priority == one.priority:
            other.state = replace(other.state, id=told_id)
            return []
        other.state = replace(other.state, id=new_id())
        again = replace(change, transition=replace(change.transition, state="raised"))
        return [_alarm(one, told_id, change), _alarm(other, other.state.id, again)]

    def _orphan(self, key: str, t_us: int, value: float) -> list[Alarm]:
        """Clear the alarms of rules that are there no more."""
        told: list[Alarm] = []
        for name in (key, f"{SITE}{key}"):
            state = self._orphans.pop(name, None)
            if state is None or state.active is None or not state.id:
                continue
            about, _, metric = name.removeprefix(SITE).rpartition(":")
            told.append(
                Alarm(
                    id=state.id, metric=metric, kind=state.active, state="cleared", priority="low", t_us=t_us,
                    value=value, limit=value, about=about,  # type: ignore[arg-type]
                )
            )  # fmt: skip
        return told

    def standing(self) -> dict[str, JudgeState]:
        """The states worth keeping: alarms that stand."""
        states = {key: one.state for key, one in self._evaluators.items()}
        return {key: state for key, state in (states | self._orphans).items() if state.active is not None}


def _alarm(one: RuleEvaluator[Any], number: str, change: RuleTransition) -> Alarm:
    transition = change.transition
    return Alarm(
        id=number, metric=one.metric, kind=transition.kind, state=transition.state, priority=one.priority,
        t_us=change.t_us, value=change.value, limit=transition.limit, about=one.about,
    )  # fmt: skip
