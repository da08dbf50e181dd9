"""What is wanted: the recommendation before the limits. Pure.

The signals by the HPA's formula, the forecast, the warm pool and scale to zero; then its stability over time: the HPA's
windows, and no flapping at a constant load (A9).
"""

from __future__ import annotations

import msgspec

from cloud_hub.autoscale.core import calm, hpa
from cloud_hub.autoscale.core.demand import Demand, measure
from cloud_hub.autoscale.core.plan import worthwhile
from cloud_hub.autoscale.core.state import Candidate, Observation, Outlook, State, Wanted
from cloud_hub.autoscale.core.target import TargetPolicy
from shared.durations import MINUTE_US, SECOND_US

GAP_US = 5 * MINUTE_US
"""Without known demand for longer than this, or than the window, the time of known demand begins anew."""


class Recommender:
    """One recommendation. Afterwards `state` is the state with it, and `why` the reasons."""

    def __init__(self, policy: TargetPolicy, state: State, observation: Observation, current: int) -> None:
        self.policy, self.state, self.observation, self.current = policy, state, observation, current
        self.now_us = observation.now_us
        self.why: list[Candidate] = []

    def _note(self, rule: str, count: int, reason: str) -> None:
        self.why.append(Candidate(rule=rule, count=count, reason=reason))

    def recommend(self) -> tuple[int | None, int]:
        """The wanted count, None if the demand is unknown, and the count without any backlog."""
        outlook = self._outlook()
        demand = measure(
            self.policy, self.observation.readings, self.current, self.now_us, outlook.signal if outlook else ""
        )
        self.why += demand.candidates
        self._remember(demand)
        if demand.count is None or demand.load is None:
            return None, self.current
        count, bare = demand.count, demand.without_backlog or 0
        if outlook is not None:
            ahead = self._ahead(outlook)
            count, bare = max(count, ahead), max(bare, ahead)
        count, bare = count + self.policy.warm, bare + self.policy.warm
        count = self._zero(count, demand.load)
        return self._stable(count, outlook is not None), bare

    def _outlook(self) -> Outlook | None:
        """The forecast, if it counts: of a signal of this target, fresh, finite."""
        outlook = self.observation.outlook
        if outlook is None or self.policy.prediction.mode == "never":
            return None
        rule = next((r for r in self.policy.signals if r.name == outlook.signal and r.kind == "load"), None)
        if rule is None or abs(self.now_us - outlook.t_us) > rule.fresh_s * SECOND_US:
            self._note("forecast", self.current, "the forecast is stale or of an unknown signal: left out")
            return None
        return outlook if outlook.usable else None

    def _ahead(self, outlook: Outlook) -> int:
        rule = next(r for r in self.policy.signals if r.name == outlook.signal)
        worth = self.policy.prediction.worth
        count = worthwhile(outlook, self.current, rule.per_instance, self.policy.boot_s, worth, self.policy.maximum)
        self._note("forecast", count, f"the best count after {self.policy.boot_s:g} s, at {worth:g} for a violation")
        return count

    def _zero(self, count: int, load: float) -> int:
        """Scale to zero: the last instance goes only after an idle time."""
        rule = self.policy.scale_to_zero
        if rule is None or self.policy.minimum > 0:
            return count
        if load > rule.activation or count > 1:
            self.state = msgspec.structs.replace(self.state, idle_since_us=None)
            return max(count, 1)
        since = self.state.idle_since_us if self.state.idle_since_us is not None else self.now_us
        since = min(since, self.now_us)
        self.state = msgspec.structs.replace(self.state, idle_since_us=since)
        if self.current == 0:
            return 0
        if self.now_us - since < rule.idle_s * SECOND_US:
            self._note("scale_to_zero", 1, f"idle for less than {rule.idle_s:g} s")
            return 1
        return 0

    def _remember(self, demand: Demand) -> None:
        if demand.load is None:
            return
        known = self.state.known_since_us
        window_us = int(self.policy.scale_in.stabilization_s * SECOND_US)
        last = self.state.wanted[-1].t_us if self.state.wanted else None
        gap = last is None or self.now_us - last > max(window_us, GAP_US)
        self.state = msgspec.structs.replace(
            self.state, calm=calm.follow(self.state.calm, demand.load, self.now_us),
            known_since_us=self.now_us if known is None or gap else min(known, self.now_us),
        )  # fmt: skip

    def _stable(self, count: int, predicted: bool) -> int:
        out, down = self.policy.scale_out, self.policy.scale_in
        past = [(w.t_us, w.count) for w in self.state.wanted]
        self._keep(Wanted(t_us=self.now_us, count=count))
        since = self.state.calm.since_us if self.state.calm is not None else self.now_us
        if predicted and self.now_us - since < down.stabilization_s * SECOND_US:
            return count  # the forecast weighs a scale-in of a moving load itself
        window_s = calm.window_s(self.state.calm, down.stabilization_s)
        cautious = msgspec.structs.replace(down, stabilization_s=window_s)
        steady = hpa.stabilized(self.current, count, past, self.now_us, out, cautious)
        known = self.state.known_since_us
        if steady < self.current and (known is None or self.now_us - known < down.stabilization_s * SECOND_US):
            steady = self.current
            self._note("stabilization", steady, f"demand is known for less than {down.stabilization_s:g} s")
        elif steady != count:
            self._note("stabilization", steady, f"recommendations within {window_s:g} s")
        return steady

    def _keep(self, wanted: Wanted) -> None:
        """Remember a recommendation. Beyond the windows of the policy only those that a later one does not exceed."""
        short_s = max(self.policy.scale_out.stabilization_s, self.policy.scale_in.stabilization_s)
        edge, horizon = (self.now_us - int(s * SECOND_US) for s in (short_s, max(short_s, calm.LONGEST_S)))
        kept, highest = [wanted], wanted.count
        for earlier in reversed(self.state.wanted):
            if earlier.t_us > edge or (earlier.t_us > horizon and earlier.count > highest):
                kept.append(earlier)
                highest = max(highest, earlier.count)
        self.state = msgspec.structs.replace(self.state, wanted=tuple(reversed(kept)))
