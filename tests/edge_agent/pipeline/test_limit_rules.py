"""Rules on the device: the newest good version (P1), whole sets or nothing (P2, P4), the site's hard limits (P3), the
last good for ever (P6), alarms that outlive a restart. Each property is shown to catch a seeded bug.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edge_agent.pipeline.core.limit_rules import LimitRules
from edge_agent.store.statestore import StateStore
from edge_agent.twin.core.twin import DeviceTwin
from shared.codec import plain
from shared.messages import Alarm, Priority, Sample
from shared.thresholds import AlarmRules, Expression, Flat, JudgeState, Limits, NoData, Rate
from shared.twin import MAX_LEVELS, nesting_depth

LOAD, TEMP = Limits(metric="cpu.load", high=90.0, priority="high"), Limits(metric="temp.cpu", low=5.0, high=80.0)


def ids() -> Callable[[], str]:
    count = itertools.count(1)
    return lambda: f"a{next(count)}"


def sample(value: float | str | None, t: int = 1, metric: str = "cpu.load") -> Sample:
    return Sample(metric=metric, t_us=t, value=value, quality="bad" if value is None else "good")


def rules(*limits: Limits, site: tuple[Limits, ...] = ()) -> LimitRules:
    made = LimitRules(site)
    assert made.use_limits(limits) == ""
    return made


def told(alarms: list[Alarm]) -> list[tuple[str, str, str, float]]:
    return [(alarm.id, alarm.state, alarm.kind, alarm.limit) for alarm in alarms]


def test_an_alarm_is_raised_once_and_cleared_with_the_same_id() -> None:
    judged, new = rules(LOAD), ids()
    assert told(judged.judge(sample(95.0), new)) == [("a1", "raised", "high", 90.0)]
    assert judged.judge(sample(96.0, 2), new) == []
    cleared = judged.judge(sample(50.0, 3), new)
    assert told(cleared) == [("a1", "cleared", "high", 90.0)]
    assert (cleared[0].value, cleared[0].t_us, cleared[0].priority) == (50.0, 3, "high")
    assert told(judged.judge(sample(95.0, 4), new)) == [("a2", "raised", "high", 90.0)]


def test_a_set_is_used_whole_and_takes_the_place_of_the_one_before() -> None:
    judged = rules(LOAD)
    assert judged.use_limits([TEMP]) == ""
    assert judged.limits() == [TEMP]


@pytest.mark.parametrize(
    "bad",
    [
        Limits(metric="temp.cpu", low=5.0, high=95.0),
        Limits(metric="temp.cpu", low=-10.0, high=70.0),
        Limits(metric="temp.cpu", low=5.0),
        Limits(metric="temp.cpu", high=70.0),
        Limits(metric="temp.cpu", lows=(5.0,) * 24, highs=(*((70.0,) * 23), 90.5)),
    ],
    ids=["high-too-high", "low-too-low", "no-high", "no-low", "one-hour-too-high"],
)
def test_a_set_with_one_limit_beyond_the_site_is_refused_whole(bad: Limits) -> None:
    site = Limits(metric="temp.cpu", low=0.0, high=90.0)
    judged = rules(LOAD, site=(site,))
    for wanted in ([TEMP, bad], [bad, LOAD], [bad]):
        reason = judged.use_limits(wanted)
        assert "temp.cpu" in reason
        assert judged.limits() == [LOAD]
    assert told(judged.judge(sample(95.0), ids())) == [("a1", "raised", "high", 90.0)]
    assert judged.use_limits([TEMP]) == "", "tighter than the site's is welcome"


def test_no_desired_set_silences_what_the_site_limits() -> None:
    judged = rules(TEMP, site=(Limits(metric="temp.cpu", high=90.0),))
    assert judged.use_limits([]) == ""
    hot = Sample(metric="temp.cpu", t_us=1, value=95.0)
    (alarm,) = judged.judge(hot, lambda: "a")
    assert (alarm.state, alarm.limit) == ("raised", 90.0)


def test_a_set_that_names_a_metric_twice_is_refused_and_not_half_used() -> None:
    judged = rules(LOAD)
    assert "twice" in judged.use_limits([TEMP, Limits(metric="temp.cpu", high=70.0)])
    assert judged.limits() == [LOAD]


def test_a_standing_alarm_keeps_its_id_across_a_restart(tmp_path: Path) -> None:
    keep = StateStore(tmp_path / "kept.sqlite")
    before, new = rules(LOAD, TEMP), ids()
    before.judge(sample(95.0), new)
    before.judge(sample(20.0, metric="temp.cpu"), new)
    assert list(before.standing()) == ["cpu.load"]
    keep.put("alarms", before.standing())
    keep.close()
    keep = StateStore(tmp_path / "kept.sqlite")
    after = LimitRules((), keep.get("alarms", {}, dict[str, JudgeState]))
    keep.close()
    after.use_limits([LOAD])
    assert after.judge(sample(95.0, 2), new) == [], "it stands already"
    assert told(after.judge(sample(10.0, 3), new)) == [("a1", "cleared", "high", 90.0)]
    assert after.standing() == {}


def test_a_metric_whose_limits_went_away_clears_its_alarm_once() -> None:
    judged, new = rules(LOAD), ids()
    judged.judge(sample(95.0), new)
    assert judged.use_limits([]) == ""
    assert [(a.id, a.state, a.value) for a in judged.judge(sample(99.0, 2), new)] == [("a1", "cleared", 99.0)]
    assert judged.judge(sample(99.0, 3), new) == []
    assert judged.standing() == {}


def test_text_and_missing_values_change_nothing() -> None:
    judged, new = rules(LOAD), ids()
    judged.judge(sample(95.0), new)
    before = judged.standing()
    for value in ("hot", None):
        assert judged.judge(sample(value, 2), new) == []
    judged.use_limits([])
    for value in ("hot", None):
        assert judged.judge(sample(value, 3), new) == []
    assert judged.standing() == before


def test_an_on_delay_is_remembered_between_samples() -> None:
    judged, new = rules(Limits(metric="cpu.load", high=90.0, on_delay_s=10.0)), ids()
    assert judged.judge(sample(95.0, 1_000_000), new) == []
    assert judged.judge(sample(95.0, 10_000_000), new) == []
    assert told(judged.judge(sample(95.0, 11_000_000), new)) == [("a1", "raised", "high", 90.0)]


def test_a_metric_without_limits_is_left_alone() -> None:
    assert rules(LOAD).judge(sample(1e9, metric="net.sent"), ids()) == []


def test_a_desired_set_is_answered_as_it_was_asked_or_refused_whole() -> None:
    judged = rules(LOAD, site=(Limits(metric="temp.cpu", high=90.0),))
    wanted = [{"metric": "temp.cpu", "high": 80}]
    assert judged.desired_limits(wanted) == wanted
    assert [limits.metric for limits in judged.limits()] == ["temp.cpu"]
    for bad in ([{"metric": "temp.cpu", "high": 95}], [{"metric": "x"}], [{"metric": "x", "high": "hot"}], None, {}):
        with pytest.raises(ValueError, match=r"."):
            judged.desired_limits(bad)
        assert [limits.high for limits in judged.limits()] == [80]


# -- P3: the site's own limits are judged themselves -------------------------------------------------

PRIORITIES: tuple[Priority, ...] = get_args(Priority)
DELAYS = st.sampled_from([0.0, 2.0, 5.0])
STEPS = st.lists(st.tuples(st.sampled_from([1, 1, 2]), st.integers(0, 12).map(float)), min_size=5, max_size=60)
World = tuple[Limits, Limits, list[tuple[int, float]]]


@st.composite
def worlds(draw: st.DrawFn, priorities: tuple[Priority, ...] = PRIORITIES) -> World:
    """The site's limits, the hub's within them, and samples."""
    fields = {"deadband": st.sampled_from([0.0, 1.0]), "on_delay_s": DELAYS, "off_delay_s": DELAYS,
              "priority": st.sampled_from(priorities)}  # fmt: skip
    drawn = [{name: draw(value) for name, value in fields.items()} for _ in range(2)]
    site = Limits(metric="m", low=2.0, high=9.0, **drawn[0])
    hub = Limits(metric="m", low=draw(st.sampled_from([2.0, 3.0])), high=draw(st.sampled_from([7.0, 9.0])), **drawn[1])
    return site, hub, draw(STEPS)


class Board:
    """What is told, as the hub keeps it."""

    def __init__(self) -> None:
        self.up: dict[str, Alarm] = {}
        self.raised = 0

    def hear(self, alarms: list[Alarm]) -> None:
        for alarm in alarms:
            if alarm.state == "raised":
                assert alarm.id not in self.up, "raised twice"
                self.up[alarm.id] = alarm
                self.raised += 1
            else:
                was = self.up.pop(alarm.id)
                assert (was.metric, was.kind, was.about) == (alarm.metric, alarm.kind, alarm.about)


def check_site(make: Callable[[Limits, Limits], LimitRules], world: World) -> None:
    """At every moment an alarm stands at the hub that is as strong as the one of the site's rule alone."""
    site, hub, steps = world
    both, alone, new = make(site, hub), LimitRules((site,)), ids()
    board, wanted, now = Board(), Board(), 1_000_000_000
    for step, value in steps:
        now += step * 1_000_000
        board.hear(both.judge(sample(value, now, "m"), new))
        wanted.hear(alone.judge(sample(value, now, "m"), new))
        for must in wanted.up.values():
            found = [up for up in board.up.values() if up.kind == must.kind]
            rank = max((PRIORITIES.index(up.priority) for up in found), default=-1)
            assert rank >= PRIORITIES.index(must.priority), "the hub's rule made the site's later, weaker or silent"
        told = [(up.kind, up.priority) for up in board.up.values()]
        assert len(set(told)) == len(told), "one thing, told by two alarms"


