"""Decides how many instances a target has. Pure: `decide` is a function of policy, state and observation.

    demand     the HPA's count for each signal, the largest decides        demand.py, hpa.py
    forecast   the count that the demand after a boot time is worth        forecast.py, plan.py
    warm pool, scale to zero
    stability  windows of recommendations, calm loads (A9)                 hpa.py, calm.py
    limits     bounds (A1), cost cap (A8), step rules, step (A2), cooldown (A3), actions an hour (A4)
    drain      busy instances finish first (A7)
    call       one in flight (A5), only the holder of the lease (A6)

Unknown demand holds. An unknown outcome is read back from the platform. See `state.py` for the shell's turn.
"""

from __future__ import annotations

import msgspec

from cloud_hub.autoscale.core import budget, calm, hpa
from cloud_hub.autoscale.core.recommendation import Recommender
from cloud_hub.autoscale.core.signals import Reading, SignalRule
from cloud_hub.autoscale.core.state import (
    Action,
    Candidate,
    Decision,
    Direction,
    Drain,
    Observation,
    Outcome,
    Outlook,
    Pending,
    State,
)
from cloud_hub.autoscale.core.target import TargetPolicy
from shared.durations import HOUR_US, SECOND_US

__all__ = [
    "Candidate", "Decision", "Observation", "Outcome", "Outlook", "Reading", "SignalRule", "State", "TargetPolicy",
    "decide", "record_outcome",
]  # fmt: skip

IN_SHARE = 3
"""One in this many actions of an hour is kept for scale-out and for the cost cap."""


def decide(policy: TargetPolicy, state: State, observation: Observation, name: str = "") -> tuple[Decision, State]:
    """The decision at `observation.now_us`, and the state to store with it before the platform is called.

    `name` is the target's; with it the idempotency keys of several targets differ.
    """
    now, state = observation.now_us, _not_after(state, observation.now_us)
    if observation.fencing_token is None:
        return _hold(policy, state, observation, "another hub holds the lease"), state
    if observation.desired is None:
        reason = "the platform's count is not known"
        return _hold(policy, state, observation, reason), msgspec.structs.replace(state, seen=None)
    current = max(0, observation.desired)
    believed = _believed(policy, state, current)
    state = msgspec.structs.replace(state, seen=current)
    if not believed:
        return _hold(policy, state, observation, f"{_seen(state, current)}: is read once more"), state
    state = _observed(policy, msgspec.structs.replace(state, last=current), current, now)
    if state.pending is not None:
        return _retry(state.pending, observation, current), state
    turn = _Turn(policy, state, observation, current)
    decision = turn.decide(name)
    return decision, turn.state


def record_outcome(state: State, key: str, outcome: Outcome) -> State:
    """The state after the call with `key` ended. `unknown` (a time-out) keeps it pending, to be read back."""
    if state.pending is None or state.pending.key != key or outcome == "unknown":
        return state
    return msgspec.structs.replace(state, pending=None)


def _not_after(state: State, now: int) -> State:
    """The state with no time after `now`: a clock that is set back neither forgets an action nor waits for ever."""
    times = [*(a.t_us for a in state.actions), *(w.t_us for w in state.wanted)]
    if not times or max(times) <= now:
        return state
    actions = tuple(msgspec.structs.replace(a, t_us=min(a.t_us, now)) for a in state.actions)
    wanted = tuple(msgspec.structs.replace(w, t_us=min(w.t_us, now)) for w in state.wanted)
    return msgspec.structs.replace(state, actions=actions, wanted=wanted)


def _believed(policy: TargetPolicy, state: State, current: int) -> bool:
    """Whether the platform's count is what was asked for, or was read twice. One wrong answer must not start a step.

    The first count ever is believed if it lies within the bounds.
    """
    if state.last is None:
        return current == state.seen or policy.minimum <= current <= policy.maximum
    ours = {state.pending.to} if state.pending is not None else {a.to for a in state.actions[-1:]}
    return current in {state.last, state.seen, *ours}


