"""autoscale: replays a trace of load against policies, and shows violations and cost."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.remote import EXIT_USAGE, RemoteError

if TYPE_CHECKING:
    from cloud_hub.autoscale.core.cost import PriceTable
    from cloud_hub.autoscale.core.simulate import Result, World
    from cloud_hub.autoscale.core.target import TargetPolicy

EXAMPLES = """examples:
  tidegate-hub autoscale simulate requests.csv --policy policies.yaml
  tidegate-hub autoscale simulate requests.csv --policy policies.yaml --plot days.png
  tidegate-hub autoscale simulate requests.csv --policy policies.yaml --peak 12 --json
  tidegate-hub autoscale simulate requests.csv --policy policies.yaml --prices prices.yaml --type c5.2xlarge --spot 0.6

A trace is CSV with the columns timestamp,value (sums of equal times) or TIMESTAMP,ContextTokens,GeneratedTokens. An
instance carries `per_instance` of the policy's first load signal, in the trace's unit a second; with --peak N it
carries the peak / N. A violation is a minute with a wait over 10 s. The first 3 days, or a quarter of a shorter trace,
are not scored. With `prediction: {mode: auto}`, a backtest on the unscored and scored days says whether the forecast is
used: it may have seen what it is scored on; the benchmark does not.

exit codes: 0 simulated; 2 usage, or the trace cannot be read; 78 the policy or the prices are wrong
"""


def add_simulate(subcommands: Commands) -> None:
    """Add the parser of `autoscale simulate`."""
    simulate = subcommands.add_parser(
        "simulate", help="replay a trace: violations and cost of each policy", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    simulate.set_defaults(action=_simulate)
    simulate.add_argument("trace", type=Path, metavar="TRACE", help="CSV of the load")
    simulate.add_argument("--policy", type=Path, required=True, metavar="FILE", help="YAML with policies by name")
    simulate.add_argument("--peak", type=_count, metavar="N", help="an instance carries the trace's peak / N")
    simulate.add_argument("--prices", type=Path, metavar="FILE", help="YAML with prices")
    simulate.add_argument("--type", metavar="NAME", help="the instance type in the prices (default: the first)")
    simulate.add_argument("--spot", type=_share, default=0.0, metavar="SHARE", help="most of the others on spot, 0..1")
    simulate.add_argument("--plot", type=Path, metavar="FILE", help="draw load, capacity and violations (.png, .svg)")
    simulate.add_argument("--json", action="store_true", help="print JSON")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 10_000):
        raise argparse.ArgumentTypeError(f"'{text}' is not a count from 1 to 10000")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share from 0 to 1")
    return value


def _simulate(arguments: argparse.Namespace) -> int:
    from cloud_hub.autoscale import plot, policy_file, traces  # noqa: PLC0415

    policies = policy_file.read_policies(arguments.policy)
    prices = policy_file.read_prices(arguments.prices) if arguments.prices else None
    try:
        world = traces.read(arguments.trace)
    except traces.TraceError as error:
        raise RemoteError(clean(str(error)), EXIT_USAGE) from error
    peak = world.per_instance * traces.PEAK_INSTANCES
    results, rows = {}, []
    for name, policy in policies.items():
        results[name], notes = _replay(world, policy, peak / arguments.peak if arguments.peak else None)
        rows.append(_row(name, results[name], notes, prices, arguments))
    if arguments.plot:
        plot.save(results, arguments.plot)
    print(json.dumps(rows) if arguments.json else "\n".join(_lines(world, rows)))
    return 0


def _replay(world: World, policy: TargetPolicy, capacity: float | None) -> tuple[Result, str]:
    from msgspec.structs import replace as changed  # noqa: PLC0415

    from cloud_hub.autoscale.core.backtest import backtest, outlooks, single  # noqa: PLC0415
    from cloud_hub.autoscale.core.simulate import PolicyScaler, replay  # noqa: PLC0415

    rule = next((rule for rule in policy.signals if rule.kind == "load"), policy.signals[0])
    rule = changed(rule, kind="load", adds_to="", per_instance=capacity or rule.per_instance)
    world = replace(
        world, per_instance=rule.per_instance, boot_s=policy.boot_s, minimum=max(1, policy.minimum),
        maximum=policy.maximum,
    )  # fmt: skip
    ahead, note = None, "without the forecast (prediction.mode is never)"
    if policy.prediction.mode == "always":
        ahead, note = outlooks(world), "with the forecast (prediction.mode is always)"
    elif policy.prediction.mode == "auto":
        report = backtest(policy, rule, world.rate, world.start_us, world.step_s)
        ahead = outlooks(world) if report.enabled else None
        note = f"{'with' if report.enabled else 'without'} the forecast: {report.reason}"
    return replay(world, PolicyScaler(single(policy, rule), ahead)), note


def _row(
    name: str, result: Result, note: str, prices: PriceTable | None, arguments: argparse.Namespace
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "policy": name, "violation_share": round(result.violation_share, 6),
        "violation_minutes": result.violation_minutes, "instance_hours": round(result.instance_hours, 2),
        "changes": result.changes, "longest_wait_s": _longest(result), "note": note,
    }  # fmt: skip
    if prices is not None:
        row |= _money(result, prices, arguments)
    return row


def _longest(result: Result) -> float | None:
    longest = float(result.wait_s[result.world.unscored :].max(initial=0.0))
    return round(longest, 1) if math.isfinite(longest) else None


def _money(result: Result, prices: PriceTable, arguments: argparse.Namespace) -> dict[str, Any]:
    from cloud_hub.autoscale.core.cost import cheapest  # noqa: PLC0415

    price = prices.price(arguments.type or prices.prices[0].type)
    if price is None:
        known = ", ".join(row.type for row in prices.prices[:10])
        raise RemoteError(f"{arguments.prices} has no type '{arguments.type}', but: {known}", EXIT_USAGE)
    mix = cheapest(price, result.desired[result.world.unscored :], result.world.step_s, arguments.spot)
    return {
        "cost": round(mix.cost, 2), "on_demand_cost": round(mix.on_demand_cost, 2), "saved": round(mix.saved, 4),
        "currency": prices.currency, "reserved": mix.rule.reserved, "spot_share": mix.rule.spot_share,
    }  # fmt: skip


def _lines(world: World, rows: list[dict[str, Any]]) -> list[str]:
    days = (world.rate.size - world.unscored) * world.step_s / 86_400
    priced = "cost" in rows[0]
    head = f"{'policy':24}{'violations':>12}{'instance-hours':>16}{'changes':>9}"
    found = [f"{days:.2f} days scored", "", head + (f"{'cost':>12}{'saved':>8}" if priced else "")]
    for row in rows:
        line = f"{clean(row['policy'])[:23]:24}{100 * row['violation_share']:>11.2f}%{row['instance_hours']:>16.1f}"
        line += f"{row['changes']:>9}"
        found.append(line + (f"{row['cost']:>12.2f}{100 * row['saved']:>7.1f}%" if priced else ""))
    return [*found, "", *(f"{clean(row['policy'])}: {row['note']}" for row in rows)]
