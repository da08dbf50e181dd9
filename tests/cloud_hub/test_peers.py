"""Evidence beside peers: what one server does alone and lastingly counts, what all do or a moment does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from cloud_hub.thresholds.lasting import PeerSettings
from cloud_hub.thresholds.peers import Peers, thresholds

DAY_US = 86_400_000_000
PERIOD_S = 1800.0
DAY = 48
SERVERS, DAYS = 40, 16
SERVICE = np.repeat(np.arange(4), 10)
Values = npt.NDArray[np.float64]


def ordinary(seed: int = 2) -> Values:
    """[T, 2, N]: a daily course that a service shares, noise of each server's own."""
    dice = np.random.default_rng(seed)
    steps = DAYS * DAY
    course = 50 + 20 * np.sin(2 * np.pi * np.arange(steps) / DAY)
    shared = 1 + 0.1 * dice.normal(size=(steps, 4)).cumsum(axis=0) / np.sqrt(DAY)
    load = course[:, None] * np.clip(shared, 0.5, 2.0)[:, SERVICE]
    return np.stack([load * (1 + 0.03 * dice.normal(size=load.shape)) for _ in range(2)], axis=1)


def evidence(values: Values, sides: tuple[str, ...] = ()) -> tuple[Values, Values]:
    peers = Peers(2, SERVICE, PeerSettings(period_s=PERIOD_S, hours=(2.0, 6.0, 24.0)), sides)  # type: ignore[arg-type]
    found = [peers.step(int(k * PERIOD_S * 1e6), row) for k, row in enumerate(values)]
    return np.stack([one for one, _ in found]), np.stack([one for _, one in found])


def change(values: Values, act: Callable[[Values], Values], server: int | slice, length: int = DAY) -> Values:
    changed = values.copy()
    part = changed[12 * DAY : 12 * DAY + length, 0, server]
    changed[12 * DAY : 12 * DAY + length, 0, server] = act(part)
    return changed


def window(found: Values) -> Values:
    return found[12 * DAY : 13 * DAY, 0].max(axis=0)


def test_a_server_that_drifts_away_stands_out_and_its_peers_do_not() -> None:
    found = window(evidence(change(ordinary(), lambda x: x * 1.5, 3))[0])
    assert found[3] > 3
    assert np.delete(found, 3).max() < 3


def test_what_all_servers_of_a_service_do_is_the_services_and_no_servers() -> None:
    servers, services = evidence(change(ordinary(), lambda x: x * 1.8, slice(0, 10)))
    assert window(servers).max() < 3
    assert window(services)[0] > 3
    assert window(services)[1:].max() < 3


def test_a_lone_spike_is_nothing() -> None:
    assert window(evidence(change(ordinary(), lambda x: x * 5, 3, length=1))[0])[3] < 3


def test_a_value_that_stands_still_is_seen_though_it_is_no_strange_value() -> None:
    values = change(ordinary(), lambda x: np.full_like(x, 50.0), 3)
    values[12 * DAY : 13 * DAY, :, :] = values[12 * DAY : 13 * DAY].clip(49, 51)
    assert window(evidence(values)[0])[3] > 3


def test_only_the_side_of_concern_counts() -> None:
    fallen = change(ordinary(), lambda x: x * 0.4, 3)
    assert window(evidence(fallen, ("both", "both"))[0])[3] > 3
    high = evidence(fallen, ("high", "high"))[0]
    assert high[12 * DAY : 13 * DAY, 0, 3].max() < evidence(fallen, ("low", "low"))[0][12 * DAY : 13 * DAY, 0, 3].max()


def test_what_comes_every_night_is_no_news() -> None:
    values = ordinary()
    for day in range(DAYS):
        values[day * DAY + 4 : day * DAY + 10, 0, 3] *= 1.6
    assert evidence(values)[0][12 * DAY :, 0, 3].max() < 3


def test_ordinary_days_keep_the_budget_within_a_factor_of_five() -> None:
    found = evidence(ordinary(9))[0][8 * DAY :]
    days = found.reshape(-1, DAY, 2, SERVERS).max(axis=1)
    share = float((days >= 2).mean())  # evidence 2: a day in a hundred
    assert 0.002 < share < 0.05


def test_the_same_data_give_the_same_evidence_bit_for_bit() -> None:
    first, again = evidence(ordinary()[: 6 * DAY]), evidence(ordinary()[: 6 * DAY])
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_missing_infinite_and_constant_values_give_no_evidence_and_no_warning() -> None:
    values = ordinary()[: 8 * DAY]
    values[:, :, 5], values[:, 1, 6], values[7 * DAY :, :, 7] = np.nan, 0.0, np.inf
    values[6 * DAY : 6 * DAY + 5] = np.nan
    servers, services = evidence(values)
    assert np.isfinite(servers).all()
    assert np.isfinite(services).all()
    assert servers[:, :, 5].max() == servers[7 * DAY :, :, 7].max() == servers[6 * DAY : 6 * DAY + 5].max() == 0


def test_a_budget_becomes_thresholds_by_arithmetic() -> None:
    servers, services = thresholds(2.0, 6000, 300)
    assert 2 * (6000 * 10**-servers + 300 * 10**-services) == pytest.approx(2.0)  # two: views of one metric
    assert services < servers
    assert thresholds(1e9, 6000, 300) == (0.0, 0.0)


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (float("nan"), 1, 1), (float("inf"), 1, 1)])
def test_a_budget_of_nothing_is_refused(numbers: tuple[float, int, int]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        thresholds(*numbers)


@pytest.mark.parametrize("wrong", [{"near": 0.01, "far": 0.02}, {"period_s": 0}, {"learn_days": 1}, {"fade": 1.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must|least"):
        PeerSettings(**wrong)  # type: ignore[arg-type]


def test_a_side_for_each_metric_or_none() -> None:
    with pytest.raises(ValueError, match="1 sides for 2 metrics"):
        Peers(2, SERVICE, sides=("high",))
