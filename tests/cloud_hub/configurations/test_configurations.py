"""What people do to configurations: create, change, end, and give leaves back to them."""

from __future__ import annotations

from typing import Any

import pytest

from cloud_hub.access import tokens
from cloud_hub.audit import trail
from cloud_hub.configurations import service as configurations
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Configuration, ConfigurationDevice, Device, TwinRow
from cloud_hub.errors import HubError
from cloud_hub.twins import service as twins
from shared.errors import ConfigError
from shared.protocol.codec import encode

NOW = 1_800_000_000_000_000
LIMIT = 2048


def put(db: Database, number: str = "one", now: int = NOW, **more: Any) -> tuple[Configuration, bool]:
    values = {"target": "*", "content": {"": {"a": 1}}} | more
    row = Configuration(id=number, actor="anna", created_us=now, **values)
    with db.write() as session:
        return configurations.put(session, row, LIMIT, "")


def test_created_once_and_changed_in_all_but_the_content(db: Database) -> None:
    assert put(db)[1] is True
    row, new = put(db, now=NOW + 1, priority=3, labels={"by": "anna"})
    assert (new, row.priority, row.created_us) == (False, 3, NOW)
    with pytest.raises(HubError) as no:
        put(db, content={"": {"a": 2}})
    assert no.value.status == 409
    with db.read() as session:
        kinds = [one.kind for one in trail.rows(session)]
    assert kinds == ["configuration.changed", "configuration.created"]


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"target": "tags.x ="}, 400),
        ({"metrics": {"m": "SELECT"}}, 400),
        ({"content": {"": {"a": None}}}, 422),
        ({"content": {"": {"a": "x" * 3000}}}, 422),
    ],
)
def test_what_cannot_work_is_refused_and_not_stored(db: Database, wrong: Any, status: int) -> None:
    with pytest.raises(HubError) as no:
        put(db, **wrong)
    assert no.value.status == status
    with db.read() as session, pytest.raises(HubError):
        configurations.get(session, "one")


def test_a_change_is_judged_as_well(db: Database) -> None:
    put(db)
    with pytest.raises(HubError), db.write() as session:
        configurations.change(session, "one", {"target": "tags.x ="}, NOW, "anna", "")
    with db.read() as session:
        assert configurations.get(session, "one").target == "*"


def test_there_are_at_most_a_hundred(db: Database) -> None:
    for number in range(configurations.LIMIT):
        put(db, f"c{number}")
    with pytest.raises(HubError) as no:
        put(db, "one-more")
    assert no.value.status == 409
    assert put(db, "c7", priority=1)[1] is False


def test_in_force_counts_every_document_on_many_devices(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configurations, "BATCH_SIZE", 2)
    content = {"": {"a": 1}, "more": {"b": [1]}}
    put(db, content=content)
    with db.write() as session:
        for number in range(5):
            name = f"d{number}"
            session.add(Device(id=name))
            session.add(ConfigurationDevice(configuration="one", device=name, state="applied", t_us=NOW))
            for document, value in content.items():
                if number != 2 or document != "more":
                    body = encode({"state": {"reported": value | {"other": 7}}})
                    twins.handle_request(session, name, document, "update", body, NOW, actor=name, max_bytes=LIMIT)
    with db.read() as session:
        found = configurations.metrics(session, configurations.get(session, "one"))
    assert (found["targeted"], found["in_force"]) == (5, 4)


# -- giving back -----------------------------------------------------------------------------------


@pytest.fixture
def press(db: Database) -> None:
    with db.write() as session:
        session.add(Device(id="press-3"))
        for actor, patch in (
            ("anna", {"settings": {"period_s": 1, "burst": {"on": True}}, "set": 1, "a.b": 1}),
            ("configuration:one", {"settings": {"mode": "x"}}),
        ):
            twins.update_desired(session, "press-3", "", patch, NOW, actor=actor, max_bytes=LIMIT)


def release(db: Database, *paths: str) -> list[str]:
    with db.write() as session:
        return configurations.release(session, "press-3", "", paths, NOW, "bob", "")


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("settings", ["settings.burst.on", "settings.period_s"]),
        ("settings.burst", ["settings.burst.on"]),
        ("settings.period_s", ["settings.period_s"]),
        ("set", ["set"]),
        ("a.b", ["a.b"]),
        ("settings.mode", []),
    ],
)
@pytest.mark.usefixtures("press")
def test_a_path_is_given_back_with_all_below_it(db: Database, path: str, given: list[str]) -> None:
    with db.read() as session:
        before = session.get_one(TwinRow, ("press-3", ""))
    assert release(db, path) == given
    with db.read() as session:
        after = session.get_one(TwinRow, ("press-3", ""))
        rows = trail.rows(session, kind="twin.released")
    assert (after.version, after.state) == (before.version, before.state)
    assert [row.detail["paths"] for row in rows] == ([given] if given else [])
    assert (str(after.owners).count("released:bob")) == len(given)


@pytest.mark.usefixtures("press")
def test_a_path_that_nobody_set_is_404_and_releases_nothing(db: Database) -> None:
    with pytest.raises(HubError) as no:
        release(db, "settings", "sett")
    assert no.value.status == 404
    with db.read() as session:
        assert "released" not in str(session.get_one(TwinRow, ("press-3", "")).owners)


@pytest.mark.parametrize("name", ["configuration:one", "job:1", "released:x", "removed:x"])
def test_nobody_can_pass_for_a_configuration(db: Database, name: str) -> None:
    with db.write() as session, pytest.raises(ConfigError):
        tokens.create(session, name, "operator", NOW, "test")
