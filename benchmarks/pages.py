"""End-to-end evaluation: pages and faults found in a simulated fleet of servers.

    python -m benchmarks.pages [--servers 1000] [--weeks 4] [--seed 7] [--score] [--json FILE]

The fleet (`benchmarks/servers.py`): six metrics of each server every five minutes, some days to learn without faults,
then weeks that count, with eight kinds of fault, six of each. Every method sees each sample once, as it comes, and
alarms where its score crosses one threshold, each series under one refractory filter of 200 samples. Alarms of a
service within two hours of each other are one page, for a shift at most, for all methods alike.

A fault is **found** when an alarm is raised on one of its servers (or, for those that strike a whole service, on the
service) while it lasts. A page is **real** when one of its alarms is of a fault, or comes within an hour after it on
its servers; else it is **false**. Each method is shown at its own threshold: ours by arithmetic from a budget of one
false page a shift, the others' usual one. "Best within two pages" is the lowest
threshold with at most two pages a shift, or the highest there is: it wants the future known, so no user could choose
it. "The hub's own alarms and calls" are of the same evidence at the same threshold, by the hub's rules in place of the
common ones (`benchmarks/hub_pages.py`): one alarm of a server or service at a time, grouped as its calls are.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks import hub_pages, simple_peers
from benchmarks.page_worth import GOAL, SHIFT_S, Crossings, Worth, best, worth
from benchmarks.report import Row, publish
from benchmarks.series import Floats, Ints
from benchmarks.server_shapes import CPU, DISK, MEMORY, Plan
from benchmarks.servers import Fleet, build
from benchmarks.threshold_speed import EwmaColumns
from cloud_hub.thresholds.peers.detector import PeerDetector, Side, thresholds
from cloud_hub.thresholds.scores import alarm_budget
from cloud_hub.thresholds.scores import model as scores

SIDES: tuple[Side, ...] = ("both", "high", "high", "both", "high", "high")
"""Sides that alarm for cpu, memory, disk, requests, latency, errors; low latency, for example, is no fault."""


NOTE = (
    "A simulated fleet; seeds 101 to 105 are in-sample, also for the thresholds of simple peers. Measured apart from "
    "development, unlike servers and unlisted faults: 68 of 72 faults, 1.0 false page a shift."
)
HUB = "Tidegate: the hub's own alarms and calls"


class Method(Protocol):
    """Scores n series sample by sample; higher is stranger, NaN is no sample."""

    def step(self, t_us: Ints, values: Floats) -> Floats: ...


class Static:
    """Fixed limits on the percentages: the value itself is the score of cpu, memory and disk."""

    def __init__(self, metric: Ints) -> None:
        self.judged = np.isin(metric, (CPU, MEMORY, DISK))

    def step(self, t_us: Ints, values: Floats) -> Floats:
        return np.where(self.judged, values, -np.inf)


class Ewma:
    """Distance from the EWMA band's middle in deviations."""

    def __init__(self, n: int) -> None:
        self.columns = EwmaColumns(n)

    def step(self, t_us: Ints, values: Floats) -> Floats:
        low, high = self.columns.step(t_us, values)
        return np.asarray(np.abs(values - (low + high) / 2) / np.maximum((high - low) / 2, 1e-6) * 2.5758)


class Together:
    """Evidence of `PeerDetector`: of all servers' metrics, then of all services', both as parts of their thresholds."""

    def __init__(self, fleet: Fleet) -> None:
        self.metrics, _, servers = fleet.values.shape
        self.peers = PeerDetector(self.metrics, fleet.group, sides=SIDES)
        pages_a_day = GOAL / 2 * 86_400 / SHIFT_S
        self.parts = thresholds(pages_a_day, self.metrics * servers, self.metrics * int(fleet.group.max() + 1))

    def step(self, t_us: Ints, values: Floats) -> Floats:
        servers, services = self.peers.step(int(t_us[0]), values.reshape(self.metrics, -1))
        return np.concatenate([servers.ravel() - self.parts[0], services.ravel() - self.parts[1]])


def watch(method: Method, fleet: Fleet, least: float) -> Crossings:
    """Every sample of the fleet through a method, in order of time; kept is what scores `least` or more."""
    many = fleet.values.shape[0] * fleet.plan.servers
    parts = []
    for step, t_us in enumerate(fleet.t_us.tolist()):
        values = fleet.values[:, step].reshape(many).astype(np.float64)
        score = method.step(np.full(many, t_us, dtype=np.int64), values)
        if step >= fleet.judged_from:
            with np.errstate(invalid="ignore"):
                here = np.flatnonzero(score >= least)
            parts.append(np.stack([np.full(here.size, step), here, score[here]]))
    joined = np.concatenate(parts, axis=1)
    return Crossings(joined[0].astype(np.int64), joined[1].astype(np.int64), joined[2])


