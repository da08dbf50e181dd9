"""The judge over arrays says bit for bit what the scalar judge says; the comparison is shown to catch seeded bugs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cloud_hub.thresholds.backtest.core import vectorized_judge
from cloud_hub.thresholds.backtest.core.vectorized_judge import Step, VectorizedJudge, judge_history
from shared.thresholds import JudgeState, Limits, judge

S = 1_000_000
START = 1_800_000_000 * S
FIXED = settings(max_examples=300, deadline=None, derandomize=True, database=None)
VALUES = st.sampled_from(
    [0.0, 3.0, 3.5, 4.0, 5.0, 6.0, 6.5, 7.0, math.nextafter(7.0, 8.0), 8.0, 1e308]
) | st.sampled_from([math.nan, math.inf, -math.inf])
STEPS = st.sampled_from([0, 1, 5, 10, 10, 3600, 86_400, -30, -100_000])


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    cycle, slots = draw(st.sampled_from([("day", 1), ("day", 24), ("week", 7), ("week", 168)]))
    fields: dict[str, Any] = {"low": draw(st.sampled_from([None, 3.0])), "high": 7.0}
    if slots > 1:
        fields["highs"] = tuple(draw(st.sampled_from([6.0, 6.5, 7.0])) for _ in range(slots))
    if slots > 1 and draw(st.booleans()):
        fields["lows"] = tuple(draw(st.sampled_from([3.0, 3.5])) for _ in range(slots))
    return Limits(
        metric="m", cycle=cycle, **fields, deadband=draw(st.sampled_from([0.0, 0.5, 1.0, 10.0])),
        on_delay_s=draw(st.sampled_from([0.0, 10.0, 25.0])), off_delay_s=draw(st.sampled_from([0.0, 10.0, 25.0])),
        schedule=draw(st.sampled_from([(), (), ("mon-fri",), ("mon-sun 06:00-22:00",), ("sat 22:00-06:00", "sun")])),
    )  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> tuple[Limits, list[int], list[float]]:
    """Samples in any order of time: gaps, double timestamps, and clocks that step back."""
    times, now = [], START
    values = draw(st.lists(VALUES, max_size=60))
    for _ in values:
        now += draw(STEPS) * S
        times.append(now)
    return draw(limits()), times, values


def by_the_judge(
    rule: Limits, times: list[int], values: list[float], state: JudgeState
) -> tuple[JudgeState, list[Step]]:
    found = []
    for n, (t_us, value) in enumerate(zip(times, values, strict=True)):
        state, change = judge(rule, state, t_us, value)
        if change:
            found.append((n, change))
    return state, found


def check_history(asked: Callable[..., Any], example: tuple[Limits, list[int], list[float]]) -> None:
    rule, times, values = example
    wanted, steps = by_the_judge(rule, times, values, JudgeState())
    assert asked(rule, np.array(times, np.int64), np.array(values)) == (wanted, steps)


def caught(strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    @settings(FIXED, max_examples=3000, phases=[Phase.generate], report_multiple_bugs=False)
    @given(strategy)
    def run(example: Any) -> None:
        check(example)

    with pytest.raises(AssertionError):
        run()


@FIXED
@given(histories())
def test_a_history_is_judged_as_by_the_judge(example: tuple[Limits, list[int], list[float]]) -> None:
    check_history(judge_history, example)


@FIXED
@given(histories(), st.integers(0, 60))
def test_a_history_goes_on_from_where_it_was_left(example: tuple[Limits, list[int], list[float]], cut: int) -> None:
    rule, times, values = example
    state, first = judge_history(rule, np.array(times[:cut], np.int64), np.array(values[:cut]))
    state, rest = judge_history(rule, np.array(times[cut:], np.int64), np.array(values[cut:]), state)
    whole = [*first, *((n + min(cut, len(times)), change) for n, change in rest)]
    assert (state, whole) == by_the_judge(rule, times, values, JudgeState())


def no_deadband(rule: Limits, times: Any, values: Any) -> Any:
    return judge_history(replace(rule, deadband=0.0), times, values)


def at_the_limit(rule: Limits, times: Any, values: Any) -> Any:
    return judge_history(rule, times, np.where(values == 7.0, math.nextafter(7.0, 8.0), values))


def days_of_a_week(rule: Limits, times: Any, values: Any) -> Any:
    return judge_history(replace(rule, cycle="day"), times, values)


def always_in_force(rule: Limits, times: Any, values: Any) -> Any:
    return judge_history(replace(rule, schedule=()), times, values)


def half_as_exact(rule: Limits, times: Any, values: Any) -> Any:
    return judge_history(rule, times, values.astype(np.float32).astype(float))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("bug", [no_deadband, at_the_limit, days_of_a_week, always_in_force, half_as_exact])
def test_the_comparison_catches(bug: Callable[..., Any]) -> None:
    caught(histories(), lambda example: check_history(bug, example))


def test_the_judge_is_asked_only_where_something_can_change(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def spy(rule: Limits, state: JudgeState, t_us: int, value: float | None) -> Any:
        asked.append(t_us)
        return judge(rule, state, t_us, value)

    monkeypatch.setattr(vectorized_judge, "judge", spy)
    values = np.full(100_000, 5.0)
    values[40_000:40_100] = 9.0
    times = START + np.arange(100_000) * S
    state, steps = judge_history(Limits(metric="m", high=7, on_delay_s=3, off_delay_s=2), times, values)
    assert [n for n, _ in steps] == [40_003, 40_102]
    assert state == JudgeState()
    assert len(asked) < 10


# -- many series ---------------------------------------------------------------------------------------


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[Limits], list[list[int]], list[list[float]]]:
    rules = draw(st.lists(limits(), min_size=1, max_size=5))
    now = [START] * len(rules)
    times, values = [], []
    for _ in range(draw(st.integers(0, 30))):
        now = [t_us + draw(STEPS) * S for t_us in now]
        times.append(now)
        values.append([draw(VALUES) for _ in rules])
    return rules, times, values


def check_fleet(make: Callable[[list[Limits]], VectorizedJudge], example: Any) -> None:
    rules, times, values = example
    judged, states = make(rules), [JudgeState()] * len(rules)
    for now, row in zip(times, values, strict=True):
        wanted = []
        for n, rule in enumerate(rules):
            states[n], change = judge(rule, states[n], now[n], row[n])
            if change:
                wanted.append((n, change))
        assert judged.step(np.array(now, np.int64), np.array(row)) == wanted
        assert judged.states == states


@FIXED
@given(fleets())
def test_many_series_are_judged_as_each_alone(example: Any) -> None:
    check_fleet(VectorizedJudge, example)


class Forgetful(VectorizedJudge):
    """Does not go on with a delay that runs."""

    def step(self, t_us: Any, values: Any) -> list[Step]:
        self._busy[:] = False
        return super().step(t_us, values)


def shifted(rules: list[Limits]) -> VectorizedJudge:
    return VectorizedJudge([replace(rule, highs=rule.highs[1:] + rule.highs[:1]) for rule in rules])


@pytest.mark.parametrize("bug", [Forgetful, shifted])
def test_the_comparison_of_many_catches(bug: Any) -> None:
    caught(fleets(), lambda example: check_fleet(bug, example))
