"""The loop that keeps configurations in force, in a world where devices, people and hubs come and go."""

from __future__ import annotations

from typing import Any

import pytest
from simulators.configurations import World

from cloud_hub.configurations import reconciler
from cloud_hub.configurations import service as configurations
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, TwinChange, TwinRow
from cloud_hub.twins import service as twins

pytestmark = pytest.mark.one_database


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
