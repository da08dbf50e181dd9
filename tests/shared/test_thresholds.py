"""The one judge and the limits it judges by, as properties; each property is shown to catch a seeded bug."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from shared.durations import DAY_US, WEEK_US
from shared.thresholds import JudgeState, Limits, Transition, judge, refusal

S = 1_000_000
Judged: TypeAlias = tuple[JudgeState, Transition | None]
Judge: TypeAlias = Callable[[Limits, JudgeState, int, float | None], Judged]
Trace: TypeAlias = tuple[Limits, list[tuple[int, float | None]]]
FIXED = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def caught(strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """`check` must fail on some example of `strategy`."""

    @settings(FIXED, max_examples=2000, phases=[Phase.generate], report_multiple_bugs=False)
    @given(strategy)
    def run(example: Any) -> None:
        check(example)

    with pytest.raises(AssertionError):
        run()


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    limits = Limits(
        metric="m",
        low=draw(st.sampled_from([None, 3.0])),
        high=7.0,
        deadband=draw(st.sampled_from([0.0, 1.0, 1.5])),
        on_delay_s=draw(st.sampled_from([0.0, 10.0, 25.0])),
        off_delay_s=draw(st.sampled_from([0.0, 10.0, 25.0])),
    )
    value = st.one_of(
        st.integers(0, 10).map(float),
        st.sampled_from([6.0, 8.0, 8.0, 8.0]),
        st.sampled_from([None, math.nan, math.inf, -math.inf]),
    )
    steps = draw(st.lists(st.tuples(st.sampled_from([0, 1, 5, 10, 20]), value), min_size=5, max_size=40))
    now, samples = 1000 * S, []
    for step, v in steps:
        now += step * S
        samples.append((now, v))
    return limits, samples


# -- the checker: what must hold of any judge --------------------------------------------------------


def side(limits: Limits, value: float, standing: str | None) -> str | None:
    """Written anew from the words: beyond a limit, or not yet back beyond its deadband."""
    band = limits.deadband
    if limits.high is not None and (value > limits.high or (standing == "high" and value > limits.high - band)):
        return "high"
    if limits.low is not None and (value < limits.low or (standing == "low" and value < limits.low + band)):
        return "low"
    return None


def check_judge(judge: Judge, trace: Trace) -> None:
    limits, samples = trace
    state, standing, since, run, last = JudgeState(), None, 0, None, None
    for t, value in samples:
        before = state
        state, change = judge(limits, state, t, value)
        if value is None or not math.isfinite(value):
            assert (state, change) == (before, None), "a missing value changed something"
            continue
        seen = side(limits, value, standing)
        if run != seen if standing is None else run == standing:
            since = t  # a fresh run of samples that would raise, or that would clear
        run = seen
        if seen == standing:
            assert change is None, "a transition without a reason"
            assert state.active == standing
            continue
        delay = (limits.on_delay_s if standing is None else limits.off_delay_s) * S
        assert (change is not None) == (t - since >= delay), "a delay is not kept"
        if change is None:
            assert state.active == standing
            continue
        if standing is None:
            assert (change.state, change.kind) == ("raised", seen)
            assert change.limit == (limits.high if seen == "high" else limits.low)
        else:
            assert (change.state, change.kind) == ("cleared", standing), "alarms end as they began"
        if last is not None:
            assert t - last >= delay, "two transitions in one hold time (P5)"
        standing, last = (seen if standing is None else None), t
        run = standing
        assert state.active == standing


@FIXED
@given(traces())
def test_judge(trace: Trace) -> None:
    check_judge(judge, trace)


# -- seeded bugs -------------------------------------------------------------------------------------


def with_limits(**changes: Any) -> Judge:
    return lambda limits, state, t, value: judge(replace(limits, **changes), state, t, value)


def missing_is_zero(limits: Limits, state: JudgeState, t: int, value: float | None) -> Judged:
    return judge(limits, state, t, 0.0 if value is None else value)


def nan_is_inside(limits: Limits, state: JudgeState, t: int, value: float | None) -> Judged:
    return judge(limits, state, t, 5.0 if value is not None and math.isnan(value) else value)


def crossing_at_the_limit(limits: Limits, state: JudgeState, t: int, value: float | None) -> Judged:
    return judge(limits, state, t, math.nextafter(7.0, 8.0) if value == 7.0 else value)


def interruption_forgiven(limits: Limits, state: JudgeState, t: int, value: float | None) -> Judged:
    new, change = judge(limits, state, t, value)
    return (state if change is None and state.since_us and not new.since_us else new), change


def straight_from_high_to_low(limits: Limits, state: JudgeState, t: int, value: float | None) -> Judged:
    new, change = judge(limits, state, t, value)
    if change and change.state == "cleared" and new.active is None and value is not None and value < 3:
        return JudgeState(active="low"), change
    return new, change


def clears_what_it_likes(limits: Limits, state: JudgeState, t: int, value: float | None) -> Judged:
    new, change = judge(limits, state, t, value)
    return new, change and replace(change, kind="low")


BUGS: list[Judge] = [
    with_limits(on_delay_s=0.0), with_limits(off_delay_s=0.0), with_limits(deadband=0.0), missing_is_zero,
    nan_is_inside, crossing_at_the_limit, interruption_forgiven, straight_from_high_to_low, clears_what_it_likes,
]  # fmt: skip


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_the_checker_catches(bug: Judge) -> None:
    caught(traces(), lambda trace: check_judge(bug, trace))


def test_a_clock_that_steps_back_does_not_hold_an_alarm_up() -> None:
    limits = Limits(metric="m", high=7, on_delay_s=10)
    state, _ = judge(limits, JudgeState(), 5000 * S, 9.0)
    state, change = judge(limits, state, 1000 * S, 9.0)
    assert change is None
    _, change = judge(limits, state, 1010 * S, 9.0)
    assert change == Transition(state="raised", kind="high", limit=7)


# -- P4: what limits may not be ----------------------------------------------------------------------

WRONG: list[dict[str, Any]] = [
    {"high": math.nan}, {"low": math.inf}, {"high": -math.inf}, {"highs": (1.0, math.nan)}, {"low": 5, "high": 5},
    {"low": 6, "high": 5}, {"lows": (1.0, 9.0), "highs": (5.0, 5.0)}, {"low": 3, "highs": (5.0, 2.0)}, {},
    {"lows": (1.0,), "highs": (2.0, 3.0)}, {"high": 5, "deadband": -1}, {"high": 5, "deadband": math.nan},
    {"high": 5, "on_delay_s": -1}, {"high": 5, "off_delay_s": math.inf}, {"high": 5, "metric": "no name!"},
]  # fmt: skip


def check_refuses(make: Callable[..., object], wrong: dict[str, Any]) -> None:
    try:
        make(**({"metric": "m"} | wrong))
    except ValueError:
        return
    raise AssertionError(f"{wrong} got through")


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_limits_are_refused(wrong: dict[str, Any]) -> None:
    check_refuses(Limits, wrong)
    with pytest.raises(AssertionError):  # the seeded bug: a copy that checks nothing
        check_refuses(lambda **fields: fields, wrong)


# -- P3: the hub never widens the site's own limits ---------------------------------------------------


@st.composite
def bounds(draw: st.DrawFn) -> Limits:
    low, high = st.integers(0, 4).map(float), st.integers(5, 9).map(float)
    cycle, slots = draw(st.sampled_from([("day", 1), ("day", 2), ("day", 3), ("day", 24), ("week", 7), ("week", 168)]))
    schedule = draw(st.sampled_from([(), (), ("mon-fri 06:00-22:00",), ("sat,sun",)]))
    fields: dict[str, Any] = {
        "cycle": cycle,
        "schedule": schedule,
        "low": draw(st.none() | low),
        "high": draw(st.none() | high),
    }
    if draw(st.booleans()):
        fields["highs"] = tuple(draw(st.lists(high, min_size=slots, max_size=slots)))
    if draw(st.booleans()):
        fields["lows"] = tuple(draw(st.lists(low, min_size=slots, max_size=slots)))
    if not fields.keys() & {"lows", "highs"} and fields["low"] is None and fields["high"] is None:
        fields["high"] = 9.0
    return Limits(metric="m", **fields)


PAIRS = st.tuples(bounds(), bounds(), st.lists(st.integers(0, WEEK_US - 1), min_size=20, max_size=20))


def check_refusal(refusal: Callable[[Limits, Limits], str], pair: tuple[Limits, Limits, list[int]]) -> None:
    """Let in exactly those limits that are nowhere wider than the site's."""
    limits, site, times = pair
    wider = False
    for t in [hour * DAY_US // 24 for hour in range(168)] + times:
        (low, high), (least, most) = limits.at(t), site.at(t)
        wider |= most is not None and (high is None or high > most)
        wider |= least is not None and (low is None or low < least)
    assert bool(refusal(limits, site)) == wider


@FIXED
@given(PAIRS)
def test_site_limits_are_never_widened(pair: tuple[Limits, Limits, list[int]]) -> None:
    check_refusal(refusal, pair)
    assert refusal(pair[0], None) == ""


def deaf_to_slots(limits: Limits, site: Limits) -> str:
    return refusal(limits, None if site.high is None and site.low is None else replace(site, lows=(), highs=()))


def absent_is_fine(limits: Limits, site: Limits) -> str:
    return refusal(limits, site) if limits.high is not None or limits.highs else ""


def deaf_to_the_week(limits: Limits, site: Limits) -> str:
    return refusal(replace(limits, cycle="day"), replace(site, cycle="day"))


def deaf_to_schedules(limits: Limits, site: Limits) -> str:
    return refusal(replace(limits, schedule=()), site)


@pytest.mark.parametrize(
    "bug",
    [
        lambda limits, site: "", lambda limits, site: "no", deaf_to_slots, absent_is_fine, deaf_to_the_week,
        deaf_to_schedules,
    ],
)  # fmt: skip
def test_the_refusal_checker_catches(bug: Callable[[Limits, Limits], str]) -> None:
    caught(PAIRS, lambda pair: check_refusal(bug, pair))


@given(st.integers(0, 10**18), st.sampled_from([1, 3, 7, 24, 168]), st.sampled_from(["day", "week"]))
@FIXED
def test_a_slot_begins_where_starts_says(t_us: int, slots: int, cycle: Any) -> None:
    limits = Limits(metric="m", highs=tuple(float(i) for i in range(slots)), cycle=cycle)
    index = sum(start <= (t_us - 4 * DAY_US) % limits.cycle_us for start in limits.starts()) - 1
    assert limits.at(t_us) == (None, float(index))