def together(site: Limits, hub: Limits) -> LimitRules:
    return rules(hub, site=(site,))


RULES_FIXED = settings(max_examples=400, deadline=None, derandomize=True, database=None)


@RULES_FIXED
@given(worlds())
def test_no_rule_of_the_hub_makes_the_sites_own_later_weaker_or_silent(world: World) -> None:
    check_site(together, world)


def in_its_place(site: Limits, hub: Limits) -> LimitRules:
    """As it was before: the site's own is judged only where the hub has none."""
    return rules(hub)


class TwoVoices(LimitRules):
    """Tells both."""

    def _pairs(self) -> dict[int, Any]:
        return {}


def two_voices(site: Limits, hub: Limits) -> LimitRules:
    made = TwoVoices((site,))
    made.use_limits([hub])
    return made


def caught(strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    @settings(RULES_FIXED, max_examples=3000, phases=[Phase.generate], report_multiple_bugs=False)
    @given(strategy)
    def run(example: Any) -> None:
        check(example)

    with pytest.raises(AssertionError):
        run()


@pytest.mark.parametrize("bug", [in_its_place, two_voices])
def test_the_site_checker_catches(bug: Callable[[Limits, Limits], LimitRules]) -> None:
    caught(worlds(), lambda world: check_site(bug, world))


def check_no_doubling(make: Callable[[Limits, Limits], LimitRules], world: World) -> None:
    """With one priority, two rules tell no more alarms than the busier one alone, and in no more than its time."""
    site, hub, steps = world
    apart = [make(site, hub), rules(hub), LimitRules((site,))]
    boards, now, new = [Board() for _ in apart], 1_000_000_000, ids()
    for step, value in steps:
        now += step * 1_000_000
        for judged, board in zip(apart, boards, strict=True):
            board.hear(judged.judge(sample(value, now, "m"), new))
        assert bool(boards[0].up) == bool(boards[1].up or boards[2].up)
    assert boards[0].raised <= boards[1].raised + boards[2].raised
    quick = hub.on_delay_s <= site.on_delay_s and hub.off_delay_s >= site.off_delay_s and hub.deadband >= site.deadband
    one_sided = (
        min(value for _, value in steps) >= 3
    )  # from high straight to low the site's is told while the hub waits
    if quick and one_sided:
        assert boards[0].raised == boards[1].raised, "the ordinary case"


@RULES_FIXED
@given(worlds(("medium",)))
def test_two_rules_about_the_same_are_one_alarm(world: World) -> None:
    check_no_doubling(together, world)


@pytest.mark.parametrize("bug", [in_its_place, two_voices])
def test_the_doubling_checker_catches(bug: Callable[[Limits, Limits], LimitRules]) -> None:
    caught(worlds(("medium",)), lambda world: check_no_doubling(bug, world))


def test_a_later_limit_of_the_hub_does_not_delay_the_sites() -> None:
    """The case of issue 4: the same values, a minute later."""
    site = Limits(metric="m", high=9.0, on_delay_s=2, priority="high")
    judged, new = rules(Limits(metric="m", high=9.0, on_delay_s=60), site=(site,)), ids()
    told = [alarm for n in range(90) for alarm in judged.judge(sample(10.0, n * 1_000_000 + 1, "m"), new)]
    assert [(a.id, a.state, a.priority, a.t_us) for a in told] == [("a1", "raised", "high", 2_000_001)]


def test_an_alarm_goes_on_under_its_id_when_the_rule_that_told_it_goes() -> None:
    judged, new = rules(Limits(metric="m", high=8.0), site=(Limits(metric="m", high=9.0),)), ids()
    assert told(judged.judge(sample(10.0, 1, "m"), new)) == [("a1", "raised", "high", 8.0)]
    judged.use_limits([])
    assert judged.judge(sample(10.0, 2, "m"), new) == []
    assert told(judged.judge(sample(1.0, 3, "m"), new)) == [("a1", "cleared", "high", 9.0)]


# -- P2, P4, P6: whole sets, refused ones, and the last good for ever ----------------------------------

ONE = st.fixed_dictionaries(
    {"metric": st.sampled_from(["m", "n", "o"])},
    optional={"high": st.sampled_from([1.0, 5.0, 9.0, 11.0, "x", float("nan")]), "low": st.sampled_from([0.0, 6.0]),
              "priority": st.sampled_from(["high", "urgent"])},
)  # fmt: skip
SETS = st.lists(st.lists(ONE, max_size=3) | st.none() | st.just({"metric": "m"}), max_size=12)


def good(wanted: Any) -> bool:
    """Written anew: each metric once, a known priority, finite numbers in order, and m not above 10."""
    if not isinstance(wanted, list) or len({one["metric"] for one in wanted}) < len(wanted):
        return False
    for one in wanted:
        high, low = one.get("high"), one.get("low")
        if high == "x" or (high is not None and high != high) or one.get("priority") == "urgent":
            return False
        if (high is None and low is None) or (high is not None and low is not None and low >= high):
            return False
        if one["metric"] == "m" and (high is None or high > 10):
            return False
    return True


def check_sets(make: Callable[[], LimitRules], sets: list[Any]) -> None:
    """What is in force is the last good set, whole, whatever was wished since (P2, P4, P6)."""
    judged, last = make(), []
    for wanted in sets:
        try:
            judged.desired_limits(wanted)
            refused = False
        except ValueError:
            refused = True
        assert refused != good(wanted)
        last = last if refused else wanted
        found = [(one.metric, one.low, one.high) for one in judged.limits()]
        assert found == [(one["metric"], one.get("low"), one.get("high")) for one in last]


def bounded() -> LimitRules:
    return LimitRules((Limits(metric="m", high=10.0),))


@RULES_FIXED
@given(SETS)
def test_the_last_good_set_stays_in_force_whole(sets: list[Any]) -> None:
    check_sets(bounded, sets)


class OneByOne(LimitRules):
    """Takes what is good of a set."""

    def use_limits(self, limits: Iterable[Limits]) -> str:
        for one in limits:
            if reason := super().use_limits([*(own for own in self.limits() if own.metric != one.metric), one]):
                return reason
        return ""


class Forgets(LimitRules):
    """A bad wish leaves nothing in force."""

    def desired_limits(self, wanted: Any) -> Any:
        try:
            return super().desired_limits(wanted)
        except ValueError:
            self.use_limits([])
            raise


@pytest.mark.parametrize("bug", [OneByOne, Forgets, lambda site: LimitRules()])
def test_the_set_checker_catches(bug: Any) -> None:
    caught(SETS, lambda sets: check_sets(lambda: bug((Limits(metric="m", high=10.0),)), sets))


def test_a_set_of_alarm_rules_is_applied_atomically() -> None:
    judged = LimitRules()
    judged.desired_rules({"no_data": [{"metric": "m", "after_s": 10}]})
    for bad in ({"no_data": [{"metric": "m", "after_s": 0}]}, {"flat": [{"metric": "m"}]}, [], 3):
        with pytest.raises(ValueError, match=r"after_s|Expected"):
            judged.desired_rules(bad)
    assert list(judged.standing()) == []
    told = [alarm for n in range(12) for alarm in judged.tick(n * 1_000_000, ids())]
    assert [(a.about, a.kind, a.metric, a.value, a.limit) for a in told] == [("no-data", "high", "m", 10.0, 10.0)]


def test_every_rule_fits_into_a_twin_document() -> None:
    """AWS allows six levels of nesting; a rate's limits with a schedule are the deepest."""
    limits = Limits(metric="m", highs=(1.0, 2.0), schedule=("mon",))
    alarm_rules = AlarmRules(
        rates=(Rate(limits=limits),), no_data=(NoData(metric="m", after_s=5, schedule=("mon",)),),
        flat=(Flat(metric="m", after_s=5),), expressions=(Expression(metric="x", when="m > 1", schedule=("sun",)),),
    )  # fmt: skip
    wanted = {"limits": [plain(limits)], "alarm_rules": plain(alarm_rules)}
    assert nesting_depth(wanted) <= MAX_LEVELS
    judged = LimitRules()
    judged.desired_limits(wanted["limits"])
    judged.desired_rules(wanted["alarm_rules"])
    assert judged.limits() == [limits]


# -- P1: the newest version that is good ---------------------------------------------------------------

VERSIONS = st.lists(st.tuples(st.integers(1, 8), st.sampled_from(["delta", "get"])), max_size=20)
"""Messages of the hub's versions, in any order, some lost, some twice."""


def check_versions(make: Callable[[LimitRules], DeviceTwin], course: tuple[list[bool], list[tuple[int, str]]]) -> None:
    """The limit in force is the newest good version of those heard up to the newest (P1)."""
    goods, heard = course
    judged = LimitRules()
    twin, newest, in_force = make(judged), 0, None
    for version, how in heard:
        wanted = {"limits": [{"metric": "m", "high": float(version) if goods[version - 1] else "broken"}]}
        if how == "get":
            twin.fetched("thresholds", version, wanted, {})
        else:
            twin.delta("thresholds", version, wanted)
        if version >= newest:
            newest = version
            in_force = float(version) if goods[version - 1] else in_force
        assert [one.high for one in judged.limits()] == ([] if in_force is None else [in_force])


def following(judged: LimitRules, kind: type[DeviceTwin] = DeviceTwin) -> DeviceTwin:
    twin = kind({})
    twin.handle("thresholds", "limits", judged.desired_limits, own=[])
    twin.begin()
    return twin


COURSES = st.tuples(st.lists(st.booleans(), min_size=8, max_size=8), VERSIONS)


@RULES_FIXED
@given(COURSES)
def test_the_newest_good_version_is_in_force(course: tuple[list[bool], list[tuple[int, str]]]) -> None:
    check_versions(following, course)


class AnyOrder(DeviceTwin):
    """What comes late counts as new."""

    def _heard(self, name: str, version: int) -> Any:
        return self.documents[name]


def test_the_version_checker_catches_one_that_follows_the_order_of_arrival() -> None:
    caught(COURSES, lambda course: check_versions(lambda judged: following(judged, AnyOrder), course))
