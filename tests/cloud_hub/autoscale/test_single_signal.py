"""The autoscaler's invariants A1-A4 and A9 over simulated loads, each with seeded bugs that its checker must catch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_hub.autoscale.core.single_signal import (
    Action,
    Bounds,
    Decision,
    State,
    decide,
    fresh_demand,
    observe,
    record_action,
    replicas_for,
    valid_demand,
)
from shared.durations import HOUR_US, SECOND_US

Decide = Callable[[Bounds, State, "float | None", int, int], Decision]


@dataclass(frozen=True, kw_only=True)
class World:
    """A load over time: one reading each `tick_s`, and what was running at the beginning."""

    bounds: Bounds
    readings: Sequence[float | None]
    start: int
    tick_s: int = 15


@dataclass(frozen=True, kw_only=True)
class Turn:
    now_us: int
    demand: float | None
    before: int
    said: Decision


def run(world: World, policy: Decide = decide) -> list[Turn]:
    state, current, turns = State(), world.start, []
    for number, demand in enumerate(world.readings):
        now_us = (number + 1000) * world.tick_s * SECOND_US
        state = observe(world.bounds, state, demand, now_us)
        said = policy(world.bounds, state, demand, current, now_us)
        turns.append(Turn(now_us=now_us, demand=demand, before=current, said=said))
        if said.action != "hold":
            current, state = said.to, record_action(world.bounds, state, said, now_us)
    return turns


def actions(turns: list[Turn]) -> list[Turn]:
    return [turn for turn in turns if turn.said.action != "hold"]


def within(bounds: Bounds, count: int) -> bool:
    return bounds.minimum <= count <= bounds.maximum


def check_a1(bounds: Bounds, turns: list[Turn]) -> None:
    for turn in turns:
        assert within(bounds, turn.said.to), f"A1: {turn}"
        if valid_demand(turn.demand) is None and within(bounds, turn.before):
            assert (turn.said.action, turn.said.to) == ("hold", turn.before), f"A1: acted without a demand: {turn}"


def check_a2(bounds: Bounds, turns: list[Turn]) -> None:
    for turn in turns:
        if within(bounds, turn.before):
            assert abs(turn.said.to - turn.before) <= bounds.max_step, f"A2: {turn}"


def check_a3(bounds: Bounds, turns: list[Turn]) -> None:
    done = actions(turns)
    for earlier, later in pairwise(done):
        if earlier.said.action != later.said.action:
            assert later.now_us - earlier.now_us >= bounds.cooldown_s * SECOND_US, f"A3: {earlier} {later}"


def check_a4(bounds: Bounds, turns: list[Turn]) -> None:
    times = [turn.now_us for turn in actions(turns)]
    for now in times:
        assert sum(now - HOUR_US < t <= now for t in times) <= bounds.per_hour, f"A4: {now}"


def check_no_regret(bounds: Bounds, turns: list[Turn]) -> None:
    """A9, for any noise within +-20 %: outs may be followed by ins, never an in by an out."""
    course = [turn.said.action for turn in actions(turns)]
    assert course == sorted(course, key=("out", "in").index), f"A9: flaps {course}"
    assert len(course) <= 2 * (bounds.maximum - bounds.minimum) + 1, f"A9: {len(course)} actions"


def check_settled(bounds: Bounds, turns: list[Turn]) -> None:
    """A9, for noise that repeats within a window: there is a fixed point, and it carries the peak if it may."""
    assert not actions(turns[len(turns) // 2 :]), "A9: no fixed point"
    peak = max(turn.demand or 0.0 for turn in turns)
    assert turns[-1].before >= replicas_for(bounds, peak), "A9: settled below the load"


bounds_given = st.builds(
    lambda low, room, per, step, cool, hour, window: Bounds(
        minimum=low, maximum=low + room, per_replica=per, max_step=step, cooldown_s=cool, per_hour=hour, window_s=window
    ),
    st.integers(0, 4), st.integers(0, 20), st.floats(0.01, 1e3), st.integers(1, 5),
    st.sampled_from([0.0, 60.0, 300.0, 7200.0]), st.integers(1, 12), st.sampled_from([0.0, 30.0, 300.0]),
)  # fmt: skip
any_reading = st.one_of(st.none(), st.floats(), st.floats(0, 2e4))
wild_worlds = st.builds(
    World, bounds=bounds_given, readings=st.lists(any_reading, max_size=80), start=st.integers(0, 40)
)
NOISE = st.floats(0.8, 1.2)


@st.composite
def noisy_worlds(draw: st.DrawFn, repeating: bool) -> World:
    bounds = replace(draw(bounds_given), per_hour=1000, cooldown_s=60.0, window_s=300.0)
    load = draw(st.floats(0, 1.2)) * bounds.maximum * bounds.per_replica
    noise = draw(st.lists(NOISE, min_size=1, max_size=20 if repeating else 120))
    readings = [load * f for f in noise] * (1 if not repeating else math.ceil(160 / len(noise)))
    return World(bounds=bounds, readings=readings, start=draw(st.integers(bounds.minimum, bounds.maximum)))


@given(wild_worlds)
@settings(max_examples=200, deadline=None)
def test_bounds_steps_cooldown_and_rate_hold_for_every_load(world: World) -> None:
    turns = run(world)
    for check in (check_a1, check_a2, check_a3, check_a4):
        check(world.bounds, turns)


@given(noisy_worlds(repeating=False))
@settings(deadline=None)
def test_a_constant_load_with_any_noise_is_never_regretted(world: World) -> None:
    check_no_regret(world.bounds, run(world))


@given(noisy_worlds(repeating=True))
@settings(max_examples=50, deadline=None)
def test_a_constant_load_reaches_a_fixed_point(world: World) -> None:
    check_settled(world.bounds, run(world))


# Seeded bugs: each checker, over the same seeded worlds, accepts the policy and catches its broken sister.


def seeded_worlds(constant: bool) -> list[World]:
    rng = random.Random(20)
    worlds = []
    for _ in range(40):
        bounds = Bounds(minimum=1, maximum=12, per_replica=10.0, per_hour=6, window_s=45.0, cooldown_s=120.0)
        if constant:
            load = rng.uniform(0, 130)
            cycle = [load * rng.uniform(0.8, 1.2) for _ in range(12)]
            bounds = replace(bounds, per_hour=1000, window_s=300.0)
            worlds.append(World(bounds=bounds, readings=cycle * 20, start=rng.randint(1, 12)))
        else:
            level = [rng.choice([0.0, 30.0, 90.0, 500.0, math.nan, math.inf, None]) for _ in range(30)]
            worlds.append(World(bounds=bounds, readings=[x for x in level for _ in range(5)], start=rng.randint(1, 12)))
    return worlds


def check_all(check: Callable[[Bounds, list[Turn]], None], worlds: list[World], policy: Decide) -> None:
    for world in worlds:
        check(world.bounds, run(world, policy))


def changed(**other: float) -> Decide:
    """The policy under other bounds than the operator's."""
    return lambda b, s, d, c, n: decide(replace(b, **other), s, d, c, n)  # type: ignore[arg-type]


