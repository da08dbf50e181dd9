"""The autoscaler's worker, store and lease on a real database, against a strict platform that fails in every way.

Two hubs share the database. The platform changes its instances by difference (a repeated call acts twice unless its key
is known), and by seed it throttles, loses requests, times out after it did the work, lies about its count, answers with
what is no JSON, lets credentials expire, refuses a quota, stalls while the other hub goes on, and hubs are killed at
any call. `run` returns what happened as the turns of `scaling_worlds`, whose rules check them.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from simulators import scaling_worlds as worlds
from simulators.scaling_worlds import START_US, Turn
from sqlmodel import col, select

from cloud_hub.autoscale import Counts, ScaleRefused
from cloud_hub.autoscale.core.signals import Reading, SignalRule, unknown_because
from cloud_hub.autoscale.core.sources import InferenceSource
from cloud_hub.autoscale.core.state import Decision, Observation
from cloud_hub.autoscale.core.target import TargetPolicy
from cloud_hub.autoscale.core.targets import Platform as PlatformEntry
from cloud_hub.autoscale.core.targets import SignalEntry, TargetEntry
from cloud_hub.autoscale.core.turn import digest
from cloud_hub.autoscale.lease import HubLease
from cloud_hub.autoscale.signals import SignalContext
from cloud_hub.autoscale.targets_file import Target, TargetsInForce
from cloud_hub.autoscale.worker import Autoscaler
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Lease, ScaleDecision, ScaleTarget
from shared.durations import SECOND_US
from shared.errors import NotReady

NAME, UNIT = "press", "requests"
FAULTS = ("throttled", "lost", "timeout-after", "html", "expired", "stall", "killed-before", "killed-after")


class Killed(BaseException):
    """The hub's process ends here."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Probabilities a turn."""

    signal: float = 0.1
    call: float = 0.2
    read: float = 0.1
    pause: float = 0.05
    kinds: tuple[str, ...] = FAULTS


NO_FAULTS = Faults(signal=0.0, call=0.0, read=0.0, pause=0.0)


@dataclass
class Call:
    """A call as the platform saw it, and the hub that made it. `holder` is whether the lease was that hub's."""

    t_us: int
    key: str
    to: int
    before: int
    after: int
    holder: bool
    outcome: str = ""
    killed: tuple[int, ...] = ()


class Pool:
    """A signal: a pool of an inference gateway, or a broken one."""

    def __init__(self) -> None:
        self.value: float | None = 0.0

    @property
    def waiting(self) -> dict[str, Any]:
        if self.value is None:
            raise KeyError("this pool is broken")
        return {"all": self.value}

    @property
    def running(self) -> int:
        return 0


@dataclass
class World:
    """One database, one platform, two hubs."""

    db: Database
    rng: random.Random
    faults: Faults
    entry: TargetEntry
    now_us: int = START_US
    calls: list[Call] = field(default_factory=list)
    counts: list[tuple[int, int]] = field(default_factory=list)
    unknown: dict[int, bool] = field(default_factory=dict)
    hubs: list[Autoscaler] = field(default_factory=list)
    running: int = -1
    depth: int = 0
    expired_until_us: int = 0
    lied: bool = False

    def __post_init__(self) -> None:
        first = self.rng.randint(self.entry.minimum, self.entry.maximum)
        self.platform = worlds.Platform(self.rng, worlds.NO_FAULTS, first)
        self.pools = {"requests": Pool(), "waiting": Pool(), "busy": Pool()}
        self.hubs = [self.new_hub(), self.new_hub()]
        self.counts.append((self.now_us, first))

    def new_hub(self) -> Autoscaler:
        """A hub that has just started."""
        in_force = TargetsInForce("")
        in_force.targets = {NAME: Target(self.entry, Scaler(self), digest(self.entry.policy))}
        lease = HubLease(self.db, lambda: self.now_us / 1e6, lambda: self.now_us, alone=False)
        return Autoscaler(self.db, in_force, lease, SignalContext(self.db, self.pools), clock=lambda: self.now_us)

    def run_hub(self, number: int) -> None:
        """One run of a hub; one that is killed is started again."""
        outer, self.running, self.depth = self.running, number, self.depth + 1
        self.hubs[number].decide_soon(NAME)
        try:
            self.hubs[number].run_once()
        except Killed:
            self.hubs[number] = self.new_hub()
        finally:
            self.running, self.depth = outer, self.depth - 1

    def stall(self) -> None:
        """Time goes by within a call, and the other hub goes on."""
        other = 1 - self.running
        for _ in range(3):
            self.now_us += 17 * SECOND_US
            self.note_signal()
            if self.depth < 3:
                self.run_hub(other)

    def note_signal(self) -> None:
        """What the signal is from now on, as the checker knows it."""
        value = self.pools["requests"].value
        self.unknown[self.now_us] = value is None or not math.isfinite(value) or value < 0

    def holds(self) -> bool:
        """Whether the running hub has the lease."""
        with self.db.read() as session:
            row = session.get(Lease, "autoscale")
        return row is not None and row.holder == self.hubs[self.running].lease.holder


