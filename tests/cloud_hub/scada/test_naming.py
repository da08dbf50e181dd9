"""Names of foreign nodes become names of the hub, whatever they hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.scada.core import naming
from shared.ids import DEVICE_ID, metric_name

ids = st.text(min_size=1, max_size=256)
names = st.text(max_size=300) | st.text("aA/. -_#+$\\é压\0\x1b", max_size=300)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("Motor 1/Speed", "motor-1/speed"), ("speed", "speed"), ("A.B", "a.b"), ("//a//b/", "a/b"),
        ("a - / - b", "a/b"), ("Temp (°C)", "temp-c"), ("_meta", "_meta"),
    ],
)  # fmt: skip
def test_a_metric_keeps_what_can_be_kept_of_its_name(name: str, metric: str) -> None:
    assert naming.metric_name(name) == metric


@pytest.mark.parametrize(
    ("key", "device"),
    [
        (("Line 1", "Press 3", ""), "line-1-press-3"), (("Line 1", "Press 3", "Drive"), "line-1-press-3-drive"),
        (("_x", "y", ""), "_x-y".lstrip("_")),
    ],
)  # fmt: skip
def test_a_device_is_named_by_group_node_and_device(key: tuple[str, str, str], device: str) -> None:
    assert naming.device_id(*key) == device


@given(names)
def test_every_metric_name_is_valid(name: str) -> None:
    made = naming.metric_name(name)
    assert metric_name(made) == made
    again = naming.disambiguate(made, naming.digest(name), naming.METRIC_MOST)
    assert metric_name(again) == again


@given(ids, ids, ids | st.just(""))
def test_every_device_id_is_valid(group: str, node: str, device: str) -> None:
    made = naming.device_id(group, node, device)
    assert DEVICE_ID.match(made)
    assert DEVICE_ID.match(naming.disambiguate(made, naming.digest(group, node, device), naming.DEVICE_MOST))


@given(ids, ids)
def test_names_of_which_nothing_can_be_kept_stay_apart(one: str, other: str) -> None:
    if one != other:
        assert naming.digest(one) != naming.digest(other)
    assert naming.digest(one, other) != naming.digest(one + other)
    assert naming.metric_name("压力") != naming.metric_name("温度")
    assert naming.device_id("g", "压力") != naming.device_id("g", "温度")
