"""The invariants A1 to A9 of the policy over simulated days with faults, and a seeded bug for each that is caught."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from simulators import scaling_worlds as worlds
from simulators.scaling_worlds import NO_FAULTS, RULES, START_US, UNIT, Decide, run

from cloud_hub.autoscale.core.policy import decide, record_outcome
from cloud_hub.autoscale.core.signals import Reading, SignalRule
from cloud_hub.autoscale.core.state import Decision, Observation, State
from cloud_hub.autoscale.core.target import Behavior, Prediction, ScaleToZero, TargetPolicy
from shared.durations import MINUTE_US, SECOND_US

POLICY = TargetPolicy(
    signals=(SignalRule(name="requests", per_instance=10.0, unit=UNIT),), maximum=20, max_step=20, cooldown_s=0.0
)


def check_day(seed: int, decided: Decide = decide) -> None:
    policy, turns = run(seed, decided=decided)
    for rule in RULES:
        rule(policy, turns)
    policy, turns = run(seed, worlds.random_policy(worlds.random.Random(seed), capped=True),
                        worlds.Faults(signal=0.2, call=0.0, lie=0.0, lease=0.0), decided)  # fmt: skip
    worlds.a8_cap(policy, turns)


@pytest.mark.parametrize("seed", range(3))
def test_a_day_of_faults_keeps_every_rule(seed: int) -> None:
    check_day(seed)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(100, 400))
def test_many_days_of_faults_keep_every_rule(seed: int) -> None:
    check_day(seed)


@given(st.integers(min_value=1000))
@settings(max_examples=15, deadline=None)
def test_an_hour_of_many_faults_keeps_every_rule(seed: int) -> None:
    policy, turns = run(seed, faults=worlds.Faults(signal=0.4, call=0.5, lie=0.3, lease=0.2), hours=1.0)
    for rule in RULES:
        rule(policy, turns)


# -- A9 ----------------------------------------------------------------------------------------------------------


def constant(seed: int, policy: TargetPolicy, decided: Decide = decide, hours: float = 24.0) -> list[worlds.Turn]:
    """A constant load of random size, each reading within +-20 % of it."""
    rng = worlds.random.Random(seed)
    load = rng.uniform(5, 10 * policy.maximum)
    state, current, turns = State(), rng.randint(1, policy.maximum), []
    for number in range(int(hours * 120)):
        now = START_US + number * 30 * SECOND_US
        value = load * rng.uniform(0.8, 1.2)
        observation = Observation(
            now_us=now, desired=current, busy=0, fencing_token=1,
            readings=(Reading(signal="requests", value=value, t_us=now, unit=UNIT),),
        )  # fmt: skip
        decision, state = decided(policy, state, observation, "")
        before = current
        if decision.calls:
            current, state = decision.to, record_outcome(state, decision.key, "done")
        turns.append(worlds.Turn(now, observation, decision, True, 1, before, current, False))
    return turns


@pytest.mark.parametrize("seed", range(6))
def test_a_constant_load_with_noise_settles(seed: int) -> None:
    worlds.check_settles(constant(seed, POLICY))


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(300))
def test_every_constant_load_with_noise_settles(seed: int) -> None:
    target, window = 0.5 + seed % 5 / 10, float(seed % 4 * 100)
    signals = (replace(POLICY.signals[0], target=target),)
    worlds.check_settles(constant(seed, replace(POLICY, signals=signals, scale_in=Behavior(stabilization_s=window))))


# -- seeded bugs -------------------------------------------------------------------------------------------------


def changed(**other: object) -> Decide:
    """The policy under other settings than the operator's."""
    return lambda policy, state, seen, name: decide(replace(policy, **other), state, seen, name)  # type: ignore[arg-type]


def wider(policy: TargetPolicy, state: State, seen: Observation, name: str) -> tuple[Decision, State]:
    return decide(replace(policy, maximum=policy.maximum + 1, minimum=policy.minimum), state, seen, name)


