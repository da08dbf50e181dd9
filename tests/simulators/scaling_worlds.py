"""A day of autoscaling with faults: signals, a platform that fails and lies, two hubs, workers that are busy; by seed.

The platform is strict: it launches and removes instances by difference (a repeated request doubles its effect unless
its key is known), refuses an old fencing token, and kills what it is told to remove, busy or not. `run` replays a day
of a policy and returns a log; `RULES` check it against the invariants A1 to A8, `check_settles` checks A9.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from cloud_hub.autoscale.core.forecast import PROBABILITIES
from cloud_hub.autoscale.core.policy import decide, record_outcome
from cloud_hub.autoscale.core.signals import Reading, SignalRule, unknown_because
from cloud_hub.autoscale.core.state import Decision, Observation, Outcome, Outlook, State
from cloud_hub.autoscale.core.target import Behavior, CostRule, Prediction, StepRule, TargetPolicy, hourly
from shared.durations import DAY_US, HOUR_US, SECOND_US

START_US = 20_000 * DAY_US - 9 * HOUR_US
"""The day's run crosses midnight."""
UNIT = "1/s"

Decide = Callable[[TargetPolicy, State, Observation, str], tuple[Decision, State]]


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Probabilities a turn of each kind of fault."""

    signal: float = 0.1
    call: float = 0.15
    lie: float = 0.05
    lease: float = 0.02


NO_FAULTS = Faults(signal=0.0, call=0.0, lie=0.0, lease=0.0)


@dataclass(frozen=True)
class Turn:
    """One turn of the hub that decided; `before` and `after` are the platform's true counts."""

    now_us: int
    observation: Observation
    decision: Decision
    holder: bool
    token: int
    before: int
    after: int
    unknown: bool
    outcome: str = ""
    killed: tuple[int, ...] = ()
    """Microseconds since each busy instance that was killed was told to take no more work."""


@dataclass
class Platform:
    """A strict platform."""

    rng: random.Random
    faults: Faults
    desired: int
    keys: dict[str, int] = field(default_factory=dict)
    token: int = 0
    busy_until: dict[int, int] = field(default_factory=dict)
    drained_since: dict[int, int] = field(default_factory=dict)
    born: int = 0

    def __post_init__(self) -> None:
        self._launch(self.desired)

    def _launch(self, count: int) -> None:
        for _ in range(count):
            self.born += 1
            self.busy_until[self.born] = 0

    def work(self, now: int, load: float, keeps: int) -> None:
        """Give work to instances that may take some."""
        self.drain(now, keeps)
        for name, until in self.busy_until.items():
            if name not in self.drained_since and until <= now and self.rng.random() < load:
                self.busy_until[name] = now + int(self.rng.expovariate(1 / 120) * SECOND_US)

    def drain(self, now: int, keeps: int) -> None:
        """The newest instances beyond `keeps` take no more work."""
        for number, name in enumerate(sorted(self.busy_until)):
            if number >= keeps:
                self.drained_since.setdefault(name, now)
            else:
                self.drained_since.pop(name, None)

    def busy(self, now: int) -> int:
        return sum(until > now for until in self.busy_until.values())

    def draining_busy(self, now: int) -> int:
        return sum(self.busy_until[name] > now for name in self.drained_since)

    def scale(self, decision: Decision, now: int) -> tuple[Outcome, tuple[int, ...]]:
        """Apply a request, or not, and say so, or not."""
        assert decision.before is not None
        token = decision.fencing_token if decision.fencing_token is not None else -1
        fault = self.rng.random() < self.faults.call
        kind = self.rng.choice(["throttled", "lost", "timeout_after"]) if fault else ""
        if kind == "throttled":
            return "refused", ()
        if kind == "lost":
            return "unknown", ()
        if token < self.token:
            return "refused", ()
        self.token = token
        killed: tuple[int, ...] = ()
        if decision.key not in self.keys:
            self.keys[decision.key] = 0
        first = self.keys[decision.key] == 0
        self.keys[decision.key] += 1
        if first:
            killed = self._to(decision.to, now)
        return ("unknown" if kind else "done"), killed

    def _to(self, count: int, now: int) -> tuple[int, ...]:
        self._launch(max(0, count - self.desired))
        killed = []
        for name in sorted(self.busy_until, reverse=True)[: max(0, self.desired - count)]:
            if self.busy_until.pop(name) > now:
                killed.append(now - self.drained_since.get(name, now))
            self.drained_since.pop(name, None)
        self.desired = count
        return tuple(killed)


