"""Rates, silence, standing still and conditions: each held against its words, over gaps, sleep and jumping clocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from shared.thresholds import AlarmRules, Expression, Flat, JudgeState, Limits, NoData, Rate
from shared.thresholds.evaluators import (
    ExpressionEvaluator,
    FlatEvaluator,
    NoDataEvaluator,
    RateEvaluator,
    RuleEvaluator,
    RuleTransition,
    make_evaluator,
)

S = 1_000_000
START = 1_800_000_000 * S
FIXED = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def caught(strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    @settings(FIXED, max_examples=3000, phases=[Phase.generate], report_multiple_bugs=False)
    @given(strategy)
    def run(example: Any) -> None:
        check(example)

    with pytest.raises(AssertionError):
        run()


def states(one: RuleEvaluator[Any], steps: list[tuple[int, float | None]]) -> Iterator[tuple[int, RuleTransition]]:
    """(index, change) of samples of the watcher's own metric."""
    for n, (t_us, value) in enumerate(steps):
        if change := one.sample(one.metric, t_us, value):
            yield n, change


# -- no data ---------------------------------------------------------------------------------------

JUMPS = [0, 1, 1, 1, 1, 5, 3600, 10**6, -10, -(10**6)]
NIGHTS = st.lists(st.tuples(st.sampled_from(JUMPS), st.booleans()), max_size=60)
"""Seconds by the clock until the next tick, and whether a sample came with it."""


def check_silence(make: Callable[[NoData], NoDataEvaluator], ticks: list[tuple[int, bool]]) -> None:
    """Silence is told when the ticks without a sample add up, each counting a quarter of the time at most."""
    one, now, quiet, standing = make(NoData(metric="m", after_s=8)), START, 0.0, False
    for n, (step, heard) in enumerate(ticks):
        now += step * S
        if heard:
            change = one.sample("m", now, 1.0)
            assert (change is not None) == standing, "a sample ends silence, and only once"
            quiet, standing = 0.0, False
        quiet += min(max(step, 0), 2.0) if n else 0.0
        change = one.tick(now)
        assert (change is not None) == (quiet >= 8 and not standing)
        if change:
            assert (change.transition.state, change.value, change.transition.limit) == ("raised", quiet, 8)
        standing = quiet >= 8


@FIXED
@given(NIGHTS)
def test_silence_is_told_in_time_and_never_because_of_sleep_or_a_jump(ticks: list[tuple[int, bool]]) -> None:
    check_silence(lambda rule: NoDataEvaluator(rule, JudgeState()), ticks)


class ByTheClock(NoDataEvaluator):
    """Counts what the clock shows."""

    def tick(self, now_us: int) -> RuleTransition | None:
        if self._ticked_us is not None:
            self._quiet_us += max(0, now_us - self._ticked_us - self._after_us // 4)
        return super().tick(now_us)


class Deaf(NoDataEvaluator):
    """Does not hear what comes."""

    def sample(self, metric: str, t_us: int, value: float | None) -> RuleTransition | None:
        return None


@pytest.mark.parametrize("bug", [ByTheClock, Deaf])
def test_the_silence_checker_catches(bug: type[NoDataEvaluator]) -> None:
    caught(NIGHTS, lambda ticks: check_silence(lambda rule: bug(rule, JudgeState()), ticks))


def test_silence_that_stood_before_a_restart_stands_until_a_sample_comes() -> None:
    one = NoDataEvaluator(NoData(metric="m", after_s=8), JudgeState(active="high", id="a1"))
    assert one.tick(START) is None
    change = one.sample("m", START + S, None)  # text counts too
    assert change is not None
    assert change.transition.state == "cleared"


def test_outside_of_its_schedule_silence_is_no_alarm() -> None:
    one = NoDataEvaluator(NoData(metric="m", after_s=4, schedule=("thu",)), JudgeState())  # START is a Friday
    assert [one.tick(START + n * S) for n in range(20)] == [None] * 20
    thursday = START + 6 * 86_400 * S
    assert any(one.tick(thursday + n * S) for n in range(10))


# -- standing still --------------------------------------------------------------------------------

COURSE = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 3, 3600, 10**6, -10]), st.sampled_from([5.0, 5.0, 5.2, 9.0])), max_size=40
)


def check_flat(make: Callable[[Flat], FlatEvaluator], course: list[tuple[int, float]]) -> None:
    one, now, anchor, still, standing = make(Flat(metric="m", after_s=8, tolerance=0.5)), START, 1e9, 0.0, False
    for step, value in course:
        now += step * S
        if abs(value - anchor) > 0.5:
            anchor, still = value, 0.0
        else:
            still += min(max(step, 0), 2.0)
        change = one.sample("m", now, value)
        assert (change is not None) == ((still >= 8) != standing)
        standing = still >= 8
        if change:
            assert change.transition.state == ("raised" if standing else "cleared")


