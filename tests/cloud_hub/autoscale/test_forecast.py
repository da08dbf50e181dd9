"""The forecast, the count that it is worth, the simulator and the backtest, on synthetic loads."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cloud_hub.autoscale.core.backtest import Reactive, backtest, outlooks, whole_days
from cloud_hub.autoscale.core.cost import Price, PriceTable, cheapest
from cloud_hub.autoscale.core.curves import Point, best, cost_gap_closed, hours_at, violation_gap_closed, violations_at
from cloud_hub.autoscale.core.forecast import PROBABILITIES, Analogs
from cloud_hub.autoscale.core.plan import probability, worthwhile
from cloud_hub.autoscale.core.signals import SignalRule
from cloud_hub.autoscale.core.simulate import Floats, PolicyScaler, Step, World, least_hours, replay
from cloud_hub.autoscale.core.state import Outlook
from cloud_hub.autoscale.core.target import TargetPolicy, hourly
from shared.durations import DAY_US

DAY = 1440
START_US = 20_000 * DAY_US
RULE = SignalRule(name="load", per_instance=10.0)
POLICY = TargetPolicy(signals=(RULE,), maximum=40, max_step=40, actions_per_hour=60)


def daily(days: int, seed: int = 0, noise: float = 0.02) -> Floats:
    """A sine of a day between 20 and 80, with noise."""
    rng = np.random.default_rng(seed)
    minutes = np.arange(days * DAY)
    load: Floats = (50 - 30 * np.cos(2 * np.pi * minutes / DAY)) * (1 + noise * rng.normal(size=minutes.size))
    return load


def noisy(days: int, seed: int = 0) -> Floats:
    """Gamma noise in five-minute steps: what comes next cannot be known, only its distribution."""
    rng = np.random.default_rng(seed)
    knots = rng.gamma(1.2, 25.0, days * 288 + 1)
    return np.interp(np.arange(days * DAY), np.arange(knots.size) * 5, knots)


def test_a_daily_rise_is_foreseen() -> None:
    load = daily(6)
    at = 5 * DAY + 6 * 60
    outlook = Analogs(load, START_US, 60.0, 10.0).at(at, 600.0, "load")
    assert outlook is not None
    median = outlook.later[PROBABILITIES.index(0.5)]
    ahead = float(load[at + 11 : at + 21].mean())
    assert abs(median - ahead) < 2.5
    assert median > load[at] + 0.5
    assert outlook.soon[PROBABILITIES.index(0.5)] < median


def test_the_quantiles_cover_what_follows() -> None:
    load = noisy(8)
    analogs = Analogs(load, START_US, 60.0, 10.0)
    at = np.arange(4 * DAY, 8 * DAY - 20, 97)
    found = [analogs.at(int(i), 300.0, "load") for i in at]
    for share in (0.5, 0.9):
        hits = [load[i + 10] <= o.later[PROBABILITIES.index(share)] for i, o in zip(at, found, strict=True) if o]
        assert abs(np.mean(hits) - share) < 0.12


def test_a_forecast_never_uses_later_values() -> None:
    load, at = daily(4, noise=0.2), 3 * DAY + 100
    changed = load.copy()
    changed[at + 1 :] = np.nan
    one, other = (Analogs(values, START_US, 60.0, 10.0).at(at, 300.0) for values in (load, changed))
    assert one is not None
    assert one == other


def test_without_a_day_of_history_or_a_present_value_there_is_no_forecast() -> None:
    load = daily(3)
    load[2 * DAY] = np.nan
    analogs = Analogs(load, START_US, 60.0, 10.0)
    assert analogs.at(DAY, 300.0) is None
    assert analogs.at(2 * DAY, 300.0) is None
    assert analogs.at(2 * DAY + 1, 300.0) is not None


@given(st.integers(0, 2**32), st.floats(0, 0.6))
@settings(max_examples=20, deadline=None)
def test_gaps_and_extremes_give_a_usable_forecast_or_none(seed: int, gaps: float) -> None:
    rng = np.random.default_rng(seed)
    load = rng.choice([0.0, 1e-9, 1.0, 50.0, 1e9], 3 * DAY)
    load[rng.random(load.size) < gaps] = np.nan
    load[-1] = 5.0
    outlook = Analogs(load, START_US, 60.0, 10.0).at(load.size - 1, 300.0)
    assert outlook is None or outlook.usable


def flat(low: float, high: float, share: float) -> tuple[float, ...]:
    """Quantiles of a demand that is `high` in a share of the time."""
    return tuple(high if p >= 1 - share else low for p in PROBABILITIES)


def test_a_rare_peak_is_provided_for_only_at_its_price() -> None:
    rare = Outlook(signal="load", t_us=0, soon=flat(20, 20, 0), later=flat(20, 100, 0.1), hold_s=600.0)
    assert worthwhile(rare, 2, 10.0, 300.0, worth=40.0, maximum=40) == 2
    assert worthwhile(rare, 2, 10.0, 300.0, worth=400.0, maximum=40) == 10
    assert worthwhile(rare, 2, 10.0, 300.0, worth=400.0, maximum=6) == 6
    certain = replace(rare, later=flat(100, 100, 0))
    assert worthwhile(certain, 2, 10.0, 300.0, worth=40.0, maximum=40) == 10


def test_what_is_needed_until_a_new_instance_serves_is_kept() -> None:
    falling = Outlook(signal="load", t_us=0, soon=flat(80, 80, 0), later=flat(20, 20, 0), hold_s=600.0)
    assert worthwhile(falling, 8, 10.0, 300.0, worth=40.0, maximum=40) == 8
    gone = replace(falling, soon=flat(20, 20, 0))
    assert worthwhile(gone, 8, 10.0, 300.0, worth=40.0, maximum=40) == 2


def test_probability_lies_between_the_quantiles() -> None:
    quantiles = tuple(100 * p for p in PROBABILITIES)
    assert [probability(quantiles, d) for d in (-1.0, 50.0, 100.0, 200.0)] == [0.0, 0.5, 1.0, 1.0]


# -- the simulator -------------------------------------------------------------------------------------------------


def world(load: Floats, unscored: int = 0) -> World:
    return World(rate=load, per_instance=10.0, start_us=START_US, unscored=unscored)


def test_a_fluid_queue_waits_for_what_it_cannot_serve() -> None:
    load = np.array([10.0, 12.0, 10.0, 0.0, 0.0])
    result = replay(world(load), lambda step: 1)
    assert result.wait_s.tolist() == [0.0, 12.0, 12.0, 0.0, 0.0]
    assert (result.violation_minutes, result.instance_hours) == (2.0, 5 / 60)


def test_instances_serve_after_their_boot_and_cost_at_once() -> None:
    result = replay(world(np.full(10, 5.0)), lambda step: 3 if step.index < 7 else 1)
    assert result.desired.tolist() == [1, 3, 3, 3, 3, 3, 3, 3, 1, 1]
    assert result.ready.tolist() == [1, 1, 1, 1, 1, 3, 3, 3, 1, 1]


def test_foresight_needs_no_more_than_any_scaler_without_violations() -> None:
    found = world(daily(2))
    safe = replay(found, lambda step: 9, first=9)
    assert safe.violation_share == 0
    assert least_hours(found) < safe.instance_hours


def test_the_reactive_policy_is_the_hpa() -> None:
    found = world(noisy(2))
    rules = (RULE, SignalRule(name="backlog", per_instance=10.0, kind="backlog", adds_to="load"))
    ours = replay(found, PolicyScaler(replace(POLICY, signals=rules)))
    theirs = replay(found, Reactive(found, 0.7))
    assert np.mean(ours.desired == theirs.desired) > 0.97
    assert abs(ours.instance_hours / theirs.instance_hours - 1) < 0.01


def test_the_forecast_beats_the_hpa_on_noise_at_equal_cost() -> None:
    found = world(noisy(5), unscored=3 * DAY)
    rules = (RULE, SignalRule(name="backlog", per_instance=10.0, kind="backlog", adds_to="load"))
    ours = replay(found, PolicyScaler(replace(POLICY, signals=rules), outlooks(found, every=5)))
    theirs = replay(found, Reactive(found, 0.7))
    assert ours.violation_share < theirs.violation_share / 3
    assert ours.instance_hours < theirs.instance_hours


# -- the backtest ----------------------------------------------------------------------------------------------------


def test_the_backtest_enables_the_forecast_where_it_wins() -> None:
    assert backtest(POLICY, RULE, noisy(3), START_US).enabled


def test_the_backtest_leaves_it_off_where_the_hpa_does_as_well() -> None:
    report = backtest(POLICY, RULE, np.full(3 * DAY, 34.0), START_US)
    assert not report.enabled
    assert "are needed" in report.reason


@pytest.mark.parametrize("load", [np.full(2 * DAY, 5.0), np.full(5 * DAY, np.nan), np.zeros(0)])
def test_a_history_that_is_too_short_or_unknown_enables_nothing(load: Floats) -> None:
    report = backtest(POLICY, RULE, load, START_US)
    assert (report.enabled, report.days) == (False, 0)


def test_only_whole_days_count() -> None:
    part, start = whole_days(np.arange(2 * DAY + 100.0), START_US, 60.0)
    assert part.size == 2 * DAY
    assert start == START_US + 100 * 60_000_000


# -- curves, cost ------------------------------------------------------------------------------------------------------

HPA = [Point("", 0.2, 100, 0), Point("", 0.1, 200, 0), Point("", 0.15, 250, 0), Point("", 0.0, 400, 0)]


def test_a_curve_has_only_settings_that_no_other_beats() -> None:
    assert [p.hours for p in best(HPA)] == [100, 200, 400]
    assert hours_at(HPA, 0.15) == 150
    assert violations_at(HPA, 300) == pytest.approx(0.05)
    assert math.isnan(hours_at([Point("", 0.1, 50, 0)], 0.05))
    assert math.isnan(violations_at(HPA, 50))


def test_the_gap_is_measured_at_equal_violations_and_at_equal_cost() -> None:
    ours = [Point("", 0.1, 100, 0), Point("", 0.02, 200, 0)]
    assert cost_gap_closed(ours, HPA, 50.0, 0.1) == pytest.approx(100 / 150)
    assert violation_gap_closed(ours, HPA, 200) == pytest.approx(0.8)


PRICE = Price(type="c5.2xlarge", on_demand=0.34, spot=0.17, reserved=0.2)


def test_an_instance_is_reserved_that_runs_long_enough() -> None:
    counts = np.array([2] * 12 + [6] * 12)
    mix = cheapest(PRICE, counts, 3600.0)
    assert mix.rule.reserved == 2
    assert mix.cost == pytest.approx(24 * 2 * 0.2 + 12 * 4 * 0.34)
    assert mix.saved == pytest.approx(1 - mix.cost / (96 * 0.34))


def test_spot_takes_its_share_of_the_others_and_the_rule_costs_the_same() -> None:
    counts = np.array([2] * 12 + [6] * 12)
    mix = cheapest(PRICE, counts, 3600.0, spot_share=0.5)
    assert mix.cost == pytest.approx(sum(hourly(mix.rule, n) for n in counts.tolist()))
    dear = cheapest(replace(PRICE, spot=0.5), counts, 3600.0, spot_share=0.5)
    assert dear.rule.spot_share == 0.0


def test_a_type_is_found_by_region() -> None:
    table = PriceTable(source="a test", prices=(PRICE, replace(PRICE, region="eu", on_demand=1.0)))
    assert table.price("c5.2xlarge", "eu") == table.prices[1]
    assert table.price("c5.2xlarge") == PRICE
    assert table.price("other") is None


def test_step_sees_the_backlog() -> None:
    seen: list[Step] = []

    def scaler(step: Step) -> int:
        seen.append(step)
        return 1

    replay(world(np.array([20.0, 10.0])), scaler)
    assert [step.backlog for step in seen] == [600.0, 600.0]