def random_policy(rng: random.Random, capped: bool | None = None) -> TargetPolicy:
    """A policy with every rule in use."""
    minimum = rng.randint(1, 3)
    maximum = minimum + rng.randint(3, 20)
    price = rng.choice([0.05, 1.0])
    cap = price * 24 * (minimum + rng.uniform(0.2, 0.3) * (maximum - minimum))
    capped = rng.random() < 0.5 if capped is None else capped
    return TargetPolicy(
        signals=(
            SignalRule(name="requests", per_instance=10.0, unit=UNIT, target=rng.uniform(0.5, 0.9), fresh_s=90.0),
            SignalRule(name="waiting", per_instance=10.0, kind="backlog", adds_to="requests", required=False),
        ),
        minimum=minimum, maximum=maximum, boot_s=rng.choice([60.0, 300.0]), drain_s=rng.choice([0.0, 240.0]),
        warm=rng.choice([0, 0, 1]), max_step=rng.randint(1, 4), cooldown_s=rng.choice([0.0, 60.0, 600.0]),
        actions_per_hour=rng.choice([4, 12, 20]), timeout_s=90.0,
        scale_out=Behavior(rules=(StepRule(type="Percent", value=100, period_s=60.0),) if rng.random() < 0.5 else ()),
        scale_in=Behavior(stabilization_s=rng.choice([0.0, 120.0, 300.0])),
        prediction=Prediction(worth=rng.choice([5.0, 40.0])),
        cost=CostRule(price=price, daily_cap=cap) if capped else None,
    )  # fmt: skip


class Load:
    """A load that jumps, ramps, stands still, and is reported well or badly."""

    def __init__(self, rng: random.Random, maximum: int, faults: Faults) -> None:
        self._rng, self._faults, self._top = rng, faults, maximum * 10.0
        self._value, self._goal, self._left = self._top / 3, self._top / 3, 0

    def next(self) -> float:
        if self._left <= 0:
            self._goal = self._rng.choice([0.0, 0.1, 0.3, 0.6, 1.0, 3.0]) * self._top * self._rng.random()
            self._left = self._rng.randint(1, 200)
            if self._rng.random() < 0.5:
                self._value = self._goal
        self._left -= 1
        self._value += (self._goal - self._value) * 0.05
        return self._value * self._rng.uniform(0.8, 1.2)

    def reading(self, name: str, value: float, now: int, unit: str) -> Reading | None:
        if self._rng.random() >= self._faults.signal:
            return Reading(signal=name, value=value, t_us=now - 10 * SECOND_US, unit=unit)
        bad = self._rng.choice([math.nan, math.inf, -math.inf, -1.0, None, "stale", "future", "unit", "missing"])
        if bad == "missing":
            return None
        if isinstance(bad, str):
            age = {"stale": 3600, "future": -3600}.get(bad, 0)
            return Reading(signal=name, value=0.0, t_us=now - age * SECOND_US, unit="%" if bad == "unit" else unit)
        return Reading(signal=name, value=bad, t_us=now, unit=unit)

    def outlook(self, value: float, now: int) -> Outlook | None:
        """A forecast: mostly plausible, else absent, stale, broken or absurd."""
        kind = self._rng.random()
        if kind < 0.3:
            return None
        spread = [value * (0.5 + p) for p in PROBABILITIES]
        if kind < 0.4:
            spread[-1] = self._rng.choice([math.nan, math.inf, 1e12, -1.0])
        age = 7200 if 0.4 < kind < 0.45 else 30
        return Outlook(
            signal="requests", t_us=now - age * SECOND_US, soon=tuple(spread), later=tuple(spread), hold_s=600.0
        )


def run(
    seed: int, policy: TargetPolicy | None = None, faults: Faults | None = None, decided: Decide = decide,
    hours: float = 24.0, tick_s: int = 30,
) -> tuple[TargetPolicy, list[Turn]]:  # fmt: skip
    """Replay a day; two hubs share the stored state, and the lease passes between them."""
    rng = random.Random(seed)
    policy = random_policy(rng) if policy is None else policy
    faults = Faults() if faults is None else faults
    load = Load(rng, policy.maximum, faults)
    platform = Platform(rng, faults, rng.randint(policy.minimum, policy.maximum))
    state, turns, token, holder, keeps, lied = State(), [], 1, 0, platform.desired, False
    for number in range(int(hours * 3600 / tick_s)):
        now = START_US + number * tick_s * SECOND_US
        if rng.random() < faults.lease:
            token, holder = token + 1, 1 - holder
        value = load.next()
        platform.work(now, min(1.0, value / (10 * max(1, platform.desired))), keeps)
        readings = [load.reading("requests", value, now, UNIT), load.reading("waiting", value / 7, now, "")]
        hub = rng.randint(0, 1)
        reported = platform.desired if lied else _reported(rng, faults, platform.desired)
        lied = reported != platform.desired if hub == holder else lied  # no lie twice in a row
        observation = Observation(
            now_us=now, desired=reported, ready=platform.desired,
            busy=platform.busy(now), draining_busy=platform.draining_busy(now) if rng.random() < 0.8 else None,
            readings=tuple(r for r in readings if r is not None), outlook=load.outlook(value, now),
            fencing_token=token if hub == holder else None,
        )  # fmt: skip
        before = platform.desired
        decision, state = decided(policy, state, observation, "press")
        outcome, killed = "", ()
        if decision.calls:
            outcome, killed = platform.scale(decision, now)
            state = record_outcome(state, decision.key, outcome)
        if hub == holder:
            keeps = decision.keeps
            platform.drain(now, keeps)
        unknown = bool(unknown_because(policy.signals[0], readings[0], now))
        turns.append(
            Turn(now, observation, decision, hub == holder, token, before, platform.desired, unknown, outcome, killed)
        )
    return policy, turns


