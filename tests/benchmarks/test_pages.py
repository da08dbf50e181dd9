"""Pages end to end: counted by hand on made alarms, and a small fleet through all methods."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from benchmarks import hub_pages, page_worth, pages, simple_peers
from benchmarks.server_faults import Fault
from benchmarks.server_shapes import METRICS, Plan
from benchmarks.servers import Fleet


def fleet(*faults: Fault) -> Fleet:
    """Six servers in two services over two days, all that counts."""
    plan = Plan(servers=6, weeks=2 / 7, learn_days=0)
    t_us = np.arange(plan.steps, dtype=np.int64) * 300_000_000
    values = np.zeros((len(METRICS), plan.steps, 6), dtype=np.float32)
    return Fleet(plan=plan, t_us=t_us, values=values, group=np.array([0, 0, 0, 1, 1, 1]), faults=faults)


def crossings(*points: tuple[int, int]) -> page_worth.Crossings:
    step, series = np.array(sorted(points), dtype=np.int64).reshape(-1, 2).T
    return page_worth.Crossings(step, series, np.ones(len(points)))


def test_alarms_of_one_service_within_two_hours_are_one_page() -> None:
    # cpu of servers 0, 1 and 4; two hours are 24 steps
    at = page_worth.worth(fleet(), crossings((10, 0), (34, 1), (36, 4), (59, 2)), 0.5)
    assert (at.alarms, at.pages, at.false.total()) == (4, 3, 3)


def test_a_page_takes_in_no_more_after_a_shift() -> None:
    servers = [0, 1, 2, 6, 7, 8, 12, 13, 14]  # of one service: cpu, memory, disk
    chain = crossings(*((20 * n, series) for n, series in enumerate(servers)))
    assert page_worth.worth(fleet(), chain, 0.5).pages == 2


def test_a_series_is_silent_for_a_while_after_its_alarm() -> None:
    assert page_worth.raised(crossings((5, 0), (6, 0), (204, 0), (205, 0), (6, 1)), 0.5) == [(5, 0), (6, 1), (205, 0)]


def test_a_fault_is_found_on_its_own_server_while_it_lasts() -> None:
    one = Fault(kind="memory leak", servers=(1,), start=100, end=120)
    for point, found, false in [
        ((110, 1), 1, 0),
        ((110, 7), 1, 0),
        ((110, 0), 0, 1),
        ((99, 1), 0, 1),
        ((125, 1), 0, 0),
    ]:
        at = page_worth.worth(fleet(one), crossings(point), 0.5)
        assert (len(at.found), at.false.total()) == (found, false), point
    assert page_worth.worth(fleet(one), crossings((110, 1)), 0.5).found == {0: 10 * 300}


def test_an_alarm_of_a_service_is_of_faults_that_strike_it_whole() -> None:
    service_of_cpu = len(METRICS) * 6
    whole = Fault(kind="group outage", servers=(0, 1, 2), start=100, end=120)
    alone = Fault(kind="memory leak", servers=(1,), start=100, end=120)
    assert page_worth.worth(fleet(whole), crossings((110, service_of_cpu)), 0.5).found
    assert not page_worth.worth(fleet(whole), crossings((110, service_of_cpu + 1)), 0.5).found
    assert not page_worth.worth(fleet(alone), crossings((110, service_of_cpu)), 0.5).found


@pytest.mark.slow
def test_the_whole_benchmark_at_a_small_size(monkeypatch: Any, tmp_path: Any, capsys: Any) -> None:
    file = tmp_path / "pages.json"
    given = [
        "pages",
        "--servers",
        "40",
        "--weeks",
        "2",
        "--learn-days",
        "5",
        "--faults",
        "1",
        "--seed",
        "4",
        "--unlike",
        "--unlisted",
    ]
    monkeypatch.setattr(sys, "argv", [*given, "--json", str(file)])
    pages.main()
    out = capsys.readouterr().out
    for name in (
        "Tidegate: evidence beside peers",
        "Tidegate: the hub's own alarms and calls",
        "simple peers",
        "simple peers, beside its own week",
        "EWMA band",
        "static limits 80",
        "static limits 90",
    ):
        assert f"{name} " in out
    assert '"faults found"' in file.read_text()


# -- the hub's own alarms and calls ------------------------------------------------------------------


def hub(*points: tuple[int, int], faults: tuple[Fault, ...] = ()) -> page_worth.Worth:
    return hub_pages.worth(fleet(*faults), crossings(*points), (4.0, 3.0))


def test_the_hub_has_one_alarm_of_a_server_whatever_the_metric_and_calls_once_for_a_service() -> None:
    cpu_0, cpu_1, memory_0, cpu_4 = 0, 1, 6, 4
    assert (hub((10, cpu_0), (12, memory_0)).alarms, hub((10, cpu_0), (12, cpu_1)).alarms) == (1, 2)
    assert hub((10, cpu_0), (33, cpu_1)).pages == 1
    assert hub((10, cpu_0), (40, cpu_1)).pages == 2
    assert hub((10, cpu_0), (33, cpu_4)).pages == 2


def test_the_hubs_alarm_stands_until_it_was_calm_and_its_metric_may_then_alarm_again() -> None:
    assert hub((10, 0), (11, 0), (25, 0)).alarms == 1
    assert hub((10, 0), (31, 0)).alarms == 2


def test_a_call_of_the_hub_is_real_where_one_of_its_alarms_is_of_a_fault() -> None:
    one = Fault(kind="memory leak", servers=(1,), start=100, end=120)
    at = hub((105, 0), (110, 1), (150, 2), faults=(one,))
    assert (at.pages, at.false.total(), at.found) == (2, 1, {0: 10 * 300})


# -- unlike servers, unlisted faults, simple peers ---------------------------------------------------


def test_simple_peers_find_who_differs_and_only_once_it_was_held() -> None:
    group = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    simple = simple_peers.SimplePeers(group, ("both", "high"), learn=0, own=False)
    values = np.tile(np.array([10.0, 11.0, 12.0, 11.0, 50.0, 52.0, 54.0, 53.0]), (2, 1))
    values[:, 1] = [40.0, -20.0]
    found = [simple.step(np.zeros(16, np.int64), values.ravel()).reshape(2, 8) for _ in range(simple_peers.HELD)]
    assert np.isnan(found[-2]).all()
    assert found[-1][0].argmax() == 1
    assert found[-1][0, 1] > 15
    assert found[-1][1].max() < 2, "lower is no concern of the second metric"
    calm = values.copy()
    calm[:, 1] = 11.0
    assert simple.step(np.zeros(16, np.int64), calm.ravel()).max() < 3


def test_beside_its_own_week_a_server_that_always_differs_is_usual() -> None:
    group, dice = np.zeros(6, np.int64), np.random.default_rng(2)
    both = [simple_peers.SimplePeers(group, ("both",), simple_peers.DAY, own=own) for own in (False, True)]
    last = []
    for step in range(simple_peers.DAY + 10):
        values = np.array([10.0, 10, 10, 10, 10, 40]) + dice.normal(0, 1, 6)
        values[0] += 25 * (step >= simple_peers.DAY)
        last = [one.step(np.zeros(6, np.int64), values) for one in both]
    assert last[0].argmax() == 5
    assert last[1].argmax() == 0


def test_medians_are_those_of_what_is_known() -> None:
    part = np.random.default_rng(3).normal(size=(6, 9))
    part[part > 0.8] = np.nan
    np.testing.assert_array_equal(simple_peers._medians(part), np.nanmedian(part, axis=1, keepdims=True))
