"""Compares autoscaling policies on a trace: violation minutes against instance-hours, as curves.

    python -m benchmarks.autoscale --trace FILE.csv [--json FILE] [--plots FOLDER]
    python -m benchmarks.autoscale --trace nab_dev.parquet --series realKnownCause/nyc_taxi.csv
    python -m benchmarks.autoscale --synthetic daily --seed 100

Definitions (`cloud_hub/autoscale/traces.py`, `core/simulate.py`): rate interpolated per minute; an instance carries the
99.9th percentile of the rate / 12; a fluid queue; a violation is a minute with a wait over 10 s; 1 to 40 instances; the
first 3 days (of a shorter trace a quarter) are not scored; boot 300 s (120 s for a trace of tokens). Perfect foresight
has no violation and just the instances that each minute needs, without the time to boot them: a bound.

**Tidegate, always** uses the forecast from the first day of history on, by price of a violation. **Tidegate, auto**
starts as the HPA and asks the backtest after three days, and then every two days (every seven for a trace of a month or
more), whether the forecast is worth it; `enabled` is the share of scored days. Its settings are pairs of the HPA's
target and the price. All safety rules are on: steps of at most 40 instances, a minute between opposite steps, 60
actions an hour.

How much of the gap is closed: of the HPA's violations, at the cost of each of three HPA settings (0.5, 0.7, 0.9); and
of the HPA's cost beyond foresight, at equal violations. The HPA's settings are the best of 19 in hindsight.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import autoscale_peers, autoscale_plots
from benchmarks.autoscale_traces import KINDS, read, synthetic
from benchmarks.report import Row, publish
from cloud_hub.autoscale.core.backtest import LEAST_DAYS, backtest, outlooks
from cloud_hub.autoscale.core.curves import (
    LEVELS,
    Point,
    best,
    cost_gap_closed,
    hours_at,
    violation_gap_closed,
    violations_at,
)
from cloud_hub.autoscale.core.policy import decide
from cloud_hub.autoscale.core.signals import Reading, SignalRule
from cloud_hub.autoscale.core.simulate import BACKLOG, LOAD, PolicyScaler, Result, World, least_hours, replay
from cloud_hub.autoscale.core.state import Observation, Outlook, State
from cloud_hub.autoscale.core.target import Prediction, TargetPolicy
from shared.durations import DAY_US, SECOND_US

WORTHS = (4.0, 7.0, 12.0, 18.0, 25.0, 40.0, 70.0, 120.0, 250.0, 600.0)
PAIRS = ((1.0, 4.0), (0.9, 10.0), (0.8, 20.0), (0.7, 40.0), (0.6, 80.0), (0.5, 160.0), (0.3, 600.0))
HPA_SETTINGS = (0.5, 0.7, 0.9)
TARGETS = 1000


def main() -> None:
    """Command line."""
    options = arguments()
    try:
        world = synthetic(options.synthetic, options.seed) if options.synthetic else read(options.trace, options.series)
    except ValueError as wrong:
        raise SystemExit(str(wrong)) from None
    if options.days:
        world = replace(world, rate=world.rate[: round(options.days * DAY_US / SECOND_US / world.step_s)])
    name = options.synthetic or options.series or options.trace.stem
    rows = compare(name, world, options.plots)
    if not options.no_speed:
        rows += speed(world)
    publish("autoscale", options.seed, rows, options.json)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The options: a trace, or a synthetic world."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--trace", type=Path, help="CSV with timestamp,value or TIMESTAMP,ContextTokens,GeneratedTokens")
    what.add_argument("--synthetic", choices=KINDS)
    parser.add_argument("--series", default="", help="of a Parquet file")
    parser.add_argument("--days", type=float, default=0.0, help="only the first days; an instance carries what it did")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--plots", type=Path, help="draw the curves into this folder, as PNG")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--no-speed", action="store_true", help="leave out the cost of decisions")
    return parser.parse_args(given)


def policy(world: World, target: float = 0.7, worth: float = 40.0) -> TargetPolicy:
    """The policy under test; only safety limits that are as wide as the definitions allow."""
    capacity = world.per_instance
    return TargetPolicy(
        signals=(
            SignalRule(name=LOAD, per_instance=capacity, target=target),
            SignalRule(name=BACKLOG, per_instance=capacity, kind="backlog", adds_to=LOAD),
        ),
        minimum=world.minimum, maximum=world.maximum, boot_s=world.boot_s, max_step=world.maximum, cooldown_s=60.0,
        actions_per_hour=60, prediction=Prediction(worth=worth),
    )  # fmt: skip


def compare(name: str, world: World, plots: Path | None) -> list[Row]:
    """All policies on one trace."""
    curves: dict[str, list[Point]] = {}
    for label, scalers in autoscale_peers.curves(world).items():
        curves[label] = [_point(replay(world, scaler), "") for scaler in scalers]
    ahead = outlooks(world)
    always = [(f"worth {w:g}", replay(world, PolicyScaler(policy(world, worth=w), ahead))) for w in WORTHS]
    curves["Tidegate, always"] = [_point(result, setting) for setting, result in always]
    used, enabled = switched(world, ahead)
    auto = [(f"target {t:g}, worth {w:g}", replay(world, PolicyScaler(policy(world, t, w), used))) for t, w in PAIRS]
    curves["Tidegate, auto"] = [_point(result, setting) for setting, result in auto]
    bound = least_hours(world)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        autoscale_plots.draw(name, curves, bound, plots / f"{Path(name).stem}.png")
    return [*_trace(name, world, bound, enabled), *_named(name, world), *_rows(name, curves, bound)]


def switched(world: World, ahead: list[Outlook | None]) -> tuple[list[Outlook | None], float]:
    """The forecasts of the days for which a backtest on the days before enables them, and the share of scored days."""
    day = round(DAY_US / (world.step_s * SECOND_US))
    found: list[Outlook | None] = [None] * len(ahead)
    every = (2 if len(ahead) < 30 * day else 7) * day
    rule = policy(world).signals[0]
    for end in range(LEAST_DAYS * day, len(ahead), every):
        first = max(0, end - 28 * day)
        start_us = world.start_us + first * int(world.step_s * SECOND_US)
        if backtest(policy(world), rule, world.rate[first:end], start_us, world.step_s).enabled:
            found[end : end + every] = ahead[end : end + every]
    return found, sum(one is not None for one in found) / max(1, len(ahead) - world.unscored)


def _point(result: Result, setting: str) -> Point:
    return Point(setting, result.violation_share, result.instance_hours, result.changes)


def _trace(name: str, world: World, bound: float, enabled: float) -> list[Row]:
    days = world.rate.size * world.step_s / 86_400
    return [
        Row(name, "(the trace)", "length", days, "days"),
        Row(name, "(the trace)", "minutes not scored", world.unscored * world.step_s / 60, ""),
        Row(name, "perfect foresight", "cost", bound, "instance-hours"),
        Row(name, "Tidegate, auto", "enabled", 100 * enabled, "% of scored days"),
    ]


def _named(name: str, world: World) -> list[Row]:
    """The named settings: static 12, the HPA's three, the seasonal median."""
    named = {"static 12": autoscale_peers.Static(12)}
    scalers = {f"HPA {t:g}": autoscale_peers.Hpa(world, t) for t in HPA_SETTINGS}
    found = {**named, **scalers, "trend + HPA 0.7": autoscale_peers.Trend(world, 0.7),
             "seasonal median + HPA 0.7": autoscale_peers.SeasonalMedian(world, 0.7)}  # fmt: skip
    rows = []
    for label, scaler in found.items():
        point = _point(replay(world, scaler), label)
        rows.append(Row(name, label, "violation minutes", 100 * point.violations, "%"))
        rows.append(Row(name, label, "cost", point.hours, "instance-hours"))
    return rows