@FIXED
@given(COURSE)
def test_a_value_that_stands_still_is_told_in_time_and_never_because_of_a_gap(course: list[tuple[int, float]]) -> None:
    check_flat(lambda rule: FlatEvaluator(rule, JudgeState()), course)


class AcrossGaps(FlatEvaluator):
    """A gap counts whole."""

    def sample(self, metric: str, t_us: int, value: float | None) -> RuleTransition | None:
        if self._anchor is not None:
            self._flat_us += max(0, t_us - self._last_us)
        return super().sample(metric, t_us, value)


class NoTolerance(FlatEvaluator):
    def __init__(self, rule: Flat, state: JudgeState) -> None:
        super().__init__(Flat(metric=rule.metric, after_s=rule.after_s), state)


@pytest.mark.parametrize("bug", [AcrossGaps, NoTolerance])
def test_the_flat_checker_catches(bug: type[FlatEvaluator]) -> None:
    caught(COURSE, lambda course: check_flat(lambda rule: bug(rule, JudgeState()), course))


# -- rates -----------------------------------------------------------------------------------------

CLIMB = st.lists(
    st.tuples(st.sampled_from([0.1, 1, 1, 2, 4, 500, -20]), st.floats(-50, 50, allow_nan=False)), max_size=40
)


def check_rate(make: Callable[[Rate], RateEvaluator], climb: list[tuple[float, float]]) -> None:
    """The change per second since the newest earlier sample that is at least 4 s old, nothing else."""
    one = make(Rate(limits=Limits(metric="m", low=-5, high=5), span_s=4))
    now, past, standing = START, [(0, 0.0)][:0], None
    for step, value in climb:
        now += int(step * S)
        past = [] if past and now < past[-1][0] else past
        old = [(t, v) for t, v in past if now - t >= 4 * S]
        change = one.sample("m", now, value)
        past.append((now, value))
        if not old:
            assert change is None, "judged before the span was filled"
            continue
        rate = (value - old[-1][1]) / (now - old[-1][0]) * S
        seen = "high" if rate > 5 else "low" if rate < -5 else None
        assert (change is not None) == (seen != standing)
        if change:
            assert change.value == rate
            standing = seen if change.transition.state == "raised" else None


@FIXED
@given(CLIMB)
def test_a_rate_is_the_change_over_its_span(climb: list[tuple[float, float]]) -> None:
    check_rate(lambda rule: RateEvaluator(rule, JudgeState()), climb)


class SincePrevious(RateEvaluator):
    """The span is forgotten."""

    def __init__(self, rule: Rate, state: JudgeState) -> None:
        super().__init__(rule, state)
        self._span_us = 1


class BackInTime(RateEvaluator):
    """A clock that stepped back makes no difference."""

    def sample(self, metric: str, t_us: int, value: float | None) -> RuleTransition | None:
        past = self._past.copy()
        self._past.clear()
        self._past.extend((min(t, t_us), v) for t, v in past)
        return super().sample(metric, t_us, value)


@pytest.mark.parametrize("bug", [SincePrevious, BackInTime])
def test_the_rate_checker_catches(bug: type[RateEvaluator]) -> None:
    caught(CLIMB, lambda climb: check_rate(lambda rule: bug(rule, JudgeState()), climb))


def test_a_rate_remembers_little_however_fast_the_samples_come() -> None:
    one = RateEvaluator(Rate(limits=Limits(metric="m", high=5), span_s=60), JudgeState())
    assert list(states(one, [(START + n * 1000, n * 1e-3) for n in range(200_000)])) == []
    assert len(one._past) <= 66


# -- conditions ------------------------------------------------------------------------------------


def both(**more: Any) -> ExpressionEvaluator:
    rule = Expression(metric="cpu.jam", when="cpu.load > 90 and queue.length > 20", **more)
    return ExpressionEvaluator(rule, JudgeState())


def test_a_condition_is_judged_with_each_sample_of_its_metrics() -> None:
    one = both(on_delay_s=5)
    assert one.metrics == {"cpu.load", "queue.length"}
    assert one.sample("cpu.load", START, 95.0) is None
    assert one.sample("queue.length", START + S, 30.0) is None
    change = one.sample("cpu.load", START + 6 * S, 96.0)
    assert change is not None
    assert (change.transition.state, change.transition.kind, change.value) == ("raised", "high", 1.0)
    change = one.sample("queue.length", START + 7 * S, 3.0)
    assert change is not None
    assert change.transition.state == "cleared"


