"""The loop that keeps configurations in force, in a world where devices, people and hubs come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete
from sqlmodel import select

from cloud_hub.configurations import reconciler
from cloud_hub.configurations import service as configurations
from cloud_hub.configurations.core import rules as configuration_rules
from cloud_hub.configurations.reconciler import ConfigurationReconciler
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Configuration, ConfigurationDevice, Device, TwinChange, TwinRow
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.twins import batch as twin_batch
from cloud_hub.twins import service as twins
from cloud_hub.twins.core.owners import RELEASED, REMOVED
from shared.protocol.codec import encode
from shared.twin import shadow
from shared.twin.merge import leaves

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
LIMIT = 1024
pytestmark = pytest.mark.one_database


class World:
    """A hub's database with its configurator; the clock goes on by itself."""

    def __init__(self, db: Database) -> None:
        self.db, self.now, self.published = db, NOW, list[OutgoingMessage]()
        self.restart()

    def restart(self) -> None:
        self.loop = ConfigurationReconciler(self.db, LIMIT, 300, lambda: self.now)

    def settle(self) -> None:
        self.now += SECOND
        while self.run_once():
            pass

    def run_once(self) -> bool:
        result = self.loop.run_once()
        self.published += result.messages
        return result.again

    def device(self, number: str, **tags: Any) -> None:
        with self.db.write() as session:
            row = session.get(Device, number) or Device(id=number)
            row.tags = tags
            session.add(row)
        self.loop.changed([number])

    def configure(self, number: str, content: Any, target: str = "*", priority: int = 0, **more: Any) -> None:
        self.now += SECOND
        row = Configuration(id=number, target=target, content={"": content}, priority=priority, actor="anna",
                            created_us=self.now, **more)  # fmt: skip
        with self.db.write() as session:
            configurations.put(session, row, LIMIT, "")
        self.loop.all_changed()

    def remove(self, number: str) -> None:
        with self.db.write() as session:
            configurations.remove(session, number, self.now, "anna", "")
        self.loop.all_changed()

    def hand(self, device: str, patch: Any, actor: str = "anna") -> None:
        with self.db.write() as session:
            twins.update_desired(session, device, "", patch, self.now, actor=actor, max_bytes=LIMIT)
        self.loop.changed([device])

    def report(self, device: str, value: Any) -> None:
        with self.db.write() as session:
            body = encode({"state": {"reported": value}})
            twins.handle_request(session, device, "", "update", body, self.now, actor=device, max_bytes=LIMIT)
        self.loop.changed([device])

    def release(self, device: str, *paths: str) -> list[str]:
        with self.db.write() as session:
            found = configurations.release(session, device, "", paths, self.now, "anna", "")
        self.loop.changed([device])
        return found

    def row(self, device: str) -> Any:
        with self.db.read() as session:
            return session.get(TwinRow, (device, ""))

    def desired(self, device: str) -> Any:
        row = self.row(device)
        return row.state.get("desired", {}) if row else {}

    def stands(self, number: str) -> dict[str, str]:
        with self.db.read() as session:
            rows = session.exec(select(ConfigurationDevice).where(ConfigurationDevice.configuration == number))
            return {row.device: row.state for row in rows}

    def whole(self) -> Any:
        with self.db.read() as session:
            return [
                [row.model_dump() for row in session.exec(select(table))]
                for table in (TwinRow, TwinChange, ConfigurationDevice)
            ]  # fmt: skip


@pytest.fixture
def world(db: Database) -> World:
    return World(db)


def test_it_applies_to_those_who_are_there_and_to_those_who_come(world: World) -> None:
    world.device("a", site="x")
    world.device("b", site="y")
    world.configure("slow", {"settings": {"period_s": 60}}, "tags.site = 'x'")
    world.settle()
    assert (world.desired("a"), world.desired("b")) == ({"settings": {"period_s": 60}}, {})
    world.device("c", site="x")
    world.settle()
    assert world.desired("c") == {"settings": {"period_s": 60}}
    assert world.stands("slow") == {"a": "applied", "c": "applied"}
    assert {m.topic.split("/")[3] for m in world.published if m.topic.endswith("/delta")} == {"a", "c"}


@pytest.mark.sql
def test_leaving_the_target_falls_back_in_one_version(world: World) -> None:
    world.device("a", fast=True)
    world.configure("all", {"period_s": 60})
    world.configure("fast", {"period_s": 1, "burst": True}, "tags.fast = true", priority=5)
    world.settle()
    assert world.desired("a") == {"period_s": 1, "burst": True}
    assert world.stands("all") == {"a": "overridden"}
    before = world.row("a").version
    world.device("a")
    world.settle()
    assert world.desired("a") == {"period_s": 60}
    assert world.row("a").version == before + 1
    assert (world.stands("fast"), world.stands("all")) == ({}, {"a": "applied"})
    with world.db.read() as session:
        change = session.get_one(TwinChange, ("a", "", before + 1))
    assert (change.actor, change.patch) == ("configuration:all,fast", {"desired": {"period_s": 60, "burst": None}})