class Scaler:
    """The strict platform as the hub sees it."""

    name = "strict:press"

    def __init__(self, world: World) -> None:
        self._world = world

    def current(self) -> Counts:
        world = self._world
        if world.now_us < world.expired_until_us:
            raise ScaleRefused("the credentials have expired")
        if world.rng.random() < world.faults.read and not world.lied:
            return self._wrong(world.rng.choice(["throttled", "html", "lie", "lie", "stall"]))
        world.lied = False
        return Counts(desired=world.platform.desired, ready=world.platform.desired)

    def _wrong(self, kind: str) -> Counts:
        world = self._world
        if kind == "throttled":
            raise NotReady("too many requests", 1.0)
        if kind == "html":
            json.loads("<html>Bad gateway</html>")
        if kind == "stall":
            world.stall()
            return Counts(desired=world.platform.desired)
        world.lied = True  # no lie twice in a row
        return Counts(desired=max(0, world.platform.desired + world.rng.choice([-1, 1, 50])))

    def scale(self, to: int, key: str, *, dry_run: bool = False) -> int:
        world = self._world
        assert not dry_run
        fault = world.rng.choice(world.faults.kinds) if world.rng.random() < world.faults.call else ""
        before = world.platform.desired
        call = Call(world.now_us, key, to, before, before, world.holds(), "unknown")
        world.calls.append(call)
        self._before(fault, call)
        now = world.now_us
        call.killed = self._apply(to, key)
        call.after = world.platform.desired
        world.counts.append((now, call.after))
        return self._after(fault, call)

    def _before(self, fault: str, call: Call) -> None:
        world = self._world
        if fault == "killed-before":
            raise Killed
        if fault == "throttled":
            raise NotReady("too many requests", 1.0)
        if fault == "lost":
            raise NotReady("no answer within 5 s")
        if fault == "expired":
            world.expired_until_us = world.now_us + 120 * SECOND_US
            call.outcome = "refused"
            raise ScaleRefused("the credentials have expired")
        if fault == "stall":
            world.stall()

    def _apply(self, to: int, key: str) -> tuple[int, ...]:
        platform = self._world.platform
        if key in platform.keys:
            return ()
        platform.keys[key] = 1
        return platform._to(to, self._world.now_us)

    def _after(self, fault: str, call: Call) -> int:
        if fault == "killed-after":
            raise Killed
        if fault == "timeout-after":
            raise NotReady("no answer within 5 s")
        if fault == "html":
            json.loads("<html>Bad gateway</html>")
        found = self._world.platform.desired
        call.outcome = "done" if found == call.to else "unknown"
        return found


def entry_of(policy: TargetPolicy, busy: bool = True) -> TargetEntry:
    """A target with this policy, whose signals are pools of a gateway."""
    fields = {name: getattr(policy, name) for name in TargetPolicy.__struct_fields__}
    names = SignalRule.__struct_fields__
    signals = tuple(
        SignalEntry(**({name: getattr(rule, name) for name in names} | {"unit": UNIT}),
                    source=InferenceSource(pool=rule.name, of="waiting"))
        for rule in policy.signals
    )  # fmt: skip
    return TargetEntry(
        **(fields | {"signals": signals}), name=NAME, platform=PlatformEntry(kind="strict"), period_s=30.0,
        busy=InferenceSource(pool="busy", of="waiting") if busy else None,
    )  # fmt: skip