def unknown_is_zero(policy: TargetPolicy, state: State, seen: Observation, name: str) -> tuple[Decision, State]:
    readings = tuple(
        replace(r, value=r.value if r.value is not None and math.isfinite(r.value) and r.value >= 0 else 0.0,
                t_us=seen.now_us, unit=UNIT if r.signal == "requests" else "")
        for r in seen.readings
    )  # fmt: skip
    return decide(policy, state, replace(seen, readings=readings), name)


def larger_step(policy: TargetPolicy, state: State, seen: Observation, name: str) -> tuple[Decision, State]:
    return decide(replace(policy, max_step=policy.max_step + 1), state, seen, name)


def one_action_more(policy: TargetPolicy, state: State, seen: Observation, name: str) -> tuple[Decision, State]:
    return decide(replace(policy, actions_per_hour=policy.actions_per_hour + 1), state, seen, name)


def forgetful(policy: TargetPolicy, state: State, seen: Observation, name: str) -> tuple[Decision, State]:
    return decide(policy, replace(state, actions=()), seen, name)


def repeats_with_a_new_key(policy: TargetPolicy, state: State, seen: Observation, name: str) -> tuple[Decision, State]:
    return decide(policy, replace(state, pending=None), seen, name)


def ignores_the_lease(policy: TargetPolicy, state: State, seen: Observation, name: str) -> tuple[Decision, State]:
    return decide(policy, state, replace(seen, fencing_token=seen.fencing_token or 1), name)


def believes_everything_is_idle(
    policy: TargetPolicy, state: State, seen: Observation, name: str
) -> tuple[Decision, State]:
    return decide(policy, state, replace(seen, busy=0), name)


def forgets_the_spend(policy: TargetPolicy, state: State, seen: Observation, name: str) -> tuple[Decision, State]:
    return decide(policy, replace(state, spend=worlds_spend), seen, name)


worlds_spend = State().spend


def believes_every_answer(policy: TargetPolicy, state: State, seen: Observation, name: str) -> tuple[Decision, State]:
    return decide(policy, replace(state, seen=seen.desired), seen, name)


@pytest.mark.parametrize(
    ("rule", "bug"),
    [
        (worlds.a1_bounds, wider), (worlds.a1_bounds, unknown_is_zero), (worlds.a2_step, larger_step),
        (worlds.a3_cooldown, changed(cooldown_s=0.0)), (worlds.a3_cooldown, forgetful),
        (worlds.a4_per_hour, one_action_more), (worlds.a4_per_hour, forgetful),
        (worlds.a5_once, repeats_with_a_new_key), (worlds.a6_lease, ignores_the_lease),
        (worlds.a7_drain, changed(drain_s=0.0)), (worlds.a7_drain, believes_everything_is_idle),
        (worlds.a7_drain, believes_every_answer),
        (worlds.a8_cap, forgets_the_spend), (worlds.a8_cap, changed(cost=None)),
    ],
)  # fmt: skip
def test_each_rule_catches_a_seeded_bug(rule: Callable[[TargetPolicy, list[worlds.Turn]], None], bug: Decide) -> None:
    with pytest.raises(AssertionError, match=r"A\d"):
        check_many(rule, bug)


def check_many(rule: Callable[[TargetPolicy, list[worlds.Turn]], None], decided: Decide) -> None:
    capped = rule is worlds.a8_cap
    for seed in range(40):
        policy = worlds.random_policy(worlds.random.Random(seed), capped=capped)
        rule(*run(seed, policy, NO_FAULTS if capped else None, decided, hours=24.0 if capped else 6.0))


def follows_each_reading(policy: TargetPolicy, state: State, seen: Observation, name: str) -> tuple[Decision, State]:
    hasty = replace(policy, scale_in=Behavior(stabilization_s=0.0, tolerance=0.0), scale_out=Behavior(tolerance=0.0))
    return decide(hasty, replace(state, calm=None, wanted=()), seen, name)