def test_a_hand_made_change_is_kept_shown_and_given_back(world: World) -> None:
    world.device("a")
    world.configure("slow", {"settings": {"period_s": 60}})
    world.settle()
    world.hand("a", {"settings": {"period_s": 5}})
    world.settle()
    world.restart()
    world.settle()
    assert world.desired("a") == {"settings": {"period_s": 5}}
    assert world.stands("slow") == {"a": "conflict"}
    with world.db.read() as session:
        (conflict,) = configurations.conflicts(session, "a", "")
    assert (conflict["owner"], conflict["value"], conflict["wanted"]) == ("anna", 5, 60)
    assert world.release("a", "settings") == ["settings.period_s"]
    world.settle()
    assert world.desired("a") == {"settings": {"period_s": 60}}
    assert world.stands("slow") == {"a": "applied"}


def test_what_a_hand_removed_stays_removed_until_it_is_released(world: World) -> None:
    world.device("a")
    world.configure("slow", {"settings": {"period_s": 60}})
    world.settle()
    world.hand("a", {"settings": None})
    world.settle()
    assert world.desired("a") == {}
    assert world.stands("slow") == {"a": "conflict"}
    assert world.release("a", "settings.period_s") == ["settings.period_s"]
    world.settle()
    assert world.desired("a") == {"settings": {"period_s": 60}}


def test_a_document_that_was_deleted_is_a_fresh_start(world: World) -> None:
    """So a device that was forgotten and comes back gets its configuration."""
    world.device("a")
    world.configure("all", {"a": 1})
    world.settle()
    with world.db.write() as session:
        twins.remove(session, "a", "", world.now, actor="anna")
    world.loop.changed(["a"])
    world.settle()
    assert world.desired("a") == {"a": 1}
    assert world.stands("all") == {"a": "applied"}


def test_nothing_is_written_when_nothing_changes(world: World) -> None:
    for number in range(5):
        world.device(f"d{number}", odd=bool(number % 2))
    world.configure("all", {"a": {"b": 1}, "c": [1, 2]})
    world.configure("odd", {"a": {"b": 2}}, "tags.odd = true", priority=1)
    world.settle()
    world.hand("d0", {"a": {"b": 9}})
    world.settle()
    before, sent = world.whole(), len(world.published)
    for _ in range(3):
        world.loop.all_changed()
        world.loop.changed(["d0", "d1", "nobody"])
        world.settle()
    world.restart()
    world.settle()
    assert world.whole() == before
    assert len(world.published) == sent


def test_only_what_is_written_takes_the_write_lock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.device("a")
    world.configure("all", {"a": 1})
    world.configure("big", {"x": "y" * 900})
    world.hand("a", {"mine": "m" * 200})
    world.settle()
    assert world.stands("big") == {"a": "refused"}
    writes: list[None] = []
    real = world.db.write
    monkeypatch.setattr(world.db, "write", lambda: (writes.append(None), real())[1])
    world.loop.all_changed()
    world.settle()
    assert writes == [], "neither a settled device nor one that refuses is tried under the lock again"


@pytest.mark.sql
def test_what_does_not_fit_is_refused_and_told(world: World) -> None:
    world.device("a")
    world.hand("a", {"mine": "m" * 500})
    world.configure("big", {"x": "y" * 600}, priority=9)
    world.configure("small", {"z": 1})
    world.settle()
    assert world.desired("a") == {"mine": "m" * 500, "z": 1}
    assert (world.stands("big"), world.stands("small")) == ({"a": "refused"}, {"a": "applied"})
    with world.db.read() as session:
        assert configurations.conflicts(session, "a", "") == [
            {"document": "", "configuration": "big", "reason": "The payload exceeds the maximum size allowed"}
        ]
    world.hand("a", {"mine": None})
    world.settle()
    assert world.stands("big") == {"a": "applied"}


def test_a_configuration_that_ends_takes_its_settings_with_it(world: World) -> None:
    world.device("a")
    world.configure("all", {"a": 1, "b": 2})
    world.settle()
    world.hand("a", {"b": 3})
    world.remove("all")
    world.restart()  # killed before the loop saw it
    world.settle()
    assert world.desired("a") == {"b": 3}
    assert world.stands("all") == {}


def test_a_device_that_is_gone_is_no_longer_counted(world: World) -> None:
    world.device("a")
    world.configure("all", {"a": 1})
    world.settle()
    with world.db.write() as session:
        session.delete(session.get_one(Device, "a"))
    world.loop.all_changed()
    world.settle()
    assert world.stands("all") == {}


