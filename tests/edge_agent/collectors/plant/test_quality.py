"""Quality of tags over time, deadbands, and the schedule of polling groups."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.collectors.plant.core.quality import Aging, TagQualities, TagSample
from edge_agent.collectors.plant.core.schedule import Schedule

S = 1_000_000
NOW = 1_700_000_000 * S
AGING = Aging(stale_us=5 * S, bad_us=60 * S, resend_us=30 * S)


def one(deadband: float | None = None) -> TagQualities:
    return TagQualities([Aging(stale_us=5 * S, bad_us=60 * S, resend_us=30 * S, deadband=deadband)], NOW)


def seen(samples: Iterable[TagSample | None]) -> list[tuple[object, str]]:
    return [(sample.value, sample.quality) for sample in samples if sample is not None]


def test_a_value_that_is_not_read_any_more_is_uncertain_and_then_bad() -> None:
    tags = one()
    tags.read(0, 7.0, NOW, NOW)
    assert seen(tags.tick(NOW + 5 * S)) == []
    assert seen(tags.tick(NOW + 6 * S)) == [(7.0, "uncertain")]
    assert seen(tags.tick(NOW + 7 * S)) == [], "told once"
    assert seen(tags.tick(NOW + 61 * S)) == [(None, "bad")]
    assert seen([tags.read(0, 8.0, NOW + 62 * S, NOW + 62 * S)]) == [(8.0, "good")]


def test_a_tag_that_was_never_read_becomes_bad_and_not_uncertain() -> None:
    tags = one()
    assert seen(tags.tick(NOW + 59 * S)) == []
    assert seen(tags.tick(NOW + 61 * S)) == [(None, "bad")]


def test_a_tag_that_the_source_refuses_is_bad_at_once_and_told_again_at_times() -> None:
    tags = one()
    tags.read(0, 7.0, NOW, NOW)
    assert seen([tags.failed(0, NOW + S)]) == [(None, "bad")]
    assert seen([tags.failed(0, NOW + 2 * S)]) == []
    assert seen(tags.tick(NOW + 32 * S)) == [(None, "bad")]
    assert tags.count("bad") == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_bad_without_a_value(value: float) -> None:
    tags = one()
    assert seen([tags.read(0, value, NOW, NOW)]) == [(None, "bad")]


def test_without_a_deadband_each_reading_is_a_sample() -> None:
    tags = one()
    assert seen(tags.read(0, 1.0, NOW + n * S, NOW + n * S) for n in range(3)) == [(1.0, "good")] * 3


def test_with_a_deadband_slow_drift_is_sent_as_it_adds_up() -> None:
    tags = one(0.5)
    values = [1.0, 1.3, 1.5, 1.6, 1.4, 1.0]
    sent = seen(tags.read(0, value, NOW + n * S, NOW + n * S) for n, value in enumerate(values))
    assert [value for value, _quality in sent] == [1.0, 1.6, 1.0]


def test_a_deadband_of_zero_sends_changes_alone_and_an_unchanged_value_at_times() -> None:
    tags = one(0.0)
    sent = []
    for n in range(65):
        now = NOW + n * S
        sent += [(n, sample.value) for sample in [tags.read(0, "run", now, now)] if sample]
    assert sent == [(0, "run"), (30, "run"), (60, "run")]


def test_a_value_that_is_read_seldom_is_not_made_up_in_between() -> None:
    tags = TagQualities([Aging(stale_us=3600 * S, bad_us=7200 * S, resend_us=30 * S)], NOW)
    tags.read(0, 1.0, NOW, NOW)
    assert seen(sample for n in range(1, 1200) for sample in tags.tick(NOW + n * S)) == []
    assert seen([tags.read(0, 1.0, NOW + 1200 * S, NOW + 1200 * S)]) == [(1.0, "good")]


def test_a_written_value_is_a_sample_whatever_the_deadband_says() -> None:
    tags = one(10.0)
    tags.read(0, 1.0, NOW, NOW)
    assert seen([tags.read(0, 2.0, NOW + S, NOW + S, force=True)]) == [(2.0, "good")]


def test_no_news_of_a_subscription_keeps_a_value_good_but_not_one_that_failed() -> None:
    tags = TagQualities([AGING] * 2, NOW)
    tags.read(0, 1.0, NOW, NOW)
    tags.failed(1, NOW)
    sent: list[tuple[int, str]] = []
    for n in range(1, 80):
        tags.confirm([0, 1], NOW + n * S)
        sent += [(sample.index, sample.quality) for sample in tags.tick(NOW + n * S)]
    assert (0, "good") in sent, "sent again at times"
    assert {quality for index, quality in sent if index == 0} == {"good"}
    assert {quality for index, quality in sent if index == 1} == {"bad"}


def test_an_uncertain_reading_stays_uncertain_while_nothing_changes() -> None:
    tags = one(0.0)
    assert seen([tags.read(0, 1.0, NOW, NOW, quality="uncertain")]) == [(1.0, "uncertain")]
    tags.confirm([0], NOW + 29 * S)
    assert seen(tags.tick(NOW + 31 * S)) == [(1.0, "uncertain")]


def test_a_clock_that_is_set_back_does_not_keep_a_value_fresh_for_ever() -> None:
    tags = one()
    tags.read(0, 1.0, NOW + 3600 * S, NOW + 3600 * S)
    assert seen(tags.tick(NOW)) == []
    assert seen(tags.tick(NOW + 6 * S)) == [(1.0, "uncertain")]


Step = tuple[str, float]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.floats(-5, 5)), st.tuples(st.just("nan"), st.just(0.0)),
        st.tuples(st.just("fail"), st.just(0.0)), st.tuples(st.just("wait"), st.floats(0.1, 70)),
    ),
    max_size=40,
)  # fmt: skip


def check_laws(tags: TagQualities, life: list[Step], band: float) -> None:
    """What the last sample says is true of the tag at every moment."""
    now, last, read_at, value = NOW, None, None, None
    for kind, number in life:
        if kind == "wait":
            now += int(number * S)
            found = list(tags.tick(now))
        elif kind == "read":
            value, read_at = number, now
            found = [sample for sample in [tags.read(0, number, now, now)] if sample]
        else:
            value = None
            bad = tags.read(0, math.nan, now, now) if kind == "nan" else tags.failed(0, now)
            found = [sample for sample in [bad] if sample]
        last = found[-1] if found else last
        assert all((sample.value is None) == (sample.quality == "bad") for sample in found)
        if value is None or read_at is None:
            assert last is None or last.quality == "bad"
            continue
        assert last is not None
        age = now - read_at
        assert last.quality == ("bad" if age > 60 * S else "uncertain" if age > 5 * S else "good")
        if last.value is not None:
            assert abs(float(last.value) - value) <= band


@given(steps)
def test_the_last_sample_is_true_of_the_tag_at_every_moment(life: list[Step]) -> None:
    check_laws(one(0.5), life, 0.5)


class ForgetsAge(TagQualities):
    """Seeded bug: time is not looked at."""

    def tick(self, now_us: int) -> Iterable[TagSample]:  # type: ignore[override]
        return []


class KeepsOld(TagQualities):
    """Seeded bug: a tag that the source refuses keeps its last value."""

    def failed(self, index: int, now_us: int) -> TagSample | None:
        return None


@pytest.mark.parametrize("bug", [ForgetsAge, KeepsOld])
def test_the_laws_catch_a_seeded_bug(bug: type[TagQualities]) -> None:
    aging = Aging(stale_us=5 * S, bad_us=60 * S, resend_us=30 * S, deadband=0.5)
    life = [("read", 1.0), ("wait", 6.0), ("fail", 0.0)]
    check_laws(TagQualities([aging], NOW), life, 0.5)
    with pytest.raises(AssertionError):
        check_laws(bug([aging], NOW), life, 0.5)


# -- schedule --------------------------------------------------------------------------------------------


def test_each_group_is_due_at_its_own_period() -> None:
    schedule = Schedule({"fast": 0.5, "slow": 2.0}, 100.0)
    due = {tenth: schedule.due(100.0 + tenth / 10) for tenth in range(41)}
    assert [tenth for tenth, names in due.items() if "fast" in names] == [0, 5, 10, 15, 20, 25, 30, 35, 40]
    assert [tenth for tenth, names in due.items() if "slow" in names] == [0, 20, 40]
    assert schedule.late == 0


def test_readings_that_come_too_late_are_left_out_and_counted() -> None:
    schedule = Schedule({"fast": 0.5}, 100.0)
    schedule.due(100.0)
    assert schedule.due(102.1) == ["fast"]
    assert schedule.late == 3
    assert schedule.due(102.1) == []
    assert schedule.wait_s(102.1) == pytest.approx(0.4), "the grid is kept"
