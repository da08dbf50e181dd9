"""Names, deadbands and metrics of the edge node: what is published, as what, and when; seeded bugs are caught."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edge_agent.config.sparkplug import PlantDevice, Reporting, Server, Sparkplug
from edge_agent.sparkplug.core import tags
from edge_agent.sparkplug.core.image import NodeImage
from edge_agent.sparkplug.core.naming import Naming, Place
from edge_agent.sparkplug.core.reporting import Deadband, Deadbands, Point, is_due
from edge_agent.sparkplug.core.tags import Change, TagDefinition, TagTable, data_metrics
from shared.plant.write_rules import WriteRule
from shared.protocol.messages import Alarm, Metric, Sample
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.encode import encode
from shared.sparkplug.payload import BAD, GOOD, STALE, Payload


def table(**options: Any) -> Sparkplug:
    return Sparkplug(**({"group": "plant", "servers": [Server(address="127.0.0.1:1883")]} | options))


def image(**options: Any) -> NodeImage:
    return NodeImage(table(**options), "press-1", "1.0", {"cpu.load": "host"}, 0)


def sample(metric: str, value: Any, t_ms: int = 0, quality: Any = "good") -> Sample:
    return Sample(metric=metric, value=value, t_us=t_ms * 1000, quality=quality)


def alarm(state: Any, alarm_id: str = "1", **options: Any) -> Alarm:
    fields = {"metric": "cpu.load", "kind": "high", "priority": "high", "t_us": 0, "value": 1.0, "limit": 0.5}
    return Alarm(**(fields | {"id": alarm_id, "state": state} | options))


def shown(changes: Sequence[Change]) -> list[tuple[str, Any]]:
    return [(change.place.name, change.point.value) for change in changes]


# -- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("{metric}", "cpu.load"), ("{path}", "cpu/load"), ("{collector}/{metric}", "host/cpu.load"),
        ("{device} {path}", "press-1 cpu/load"), ("Line 3/{{{metric}}}", "Line 3/{cpu.load}"),
    ],
)  # fmt: skip
def test_a_template_makes_the_name(names: str, expected: str) -> None:
    naming = Naming(table(names=names), "press-1", {"cpu.load": "host"})
    assert naming.place("cpu.load") == Place("", expected)


def test_a_metric_belongs_to_the_first_device_that_matches_and_else_to_the_node() -> None:
    devices = [PlantDevice(id="a", metrics=["a.*"]), PlantDevice(id="all", metrics=["*.speed"], names="x/{metric}")]
    naming = Naming(table(devices=devices, metrics=["node.*"]), "press-1", {})
    places = [naming.place(metric) for metric in ("a.speed", "b.speed", "node.load", "other")]
    assert places == [Place("a", "a.speed"), Place("all", "x/b.speed"), Place("", "node.load"), None]
    assert naming.alarm("b.speed", "high") == Place("all", "Alarms/b.speed/high")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ("Alarms/{metric}", "edge node itself"),
        ("x" * 600 + "{metric}", "characters"),
        ("Node Control/{path}", "itself"),
    ],
)
def test_a_metric_with_a_name_that_is_not_its_own_is_left_out_and_counted(names: str, reason: str) -> None:
    made = image(names=names)
    assert made.sample(sample("cpu.load", 1.0)) == []
    assert made.tags.left_out == 1
    assert reason in made.tags.problems["cpu.load"]


def test_the_second_metric_of_one_name_is_left_out() -> None:
    made = image(names="{path}")
    made.declare([Metric(name="a.b"), Metric(name="a/b")], 0)
    assert "a.b" in made.tags.problems["a/b"]
    assert [name for name in (metric.name for metric in made.tags.definitions("")) if name == "a/b"] == ["a/b"]


def test_the_number_of_metrics_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "MAX_TAGS", 10)
    made = image()
    for number in range(300):
        made.sample(sample(f"m{number}", 1.0))
    assert len(made.tags) == 10
    assert made.tags.left_out == 293
    assert len(made.tags.problems) == 100


# -- values --------------------------------------------------------------------------------------------


def test_a_birth_has_type_value_unit_range_and_quality() -> None:
    made = image()
    made.declare([Metric(name="cpu.load", unit="%", low=0, high=100), Metric(name="mode", kind="state")], 5)
    made.sample(sample("cpu.load", 42.5, 7))
    found = {metric.name: metric for metric in made.tags.definitions("")}
    load, mode = found["cpu.load"], found["mode"]
    assert (load.datatype, load.value, load.timestamp) == (DataType.Double, 42.5, 7)
    properties = {key: item.value for key, item in (load.properties or {}).items()}
    assert properties == {"Quality": GOOD, "engUnit": "%", "engLow": 0.0, "engHigh": 100.0}
    assert (mode.datatype, mode.value) == (DataType.String, None)
    assert (mode.properties or {})["Quality"].value == STALE
    assert found["Properties/Tidegate Device"].value == "press-1"


@pytest.mark.parametrize(("quality", "code"), [("good", GOOD), ("uncertain", STALE), ("bad", BAD)])
def test_quality_is_sent_when_it_is_not_good_or_has_changed(quality: Any, code: int) -> None:
    made = image()
    changes = [*made.sample(sample("a", 1.0, 1)), *made.sample(sample("a", 1.0, 2, quality))]
    changes += made.sample(sample("a", 2.0, 3))
    metrics = data_metrics(changes)
    assert [item["Quality"].value for metric in metrics if (item := metric.properties)] == (
        [GOOD] if quality == "good" else [GOOD, code, GOOD]
    )


def test_text_turns_a_numeric_metric_into_a_string_once() -> None:
    made = image()
    made.declare([Metric(name="a")], 0)
    made.tags.redefined.clear()
    assert shown(made.sample(sample("a", "on"))) == [("a", "on")]
    assert made.tags.redefined == {""}
    assert shown(made.sample(sample("a", 5.0))) == [("a", "5")]
    made.declare([Metric(name="a")], 0)  # as when a model is loaded
    assert made.tags.definitions("")[-1].datatype is DataType.String


def test_a_stored_number_of_a_metric_that_became_text_is_sent_as_text() -> None:
    made = image()
    (stored,) = made.sample(sample("a", 5.0))
    made.sample(sample("a", "on"))
    assert (made.tags.fitted(stored) or stored).point.value == "5"
    assert made.tags.fitted(Change(Place("", "gone"), stored.point, True)) is None


def test_a_writable_boolean_is_a_boolean_and_has_an_outcome() -> None:
    made = image(writable=[WriteRule(metric="pump", allowed=[True, False])])
    made.declare([Metric(name="pump")], 0)
    assert shown(made.sample(sample("pump", 1.0))) == [("pump", True)]
    assert shown(made.outcome("pump", "refused: on", 1)) == [("Writes/pump", "refused: on")]
    assert made.outcome("other", "x", 1) == []


def test_hostile_text_can_be_encoded() -> None:
    made = image()
    made.sample(sample("a", "\ud800\x00" + "x" * 10_000))
    metric = made.tags.definitions("")[-1]
    assert len(str(metric.value)) == tags.MAX_TEXT
    assert encode(Payload(timestamp=1, metrics=(metric,), seq=0))


def test_data_is_in_chronological_order() -> None:
    made = image()
    changes = [*made.sample(sample("a", 1.0, 9)), *made.sample(sample("b", 1.0, 5)), *made.sample(sample("a", 2.0, 7))]
    assert [metric.timestamp for metric in data_metrics(changes)] == [5, 7, 9]


# -- alarms and settings -------------------------------------------------------------------------------


def test_an_alarm_is_true_while_one_of_its_condition_is_active() -> None:
    made = image()
    assert shown(made.alarm(alarm("raised", "1"))) == [("Alarms/cpu.load/high", True), ("Alarms/Active", 1)]
    assert shown(made.alarm(alarm("raised", "2"))) == [("Alarms/Active", 2)]
    assert shown(made.alarm(alarm("cleared", "1"))) == [("Alarms/Active", 1)]
    assert shown(made.alarm(alarm("cleared", "2"))) == [("Alarms/cpu.load/high", False), ("Alarms/Active", 0)]
    assert shown(made.alarm(alarm("raised", "3", about="rate", kind="low")))[0] == ("Alarms/cpu.load/rate-low", True)


def test_alarms_and_settings_can_be_left_out() -> None:
    made = image(alarms=False, settings=False)
    assert made.alarm(alarm("raised")) == []
    assert made.settings({"period_s": 1.0}, 0) == []


def test_settings_are_metrics_of_the_node() -> None:
    made = image(writable=[WriteRule(metric="settings.period_s", low=0.1, high=5)])
    assert shown(made.settings({"period_s": 1.0, "log_level": "info"}, 0)) == [
        ("Settings/period_s", 1.0), ("Settings/log_level", "info"),
    ]  # fmt: skip
    assert made.metric_at("", "Settings/period_s") == "settings.period_s"
    assert made.metric_at("", "Writes/settings.period_s") is None  # no metric of the plant


# -- deadband ------------------------------------------------------------------------------------------


def test_the_first_matching_table_decides_the_deadband() -> None:
    bands = Deadbands(table(deadband=0.5, reporting=[Reporting(metrics=["t.*"], deadband_percent=1, max_silence_s=60)]))
    assert bands.of("t.a", 0, 200) == Deadband(2.0, 60_000)
    assert bands.of("t.a", None, None) == Deadband(0.0, 60_000)
    assert bands.of("other", 0, 200) == Deadband(0.5, 0)


Due = Callable[[Point | None, Point, Deadband], bool]
points = st.lists(
    st.builds(
        Point,
        value=st.floats(-100, 100) | st.none() | st.sampled_from(["a", "b"]) | st.booleans(),
        quality=st.sampled_from([GOOD, BAD]),
        t_ms=st.integers(0, 200_000),
    ),
    max_size=30,
)
bands = st.builds(Deadband, width=st.sampled_from([0.0, 1.0, 10.0]), silence_ms=st.sampled_from([0, 60_000]))


def check_reporting(due: Due, series: Sequence[Point], band: Deadband) -> None:
    """A host is never further from the present value than the deadband, and never misses a quality or a silence."""
    sent: Point | None = None
    for point in sorted(series, key=lambda one: one.t_ms):
        before = sent
        if due(sent, point, band):
            sent = point
        assert sent is not None
        assert sent.quality == point.quality
        if isinstance(point.value, float) and isinstance(sent.value, float):
            assert abs(sent.value - point.value) <= band.width
        else:
            assert (type(sent.value), sent.value) == (type(point.value), point.value)
        if band.silence_ms and before is not None:
            assert point.t_ms - sent.t_ms < band.silence_ms
        if before is not None and before.quality == point.quality and before.value == point.value:
            needed = band.silence_ms and point.t_ms - before.t_ms >= band.silence_ms
            assert sent is before or needed or type(before.value) is not type(point.value)


@given(series=points, band=bands)
def test_reporting_by_exception_misses_at_most_the_deadband(series: list[Point], band: Deadband) -> None:
    check_reporting(is_due, series, band)


def always(_last: Point | None, _new: Point, _band: Deadband) -> bool:
    return True


def no_quality(last: Point | None, new: Point, band: Deadband) -> bool:
    return last is None or is_due(Point(last.value, new.quality, last.t_ms), new, band)


def truth_is_one(last: Point | None, new: Point, band: Deadband) -> bool:
    same = last is not None and last.value == new.value and last.quality == new.quality
    return is_due(last, new, band) and not same


@pytest.mark.parametrize("bug", [always, no_quality, truth_is_one])
def test_a_seeded_bug_of_reporting_is_found(bug: Due) -> None:
    @settings(max_examples=2000, database=None, phases=[Phase.generate])
    @given(series=points, band=bands)
    def world(series: list[Point], band: Deadband) -> None:
        check_reporting(bug, series, band)

    with pytest.raises(AssertionError):
        world()


def test_a_slow_drift_is_not_lost_in_the_deadband() -> None:
    found = TagTable()
    found.define("a", TagDefinition(place=Place("", "a"), band=Deadband(1.0)), 0)
    sent = [change.point.value for step in range(40) if (change := found.update("a", step * 0.3, GOOD, step))]
    assert len(sent) == 10