def test_a_broken_twin_costs_no_other_device(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b", "c"):
        world.device(name)
    world.report("b", {"x": 1})
    with world.db.write() as session:
        row = session.get_one(TwinRow, ("b", ""))
        row.state = {"desired": 7}
        session.add(row)
    world.configure("all", {"a": 1})
    world.settle()
    assert [world.desired(name) for name in ("a", "c")] == [{"a": 1}, {"a": 1}]
    assert "worker.item_failed" in caplog.text


@pytest.mark.sql
def test_metrics_count_the_targeted_devices(world: World) -> None:
    for number in range(4):
        world.device(f"d{number}", site="x" if number < 3 else "y")
    world.configure("all", {"period_s": 60}, "tags.site = 'x'", metrics={"hot": "reported.temperature > 50"})
    world.settle()
    world.report("d0", {"period_s": 60, "temperature": 70})
    world.report("d3", {"period_s": 60, "temperature": 70})
    world.hand("d1", {"period_s": 1})
    world.settle()
    with world.db.read() as session:
        found = configurations.metrics(session, configurations.get(session, "all"))
    assert found == {
        "targeted": 3,
        "applied": 2,
        "conflicts": 1,
        "overridden": 0,
        "refused": 0,
        "in_force": 1,
        "hot": 1,
    }


def test_a_hub_without_configurations_looks_at_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.device("a")
    world.settle()
    looked: list[Any] = []
    monkeypatch.setattr(reconciler, "reconcile_devices", lambda *args: looked.append(args) or [])
    world.loop.changed(["a"])
    world.settle()
    assert looked == []


# -- a world that does not stand still ---------------------------------------------------------------

DEVICES = st.sampled_from(["a", "b"])
SITES = st.sampled_from(["x", "y"])
PATHS = ["p", "o.m", "o.n", "o"]
LEAF = st.integers(0, 3)
Bug = Callable[[pytest.MonkeyPatch], None]


def _content(path: str, value: int) -> Any:
    above, _, key = path.rpartition(".")
    return {above: {key: value}} if above else {key: value}


class Life(RuleBasedStateMachine):
    """Whatever happens, what people set is theirs, and after a look each device has what it shall have."""

    make: Callable[[], Database]

    @initialize()
    def begin(self) -> None:
        self.world = World(type(self).make())
        self.hands: dict[tuple[str, str], Any] = {}
        for device in ("a", "b"):
            self.world.device(device, site="x")
        self.world.settle()
        self.settled = True

    @rule(device=DEVICES, site=SITES, settles=st.booleans())
    def device_comes_or_moves(self, device: str, site: str, settles: bool) -> None:
        self.world.device(device, site=site)
        self._after(settles)

    @rule(number=st.sampled_from(["c1", "c2"]), site=st.sampled_from(["x", "y", "*"]),
          priority=st.integers(0, 2), path=st.sampled_from(PATHS), value=LEAF, settles=st.booleans())  # fmt: skip
    def configuration_comes_or_ends(
        self, number: str, site: str, priority: int, path: str, value: int, settles: bool
    ) -> None:
        with self.world.db.read() as session:
            there = session.get(Configuration, number) is not None
        target = "*" if site == "*" else f"tags.site = '{site}'"
        if there:
            self.world.remove(number)
        else:
            self.world.configure(number, _content(path, value), target, priority)
        self._after(settles)

    @rule(number=st.sampled_from(["c1", "c2"]), priority=st.integers(0, 2), settles=st.booleans())
    def configuration_changes(self, number: str, priority: int, settles: bool) -> None:
        with self.world.db.write() as session:
            if session.get(Configuration, number) is None:
                return
            configurations.change(session, number, {"priority": priority}, self.world.now, "anna", "")
        self.world.loop.all_changed()
        self._after(settles)

    @rule(device=DEVICES, path=st.sampled_from(PATHS), value=LEAF | st.none(), settles=st.booleans())
    def hand(self, device: str, path: str, value: int | None, settles: bool) -> None:
        self.world.hand(device, _content(path, value))  # type: ignore[arg-type]
        self._remember(device)
        self._after(settles)

    def _remember(self, device: str) -> None:
        names = dict(leaves(self.world.row(device).owners))
        values = dict(leaves(self.world.desired(device)))
        self.hands = {key: value for key, value in self.hands.items() if key[0] != device}
        for path, owner in names.items():
            if owner == "anna" or owner.startswith(REMOVED):
                self.hands[device, ".".join(path)] = values.get(path)

    @rule(device=DEVICES, settles=st.booleans())
    def released(self, device: str, settles: bool) -> None:
        paths = [path for of, path in self.hands if of == device]
        if paths:
            self.world.release(device, *paths)
            self._remember(device)
            self._after(settles)

    @rule(settles=st.booleans())
    def hub_restarts(self, settles: bool) -> None:
        self.world.restart()
        self._after(settles)

    def _after(self, settles: bool) -> None:
        """The loop has come to an end, or is in the middle of it when the next thing happens."""
        if settles:
            self.world.settle()
        else:
            self.world.run_once()
        self.settled = settles

    @invariant()
    def what_people_did_stands(self) -> None:
        for (device, path), value in getattr(self, "hands", {}).items():
            have = {".".join(key): one for key, one in leaves(self.world.desired(device))}
            assert have.get(path) == value

    @precondition(lambda self: getattr(self, "settled", False))
    @invariant()
    def each_has_what_it_shall_have(self) -> None:
        """Every stronger-first choice that no hand forbids is there, and no configuration's leaf beside these."""
        with self.world.db.read() as session:
            names = [row.id for row in session.exec(select(Device))]
            everyone = {row.device for row in session.exec(select(TwinRow))} | set(names)
            found = reconciler.reconcile(session, sorted(everyone), self.world.now, LIMIT)
            assert found.changed() == set()
            stored = twin_batch.read_documents(session, sorted(everyone))
            rows = session.exec(select(Configuration)).all()
            tags = {row.id: row.tags for row in session.exec(select(Device))}
        for device in everyone:
            document, owners = stored.get((device, ""), (shadow.Document(), {}))
            mine = {
                path: owner.partition(":")[2]
                for path, owner in leaves(owners) if owner.startswith("configuration:")
            }  # fmt: skip
            values = dict(leaves(document.state.get("desired", {})))
            assert set(dict(leaves(owners)).values()) <= {"anna", RELEASED + "anna", REMOVED + "anna", *(
                f"configuration:{row.id}" for row in rows)}  # fmt: skip
            targeting = {
                row.id: row for row in rows
                if device in tags and (row.target == "*" or row.target.endswith(f"'{tags[device].get('site')}'"))
            }  # fmt: skip
            for path, number in mine.items():
                assert number in targeting
                wanted = dict(leaves(targeting[number].content[""]))
                assert wanted[path] == values[path]
                stronger = [row for row in targeting.values() if path in dict(leaves(row.content[""]))]
                best = max(stronger, key=lambda row: (row.priority, row.created_us))
                assert best.priority == targeting[number].priority or number == best.id


def empty(db: Database) -> Database:
    with db.write() as session:
        for table in (TwinRow, TwinChange, ConfigurationDevice, Configuration, Device):
            session.connection().execute(delete(table))
    return db


def live(db: Database, *phases: Phase, examples: int = 30) -> None:
    Life.make = staticmethod(lambda: empty(db))  # type: ignore[assignment]
    checks = list(HealthCheck)
    options = settings(max_examples=examples, stateful_step_count=25, phases=phases, suppress_health_check=checks)
    run_state_machine_as_test(Life, settings=options)


@pytest.mark.parametrize("examples", [10, pytest.param(30, marks=pytest.mark.nightly)])
def test_life_goes_on_and_the_rules_hold(db: Database, examples: int) -> None:
    live(db, Phase.generate, Phase.shrink, examples=examples)


def takes_what_people_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration_rules, "is_managed", lambda owner: True)


