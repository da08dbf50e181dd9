"""Rules for writes to plant equipment: only what a rule allows is allowed; seeded bugs are caught."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from shared.plant import write_rules
from shared.plant.write_rules import Allowed, CurrentValue, Refused, WriteRule, is_verified, judge_write, needed_metrics

NOW = 1_700_000_000_000_000
SPEED = WriteRule(metric="line.speed", low=0, high=100)
Judge = Callable[[WriteRule, object, Mapping[str, CurrentValue], Iterable[int], int], Allowed | Refused]


def rule(**options: Any) -> WriteRule:
    return WriteRule(**({"metric": "line.speed", "low": 0, "high": 100} | options))


def value(number: Any, age_s: float = 0.0, *, good: bool = True) -> CurrentValue:
    return CurrentValue(value=number, t_us=NOW - int(age_s * 1e6), good=good)


def code(answer: Allowed | Refused) -> str:
    return answer.code if isinstance(answer, Refused) else ""


# -- the table -----------------------------------------------------------------------------------------

LISTED = WriteRule(metric="line.mode", allowed=["auto", "manual"])
COIL = WriteRule(metric="pump.run", allowed=[True, False])
STOPPED = rule(only_while="line.running == 0")


@pytest.mark.parametrize(
    ("chosen", "wanted", "current", "history", "expected"),
    [
        (SPEED, 50, {}, [], ""),
        (SPEED, 100.0, {}, [], ""),
        (SPEED, 100.1, {}, [], "range"),
        (SPEED, -1, {}, [], "range"),
        (SPEED, math.nan, {}, [], "type"),
        (SPEED, math.inf, {}, [], "type"),
        (SPEED, 10**400, {}, [], "range"),
        pytest.param(SPEED, 10**5000, {}, [], "range", id="5000 digits"),
        (SPEED, True, {}, [], "type"),
        (SPEED, "50", {}, [], "type"),
        (SPEED, None, {}, [], "type"),
        (SPEED, [50], {}, [], "type"),
        (LISTED, "manual", {}, [], ""),
        (LISTED, "off", {}, [], "allowed"),
        (COIL, True, {}, [], ""),
        (COIL, 1, {}, [], "type"),
        (rule(max_step=5), 14, {"line.speed": value(10)}, [], ""),
        (rule(max_step=5), 16, {"line.speed": value(10)}, [], "step"),
        (rule(max_step=5), 14, {}, [], "stale"),
        (rule(max_step=5), 14, {"line.speed": value(10, age_s=11)}, [], "stale"),
        (rule(max_step=5), 14, {"line.speed": value(10, age_s=-11)}, [], "stale"),
        (rule(max_step=5), 14, {"line.speed": value(10, good=False)}, [], "stale"),
        (rule(max_step=5), 14, {"line.speed": value("ten")}, [], "stale"),
        (STOPPED, 50, {"line.running": value(0)}, [], ""),
        (STOPPED, 50, {"line.running": value(False)}, [], ""),
        (STOPPED, 50, {"line.running": value(1)}, [], "interlock"),
        (STOPPED, 50, {"line.running": value(None)}, [], "stale"),
        (STOPPED, 50, {}, [], "stale"),
        (rule(only_while="a / b > 1"), 50, {"a": value(1), "b": value(0)}, [], "interlock"),
        (rule(per_minute=2), 50, {}, [NOW - 1, NOW - 59_000_000], "rate"),
        (rule(per_minute=2), 50, {}, [NOW - 1, NOW - 61_000_000], ""),
        (rule(per_minute=1), 50, {}, [NOW + 3_600_000_000], "rate"),
        (rule(min_interval_s=300), 50, {}, [NOW - 299_000_000], "rate"),
        (rule(min_interval_s=300), 50, {}, [NOW - 301_000_000], ""),
    ],
)
def test_a_write_is_judged_by_each_part_of_its_rule(
    chosen: WriteRule, wanted: object, current: dict[str, CurrentValue], history: list[int], expected: str
) -> None:
    answer = judge_write(chosen, wanted, current, history, NOW)
    assert code(answer) == expected
    assert isinstance(answer, Allowed) or (answer.reason and answer.cure)


@pytest.mark.parametrize(("wanted", "written"), [(0.10000000149011612, 0.1), (99.99999, 99.99999)])
def test_a_32_bit_float_of_a_bound_is_the_bound(wanted: float, written: float) -> None:
    assert judge_write(WriteRule(metric="a", low=0, high=0.1), 0.10000000149011612, {}, [], NOW) == Allowed(0.1)
    assert judge_write(SPEED, written, {}, [], NOW) == Allowed(written)
    assert judge_write(WriteRule(metric="a", allowed=[0.1, written]), wanted, {}, [], NOW) == Allowed(written)


@pytest.mark.parametrize("wanted", [1_000_001, 1_000_002.0, 9_000_003])
def test_of_whole_numbers_that_are_alike_the_wanted_one_is_written(wanted: float) -> None:
    recipes = WriteRule(metric="a", allowed=[1_000_001, 1_000_002, 1_000_003, 9_000_002, 9_000_003])
    assert judge_write(recipes, wanted, {}, [], NOW) == Allowed(wanted)
    assert judge_write(WriteRule(metric="a", low=0, high=wanted), wanted, {}, [], NOW) == Allowed(wanted)


def test_a_whole_number_that_only_resembles_an_allowed_one_or_a_bound_is_refused() -> None:
    assert isinstance(judge_write(WriteRule(metric="a", allowed=[1_000_001]), 1_000_002, {}, [], NOW), Refused)
    assert isinstance(judge_write(WriteRule(metric="a", low=0, high=1_000_001), 1_000_002, {}, [], NOW), Refused)


@pytest.mark.parametrize(("written", "read", "expected"), [
    (1_000_001, 1_000_000, False), (1_000_001.0, 1_000_002.0, False), (1_000_001, 1_000_001.0, True),
    (16_777_217, 16_777_216.0, True), (1e300, 1e300, True),
])  # fmt: skip
def test_a_whole_number_is_verified_by_itself_alone(written: float, read: float, expected: bool) -> None:
    assert is_verified(WriteRule(metric="a", low=0, high=1e300), written, read) is expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"low": None, "high": None}, "needs both low and high"),
        ({"high": None}, "needs both low and high"),
        ({"low": 5, "high": 1}, "low first"),
        ({"high": math.inf}, "finite"),
        ({"max_step": 0}, "max_step"),
        ({"allowed": ["a"]}, "are for numbers"),
        ({"low": None, "high": None, "allowed": ["a", 1.0]}, "one type"),
        ({"low": None, "high": None, "allowed": [math.nan]}, "finite"),
        ({"per_minute": 0}, "per_minute"),
        ({"max_age_s": math.nan}, "max_age_s"),
        ({"only_while": "line.running"}, "compare it"),
        ({"metric": "Line/Speed"}, "metric name"),
    ],
)
def test_a_rule_that_bounds_nothing_or_contradicts_itself_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rule(**options)


def test_a_rule_is_read_from_toml_with_its_types() -> None:
    text = b'metric = "pump.run"\nallowed = [true, false]\nonly_while = "level > 20"'
    read = msgspec.toml.decode(text, type=WriteRule)
    assert (read.kind, read.allowed, needed_metrics(read)) == ("boolean", [True, False], {"level"})
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.toml.decode(text + b"\nlowest = 1", type=WriteRule)


@pytest.mark.parametrize(
    ("written", "read", "expected"),
    [
        (50.0, 50.0, True), (0.1, 0.10000000149011612, True), (50.0, 50.4, False), (50.0, None, False),
        (True, 1.0, True), (True, 0.0, False), ("auto", "auto", True), ("1", 1.0, False), (1.0, "1", False),
    ],
)  # fmt: skip
def test_a_value_is_verified_when_the_same_one_is_read_back(written: Any, read: Any, expected: bool) -> None:
    assert is_verified(SPEED, written, read) is expected
    assert is_verified(rule(tolerance=0.5), 50.0, 50.4)


# -- properties ----------------------------------------------------------------------------------------

numbers = st.floats(allow_nan=True, allow_infinity=True) | st.integers() | st.sampled_from([0, 20, 50, 99.5, 100, 101])
values = numbers | st.booleans() | st.text(max_size=5) | st.none()
current_values = st.builds(
    CurrentValue, value=values, t_us=st.integers(-30_000_000, 30_000_000).map(NOW.__add__), good=st.booleans()
)
worlds = st.fixed_dictionaries({}, optional={"line.speed": current_values, "line.running": current_values})
histories = st.lists(st.integers(-120_000_000, 10_000_000).map(NOW.__add__), max_size=8)
rules = st.builds(
    rule, max_step=st.none() | st.sampled_from([1.0, 30.0]), per_minute=st.integers(1, 4),
    min_interval_s=st.sampled_from([0.0, 30.0]), only_while=st.sampled_from(["", "line.running == 0"]),
)  # fmt: skip


def _trusted(found: CurrentValue | None) -> bool:
    return (
        found is not None and found.good and abs(NOW - found.t_us) <= 10_000_000
        and not isinstance(found.value, (str, type(None))) and math.isfinite(found.value)
    )  # fmt: skip


def check_allowed(
    judge: Judge, chosen: WriteRule, wanted: Any, world: dict[str, CurrentValue], past: list[int]
) -> None:
    """What is allowed is inside the bounds, near the present value, seldom enough, and its interlock holds."""
    answer = judge(chosen, wanted, world, past, NOW)
    if isinstance(answer, Refused):
        return
    assert isinstance(answer.value, (int, float))
    assert not isinstance(answer.value, bool)
    assert 0 <= answer.value <= 100
    assert sum(t_us > NOW - 60_000_000 for t_us in past) < chosen.per_minute
    if chosen.min_interval_s:
        assert not any(t_us > NOW - chosen.min_interval_s * 1e6 for t_us in past)
    if chosen.max_step is not None:
        assert _trusted(world.get("line.speed"))
        assert abs(answer.value - world["line.speed"].value) <= chosen.max_step * 1.001
    if chosen.only_while:
        assert _trusted(world.get("line.running"))
        assert world["line.running"].value == 0


@settings(max_examples=300)
@given(chosen=rules, wanted=values, world=worlds, past=histories)
def test_nothing_outside_the_rule_is_allowed(
    chosen: WriteRule, wanted: Any, world: dict[str, CurrentValue], past: list[int]
) -> None:
    check_allowed(judge_write, chosen, wanted, world, past)


def fresh(found: CurrentValue) -> CurrentValue:
    return CurrentValue(value=found.value, t_us=NOW, good=True)


def trusts_stale(chosen: WriteRule, wanted: object, world: Any, past: Any, now: int) -> Allowed | Refused:
    return judge_write(chosen, wanted, {name: fresh(found) for name, found in world.items()}, past, now)


def forgets_future(chosen: WriteRule, wanted: object, world: Any, past: Any, now: int) -> Allowed | Refused:
    return judge_write(chosen, wanted, world, [t_us for t_us in past if t_us <= now], now)


def no_interlock(chosen: WriteRule, wanted: object, world: Any, past: Any, now: int) -> Allowed | Refused:
    return judge_write(msgspec.structs.replace(chosen, only_while=""), wanted, world, past, now)


def truth_is_one(chosen: WriteRule, wanted: object, world: Any, past: Any, now: int) -> Allowed | Refused:
    answer = judge_write(chosen, int(wanted) if isinstance(wanted, bool) else wanted, world, past, now)
    return Allowed(wanted) if isinstance(answer, Allowed) and isinstance(wanted, bool) else answer


@pytest.mark.parametrize("bug", [trusts_stale, forgets_future, no_interlock, truth_is_one])
def test_a_seeded_bug_is_found(bug: Judge) -> None:
    @settings(max_examples=3000, database=None, phases=[Phase.generate])
    @given(chosen=rules, wanted=values, world=worlds, past=histories)
    def world(chosen: WriteRule, wanted: Any, world: dict[str, CurrentValue], past: list[int]) -> None:
        check_allowed(bug, chosen, wanted, world, past)

    with pytest.raises(AssertionError):
        world()


@given(wanted=values)
def test_every_refusal_can_be_shown(wanted: Any) -> None:
    answer = write_rules.judge_write(LISTED, wanted, {}, [], NOW)
    assert isinstance(answer, Allowed) or len(str(answer)) < 300
