"""The simulated fleet: a seed is a fleet, and faults change what they strike and nothing else."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from benchmarks import unlisted_faults
from benchmarks.server_faults import STRIKES
from benchmarks.server_shapes import CPU, DISK, ERRORS, LATENCY, MEMORY, METRICS, REQUESTS, Plan
from benchmarks.servers import Fleet, build

SMALL = Plan(servers=60, weeks=3, learn_days=7, each=1, seed=5)


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return build(SMALL)


@pytest.fixture(scope="module")
def calm() -> Fleet:
    return build(SMALL, faults=False)


def test_the_same_seed_gives_the_same_fleet_and_another_seed_another(fleet: Fleet) -> None:
    again, other = build(SMALL), build(Plan(servers=60, weeks=3, learn_days=7, each=1, seed=6))
    assert np.array_equal(fleet.values, again.values, equal_nan=True)
    assert fleet.faults == again.faults
    assert not np.array_equal(fleet.values, other.values, equal_nan=True)


def test_faults_change_the_samples_they_strike_and_no_others(fleet: Fleet, calm: Fleet) -> None:
    assert {fault.kind for fault in fleet.faults} == set(STRIKES)
    same = (fleet.values == calm.values) | (np.isnan(fleet.values) & np.isnan(calm.values))
    for fault in fleet.faults:
        part = (slice(None), slice(fault.start, fault.end + 1), list(fault.servers))
        assert not same[part].all(), fault.kind
        same[part] = True
    assert same.all()


def test_faults_begin_after_learning_and_leave_each_service_a_day_of_peace(fleet: Fleet) -> None:
    day = 86_400 // SMALL.period_s
    spans = sorted((int(fleet.group[f.servers[0]]), f.start, f.end) for f in fleet.faults)
    assert all(fleet.judged_from <= start <= end < SMALL.steps for _, start, end in spans)
    for (service, _, ended), (other, starts, _) in pairwise(spans):
        assert service != other or starts - ended >= day


def test_each_fault_does_what_its_name_says(fleet: Fleet, calm: Fleet) -> None:
    struck = {fault.kind: (fault, part(fleet, fault), part(calm, fault)) for fault in fleet.faults}

    def share(kind: str, metric: int) -> float:
        _, now, ordinary = struck[kind]
        return float(np.nanmean(now[metric]) / np.nanmean(ordinary[metric]))

    assert share("memory leak", MEMORY) > 1.1
    assert share("disk filling", DISK) > 1.1
    assert share("slow drift", LATENCY) > 1.3
    assert share("latency step", LATENCY) > 1.7
    assert share("lost traffic", REQUESTS) < 0.15
    assert share("group outage", REQUESTS) < 0.5
    assert share("group outage", ERRORS) > 5
    assert max(share("spike storm", CPU), share("spike storm", LATENCY)) > 1.05
    _, stuck, _ = struck["stuck sensor"]
    assert any(np.nanstd(stuck[metric]) == 0 for metric in (CPU, REQUESTS, LATENCY))


def part(fleet: Fleet, fault: object) -> np.ndarray:
    return fleet.values[:, fault.start : fault.end + 1, list(fault.servers)]  # type: ignore[attr-defined]


def test_ordinary_servers_look_like_servers(calm: Fleet) -> None:
    values = calm.values
    assert values.shape == (len(METRICS), SMALL.steps, SMALL.servers)
    for metric in (CPU, MEMORY, DISK):
        assert np.nanmin(values[metric]) >= 0
        assert np.nanmax(values[metric]) <= 100
    assert all(np.nanmin(values[metric]) >= 0 for metric in (REQUESTS, LATENCY, ERRORS))
    assert 0.0005 < np.isnan(values).mean() < 0.01
    busy = np.nanmean(values[REQUESTS].reshape(-1, 288, SMALL.servers), axis=0)
    assert (busy.max(axis=0) / busy.min(axis=0) > 1.2).mean() > 0.8  # most have a daily course


def test_a_fleet_without_room_for_its_faults_says_so() -> None:
    with pytest.raises(ValueError, match="no room for"):
        build(Plan(servers=8, weeks=0.5, learn_days=1, each=20))


# -- unlike servers and unlisted faults ------------------------------------------------------------


def test_unlisted_faults_change_the_samples_they_strike_and_no_others() -> None:
    plan = Plan(servers=80, weeks=3, learn_days=3, each=1, seed=5, unlike=True, unlisted=True)
    struck, calm = build(plan), build(plan, faults=False)
    assert {fault.kind for fault in struck.faults} == set(STRIKES) | set(unlisted_faults.STRIKES)
    same = (struck.values == calm.values) | (np.isnan(struck.values) & np.isnan(calm.values))
    for fault in struck.faults:
        part = (slice(None), slice(fault.start, fault.end + 1), list(fault.servers))
        assert not same[part].all(), fault.kind
        same[part] = True
    assert same.all()


def test_unlike_servers_of_a_service_differ_far_more_and_stay_within_what_a_server_can_show() -> None:
    spreads = []
    for unlike in (False, True):
        world = build(Plan(servers=60, weeks=1, learn_days=0, seed=5, unlike=unlike), faults=False)
        usual = np.log(np.nanmean(world.values[REQUESTS], axis=0))
        spreads.append(np.mean([usual[world.group == one].std() for one in range(world.group.max() + 1)]))
        for metric in (CPU, MEMORY, DISK):
            assert np.nanmin(world.values[metric]) >= 0
            assert np.nanmax(world.values[metric]) <= 100
    assert spreads[1] > 3 * spreads[0]
