"""Writes from SCADA as decisions: off by default, one at a time, read back, bounded reports; seeded bugs are caught."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edge_agent.sparkplug.core.switches import MAX_S, Switch, is_on
from edge_agent.sparkplug.core.writes import (
    BURST,
    PER_SECOND,
    QUIET_US,
    Effect,
    Flood,
    Outcome,
    Request,
    Start,
    WriteDesk,
    restored_history,
    stored_history,
)
from shared.plant.write_rules import CurrentValue, WriteRule

NOW, BOOT = 1_700_000_000_000_000, 5_000_000_000
S = 1_000_000
RULE = WriteRule(metric="speed", low=0, high=100, per_minute=3, verify_s=10)
GUARDED = WriteRule(metric="mode", allowed=["auto", "manual"], only_while="speed == 0")


def desk(*rules: WriteRule) -> WriteDesk:
    found = rules or (RULE, GUARDED)
    return WriteDesk({rule.metric: rule for rule in found}, {rule.metric for rule in found})


def ask(
    made: WriteDesk, value: object = 50.0, metric: str = "speed", *, enabled: bool = True, at: int = 0, **current: Any
) -> list[Effect]:
    known = {name: CurrentValue(value=found, t_us=NOW + at) for name, found in current.items()}
    return made.request(Request(metric=metric, value=value, source="topic"), enabled, known, NOW + at, BOOT + at)


def states(effects: list[Effect]) -> list[str]:
    return [
        ("quiet" if effect.quiet else effect.code or effect.state)
        if isinstance(effect, Outcome)
        else type(effect).__name__
        for effect in effects
    ]


@pytest.mark.parametrize(
    ("metric", "value", "enabled", "current", "expected"),
    [
        ("speed", 50.0, True, {}, ["started", "Start"]),
        ("speed", 50.0, False, {}, ["disabled"]),
        ("speed", 101.0, True, {}, ["range"]),
        ("speed", None, True, {}, ["type"]),
        ("speed", b"\x01", True, {}, ["type"]),
        ("other", 50.0, True, {}, ["undeclared"]),
        ("mode", "auto", True, {"speed": 0.0}, ["started", "Start"]),
        ("mode", "auto", True, {"speed": 7.0}, ["interlock"]),
        ("mode", "auto", True, {}, ["stale"]),
    ],
)
def test_a_command_is_judged(metric: str, value: object, enabled: bool, current: dict[str, Any], expected: Any) -> None:
    assert states(ask(desk(), value, metric, enabled=enabled, **current)) == expected


def test_a_metric_that_nothing_can_set_is_refused() -> None:
    made = WriteDesk({"speed": RULE}, ())
    assert states(ask(made)) == ["unsupported"]


def test_every_refusal_names_reason_and_cure() -> None:
    (refused,) = ask(desk(), enabled=False)
    assert isinstance(refused, Outcome)
    assert "tidegate-edge write enable speed" in refused.reason


def test_a_write_is_verified_by_a_good_sample_after_it_is_done() -> None:
    made = desk()
    start = ask(made)[1]
    assert isinstance(start, Start)
    assert made.sample("speed", 50.0, True) == []  # from before it was done
    assert made.done("speed", start.number, "", BOOT) == []
    assert made.sample("speed", 49.0, True) == []
    assert made.sample("speed", 50.0, False) == []
    assert made.sample("other", 50.0, True) == []
    assert states(made.sample("speed", 50.0, True)) == ["verified"]
    assert made.sample("speed", 50.0, True) == []


def test_another_write_waits_for_the_outcome() -> None:
    made = desk()
    start = ask(made)[1]
    assert states(ask(made, 60.0)) == ["busy"]
    assert isinstance(start, Start)
    made.done("speed", start.number, "the register is protected", BOOT)
    assert states(ask(made, 60.0)) == ["started", "Start"]


@pytest.mark.parametrize(
    ("reason", "last", "words"),
    [
        ("the register is protected", None, "the register is protected"),
        ("", None, "read back nothing good"),
        ("", 49.0, "read back 49.0"),
        ("", 50.0, ""),
    ],
)
def test_a_write_without_its_value_in_time_has_failed(reason: str, last: float | None, words: str) -> None:
    made = desk()
    start = ask(made)[1]
    assert isinstance(start, Start)
    effects = made.done("speed", start.number, reason, BOOT)
    current = {} if last is None else {"speed": CurrentValue(value=last, t_us=NOW)}
    effects += made.tick(current, BOOT + 9 * S) + made.tick(current, BOOT + 11 * S)
    (outcome,) = effects
    assert isinstance(outcome, Outcome)
    assert outcome.state == ("failed" if words else "verified")
    assert words in outcome.reason


def test_a_source_that_never_answers_fails_the_write_and_its_late_answer_is_ignored() -> None:
    made = desk()
    start = ask(made)[1]
    assert isinstance(start, Start)
    (outcome,) = made.tick({}, BOOT + 11 * S)
    assert isinstance(outcome, Outcome)
    assert "may still happen" in outcome.reason
    assert made.done("speed", start.number, "", BOOT + 12 * S) == []
    again = ask(made, 60.0)[1]
    assert made.done("speed", start.number, "late", BOOT + 13 * S) == []  # not of this write
    assert isinstance(again, Start)
    assert list(made.under_way) == ["speed"]


def test_the_rate_holds_over_a_restart_and_a_clock_that_was_set() -> None:
    made = desk(WriteRule(metric="speed", low=0, high=100, min_interval_s=600))
    ask(made)
    stored = stored_history(made.history, NOW, BOOT)
    for clock_error in (-3600 * S, 0, 3600 * S):
        again = desk(WriteRule(metric="speed", low=0, high=100, min_interval_s=600))
        again.history.update(restored_history(stored, NOW + 60 * S + clock_error, 7 * S))
        at = 60 * S + clock_error
        answer = again.request(Request(metric="speed", value=1.0, source=""), True, {}, NOW + at, 7 * S)
        assert states(answer) == (["rate"] if clock_error <= 0 else ["started", "Start"])
    later = restored_history(stored, NOW - 3600 * S, 7 * S)["speed"]
    assert later == deque([7 * S])  # from the future: counts as now, not as never


# -- reports -------------------------------------------------------------------------------------------


def test_equal_refusals_are_reported_once_and_then_counted() -> None:
    made = desk()
    reports = [states(ask(made, enabled=False, at=number * S)) for number in range(10)]
    assert reports == [["disabled"], *[["quiet"]] * 9]
    assert states(ask(made, 101.0, at=10 * S)) == ["range"]  # another kind
    (summary,) = made.tick({}, BOOT + QUIET_US)
    assert isinstance(summary, Outcome)
    assert (summary.repeated, summary.code) == (9, "disabled")
    assert states(ask(made, enabled=False, at=QUIET_US + S)) == ["disabled"]


def test_a_flood_is_bounded_and_reported_once() -> None:
    made = desk()
    effects = [effect for number in range(5000) for effect in ask(made, 101.0, at=number * 1000)]
    assert [state for state in states(effects) if state != "quiet"] == ["range", "Flood"]
    over = made.tick({}, BOOT + 5 * S + 2 * QUIET_US)
    (flood,) = [effect for effect in over if isinstance(effect, Flood)]
    assert flood.dropped == 5000 - BURST - (5 * PER_SECOND - 1)
    assert states(ask(made, at=3 * QUIET_US)) == ["started", "Start"]


# -- a world -------------------------------------------------------------------------------------------

WORLD_RULE = WriteRule(metric="speed", low=0, high=100, per_minute=2, verify_s=10)
steps = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "done", "fail", "sample", "tick"]),
        st.sampled_from([50.0, 50.0, 50.0, 0.0, 101.0, "auto", True, None]),
        st.sampled_from([True, True, True, False]),
        st.sampled_from([0, S // 10, 15 * S]),
    ),
    min_size=20,
    max_size=40,
)


def live(made: WriteDesk, life: list[tuple[str, Any, bool, int]]) -> None:
    """Each started write has one outcome; only enabled values within the rule are started, at most 2 a minute."""
    at, under_way, begun = 0, 0, list[int]()
    number, written = 0, None
    for act, value, flag, wait in life:
        at += wait
        if act == "ask":
            effects = ask(made, value, enabled=flag, at=at)
        elif act in {"done", "fail"}:
            effects = made.done("speed", number, "" if act == "done" else "broken", BOOT + at)
        elif act == "sample":
            effects = made.sample("speed", value, flag)
        else:
            effects = made.tick({}, BOOT + at)
        for effect in effects:
            if isinstance(effect, Start):
                assert act == "ask"
                assert flag
                assert effect.value in (0.0, 50.0)
                assert not isinstance(effect.value, bool)
                begun.append(at)
                under_way, number, written = under_way + 1, effect.number, effect.value
                assert sum(start > at - 60 * S for start in begun) <= 2
            elif isinstance(effect, Outcome) and effect.state in {"verified", "failed"}:
                under_way -= 1
                if effect.state == "verified":
                    assert act == "sample"
                    assert flag
                    assert value == written
            assert 0 <= under_way <= 1
    ends = [effect for effect in made.tick({}, BOOT + at + 60 * S) if isinstance(effect, Outcome)]
    assert sum(outcome.state == "failed" for outcome in ends) == under_way


@settings(max_examples=50)
@given(life=steps)
def test_in_any_order_of_events_each_write_has_one_outcome(life: list[tuple[str, Any, bool, int]]) -> None:
    live(desk(WORLD_RULE), life)


class ForgetsSwitch(WriteDesk):
    def judge(self, metric: str, value: object, enabled: bool, current: Any, now_us: int, boot_us: int) -> Any:
        return super().judge(metric, value, True, current, now_us, boot_us)


class ForgetsHistory(WriteDesk):
    def judge(self, metric: str, value: object, enabled: bool, current: Any, now_us: int, boot_us: int) -> Any:
        self.history.clear()
        return super().judge(metric, value, enabled, current, now_us, boot_us)


class BelievesEverySample(WriteDesk):
    def sample(self, metric: str, value: Any, good: bool) -> list[Effect]:
        return super().sample(metric, value, True)


class NeverGivesUp(WriteDesk):
    def tick(self, current: Any, boot_us: int) -> list[Effect]:
        return []


@pytest.mark.parametrize("bug", [ForgetsSwitch, ForgetsHistory, BelievesEverySample, NeverGivesUp])
def test_a_seeded_bug_is_found(bug: type[WriteDesk]) -> None:
    @settings(max_examples=1000, database=None, phases=[Phase.generate])
    @given(life=steps)
    def world(life: list[tuple[str, Any, bool, int]]) -> None:
        live(bug({"speed": WORLD_RULE}, {"speed"}), life)

    with pytest.raises(AssertionError):
        world()


# -- switches ------------------------------------------------------------------------------------------

SWITCH = Switch(metric="speed", since_us=NOW, until_us=NOW + 600 * S, boot_id="a", boot_s=100.0)


@pytest.mark.parametrize(
    ("now", "boot", "boot_s", "expected"),
    [
        (NOW, "a", 100.0, True),
        (NOW + 599 * S, "a", 699.0, True),
        (NOW + 600 * S, "a", 699.0, False),
        (NOW + 10 * S, "a", 700.0, False),  # the clock was set back
        (NOW - S, "a", 130.0, False),  # before it began
        (NOW + 10 * S, "a", 99.0, False),
        (NOW + 599 * S, "b", 3.0, True),  # after a restart of the machine
        (NOW + 600 * S, "b", 3.0, False),
        (NOW - 10**15, "b", 3.0, False),  # a machine without a battery begins in 1970
    ],
)
def test_a_switch_ends_by_both_clocks(now: int, boot: str, boot_s: float, expected: bool) -> None:
    assert is_on(SWITCH, now, boot, boot_s) is expected


def test_a_switch_that_is_missing_or_too_long_is_off() -> None:
    endless = Switch(metric="speed", since_us=0, until_us=NOW + int(MAX_S * 1e6), boot_id="b", boot_s=0.0)
    assert not is_on(None, NOW, "a", 100.0)
    assert not is_on(endless, NOW, "a", 100.0)
