"""Which series an expression compares with a number; runs, pages and episodes, each counted alike for both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.prometheus.core import promql
from cloud_hub.prometheus.core.series import Rule, Series
from cloud_hub.thresholds.backtest.core import comparison
from cloud_hub.thresholds.backtest.core.comparison import RaisedAlarm, compare, group_alarms, runs

S = 1_000_000


@pytest.mark.parametrize(
    ("expression", "limits"),
    [
        ("node_load1 > 8", [("node_load1", ">", 8.0)]),
        ("8 < node_load1", [("node_load1", ">", 8.0)]),
        ('up{job="a > b"} == 0', [('up{job="a > b"}', "==", 0.0)]),
        ("(a{x=~'y or z'} >= bool 1e3)", [("a{x=~'y or z'}", ">=", 1000.0)]),
        ("a > 1 and on(instance) b < -2.5", [("a", ">", 1.0), ("b", "<", -2.5)]),
        ("(a > 1 or b > 2) unless c == 3", [("a", ">", 1.0), ("c", "==", 3.0)]),
        ("100 - (avg by (i) (rate(idle[5m])) * 100) > 90", [("100 - (avg by (i) (rate(idle[5m])) * 100)", ">", 90.0)]),
        ("a / b > .5", [("a / b", ">", 0.5)]),
        ("rate(errors_total[5m])\n  != 0", [("rate(errors_total[5m])", "!=", 0.0)]),
        ("a > b", []), ("a > on(x) b", []), ("absent(up)", []), ("a > 1 > 2", []), ("1 > 2", []), ("", []), ("> 5", []),
        ("a > 5 * 60", []), ('"', []), ("(((", []), ("count(a > 5)", []),
    ],
)  # fmt: skip
def test_limits_are_read_from_expressions(expression: str, limits: list[tuple[Any, ...]]) -> None:
    assert [(one.query, one.sign, one.number) for one in promql.find_comparisons(expression)] == limits


@given(st.text(alphabet="ab(){}[]\"'`<>=! 10.andor", max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    for one in promql.find_comparisons(text):
        assert one.query.strip()


@pytest.mark.parametrize(
    ("query", "name"),
    [("a_total", "a_total"), ('a_total{b="c"}', "a_total"), ("rate(a_total[5m])", ""), ("a", ""), ('{b="c_total"}', ""),
     ("h_bucket", "h_bucket"), ("a_total > 5", "")],
)  # fmt: skip
def test_a_plain_selector_of_a_counter_is_known_by_its_ending(query: str, name: str) -> None:
    assert promql.counter_name(query) == name


def at(*seconds: int) -> Any:
    return np.array(seconds, dtype=np.int64) * S


def test_a_run_begins_when_it_has_lasted_and_a_missing_step_ends_it() -> None:
    times = at(0, 60, 120, 180, 300, 360)
    held = np.array([True, True, True, False, True, True])
    assert runs(times, held, 60, 0) == [(0, 180 * S), (300 * S, 420 * S)]
    assert runs(times, held, 60, 120) == [(120 * S, 180 * S)]
    assert runs(at(), np.array([], dtype=bool), 60, 0) == []


def test_nan_crosses_no_limit() -> None:
    one = Series(labels={}, t_us=at(0, 60), values=np.array([np.nan, np.nan]))
    assert [comparison.crossings(one, sign, 5, 60, 0) for sign in ("!=", ">", "<")] == [[], [], []]  # type: ignore[arg-type]


def raised(side: Any, start: int, end: int, device: str = "a", what: str = "x") -> RaisedAlarm:
    return RaisedAlarm(side=side, device=device, what=what, start_us=start * S, end_us=end * S)


def test_a_group_is_one_device_and_one_stretch() -> None:
    alarms = [raised("ours", 0, 10), raised("ours", 15, 100), raised("ours", 30, 40), raised("ours", 105, 110),
              raised("ours", 121, 130), raised("ours", 5, 6, "b")]  # fmt: skip
    found = [(one.device, one.start_us // S, one.end_us // S, len(one.ours)) for one in group_alarms(alarms, 10 * S)]
    assert found == [("a", 0, 110, 4), ("b", 5, 6, 1), ("a", 121, 130, 1)]


def test_episodes_tell_who_saw_them_and_training_counts_for_nobody() -> None:
    alarms = [raised("fixed", 1, 2), raised("fixed", 100, 200), raised("ours", 150, 160), raised("ours", 300, 310),
              raised("fixed", 500, 510), raised("fixed", 515, 520)]  # fmt: skip
    found = compare(alarms, 50 * S, 10 * S)
    assert (found.alarms, found.pages) == ({"fixed": 3, "ours": 2}, {"fixed": 1, "ours": 1})
    assert (found.both, found.only) == (1, {"fixed": 1, "ours": 1})


ALARMS = st.lists(
    st.builds(
        lambda side, start, length, device: raised(side, start, start + length, device),
        st.sampled_from(["fixed", "ours"]), st.integers(0, 500), st.integers(0, 60), st.sampled_from(["a", "b"]),
    ),
    max_size=30,
)  # fmt: skip


def broken_by(group: Any, alarms: list[RaisedAlarm], gap: int) -> str:
    """What the grouping gets wrong, or ''."""
    groups = group(alarms, gap)
    members = [one for found in groups for one in (*found.fixed, *found.ours)]
    if sorted(map(repr, members)) != sorted(map(repr, alarms)):
        return "an alarm is lost or doubled"
    for first in groups:
        for second in groups:
            if first is not second and first.device == second.device:
                apart = max(first.start_us, second.start_us) - min(first.end_us, second.end_us)
                if apart <= gap:
                    return "two groups should be one"
    return ""


@given(ALARMS, st.integers(0, 30))
def test_groups_hold_each_alarm_once_and_lie_apart(alarms: list[RaisedAlarm], gap: int) -> None:
    assert broken_by(group_alarms, alarms, gap * S) == ""


def test_the_property_finds_a_grouping_that_forgets_the_longest_alarm() -> None:
    def seeded(alarms: list[RaisedAlarm], gap: int) -> Any:
        cut = [raised(one.side, one.start_us // S, one.start_us // S, one.device) for one in alarms]
        return group_alarms(cut, gap)

    alarms = [raised("ours", 0, 60), raised("ours", 30, 31)]
    assert broken_by(seeded, alarms, 0) != ""


def test_what_a_rule_added_says_nothing_about_where() -> None:
    rule = Rule(name="A", query="x > 1", labels={"severity": "page", "note": "{{ $labels.x }}"})
    labels = {"alertname": "A", "alertstate": "firing", "severity": "page", "note": "any", "host": "h1"}
    assert rule.matches_alert(labels)
    assert not rule.matches_alert(labels | {"severity": "info"})
    assert comparison.device_of({"__name__": "x", "host": "h1", "note": "any"}) == comparison.alert_device(labels, rule)
