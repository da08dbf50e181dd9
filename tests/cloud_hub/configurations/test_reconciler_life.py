"""Configurations stay in force whatever happens to devices, people and hubs: a state machine, and bugs it finds."""

from __future__ import annotations

import itertools
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
from simulators.configurations import LIMIT, World
from sqlalchemy import delete
from sqlmodel import select

from cloud_hub.configurations import reconciler
from cloud_hub.configurations import service as configurations
from cloud_hub.configurations.core import rules as configuration_rules
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Configuration, ConfigurationDevice, Device, TwinChange, TwinRow
from cloud_hub.twins import batch as twin_batch
from cloud_hub.twins.core.owners import RELEASED, REMOVED
from shared.twin import shadow
from shared.twin.merge import leaves

pytestmark = pytest.mark.one_database


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


def live(db: Database, *phases: Phase, examples: int = 30) -> int:
    """Search with that many lives; how many there were."""
    lives = itertools.count()
    Life.make = staticmethod(lambda: (next(lives), empty(db))[1])  # type: ignore[assignment]
    checks = list(HealthCheck)
    options = settings(max_examples=examples, stateful_step_count=25, phases=phases, suppress_health_check=checks)
    run_state_machine_as_test(Life, settings=options)
    return next(lives)


@pytest.mark.parametrize("examples", [10, pytest.param(30, marks=pytest.mark.nightly)])
def test_life_goes_on_and_the_rules_hold(db: Database, examples: int) -> None:
    assert live(db, Phase.generate, Phase.shrink, examples=examples) >= examples


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