def unknown_is_zero(bounds: Bounds, state: State, demand: float | None, current: int, now_us: int) -> Decision:
    return decide(bounds, state, valid_demand(demand) or 0.0, current, now_us)


def forgetful(bounds: Bounds, state: State, demand: float | None, current: int, now_us: int) -> Decision:
    return decide(bounds, replace(state, actions=()), demand, current, now_us)


def follows_each_reading(bounds: Bounds, state: State, demand: float | None, current: int, now_us: int) -> Decision:
    to = replicas_for(bounds, demand or 0.0)
    return Decision(to=to, reason="", action="hold" if to == current else "out" if to > current else "in")


def never_acts(bounds: Bounds, state: State, demand: float | None, current: int, now_us: int) -> Decision:
    return Decision(to=current, reason="", action="hold")


@pytest.mark.parametrize(
    ("check", "broken", "constant"),
    [
        (check_a1, changed(maximum=13), False),
        (check_a1, changed(minimum=0), False),
        (check_a1, unknown_is_zero, False),
        (check_a2, changed(max_step=3), False),
        (check_a3, changed(cooldown_s=30.0), False),
        (check_a3, forgetful, False),
        (check_a4, changed(per_hour=7), False),
        (check_a4, forgetful, False),
        (check_no_regret, changed(noise=0.0, window_s=0.0), True),
        (check_no_regret, follows_each_reading, True),
        (check_settled, follows_each_reading, True),
        (check_settled, never_acts, True),
    ],
)
def test_each_checker_catches_a_seeded_bug(
    check: Callable[[Bounds, list[Turn]], None], broken: Decide, constant: bool
) -> None:
    worlds = seeded_worlds(constant)
    check_all(check, worlds, decide)
    with pytest.raises(AssertionError, match=r"A\d"):
        check_all(check, worlds, broken)


