"""Two real workers against a strict platform keep A1 to A9 under every fault; a seeded bug of the shell breaks each."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from simulators import databases
from simulators import scaling_hubs as hubs
from simulators import scaling_worlds as worlds
from simulators.scaling_hubs import NO_FAULTS, Faults

from cloud_hub.autoscale import lease as leases
from cloud_hub.autoscale import signals, store, worker
from cloud_hub.autoscale.core.signals import SignalRule
from cloud_hub.autoscale.core.state import Spend, State
from cloud_hub.autoscale.core.target import Behavior, TargetPolicy
from cloud_hub.autoscale.core.targets import TargetEntry
from cloud_hub.autoscale.signals import Value
from cloud_hub.database.sessions import Database

pytestmark = pytest.mark.one_database

STEADY = TargetPolicy(
    signals=(SignalRule(name="requests", per_instance=10.0, unit=hubs.UNIT),), maximum=20, max_step=20, cooldown_s=0.0
)


def chaos(db: Database, seed: int, hours: float = 1.0, **more: Any) -> None:
    """Some hours with all faults."""
    hubs.check(hubs.run(db, seed, hours=hours, **more))


def deaf(db: Database, seed: int) -> None:
    """A platform that loses most calls, while the load climbs."""
    policy = msgspec.structs.replace(STEADY, max_step=1, actions_per_hour=100, timeout_s=90.0)
    faults = Faults(call=0.9, kinds=("lost",), signal=0.0, read=0.0, pause=0.0)
    hubs.check(hubs.run(db, seed, policy=policy, faults=faults, load=lambda: 200.0, hours=0.2))


def capped(db: Database, seed: int, hours: float = 10.0) -> None:
    """Most of a day, over midnight, on a platform that tells the truth and obeys."""
    policy = worlds.random_policy(random.Random(seed), capped=True)
    world = hubs.run(db, seed, policy=policy, faults=Faults(signal=0.2, call=0.0, read=0.0, pause=0.0), hours=hours,
                     load=lambda: 10.0 * policy.maximum, tick_s=120)  # fmt: skip
    hubs.a8_cap(world)


def constant(db: Database, seed: int, hours: float = 2.0) -> None:
    """A constant load, each reading within +-20 %."""
    rng = random.Random(seed)
    world = hubs.run(db, seed, policy=STEADY, faults=NO_FAULTS, load=lambda: 95.0 * rng.uniform(0.8, 1.2), hours=hours)
    worlds.check_settles(hubs.turns_of(world))


def test_a_platform_that_loses_calls_is_called_with_one_key_until_it_is_given_up(db: Database) -> None:
    deaf(db, 0)


@pytest.mark.parametrize("seed", range(2))
def test_hours_of_faults_keep_every_rule(db: Database, seed: int) -> None:
    chaos(db, seed)


def test_a_constant_load_settles_over_the_real_worker(db: Database) -> None:
    constant(db, 1)


def test_the_daily_cap_holds_over_the_real_worker(db: Database) -> None:
    capped(db, 3)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(20, 32))
def test_a_day_of_faults_keeps_every_rule(db: Database, seed: int) -> None:
    chaos(db, seed, hours=24.0)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("world", [constant, capped])
def test_a_day_of_a_constant_load_and_of_a_cap(
    db: Database, seed: int, world: Callable[[Database, int, float], None]
) -> None:  # fmt: skip
    world(db, seed, 24.0)


# -- seeded bugs -------------------------------------------------------------------------------------

Patch = pytest.MonkeyPatch


def unknown_is_zero(patch: Patch) -> None:
    """An unknown signal counts as zero."""
    patch.setattr(signals, "read_source", lambda *_: (Value(0.0, _[3], hubs.UNIT), ""))


def asks_for_more(patch: Patch) -> None:
    """The platform is asked for another count than was decided."""
    real = worker.call_platform
    patch.setattr(worker, "call_platform", lambda target, to, key, **more: real(target, to + 1, key))


def forgets(patch: Patch, forget: Callable[[State], State]) -> None:
    """What the policy remembers is not all stored."""
    real = store.turn

    def turn(*arguments: Any) -> Any:
        decision, state = real(*arguments)
        return decision, forget(state)

    patch.setattr(store, "turn", turn)


def forgets_actions(patch: Patch) -> None:
    forgets(patch, lambda state: msgspec.structs.replace(state, actions=()))


def forgets_pending(patch: Patch) -> None:
    forgets(patch, lambda state: msgspec.structs.replace(state, pending=None))


def forgets_spend(patch: Patch) -> None:
    forgets(patch, lambda state: msgspec.structs.replace(state, spend=Spend()))


def loses_its_windows(patch: Patch) -> None:
    """The policy loses its windows on the way from the file, and what it learnt of the load is not stored."""
    forgets(patch, lambda state: msgspec.structs.replace(state, calm=None))
    direct = msgspec.structs.replace(STEADY, scale_in=Behavior(stabilization_s=0.0, tolerance=0.0))
    patch.setattr(TargetEntry, "policy", property(lambda self: direct))


def calls_before_it_stores(patch: Patch) -> None:
    """The platform is called, and then the decision is lost: its transaction is rolled back."""
    real = worker.decide_all

    def decide_all(session: Any, observed: Any, token: int, now_us: int) -> Any:
        decided = real(session, observed, token, now_us)
        session.rollback()
        return decided

    patch.setattr(worker, "decide_all", decide_all)


def no_fence(patch: Patch) -> None:
    """A hub believes in its lease for ever."""
    patch.setattr(leases.HubLease, "lasts", lambda self, seconds: self._token is not None)
    patch.setattr(leases, "holds", lambda session, token: True)


def never_busy(patch: Patch) -> None:
    """The hub does not ask whether instances are busy."""
    real = store.observation_of
    patch.setattr(store, "observation_of", lambda *a: msgspec.structs.replace(real(*a), busy=0))


BUGS: dict[str, tuple[Callable[[Patch], None], Callable[[Database, int], None], str]] = {
    "A1": (unknown_is_zero, chaos, "A1"),
    "A2": (asks_for_more, chaos, "without a stored decision"),
    "A3 and A4": (forgets_actions, chaos, "A3|A4"),
    "A5, in flight": (forgets_pending, deaf, "A5: two in flight"),
    "A5, journal": (calls_before_it_stores, chaos, "A5: a call without a stored decision"),
    "A6": (no_fence, chaos, "A6"),
    "A7": (never_busy, chaos, "A7"),
    "A8": (forgets_spend, capped, "A8"),
    "A9": (loses_its_windows, constant, "A9"),
}


SEEDS = 6


@pytest.mark.parametrize("rule", [
    pytest.param(rule, marks=pytest.mark.nightly) if rule in {"A8", "A9"} else rule for rule in BUGS
])  # fmt: skip
def test_a_seeded_bug_is_caught(tmp_path: Path, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bug, world, message = BUGS[rule]
    bug(monkeypatch)
    with pytest.raises(AssertionError, match=message):
        _run_seeds(world, tmp_path)


def _run_seeds(world: Callable[[Database, int], None], tmp_path: Path) -> None:
    for seed in range(SEEDS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        one = Database(databases.sqlite(folder))
        try:
            world(one, seed)
        finally:
            one.close()
