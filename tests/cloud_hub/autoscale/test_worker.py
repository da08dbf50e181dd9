"""The worker on a real database: what it stores, what it replays, who may act, and what people may say."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from sqlmodel import col, select

from cloud_hub.audit import trail
from cloud_hub.autoscale import Counts, Drifted, ScaleRefused, service, worker
from cloud_hub.autoscale.core.sources import InferenceSource, Source
from cloud_hub.autoscale.core.state import Decision
from cloud_hub.autoscale.core.targets import Platform as PlatformEntry
from cloud_hub.autoscale.core.targets import SignalEntry, TargetEntry
from cloud_hub.autoscale.core.turn import digest, replay
from cloud_hub.autoscale.lease import LEASE_S, HubLease
from cloud_hub.autoscale.signals import SignalContext
from cloud_hub.autoscale.targets_file import Target, TargetsInForce
from cloud_hub.autoscale.worker import Autoscaler
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import ScaleDecision, ScaleTarget
from cloud_hub.errors import HubError
from cloud_hub.settings import Retention
from cloud_hub.telemetry.retention import RetentionWorker
from shared.durations import DAY_US, SECOND_US
from shared.errors import NotReady

START = 1_800_000_000_000_000


@dataclass
class Pool:
    """A signal that the test sets."""

    value: float = 10.0

    @property
    def waiting(self) -> dict[str, Any]:
        return {"all": self.value}

    running = 0


@dataclass
class Platform:
    """A platform with `desired` instances; `errors` are raised by its next calls, after the work if `after`."""

    name: str = "platform"
    desired: int = 1
    errors: list[Exception] = field(default_factory=list)
    after: bool = False
    away: bool = False
    calls: list[tuple[int, str]] = field(default_factory=list)

    def current(self) -> Counts:
        if self.away:
            raise NotReady("the platform is away")
        return Counts(desired=self.desired, ready=self.desired)

    def scale(self, to: int, key: str, *, dry_run: bool = False) -> int:
        if dry_run:
            return self.desired
        self.calls.append((to, key))
        error = self.errors.pop(0) if self.errors else None
        if error is not None and not self.after:
            raise error
        self.desired = to
        if error is not None:
            raise error
        return to


class World:
    """A hub with one target or several, and a clock."""

    def __init__(self, db: Database, names: tuple[str, ...] = ("web",), **more: Any) -> None:
        self.db, self.now = db, START
        self.pools = {name: Pool() for name in names}
        self.platforms = {name: Platform(name=f"platform:{name}") for name in names}
        self.in_force = TargetsInForce("")
        self.in_force.targets = {name: self.target(name, **more) for name in names}
        self.hub = self.new_hub(alone=True)

    def target(self, name: str, source: Source | None = None, **more: Any) -> Target:
        signal = SignalEntry(name="load", per_instance=10.0, target=1.0, unit="requests",
                             source=source or InferenceSource(pool=name, of="waiting"))  # fmt: skip
        entry = TargetEntry(name=name, platform=PlatformEntry(kind="x"), signals=(signal,),
                            **({"maximum": 8, "max_step": 8, "cooldown_s": 0.0} | more))  # fmt: skip
        return Target(entry, self.platforms[name], digest(entry.policy))

    def new_hub(self, *, alone: bool) -> Autoscaler:
        lease = HubLease(self.db, lambda: self.now / 1e6, lambda: self.now, alone=alone)
        return Autoscaler(self.db, self.in_force, lease, SignalContext(self.db, self.pools), clock=lambda: self.now)

    def run(self, times: int = 1, seconds: float = 15.0) -> None:
        for _ in range(times):
            self.hub.run_once()
            self.now += int(seconds * SECOND_US)

    def row(self, name: str = "web") -> ScaleTarget:
        with self.db.read() as session:
            return service.get(session, name)

    def decisions(self, name: str = "web", changes: bool = False) -> list[ScaleDecision]:
        with self.db.read() as session:
            return service.decisions(session, name, changes=changes)

    def kinds(self) -> list[str]:
        with self.db.read() as session:
            return [row.kind for row in trail.rows(session)][::-1]


@pytest.fixture
def world(db: Database) -> World:
    return World(db)


@pytest.mark.sql
def test_a_step_is_decided_stored_called_and_read_back(world: World) -> None:
    world.pools["web"].value = 35.0
    world.run(2)
    assert world.platforms["web"].desired == 4
    (change,) = world.decisions(changes=True)
    assert (change.before, change.to, change.outcome, change.outcome_text) == (1, 4, "done", "4 instances asked for")
    assert world.platforms["web"].calls == [(4, change.key)]
    row = world.row()
    assert (row.desired, row.wanted, row.drift, row.errors) == (4, 4, "", {})
    assert world.kinds() == ["autoscale.lease-taken", "scale.decided", "scale.done"]


@pytest.mark.sql
def test_every_stored_decision_is_replayed_from_its_inputs(world: World) -> None:
    for value in (35.0, 80.0, 80.0, float("nan"), 5.0, 0.0):
        world.pools["web"].value = value
        world.run(12)
    with world.db.read() as session:
        rows = session.exec(select(ScaleDecision)).all()
        assert {row.action for row in rows} >= {"hold", "out", "in"}
        for row in rows:
            assert replay(service.inputs_of(session, row)) == msgspec.json.decode(row.decision, type=Decision)


def test_a_decision_replayed_from_other_inputs_is_another(world: World) -> None:
    """The negative control of the test above."""
    world.pools["web"].value = 35.0
    world.run()
    with world.db.read() as session:
        (row,) = session.exec(select(ScaleDecision)).all()
        inputs = service.inputs_of(session, row)
        changed = msgspec.structs.replace(inputs, observation=inputs.observation.replace("35.0", "15.0"))
        assert replay(changed) != msgspec.json.decode(row.decision, type=Decision)


def test_a_timeout_after_the_work_is_read_back_and_not_repeated(world: World) -> None:
    platform = world.platforms["web"]
    platform.errors, platform.after = [NotReady("no answer within 5 s")], True
    world.pools["web"].value = 35.0
    world.run(3)
    assert len(platform.calls) == 1
    (change,) = world.decisions(changes=True)
    assert (change.outcome, change.outcome_text) == ("done", "read back: 4 instances")


def test_a_lost_call_is_repeated_with_its_key(world: World) -> None:
    platform = world.platforms["web"]
    platform.errors = [NotReady("no answer within 5 s"), ValueError("<html>")]
    world.pools["web"].value = 35.0
    world.run(4)
    assert {key for _, key in platform.calls} == {world.decisions(changes=True)[-1].key}
    assert len(platform.calls) == 3
    assert {row.outcome for row in world.decisions(changes=True)} == {"done"}


@pytest.mark.parametrize("error", [ScaleRefused("the quota is 3"), Drifted("x", 1, 4, 2)])
def test_a_refusal_ends_the_call_and_waits(world: World, error: Exception) -> None:
    world.in_force.targets["web"] = world.target("web", cooldown_s=120.0)
    world.platforms["web"].errors = [error]
    world.pools["web"].value = 35.0
    world.run(8)
    first, *more = reversed(world.decisions(changes=True))
    assert (first.outcome, world.platforms["web"].desired) == ("refused", 1)
    assert more == [], "it is not asked again within the cooldown"
    world.run(2)
    assert world.platforms["web"].desired == 4


def test_a_count_that_somebody_else_set_is_shown_until_the_next_own_step(world: World) -> None:
    world.run(2)
    world.platforms["web"].desired = 3
    world.run()
    assert world.row().drift == "another writer changed the count: expected 1, found 3"
    world.run(2)
    assert world.kinds().count("scale.drift") == 1
    world.pools["web"].value = 50.0
    world.run(3)
    assert (world.row().drift, world.platforms["web"].desired) == ("", 5)


def test_a_dry_run_decides_and_calls_nothing(db: Database) -> None:
    world = World(db, dry_run=True)
    world.pools["web"].value = 35.0
    world.run(40)
    assert world.platforms["web"].calls == []
    found = world.decisions()
    assert {(row.action, row.to, row.outcome) for row in found} == {("out", 4, "dry-run")}, "no limit is used up"
    assert {row.outcome_text for row in found} == {"the platform would accept it"}
    assert not any(kind.startswith("scale.") for kind in world.kinds())


def test_a_failing_target_or_platform_stops_no_other(db: Database) -> None:
    world = World(db, ("bad", "gone", "good"))
    world.platforms["gone"].away = True
    for pool in world.pools.values():
        pool.value = 35.0
    with db.write() as session:
        session.add(ScaleTarget(name="bad", platform="platform:bad", state="{"))
    world.run(6, seconds=30.0)
    assert [world.platforms[name].desired for name in ("bad", "gone", "good")] == [1, 1, 4]
    assert world.row("gone").errors == {"platform": "the platform is away"}
    assert "the platform's count is not known" in world.row("gone").reason


def test_a_slow_platform_delays_no_other(db: Database) -> None:
    world, released = World(db, ("slow", "quick")), threading.Event()
    for pool in world.pools.values():
        pool.value = 35.0
    slow = world.platforms["slow"]
    real = slow.current
    slow.current = lambda: (released.wait(30), real())[1]  # type: ignore[method-assign]
    with ThreadPoolExecutor(4) as executor:
        lease = HubLease(db, lambda: world.now / 1e6, lambda: world.now)
        hub = Autoscaler(db, world.in_force, lease, SignalContext(db, world.pools), clock=lambda: world.now,
                         executor=executor)  # fmt: skip
        hub.run_once()
        assert [world.platforms[name].desired for name in ("slow", "quick")] == [1, 4]
        released.set()
        hub.run_once()
        assert slow.desired == 4


# -- two hubs ----------------------------------------------------------------------------------------


@pytest.mark.sql
def test_only_the_holder_of_the_lease_acts_and_another_hub_takes_it_over(world: World) -> None:
    one, two = world.new_hub(alone=False), world.new_hub(alone=False)
    world.pools["web"].value = 35.0
    one.run_once()
    two.run_once()
    assert (one.lease.token, two.lease.token, len(world.decisions())) == (1, None, 1)
    world.now += int((LEASE_S - 1) * SECOND_US)  # the first hub hangs
    two.run_once()
    assert two.lease.token is None
    world.now += 2 * SECOND_US
    two.run_once()
    assert (one.lease.token, two.lease.token) == (None, 2)
    assert len(world.platforms["web"].calls) == 1
    one.run_once()
    assert [row.fencing_token for row in world.decisions()] == [2, 1]


def test_a_hub_that_slept_through_its_lease_stores_and_calls_nothing(world: World) -> None:
    one, two = world.new_hub(alone=False), world.new_hub(alone=False)
    one.run_once()
    world.pools["web"].value = 35.0
    world.now += 20 * SECOND_US
    platform = world.platforms["web"]
    real = platform.current

    def slow() -> Counts:
        platform.current = real  # type: ignore[method-assign]
        for _ in range(3):
            two.run_once()
            world.now += int((LEASE_S + 1) * SECOND_US)
        return real()

    platform.current = slow  # type: ignore[method-assign]
    one.run_once()
    tokens = [row.fencing_token for row in world.decisions()]
    assert tokens[-1] == 1
    assert set(tokens[:-1]) == {2}
    assert len({key for _, key in platform.calls}) == 1


def test_a_released_lease_is_taken_at_once(world: World) -> None:
    one, two = world.new_hub(alone=False), world.new_hub(alone=False)
    one.run_once()
    one.lease.release()
    two.run_once()
    assert (one.lease.token, two.lease.token) == (None, 2)


@pytest.mark.parametrize("count", [10**30, -1, "3", float("nan"), None, True])
def test_a_count_that_is_no_count_holds_the_target_and_does_not_park_it(world: World, count: Any) -> None:
    world.run()
    world.platforms["web"].desired = count
    world.run(20)
    assert "is no count" in world.row().errors["platform"]
    world.platforms["web"].desired, world.pools["web"].value = 1, 35.0
    world.run(4)
    assert (world.row().errors, world.platforms["web"].desired) == ({}, 4)


@pytest.mark.sql
def test_a_text_that_no_database_stores_does_not_park_its_target(world: World) -> None:
    platform = world.platforms["web"]
    world.pools["web"].value = 35.0
    platform.errors = [RuntimeError("bad \ud800 \0 text")]
    world.run(4)
    platform.current = lambda: (_ for _ in ()).throw(NotReady("bad \ud800 \0 text"))  # type: ignore[method-assign]
    world.run(20)
    assert world.row().errors["platform"] == "bad ? \ufffd text"
    del platform.current
    world.run(4)
    assert (world.row().errors, platform.desired) == ({}, 4)


def test_more_busy_instances_than_there_can_be_are_unknown(world: World) -> None:
    world.pools["busy"] = Pool(1e300)
    world.in_force.targets["web"] = world.target("web", busy=InferenceSource(pool="busy", of="waiting"), drain_s=60.0)
    world.run(2)
    assert "busy" in world.row().errors
    with world.db.read() as session:
        assert service.explain(session, "web").replayed


def test_targets_that_are_slow_to_read_do_not_delay_the_others(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(worker, "WAIT_S", 0.05)
    names = tuple(f"slow-{n}" for n in range(6))
    world, answers = World(db, (*names, "web")), threading.Event()

    def hang(seconds: float) -> Counts:
        answers.wait(seconds)
        return Counts(desired=1)

    for name in names:
        world.platforms[name].current = lambda: hang(0.2)  # type: ignore[method-assign]
    with ThreadPoolExecutor(4) as executor, ThreadPoolExecutor(4) as slow:
        world.hub = Autoscaler(db, world.in_force, world.hub.lease, SignalContext(db, world.pools),
                               clock=lambda: world.now, executor=executor, slow_executor=slow)  # fmt: skip
        while len(service_names(world)) < len(names) + 1:
            world.run(seconds=1.0)
        for name in names:
            world.platforms[name].current = lambda: hang(60.0)  # type: ignore[method-assign]
        world.pools["web"].value = 35.0
        world.run(6)
        found = world.platforms["web"].desired
        answers.set()
    assert found == 4


@pytest.mark.parametrize("more", [None, {"dry_run": True}, {"maximum": 2}])
def test_a_target_that_changed_while_it_was_read_is_not_decided_on_by_its_old_entry(world: World, more: Any) -> None:
    platform = world.platforms["web"]
    world.pools["web"].value = 35.0

    def changes() -> Counts:
        world.in_force.targets = {} if more is None else {"web": world.target("web", **more)}
        return Counts(desired=1)

    platform.current = changes  # type: ignore[method-assign]
    world.run()
    assert platform.calls == []


def service_names(world: World) -> list[str]:
    with world.db.read() as session:
        return [row.name for row in service.list_targets(session)]


# -- people ------------------------------------------------------------------------------------------


def said(world: World, do: Any, *arguments: Any, **more: Any) -> ScaleTarget:
    with world.db.write() as session:
        row: ScaleTarget = do(session, "web", *arguments, world.now, actor="anna", **more)
        return row


@pytest.mark.sql
def test_a_paused_target_is_held_until_its_time_is_over(world: World) -> None:
    world.run()
    said(world, service.pause, reason="upgrade", for_s=60.0)
    world.pools["web"].value = 35.0
    world.run(3)
    assert (world.row().reason, world.platforms["web"].calls) == ("paused by anna: upgrade", [])
    world.run(3)
    assert (world.row().mode, world.platforms["web"].desired) == ("auto", 4)
    assert "scale.control-ended" in world.kinds()


@pytest.mark.sql
def test_an_override_wants_its_count_within_the_limits_and_then_ends(db: Database) -> None:
    world = World(db, max_step=2)
    world.run()
    said(world, service.override, 6, for_s=90.0, reason="launch")
    world.run(1)
    assert world.platforms["web"].desired == 3, "a step is at most max_step"
    world.run(4)
    assert world.platforms["web"].desired == 6
    with world.db.read() as session:
        found = service.explain(session, "web")
    assert "anna overrides the policy with 6: launch" in found.summary
    assert found.replayed
    world.run(40)
    assert (world.row().mode, world.platforms["web"].desired) == ("auto", 1)


def test_what_cannot_be_said_is_refused(world: World) -> None:
    with world.db.write() as session, pytest.raises(HubError, match="'wep' is no target"):
        service.pause(session, "wep", 1, actor="anna")
    world.run()
    for count in (0, 9):
        with pytest.raises(HubError, match=r"lies outside of 1\.\.8"):
            said(world, service.override, count, for_s=60.0)
    with pytest.raises(HubError, match="neither paused nor overridden"):
        said(world, service.resume)
    with pytest.raises(HubError, match="for_s must lie in"):
        said(world, service.pause, for_s=0.5)


def test_why_is_answered_with_inputs_candidates_and_limits(db: Database) -> None:
    world = World(db, max_step=2)
    world.pools["web"].value = 75.0
    world.run()
    with world.db.read() as session:
        found = service.explain(session, "web")
    assert found.summary[0].startswith("web has 1 instances; the last decision wants 3: max_step")
    assert found.inputs == [{"signal": "load", "value": 75.0, "unit": "requests", "age_s": 0.0, "error": ""}]
    assert [(one["rule"], one["count"]) for one in found.candidates] == [("load", 8)]
    assert [(one["rule"], one["count"]) for one in found.limits] == [("max_step", 3)]
    assert found.replayed


def test_another_platform_under_the_same_name_starts_anew(world: World) -> None:
    world.pools["web"].value = 35.0
    world.run(2)
    world.platforms["web"] = Platform(name="other", desired=2)
    world.in_force.targets["web"] = world.target("web")
    world.run(2)
    assert (world.row().platform, world.row().drift, world.platforms["web"].desired) == ("other", "", 4)


# -- retention ---------------------------------------------------------------------------------------


@pytest.mark.sql
def test_old_holds_go_before_old_changes(world: World) -> None:
    world.pools["web"].value = 35.0
    world.run(4)
    for days, left in ((1.0, {"out", "hold"}), (3.0, {"out"}), (91.0, set())):
        retention = RetentionWorker(world.db, Retention())
        retention.run_once(START + int(days * DAY_US))  # begins a pass
        while retention.run_once(START + int(days * DAY_US)).again:
            pass
        with world.db.read() as session:
            assert set(session.exec(select(ScaleDecision.action).order_by(col(ScaleDecision.id)))) == left
