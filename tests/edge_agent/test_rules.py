"""Rules on the device: whole sets or nothing (P2), the site's hard limits (P3), alarms that outlive a restart."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.keep import Keep
from edge_agent.rules import Rules
from shared.messages import Alarm, Sample
from shared.thresholds import JudgeState, Limits

LOAD, TEMP = Limits(metric="cpu.load", high=90.0, priority="high"), Limits(metric="temp.cpu", low=5.0, high=80.0)


def ids() -> Callable[[], str]:
    count = itertools.count(1)
    return lambda: f"a{next(count)}"


def sample(value: float | str | None, t: int = 1, metric: str = "cpu.load") -> Sample:
    return Sample(metric=metric, t_us=t, value=value, quality="bad" if value is None else "good")


def rules(*limits: Limits, site: tuple[Limits, ...] = ()) -> Rules:
    made = Rules(site)
    assert made.use(limits) == ""
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
    assert judged.use([TEMP]) == ""
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
        reason = judged.use(wanted)
        assert "temp.cpu" in reason
        assert judged.limits() == [LOAD]
    assert told(judged.judge(sample(95.0), ids())) == [("a1", "raised", "high", 90.0)]
    assert judged.use([TEMP]) == "", "tighter than the site's is welcome"


def test_no_desired_set_silences_what_the_site_limits() -> None:
    judged = rules(TEMP, site=(Limits(metric="temp.cpu", high=90.0),))
    assert judged.use([]) == ""
    hot = Sample(metric="temp.cpu", t_us=1, value=95.0)
    (alarm,) = judged.judge(hot, lambda: "a")
    assert (alarm.state, alarm.limit) == ("raised", 90.0)


def test_a_set_that_names_a_metric_twice_is_refused_and_not_half_used() -> None:
    judged = rules(LOAD)
    assert "twice" in judged.use([TEMP, Limits(metric="temp.cpu", high=70.0)])
    assert judged.limits() == [LOAD]


def test_a_standing_alarm_keeps_its_id_across_a_restart(tmp_path: Path) -> None:
    keep = Keep(tmp_path / "kept.sqlite")
    before, new = rules(LOAD, TEMP), ids()
    before.judge(sample(95.0), new)
    before.judge(sample(20.0, metric="temp.cpu"), new)
    assert list(before.standing()) == ["cpu.load"]
    keep.put("alarms", before.standing())
    keep.close()
    keep = Keep(tmp_path / "kept.sqlite")
    after = Rules((), keep.get("alarms", {}, dict[str, JudgeState]))
    keep.close()
    after.use([LOAD])
    assert after.judge(sample(95.0, 2), new) == [], "it stands already"
    assert told(after.judge(sample(10.0, 3), new)) == [("a1", "cleared", "high", 90.0)]
    assert after.standing() == {}


def test_a_metric_whose_limits_went_away_clears_its_alarm_once() -> None:
    judged, new = rules(LOAD), ids()
    judged.judge(sample(95.0), new)
    assert judged.use([]) == ""
    assert [(a.id, a.state, a.value) for a in judged.judge(sample(99.0, 2), new)] == [("a1", "cleared", 99.0)]
    assert judged.judge(sample(99.0, 3), new) == []
    assert judged.standing() == {}


def test_text_and_missing_values_change_nothing() -> None:
    judged, new = rules(LOAD), ids()
    judged.judge(sample(95.0), new)
    before = judged.standing()
    for value in ("hot", None):
        assert judged.judge(sample(value, 2), new) == []
    judged.use([])
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
    assert judged.desired(wanted) == wanted
    assert [limits.metric for limits in judged.limits()] == ["temp.cpu"]
    for bad in ([{"metric": "temp.cpu", "high": 95}], [{"metric": "x"}], [{"metric": "x", "high": "hot"}], None, {}):
        with pytest.raises(ValueError, match=r"."):
            judged.desired(bad)
        assert [limits.high for limits in judged.limits()] == [80]