def _seen(state: State, current: int) -> str:
    return f"{state.last} -> {current} without us" if state.last is not None else f"{current} is out of bounds"


def _observed(policy: TargetPolicy, state: State, current: int, now: int) -> State:
    """Account the spend, and end a pending call that had its effect or had its time."""
    pending = state.pending
    running = max(current, pending.to if pending is not None else 0)
    if policy.cost is not None:
        state = msgspec.structs.replace(state, spend=budget.spent_until(state.spend, policy.cost, running, now))
    if pending is None:
        return state
    given_up = not 0 <= now - pending.t_us < policy.timeout_s * SECOND_US
    if current == pending.to or given_up or not policy.minimum <= pending.to <= policy.maximum:
        state = msgspec.structs.replace(state, pending=None)
    return state


def _hold(policy: TargetPolicy, state: State, observation: Observation, reason: str) -> Decision:
    to = policy.minimum if state.last is None else min(max(state.last, policy.minimum), policy.maximum)
    keeps = min(to, state.drain.to) if state.drain is not None else to
    return Decision(
        t_us=observation.now_us, action="hold", before=observation.desired, to=to, keeps=keeps, reason=reason,
        fencing_token=observation.fencing_token,
    )  # fmt: skip


def _retry(pending: Pending, observation: Observation, current: int) -> Decision:
    return Decision(
        t_us=observation.now_us, action="retry", before=current, to=pending.to, keeps=pending.to, key=pending.key,
        reason=f"the outcome of {pending.before} -> {pending.to} is not known", fencing_token=observation.fencing_token,
    )  # fmt: skip