def test_missing_and_stale_inputs_are_no_judgement() -> None:
    one = both(stale_s=10)
    assert one.sample("cpu.load", START, 95.0) is None
    assert one.sample("queue.length", START + 11 * S, 30.0) is None, "the load is too old"
    assert one.sample("cpu.load", START + 12 * S, 95.0) is not None
    assert one.sample("queue.length", START + 30 * S, 3.0) is None, "it stands: nobody knows the load now"
    assert one.sample("cpu.load", START - 3600 * S, 1.0) is None, "and after a step back nobody knows the queue"
    assert one.state.active == "high"


# -- all of them -----------------------------------------------------------------------------------

RULES = (
    Limits(metric="m", low=3, high=7, deadband=1, on_delay_s=4, off_delay_s=6), Rate(
        limits=Limits(metric="m", low=-2, high=2, on_delay_s=4, off_delay_s=6), span_s=4
    ),
    NoData(metric="m", after_s=8), Flat(metric="m", after_s=8, tolerance=0.5),
    Expression(metric="x", when="m > 7 or m < 3", on_delay_s=4, off_delay_s=6),
)  # fmt: skip
HOLD_S = {"": (4, 6), "rate": (4, 6), "no-data": (6, 0), "flat": (6, 0), "expression": (4, 6)}
"""Least time between clear and raise, and between raise and clear. Silence and standing still are counted in four
quarters of 8 s, the first of which may lie before the last change."""
WORLD = st.lists(
    st.tuples(st.sampled_from([1, 1, 2, 3]), st.none() | st.sampled_from([5.0, 5.0, 5.2, 2.0, 9.0, 20.0])), max_size=60
)


def check_hold(rule: Any, make: Callable[[Any], RuleEvaluator[Any]], world: list[tuple[int, float | None]]) -> None:
    """P5: at most one flip in a hold time, on a clock that goes on."""
    one, now, last = make(rule), START, None
    for step, value in world:
        now += step * S
        for change in (None if value is None else one.sample("m", now, value), one.tick(now)):
            if change is None:
                continue
            raised = change.transition.state == "raised"
            if last is not None:
                assert (now - last) >= HOLD_S[one.about][0 if raised else 1] * S, "two flips in one hold time (P5)"
            assert raised == (one.state.active is not None)
            last = now


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_no_kind_flips_twice_in_a_hold_time(rule: Any) -> None:
    @FIXED
    @given(WORLD)
    def run(world: list[tuple[int, float | None]]) -> None:
        check_hold(rule, lambda one: make_evaluator(one, JudgeState()), world)

    run()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_the_hold_checker_catches_one_that_forgets(rule: Any) -> None:
    """The seeded bug: a delay that is not kept."""
    none = JudgeState()
    hasty: dict[type[Any], Callable[[], RuleEvaluator[Any]]] = {
        Limits: lambda: make_evaluator(Limits(metric="m", low=3, high=7), none),
        Rate: lambda: make_evaluator(Rate(limits=Limits(metric="m", low=-2, high=2), span_s=4), none),
        NoData: lambda: make_evaluator(NoData(metric="m", after_s=1), none),
        Flat: lambda: AcrossGaps(Flat(metric="m", after_s=1), none),
        Expression: lambda: make_evaluator(Expression(metric="x", when="m > 7 or m < 3"), none),
    }
    caught(WORLD, lambda world: check_hold(rule, lambda one: hasty[type(one)](), world))


@pytest.mark.parametrize("jump_s", [8 * 3600, -8 * 3600, 365 * 86400], ids=["asleep", "back", "a year"])
def test_a_device_that_slept_or_whose_clock_jumped_raises_nothing(jump_s: int) -> None:
    """Sixty metrics that move in small steps, each watched in every way."""
    watched = [make_evaluator(rule, JudgeState()) for rule in RULES]
    now, told = START, []
    for n in range(120):
        now += S * (jump_s if n == 60 else 1)
        for one in watched:
            told += [one.tick(now), one.sample("m", now, 5.0 + n % 5)]
    assert [change for change in told if change] == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Rate(limits=Limits(metric="m", high=1), span_s=0), lambda: NoData(metric="m", after_s=0.5),
        lambda: NoData(metric="m", after_s=float("nan")), lambda: Flat(metric="m", after_s=5, tolerance=-1),
        lambda: Flat(metric="M", after_s=5), lambda: NoData(metric="m", after_s=5, schedule=("fryday",)),
        lambda: Expression(metric="m", when="a >"), lambda: Expression(metric="m", when="a > 1", stale_s=0),
        lambda: AlarmRules(flat=(Flat(metric="m", after_s=5), Flat(metric="m", after_s=6))),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"m|M"):
        wrong()