def _reported(rng: random.Random, faults: Faults, desired: int) -> int | None:
    if rng.random() >= faults.lie:
        return desired
    return rng.choice([None, 0, desired + 1, max(0, desired - 1), desired + 50])


# -- the rules -------------------------------------------------------------------------------------------------


def steps(turns: list[Turn]) -> list[Turn]:
    """Turns with a new step."""
    return [turn for turn in turns if turn.decision.action in {"out", "in"}]


def inside(policy: TargetPolicy, count: int | None) -> bool:
    return count is not None and policy.minimum <= count <= policy.maximum


def a1_bounds(policy: TargetPolicy, turns: list[Turn]) -> None:
    for turn in turns:
        assert inside(policy, turn.decision.to), f"A1: {turn}"
        capped = policy.cost is not None and policy.cost.daily_cap is not None
        if turn.unknown and inside(policy, turn.observation.desired) and not capped:
            assert turn.decision.action in {"hold", "retry"}, f"A1: acted without a demand: {turn}"


def a2_step(policy: TargetPolicy, turns: list[Turn]) -> None:
    for turn in steps(turns):
        seen = turn.observation.desired
        if seen is not None and inside(policy, seen):
            assert abs(turn.decision.to - seen) <= policy.max_step, f"A2: {turn}"


def a3_cooldown(policy: TargetPolicy, turns: list[Turn]) -> None:
    for earlier, later in pairwise(steps(turns)):
        if earlier.decision.action != later.decision.action:
            assert later.now_us - earlier.now_us >= policy.cooldown_s * SECOND_US, f"A3: {earlier} {later}"


def a4_per_hour(policy: TargetPolicy, turns: list[Turn]) -> None:
    times = [turn.now_us for turn in steps(turns)]
    for now in times:
        assert sum(now - HOUR_US < t <= now for t in times) <= policy.actions_per_hour, f"A4: {now}"


def a5_once(policy: TargetPolicy, turns: list[Turn]) -> None:
    """One call in flight: until its outcome is known, read back or given up, only the same key is sent."""
    open_call: Turn | None = None
    for turn in turns:
        if open_call and turn.holder and turn.observation.desired == open_call.decision.to:
            open_call = None
        if not turn.decision.calls:
            continue
        key = turn.decision.key
        if open_call and key != open_call.decision.key:
            assert turn.now_us - open_call.now_us >= policy.timeout_s * SECOND_US, f"A5: two in flight: {turn}"
            open_call = None
        open_call = (open_call or turn) if turn.outcome == "unknown" else None


def a6_lease(policy: TargetPolicy, turns: list[Turn]) -> None:
    for turn in turns:
        if turn.decision.calls:
            assert turn.holder, f"A6: a hub without the lease acted: {turn}"
            assert turn.decision.fencing_token == turn.token, f"A6: an old token: {turn}"


def a7_drain(policy: TargetPolicy, turns: list[Turn]) -> None:
    for turn in turns:
        for since in turn.killed:
            assert since >= policy.drain_s * SECOND_US, f"A7: killed while busy: {turn}"


def a8_cap(policy: TargetPolicy, turns: list[Turn]) -> None:
    if policy.cost is None or policy.cost.daily_cap is None:
        return
    spent: dict[int, float] = {}
    for turn, later in pairwise(turns):
        day = turn.now_us // DAY_US
        hours = (later.now_us - turn.now_us) / HOUR_US
        spent[day] = spent.get(day, 0.0) + hourly(policy.cost, turn.after) * hours
        assert spent[day] <= policy.cost.daily_cap * (1 + 1e-9), f"A8: {spent[day]} of {policy.cost.daily_cap}: {turn}"


def check_settles(turns: list[Turn], most: int = 8) -> None:
    """A9 for a constant load with noise: few reversals a day, and hardly any in its second half."""
    actions = [turn.decision.action for turn in steps(turns)]
    reversals = sum(a == "in" and b == "out" for a, b in pairwise(actions))
    assert reversals <= most, f"A9: {reversals} reversals"
    middle = turns[len(turns) // 2].now_us
    late = [turn for turn in steps(turns) if turn.now_us >= middle]
    assert len(late) <= 4, f"A9: {len(late)} steps in the second half"


RULES = (a1_bounds, a2_step, a3_cooldown, a4_per_hour, a5_once, a6_lease, a7_drain)
"""Rules that hold whatever fails; A8 holds where the platform tells the truth and obeys."""
