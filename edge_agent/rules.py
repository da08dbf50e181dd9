"""Samples and limits in, alarms out; online or offline. A core: no clock, no store, no randomness.

The agent keeps `states` (they are plain data) so that a standing alarm survives a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from shared.codec import from_plain
from shared.messages import Alarm, Sample
from shared.thresholds import JudgeState, Limits, judge, refusal


class Rules:
    """The limits in force on this device and what is remembered of each metric."""

    def __init__(self, site: Iterable[Limits] = (), states: dict[str, JudgeState] | None = None) -> None:
        self._site = {limits.metric: limits for limits in site}
        self._limits: dict[str, Limits] = {}
        self.states: dict[str, JudgeState] = dict(states or {})

    def use(self, limits: Iterable[Limits]) -> str:
        """Put a whole set of limits in force, or none of it: returns why it is refused, or ''."""
        chosen: dict[str, Limits] = {}
        for one in limits:
            twice = f"limits of {one.metric} are there twice" if one.metric in chosen else ""
            reason = twice or refusal(one, self._site.get(one.metric))
            if reason:
                return reason
            chosen[one.metric] = one
        self._limits = chosen
        return ""

    def desired(self, wanted: Any) -> Any:
        """Desired set of limits, whole or not at all (invariant P2); raises ValueError.

        Returned as asked: a twin compares arrays whole, so defaults filled in would never settle.
        """
        reason = self.use(from_plain(list[Limits], wanted))
        if reason:
            raise ValueError(reason)
        return wanted

    def limits(self) -> list[Limits]:
        """The limits in force."""
        return list(self._limits.values())

    def judge(self, sample: Sample, new_id: Callable[[], str]) -> list[Alarm]:
        """Judge one sample: the alarm it raises or clears, if any. A metric whose limits went clears its alarm."""
        state = self.states.get(sample.metric, JudgeState())
        if isinstance(sample.value, str) or sample.value is None:
            return []
        # The site's own limit stands where nobody asks for another: taking limits away must not silence it.
        limits = self._limits.get(sample.metric) or self._site.get(sample.metric)
        if limits is None:
            return self._orphan(sample, float(sample.value), state)
        state, change = judge(limits, state, sample.t_us, float(sample.value))
        if change is None:
            self.states[sample.metric] = state
            return []
        alarm_id = new_id() if change.state == "raised" else self.states[sample.metric].id
        self.states[sample.metric] = replace(state, id=alarm_id if change.state == "raised" else "")
        return [
            Alarm(
                id=alarm_id,
                metric=sample.metric,
                kind=change.kind,
                state=change.state,
                priority=limits.priority,
                t_us=sample.t_us,
                value=float(sample.value),
                limit=change.limit,
            )
        ]

    def _orphan(self, sample: Sample, value: float, state: JudgeState) -> list[Alarm]:
        if state.active is None:
            return []
        self.states[sample.metric] = JudgeState()
        return [
            Alarm(
                id=state.id,
                metric=sample.metric,
                kind=state.active,
                state="cleared",
                priority="low",
                t_us=sample.t_us,
                value=value,
                limit=value,
            )
        ]

    def standing(self) -> dict[str, JudgeState]:
        """The states worth keeping: alarms that stand."""
        return {metric: state for metric, state in self.states.items() if state.active is not None}