def run(
    db: Database, seed: int, *, policy: TargetPolicy | None = None, faults: Faults | None = None, hours: float = 2.0,
    load: Callable[[], float] | None = None, tick_s: int = 30,
) -> World:  # fmt: skip
    """Run two hubs for some hours."""
    rng = random.Random(seed)
    entry = entry_of(worlds.random_policy(rng) if policy is None else policy)
    faults = Faults() if faults is None else faults
    world = World(db, rng, faults, entry)
    varying = worlds.Load(rng, entry.maximum, worlds.NO_FAULTS)
    end, away = START_US + int(hours * 3600) * SECOND_US, [0, 0]
    while world.now_us < end:
        value = varying.next() if load is None else load()
        bad = rng.random() < faults.signal
        world.pools["requests"].value = rng.choice([None, math.nan, math.inf, -1.0]) if bad else value
        world.pools["waiting"].value = 0.0 if load else value / 7
        world.note_signal()
        world.platform.work(world.now_us, min(1.0, value / (10 * max(1, world.platform.desired))), keeps(world))
        world.pools["busy"].value = float(world.platform.busy(world.now_us))
        for number in rng.sample([0, 1], 2):
            away[number] = rng.randint(2, 5) if rng.random() < faults.pause else max(0, away[number] - 1)
            if not away[number]:
                world.run_hub(number)
        world.platform.drain(world.now_us, keeps(world))
        world.now_us += tick_s * SECOND_US
    return world


def keeps(world: World) -> int:
    """The instances that may take work, as a balancer reads it from the hub."""
    with world.db.read() as session:
        row = session.get(ScaleTarget, NAME)
    return world.platform.desired if row is None or row.keeps is None else row.keeps


def turns_of(world: World) -> list[Turn]:
    """The stored decisions as turns, with what the platform saw of each."""
    with world.db.read() as session:
        rows = list(session.exec(select(ScaleDecision).order_by(col(ScaleDecision.id))))
    calls = {(call.key, call.t_us): call for call in world.calls}
    turns = []
    for row in rows:
        observation = msgspec.json.decode(row.observation, type=Observation)
        decision = msgspec.json.decode(row.decision, type=Decision)
        call = calls.get((row.key, row.t_us))
        before = decision.before or 0
        turns.append(
            Turn(
                now_us=row.t_us, observation=observation, decision=decision, holder=True,
                token=row.fencing_token or 0, before=before, after=call.after if call else before,
                unknown=world.unknown.get(row.t_us, False), outcome=call.outcome if call else "",
                killed=call.killed if call else (),
            )
        )  # fmt: skip
    return turns


# -- rules of the shell ------------------------------------------------------------------------------


def shell_calls_what_was_decided(world: World, turns: list[Turn]) -> None:
    """Every call is a stored decision's, with its key and count (journal before effect)."""
    decided = {(turn.decision.key, turn.decision.to) for turn in turns if turn.decision.calls}
    for call in world.calls:
        assert (call.key, call.to) in decided, f"A5: a call without a stored decision: {call}"


def shell_keeps_to_the_lease(world: World, turns: list[Turn]) -> None:
    """Every call is made by the hub that holds the lease; every decision has a token that only grows (A6)."""
    for call in world.calls:
        assert call.holder, f"A6: a hub without the lease called: {call}"
    tokens = [turn.decision.fencing_token for turn in turns]
    assert tokens == sorted(tokens, key=lambda token: token or 0), "A6: an old token after a new one"


def a8_cap(world: World) -> None:
    """The money of a UTC day, from the platform's own counts."""
    policy = world.entry
    assert policy.cost is not None
    assert policy.cost.daily_cap is not None
    spent: dict[int, float] = {}
    ends = [t for t, _ in world.counts[1:]] + [world.now_us]
    for (begin, count), end in zip(world.counts, ends, strict=True):
        start = begin
        while start < end:
            day = start // worlds.DAY_US
            upto = min(end, (day + 1) * worlds.DAY_US)
            spent[day] = spent.get(day, 0.0) + worlds.hourly(policy.cost, count) * (upto - start) / worlds.HOUR_US
            start = upto
    for amount in spent.values():
        assert amount <= policy.cost.daily_cap * (1 + 1e-9), f"A8: {amount} of {policy.cost.daily_cap}"


def check(world: World) -> list[Turn]:
    """All rules."""
    turns = turns_of(world)
    for rule in worlds.RULES:
        rule(world.entry.policy, turns)
    shell_calls_what_was_decided(world, turns)
    shell_keeps_to_the_lease(world, turns)
    return turns


def known(policy: TargetPolicy, reading: Reading, now_us: int) -> bool:
    return not unknown_because(policy.signals[0], reading, now_us)