def _rows(name: str, curves: dict[str, list[Point]], bound: float) -> list[Row]:
    rows, reference = [], curves["HPA"]
    for label, points in curves.items():
        for point in best(points) if label.startswith("Tidegate") else []:
            rows.append(Row(name, f"{label}: {point.setting}", "violation minutes", 100 * point.violations, "%"))
            rows.append(Row(name, f"{label}: {point.setting}", "cost", point.hours, "instance-hours"))
            rows.append(Row(name, f"{label}: {point.setting}", "changes", point.changes, ""))
        rows += [Row(name, label, f"cost at {100 * v:g} %", hours_at(points, v), "instance-hours") for v in LEVELS]
        if label == "HPA":
            continue
        for v in LEVELS:
            closed = 100 * cost_gap_closed(points, reference, bound, v)
            rows.append(Row(name, label, f"cost gap closed at {100 * v:g} %", closed, "%"))
        for target in HPA_SETTINGS:
            hours = reference[autoscale_peers.TARGETS.index(target)].hours
            closed = 100 * violation_gap_closed(points, reference, hours)
            rows.append(
                Row(name, label, f"violations at HPA {target:g}'s cost", 100 * violations_at(points, hours), "%")
            )
            rows.append(Row(name, label, f"their gap closed at HPA {target:g}'s cost", closed, "%"))
    return [row for row in rows if not math.isnan(row.value)]


def speed(world: World) -> list[Row]:
    """Cost of a decision and of a forecast, over a thousand targets."""
    rule, now = policy(world), world.start_us + world.rate.size * 60 * SECOND_US
    ahead = outlooks(world, every=max(1, world.rate.size // 50))[-1]
    states = [State() for _ in range(TARGETS)]
    loads = np.resize(world.rate, TARGETS).tolist()
    took = []
    for turn in range(3):
        began = time.perf_counter()
        for number, load in enumerate(loads):
            at = now + turn * 60 * SECOND_US
            readings = tuple(Reading(signal=n, value=load, t_us=at) for n in (LOAD, BACKLOG))
            seen = Observation(now_us=at, desired=5, busy=0, readings=readings, outlook=ahead, fencing_token=1)
            _, states[number] = decide(rule, states[number], seen)
        took.append(time.perf_counter() - began)
    began = time.perf_counter()
    outlooks(world, every=max(1, world.rate.size // 200))
    forecast = (time.perf_counter() - began) / 200
    began = time.perf_counter()
    report = backtest(rule, rule.signals[0], world.rate, world.start_us)
    print(f"backtest: {report.reason}", file=sys.stderr)
    return [
        Row("speed", "Tidegate", "a decision of 1,000 targets", 1e3 * min(took), "ms"),
        Row("speed", "Tidegate", "a forecast", 1e3 * forecast, "ms"),
        Row("speed", "Tidegate", "a backtest of this trace", time.perf_counter() - began, "s"),
    ]


if __name__ == "__main__":
    main()