def forgets_who_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "_held", lambda stored, device: set())


BUGS = [takes_what_people_set, forgets_who_left]


def short_life(db: Database) -> None:
    """The shortest life in which both seeded bugs show: a hand over a configuration, and one that ends."""
    Life.make = staticmethod(lambda: empty(db))  # type: ignore[assignment]
    life = Life()
    life.begin()
    for step in (
        lambda: life.configuration_comes_or_ends(number="c1", site="x", priority=0, path="p", value=1, settles=True),
        lambda: life.hand(device="a", path="p", value=2, settles=True),
        lambda: life.configuration_comes_or_ends(number="c1", site="x", priority=0, path="p", value=1, settles=True),
    ):
        step()
        life.what_people_did_stands()
        life.each_has_what_it_shall_have()


def test_the_rules_hold_in_a_short_life(db: Database) -> None:
    short_life(db)


@pytest.mark.parametrize("bug", BUGS)
def test_a_short_life_finds_seeded_bugs(db: Database, monkeypatch: pytest.MonkeyPatch, bug: Bug) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        short_life(db)


@pytest.mark.nightly
@pytest.mark.parametrize("bug", BUGS)
def test_the_search_finds_seeded_bugs(db: Database, monkeypatch: pytest.MonkeyPatch, bug: Bug) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        live(db, Phase.generate, examples=300)  # ends at the first failure