class _Turn:
    """One decision: a count that goes through the rules, and the reasons that it collects."""

    def __init__(self, policy: TargetPolicy, state: State, observation: Observation, current: int) -> None:
        self.policy, self.state, self.observation, self.current = policy, state, observation, current
        self.now_us = observation.now_us
        self.why: list[Candidate] = []
        self.forced = False

    def decide(self, name: str) -> Decision:
        """The decision; `self.state` is then the state to store."""
        recommender = Recommender(self.policy, self.state, self.observation, self.current)
        count, bare = recommender.recommend()
        self.state, self.why = recommender.state, recommender.why
        if count is None:
            count = bare = self.current
        count = self._within(count)
        count = self._stepped(count)
        refusal = self._refusal(count)
        if refusal:
            return self._held(refusal)
        if self._drains(count):
            return self._held(f"draining to {count}", keeps=count)
        return self._act(count, bare, name) if count != self.current else self._held("")

    def _note(self, rule: str, count: int, reason: str) -> None:
        self.why.append(Candidate(rule=rule, count=count, reason=reason))

    # -- limits --------------------------------------------------------------------------------------------

    def _within(self, count: int) -> int:
        policy = self.policy
        inside = min(max(count, policy.minimum), policy.maximum)
        if inside != count:
            self._note("bounds", inside, f"{policy.minimum}..{policy.maximum}")
        paid = budget.affordable(policy, self.state.spend, inside, self.now_us)
        if paid != inside:
            self._note("daily_cap", paid, f"{self.state.spend.amount:.4g} of {_cap(policy):g} are spent today")
        self.forced = paid < min(self.current, inside) or not policy.minimum <= self.current <= policy.maximum
        return paid

    def _stepped(self, count: int) -> int:
        """Limits of a step. One that returns into the bounds may be larger."""
        policy, current = self.policy, self.current
        if not policy.minimum <= current <= policy.maximum:
            edge = min(max(current, policy.minimum), policy.maximum)
            self._note("bounds", edge, f"{current} lies outside of {policy.minimum}..{policy.maximum}")
            return edge
        if not self.forced:
            changes = [hpa.Change(a.t_us, a.to - a.before) for a in self.state.actions]
            allowed, rule = hpa.limited(current, count, changes, self.now_us, policy.scale_out, policy.scale_in)
            if rule:
                self._note(rule, allowed, "the step rules allow no more now")
            count = allowed
        near = min(max(count, current - policy.max_step), current + policy.max_step)
        if near != count:
            self._note("max_step", near, f"at most {policy.max_step} at once")
        return near

    def _refusal(self, count: int) -> str:
        policy, direction = self.policy, _direction(self.current, count)
        if direction is None:
            return ""
        cooling = self.now_us - int(policy.cooldown_s * SECOND_US)
        if any(a.direction != direction and a.t_us > cooling for a in self.state.actions):
            return f"opposite action within the last {policy.cooldown_s:g} s"
        hour = sum(a.t_us > self.now_us - HOUR_US for a in self.state.actions)
        kept = 0 if direction == "out" or self.forced else policy.actions_per_hour // IN_SHARE
        return f"{hour} actions within the last hour" if hour >= policy.actions_per_hour - kept else ""

    # -- the end -------------------------------------------------------------------------------------------

    def _drains(self, count: int) -> bool:
        """Whether a scale-in must wait for busy instances (A7)."""
        if count >= self.current or self.policy.drain_s <= 0 or self.observation.busy == 0:
            self.state = msgspec.structs.replace(self.state, drain=None)
            return False
        drain = self.state.drain
        if drain is None or count < drain.to:
            drain = Drain(to=count, since_us=self.now_us)
        elif count > drain.to:
            drain = Drain(to=count, since_us=drain.since_us)
        drain = Drain(to=drain.to, since_us=min(drain.since_us, self.now_us))
        self.state = msgspec.structs.replace(self.state, drain=drain)
        begun = drain.since_us < self.now_us
        idle = begun and self.observation.draining_busy == 0
        over = self.now_us - drain.since_us >= self.policy.drain_s * SECOND_US
        return not (idle or over)

    def _held(self, refusal: str, keeps: int | None = None) -> Decision:
        if keeps is None:
            self.state = msgspec.structs.replace(self.state, drain=None)
        inside = min(max(self.current, self.policy.minimum), self.policy.maximum)
        return Decision(
            t_us=self.now_us, action="hold", before=self.current, to=inside, keeps=inside if keeps is None else keeps,
            reason=refusal or self._reason(inside), candidates=tuple(self.why),
            fencing_token=self.observation.fencing_token,
        )  # fmt: skip

    def _act(self, count: int, bare: int, name: str) -> Decision:
        state, direction = self.state, "out" if count > self.current else "in"
        sequence = state.sequence + 1
        key = f"{name}-{sequence}-{self.now_us}"
        horizon = self.now_us - max(HOUR_US, int(self.policy.cooldown_s * SECOND_US))
        kept = tuple(a for a in state.actions if a.t_us > horizon) or state.actions[-1:]
        action = Action(
            t_us=self.now_us, direction="out" if direction == "out" else "in", before=self.current, to=count
        )
        settled = state.calm
        if direction == "out" and bare > self.current:
            settled = calm.scaled_out(state.calm, kept, self.policy.scale_in.stabilization_s, self.now_us)
        spend = state.spend
        if self.policy.cost is not None:
            spend = budget.spent_until(spend, self.policy.cost, max(count, self.current), self.now_us)
        self.state = msgspec.structs.replace(
            state, actions=(*kept, action), calm=settled, sequence=sequence, drain=None, spend=spend,
            pending=Pending(key=key, before=self.current, to=count, t_us=self.now_us),
        )  # fmt: skip
        return Decision(
            t_us=self.now_us, action=action.direction, before=self.current, to=count, keeps=count,
            reason=self._reason(count), candidates=tuple(self.why), key=key,
            fencing_token=self.observation.fencing_token,
        )  # fmt: skip

    def _reason(self, count: int) -> str:
        """The rule that decided: the last one that asked for `count`, or the largest wish."""
        found = [c for c in self.why if c.count == count] or self.why
        return f"{found[-1].rule}: {found[-1].reason}" if found else "nothing is wanted"


def _direction(current: int, count: int) -> Direction | None:
    return None if count == current else "out" if count > current else "in"


def _cap(policy: TargetPolicy) -> float:
    return policy.cost.daily_cap if policy.cost is not None and policy.cost.daily_cap is not None else 0.0