# Single cases that a property would not name.

BOUNDS = Bounds(minimum=1, maximum=10, per_replica=10.0, cooldown_s=60.0, window_s=300.0)


def test_out_at_once_and_in_only_after_a_watched_window() -> None:
    turns = run(World(bounds=BOUNDS, readings=[55.0, 55.0, 55.0] + [8.0] * 60, start=2))
    assert [turn.before for turn in turns[:4]] == [2, 4, 6, 6]
    first_in = next(turn for turn in turns if turn.said.action == "in")
    assert first_in.now_us - turns[2].now_us > BOUNDS.window_s * SECOND_US
    assert turns[-1].before == 2, "8 with headroom for 20 % noise is 12: two replicas"


def test_a_hub_that_just_started_takes_nothing_in() -> None:
    assert run(World(bounds=BOUNDS, readings=[1.0], start=9))[0].said.action == "hold"


def test_a_gap_of_a_window_begins_the_watch_anew() -> None:
    readings: list[float | None] = [*[5.0] * 10, *[None] * 25, 5.0, 5.0]
    assert not actions(run(World(bounds=BOUNDS, readings=readings, start=9)))


def test_lowered_bounds_are_obeyed_without_a_demand_but_not_against_the_cooldown() -> None:
    assert decide(BOUNDS, State(), None, 14, 0) == Decision(to=10, reason="14 replicas lie outside 1..10", action="in")
    state = State(actions=(Action(t_us=0, direction="out"),))
    held = decide(BOUNDS, state, None, 14, 30 * SECOND_US)
    assert (held.to, held.action) == (10, "hold")


def test_a_clock_set_back_neither_forgets_nor_waits_for_ever() -> None:
    day = 24 * HOUR_US
    state = observe(BOUNDS, State(actions=(Action(t_us=day, direction="in"),)), 95.0, 0)
    assert decide(BOUNDS, state, 95.0, 2, SECOND_US).action == "hold"
    assert decide(BOUNDS, state, 95.0, 2, 61 * SECOND_US).action == "out"


def test_a_stale_reading_is_unknown() -> None:
    assert fresh_demand(5.0, 0, 60 * SECOND_US, limit_s=60.0) == 5.0
    assert fresh_demand(5.0, 0, 61 * SECOND_US, limit_s=60.0) is None
    assert fresh_demand(5.0, 120 * SECOND_US, 0, limit_s=60.0) is None, "a reading from the future is no better"


def test_the_state_stays_small() -> None:
    state = State()
    for turn in range(600):
        now_us = turn * 30 * SECOND_US
        state = observe(BOUNDS, state, float(600 - turn), now_us)  # falling: every reading may be the peak
        state = record_action(BOUNDS, state, Decision(to=2, reason="", action="out"), now_us)
    assert len(state.demands) <= 300 / 30 + 1
    assert len(state.actions) <= 3600 / 30 + 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"minimum": 3, "maximum": 2}, {"minimum": -1}, {"per_replica": 0.0}, {"per_replica": math.nan},
        {"max_step": 0}, {"per_hour": 0}, {"cooldown_s": -1.0}, {"window_s": math.inf}, {"noise": 1.0},
    ],
)  # fmt: skip
def test_impossible_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must|hold"):
        replace(BOUNDS, **wrong)  # type: ignore[arg-type]