def rows_of(fleet: Fleet, name: str, at: Worth) -> list[Row]:
    """The figures of a method at a threshold."""
    shifts = (len(fleet.t_us) - fleet.judged_from) * fleet.plan.period_s / SHIFT_S
    weeks = shifts / 14 * fleet.plan.servers
    dataset = f"{fleet.plan.servers} servers"
    delays = sorted(at.found.values())
    found = [
        Row(dataset, name, "faults found", 100 * len(at.found) / max(len(fleet.faults), 1), "%"),
        Row(dataset, name, "pages", at.pages / shifts, "a shift"),
        Row(dataset, name, "false pages", at.false.total() / shifts, "a shift"),
        Row(dataset, name, "alarms", at.alarms / weeks, "a device-week"),
        Row(dataset, name, "threshold", at.threshold, ""),
    ]
    if delays:
        found.append(Row(dataset, name, "median delay", delays[len(delays) // 2] / 60, "min"))
    return found


def kinds_of(fleet: Fleet, name: str, at: Worth) -> list[Row]:
    """Found faults of each kind."""
    total = Counter(fault.kind for fault in fleet.faults)
    hit = Counter(fleet.faults[n].kind for n in at.found)
    return [
        Row(f"{fleet.plan.servers} servers", name, f"found: {kind}", hit[kind], f"of {total[kind]}") for kind in total
    ]


def methods(fleet: Fleet, score: bool) -> dict[str, tuple[Method, float, tuple[float, ...]]]:
    """Each method with the least score that is kept, and its own thresholds."""
    metrics, _, servers = fleet.values.shape
    n = metrics * servers
    usual = alarm_budget.threshold(GOAL / 2, n, 86_400 / fleet.plan.period_s)
    static = Static(np.repeat(np.arange(metrics), servers))
    each: dict[str, tuple[Method, float, tuple[float, ...]]] = {}
    if score:
        each["Tidegate: score of each series"] = (scores.ScoreModel(n), 2.0, (usual,))
    for name, chosen in simple_peers.CHOSEN.items():
        simple = simple_peers.SimplePeers(fleet.group, SIDES, fleet.judged_from, own="own week" in name)
        each[name] = (simple, 3.0, (chosen[fleet.plan.unlike],))
    return each | {
        "Tidegate: evidence beside peers": (Together(fleet), -1.5, (0.0,)),
        "EWMA band": (Ewma(n), 3.0, (3.0,)),
        "static limits": (static, 80.0, (80.0, 90.0)),
    }


def run(plan: Plan, score: bool = False) -> list[Row]:
    """All methods on the fleet of a plan; that of each series' `score` on demand, for it takes longest."""
    fleet = build(plan)
    world = (
        f"{'unlike' if plan.unlike else 'like'} servers, {'listed and unlisted' if plan.unlisted else 'listed'} kinds"
    )
    size = f"{plan.servers} servers, {fleet.group.max() + 1} services, {len(fleet.faults)} faults"
    say(f"{size}; {world}; simulated, {plan.weeks:g} weeks, seed {plan.seed}: no figure of a real fleet")
    dataset, rows = f"{plan.servers} servers", []
    shifts = (len(fleet.t_us) - fleet.judged_from) * plan.period_s / SHIFT_S
    rows.append(Row(dataset, "(the fleet)", "faults", len(fleet.faults) / shifts, "a shift"))
    for name, (method, least, own) in methods(fleet, score).items():
        began = time.perf_counter()
        crossings = watch(method, fleet, least)
        for threshold in own:
            at = worth(fleet, crossings, threshold)
            label = f"{name} {threshold:g}" if name == "static limits" else name
            rows += rows_of(fleet, label, at)
            rows += kinds_of(fleet, label, at)
            say(f"  {label}: {len(at.found)} found, {at.pages / shifts:.2f} pages a shift, false: {dict(at.false)}")
        if isinstance(method, Together):
            at = hub_pages.worth(fleet, crossings, method.parts)
            rows += rows_of(fleet, HUB, at) + kinds_of(fleet, HUB, at)
            say(f"  the hub's own: {len(at.found)} found, {at.pages / shifts:.2f} pages a shift")
        rows += rows_of(fleet, f"{name}, best within two pages", best(fleet, crossings))
        say(f"  {name}: {time.perf_counter() - began:.0f} s")
    return rows


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=1000)
    parser.add_argument("--weeks", type=float, default=4.0, help="that count")
    parser.add_argument("--learn-days", type=float, default=7.0, help="before them, without faults")
    parser.add_argument("--faults", type=int, default=6, help="of each kind")
    parser.add_argument("--unlike", action="store_true", help="the servers of a service are unlike each other")
    parser.add_argument("--unlisted", action="store_true", help="eight more kinds of fault, not designed for")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--score", action="store_true", help="the score of each series too, which takes longest")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    plan = Plan(servers=options.servers, weeks=options.weeks, learn_days=options.learn_days, each=options.faults,
                seed=options.seed, unlike=options.unlike, unlisted=options.unlisted)  # fmt: skip
    publish("pages", options.seed, run(plan, options.score), options.json, NOTE)


if __name__ == "__main__":
    main()