def test_a_policy_that_follows_each_reading_does_not_settle() -> None:
    with pytest.raises(AssertionError, match="A9"):
        worlds.check_settles(constant(1, POLICY, follows_each_reading))


# -- single behaviours ---------------------------------------------------------------------------------------------


def observed(value: float | None, desired: int | None = 5, at: int = START_US, **more: object) -> Observation:
    readings = (Reading(signal="requests", value=value, t_us=at, unit=UNIT),)
    return replace(Observation(now_us=at, desired=desired, fencing_token=1, readings=readings), **more)  # type: ignore[arg-type]


def test_scale_out_is_immediate_and_scale_in_waits_for_a_known_window() -> None:
    decision, _ = decide(POLICY, State(), observed(70.0))
    assert (decision.action, decision.before, decision.to) == ("out", 5, 10)
    decision, _ = decide(POLICY, State(), observed(7.0))
    assert decision.action == "hold"
    assert "known for less than" in decision.candidates[-1].reason


def test_a_decision_says_why() -> None:
    decision, _ = decide(POLICY, State(), observed(70.0), "line")
    assert decision.candidates[0].rule == "requests"
    assert decision.candidates[0].reason == "70 1/s; an instance carries 10: 10 are needed"
    assert decision.key.startswith("line-1-")


def test_an_unknown_outcome_is_retried_with_its_key_and_ends_by_reading_back() -> None:
    first, state = decide(POLICY, State(), observed(70.0))
    state = record_outcome(state, first.key, "unknown")
    again, state = decide(POLICY, state, observed(70.0, at=START_US + 30 * SECOND_US))
    assert (again.action, again.key, again.to) == ("retry", first.key, 10)
    read, state = decide(POLICY, state, observed(70.0, desired=10, at=START_US + 60 * SECOND_US))
    assert read.action == "hold"
    assert state.pending is None


def test_a_call_that_had_no_effect_is_given_up_after_its_time() -> None:
    first, state = decide(POLICY, State(), observed(70.0))
    later, state = decide(POLICY, state, observed(100.0, at=START_US + 2 * MINUTE_US))
    assert later.action == "out"
    assert later.key != first.key


def test_a_retry_never_leaves_bounds_that_were_lowered_meanwhile() -> None:
    first, state = decide(POLICY, State(), observed(120.0))
    assert first.to == 18
    lowered = replace(POLICY, maximum=10)
    decision, _ = decide(lowered, state, observed(120.0, at=START_US + SECOND_US))
    assert (decision.action, decision.to) == ("out", 10)


def test_without_the_lease_nothing_is_called() -> None:
    decision, state = decide(POLICY, State(), observed(70.0, fencing_token=None))
    assert (decision.calls, decision.reason) == (False, "another hub holds the lease")
    assert state == State()


def test_a_count_that_nobody_asked_for_is_read_twice() -> None:
    _, state = decide(POLICY, State(), observed(35.0))
    first, state = decide(POLICY, state, observed(35.0, desired=0))
    assert first.action == "hold"
    second, _ = decide(POLICY, state, observed(35.0, desired=0))
    assert second.action == "out"


def test_busy_instances_finish_before_they_are_removed() -> None:
    policy = replace(POLICY, drain_s=600.0, scale_in=Behavior(stabilization_s=0.0))
    first, state = decide(policy, State(), observed(7.0, busy=3))
    assert (first.action, first.to, first.keeps) == ("hold", 5, 1)
    at = START_US + MINUTE_US
    waiting, waited = decide(policy, state, observed(7.0, at=at, busy=3, draining_busy=1))
    assert (waiting.action, waiting.keeps) == ("hold", 1)
    idle, _ = decide(policy, waited, observed(7.0, at=at + MINUTE_US, busy=1, draining_busy=0))
    assert (idle.action, idle.to) == ("in", 1)
    late, _ = decide(policy, waited, observed(7.0, at=START_US + 600 * SECOND_US, busy=3, draining_busy=1))
    assert late.action == "in"


def test_a_drain_is_undone_without_a_boot_when_the_load_returns() -> None:
    policy = replace(POLICY, drain_s=600.0, scale_in=Behavior(stabilization_s=0.0))
    _, state = decide(policy, State(), observed(7.0, busy=3))
    back, state = decide(policy, state, observed(35.0, at=START_US + MINUTE_US, busy=5))
    assert (back.action, back.keeps) == ("hold", 5)
    assert state.drain is None


def test_the_last_instance_goes_after_an_idle_time_and_returns_at_once() -> None:
    policy = replace(POLICY, minimum=0, scale_to_zero=ScaleToZero(idle_s=120.0), scale_in=Behavior(stabilization_s=0.0))
    state, found = State(), []
    for minute in range(4):
        decision, state = decide(policy, state, observed(0.0, desired=1, at=START_US + minute * MINUTE_US))
        found.append((decision.action, decision.to))
    assert found[:3] == [("hold", 1), ("hold", 1), ("in", 0)]
    woken, _ = decide(policy, State(), observed(0.5, desired=0))
    assert (woken.action, woken.to) == ("out", 1)


def test_a_warm_pool_is_kept_beyond_what_is_wanted() -> None:
    decision, _ = decide(replace(POLICY, warm=2), State(), observed(70.0))
    assert decision.to == 12


def test_a_forecast_scales_out_ahead_and_never_below_the_present_demand() -> None:
    later = worlds.Outlook(signal="requests", t_us=START_US, soon=(20.0,) * 22, later=(120.0,) * 22, hold_s=600.0)
    ahead, _ = decide(POLICY, State(), observed(20.0, outlook=later))
    assert (ahead.action, ahead.to) == ("out", 12)
    nothing = replace(later, later=(0.0,) * 22, soon=(0.0,) * 22)
    present, _ = decide(POLICY, State(), observed(81.0, outlook=nothing))
    assert present.to == 9, "with a forecast, the present demand is provided for in full"
    never, _ = decide(replace(POLICY, prediction=Prediction(mode="never")), State(), observed(20.0, outlook=later))
    assert never.action == "hold"


def test_state_and_decision_survive_storage() -> None:
    import msgspec

    decision, state = decide(POLICY, State(), observed(70.0), "line")
    assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state
    assert msgspec.json.decode(msgspec.json.encode(decision), type=Decision) == decision


def test_the_state_stays_small() -> None:
    state, current = State(), 5
    for turn in range(2000):
        at = START_US + turn * 15 * SECOND_US
        decision, state = decide(POLICY, state, observed(float(turn % 97), desired=current, at=at))
        if decision.calls:
            current, state = decision.to, record_outcome(state, decision.key, "done")
    assert len(state.wanted) <= 300 / 15 + 1
    assert len(state.actions) <= 2 * POLICY.actions_per_hour


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"minimum": 5, "maximum": 2}, "minimum"), ({"minimum": 0}, "scale_to_zero"), ({"maximum": 0}, "maximum"),
        ({"max_step": 0}, "max_step"), ({"boot_s": -1.0}, "boot_s"), ({"cooldown_s": math.nan}, "cooldown_s"),
        ({"signals": ()}, "signals"), ({"signals": POLICY.signals * 2}, "twice"),
        ({"signals": (replace(POLICY.signals[0], per_instance=0.0),)}, "per_instance"),
        ({"signals": (replace(POLICY.signals[0], kind="backlog", adds_to="other"),)}, "adds to"),
        ({"scale_in": Behavior(stabilization_s=7200.0)}, "stabilization_s"),
        ({"prediction": Prediction(worth=0.0)}, "worth"),
        ({"cost": worlds.CostRule(price=1.0, daily_cap=5.0)}, "daily_cap"),
        ({"cost": worlds.CostRule(price=0.0)}, "price"),
    ],
)  # fmt: skip
def test_an_impossible_policy_is_named(wrong: dict[str, object], named: str) -> None:
    assert not POLICY.problems()
    assert any(named in text for text in replace(POLICY, **wrong).problems())  # type: ignore[arg-type]
