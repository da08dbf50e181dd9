"""The twin service: the rules of `shared.twin` in the database, progress beside it, and an audit row a change."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from cloud_hub import audit, twins
from cloud_hub.db import Database
from cloud_hub.errors import HubError
from cloud_hub.tables import Device, TwinRow
from shared.messages import Applied, AppliedState

NOW = 1_800_000_000_000_000
DEVICE = "press-3"
LIMIT = 2048


@pytest.fixture(autouse=True)
def a_device(db: Database) -> None:
    with db.write() as session:
        session.add(Device(id=DEVICE))


def desire(db: Database, wanted: dict[str, Any], name: str = "", version: int | None = None, who: str = "anna") -> Any:
    with db.write() as session:
        return twins.desire(
            session, DEVICE, name, wanted, NOW, who=who, max_bytes=LIMIT, trace="", version=version
        )  # fmt: skip


def ask(db: Database, verb: str, payload: Any = b"", name: str = "") -> list[Any]:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    with db.write() as session:
        return twins.request(session, DEVICE, name, verb, body, NOW, who="test", max_bytes=LIMIT)


def version(db: Database, name: str = "") -> int:
    with db.read() as session:
        return twins.load(session, DEVICE, name).version


def test_versions_count_every_change_and_survive_deletion(db: Database) -> None:
    desire(db, {"settings": {"period_s": 1}})
    ask(db, "update", {"state": {"reported": {"settings": {"period_s": 1}}}})
    assert version(db) == 2
    (gone,) = ask(db, "delete")
    assert gone.verb == "delete/accepted"
    assert ask(db, "get")[0].body["code"] == 404
    desire(db, {"settings": {"period_s": 2}})
    assert version(db) == 4


def test_documents_are_separate(db: Database) -> None:
    desire(db, {"a": 1})
    desire(db, {"limits": []}, "thresholds")
    desire(db, {"limits": [1]}, "thresholds")
    with db.read() as session:
        assert twins.versions(session, DEVICE) == {"": 1, "thresholds": 2}


def test_a_stale_version_changes_nothing_and_is_409(db: Database) -> None:
    desire(db, {"a": 1})
    desire(db, {"a": 2}, version=1)
    with pytest.raises(HubError) as no:
        desire(db, {"a": 3}, version=1)
    assert no.value.status == 409
    with db.read() as session:
        assert twins.load(session, DEVICE, "").state["desired"] == {"a": 2}


def test_too_large_is_413_and_changes_nothing(db: Database) -> None:
    desire(db, {"a": "x" * (LIMIT - 100)})
    with pytest.raises(HubError) as no:
        desire(db, {"b": "x" * 200})
    assert no.value.status == 413
    assert version(db) == 1


@pytest.mark.parametrize("name", ["a/b", "x" * 65, "läng", " ", "a\n"])
def test_a_bad_document_name_is_400(db: Database, name: str) -> None:
    with pytest.raises(HubError) as no:
        desire(db, {"a": 1}, name)
    assert no.value.status == 400
    assert ask(db, "get", name=name)[0].verb == "get/rejected"


@pytest.mark.parametrize("payload", [b"", b"\xff", b"[" * 100_000, b'{"state": {"desired": {"a": NaN}}}', b"7"])
@pytest.mark.parametrize("verb", ["get", "update", "delete"])
def test_hostile_requests_are_answered(db: Database, verb: str, payload: bytes) -> None:
    desire(db, {"a": 1})
    (reply, *_) = ask(db, verb, payload)
    assert reply.verb in {f"{verb}/accepted", f"{verb}/rejected"}


def test_a_desired_change_is_published_as_a_delta(db: Database) -> None:
    messages = desire(db, {"settings": {"period_s": 2}})
    assert [m.topic.partition("/shadow/")[2] for m in messages] == [
        "update/accepted", "update/delta", "update/documents",
    ]  # fmt: skip
    assert json.loads(messages[1].payload)["state"] == {"settings": {"period_s": 2}}


def test_each_desired_change_has_its_row_in_the_audit_trail(db: Database) -> None:
    desire(db, {"a": 1})
    desire(db, {"limits": []}, "thresholds", who="hub")
    with pytest.raises(HubError):
        desire(db, {"a": 1}, version=9)
    with db.read() as session:
        rows = audit.rows(session, device=DEVICE, kind="twin.desired")
    assert [(row.who, row.subject, row.detail) for row in rows] == [
        ("hub", "twin 'thresholds'", {"version": 1}), ("anna", "twin", {"version": 1}),
    ]  # fmt: skip


def test_whoever_touches_desired_state_is_in_the_audit_trail_and_who_reports_is_not(db: Database) -> None:
    """By the one function below every door: REST, the native prefix, the alias and AWS's REST."""
    for wanted in ({"desired": {"a": 1}}, {"reported": {"a": 1}}, {"desired": None}, {"delta": {}}, {}, None):
        ask(db, "update", {"state": wanted})
    ask(db, "update", {"state": {"desired": {"a": 1}}, "version": 1})
    ask(db, "get")
    ask(db, "delete")
    ask(db, "delete")
    with db.read() as session:
        rows = audit.rows(session, device=DEVICE)
    assert [(row.who, row.kind, row.detail["version"]) for row in rows] == [
        ("test", "twin.deleted", 7), ("test", "twin.desired", 6), ("test", "twin.desired", 3),
        ("test", "twin.desired", 1),
    ]  # fmt: skip


def test_what_is_not_there_is_named_as_aws_names_it(db: Database) -> None:
    assert ask(db, "get")[0].body["message"] == f"No shadow exists with name: '{DEVICE}'"
    assert ask(db, "delete", name="gates")[0].body["message"] == "No shadow exists with name: 'gates'"


def test_names_by_pages(db: Database) -> None:
    for name in ("", "c", "a", "b", "d"):
        desire(db, {"a": 1}, name)
    ask(db, "delete", name="b")
    with db.read() as session:
        assert twins.names(session, DEVICE, "", 2) == ["a", "c"]
        assert twins.names(session, DEVICE, "c", 2) == ["d"]
        assert twins.names(session, "press-4", "", 2) == []


def test_two_writers_lose_no_change(db: Database) -> None:
    def change(key: str) -> None:
        for value in range(10):
            desire(db, {key: value})

    threads = [threading.Thread(target=change, args=(key,)) for key in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert version(db) == 30
    with db.read() as session:
        assert twins.load(session, DEVICE, "").state["desired"] == {"a": 9, "b": 9, "c": 9}


def applied(db: Database, number: int, state: AppliedState, reason: str = "") -> None:
    with db.write() as session:
        word = Applied(shadow="", version=number, path="settings", state=state, reason=reason)
        twins.applied(session, DEVICE, word, NOW)


def test_progress_keeps_the_last_word_of_the_newest_version(db: Database) -> None:
    desire(db, {"settings": {"period_s": 1}})
    applied(db, 3, "received")
    applied(db, 3, "refused", "period_s is out of range")
    applied(db, 2, "verified")
    with db.read() as session:
        (row,) = twins.progress(session, DEVICE)
    assert (row.version, row.state, row.reason) == (3, "refused", "period_s is out of range")
    applied(db, 4, "verified")
    with db.read() as session:
        (row,) = twins.progress(session, DEVICE)
    assert (row.version, row.state, row.reason) == (4, "verified", "")


def test_what_is_no_longer_desired_has_no_progress(db: Database) -> None:
    desire(db, {"settings": {"period_s": 1}})
    applied(db, 1, "verified")
    desire(db, {"settings": None})
    with db.read() as session:
        assert twins.progress(session, DEVICE) == []


def owners(db: Database) -> Any:
    with db.read() as session:
        row = session.get(TwinRow, (DEVICE, ""))
        return row.owners if row else None


def test_each_leaf_of_desired_names_who_set_it_last(db: Database) -> None:
    desire(db, {"a": {"b": 1, "c": [1, 2]}, "d": {}}, who="anna")
    assert owners(db) == {"a": {"b": "anna", "c": "anna"}, "d": "anna"}
    desire(db, {"a": {"b": 2}, "e": {"f": {"g": 1}}}, who="hub")
    assert owners(db) == {"a": {"b": "hub", "c": "anna"}, "d": "anna", "e": {"f": {"g": "hub"}}}
    ask(db, "update", {"state": {"reported": {"a": {"b": 2}}}})
    assert owners(db) == {"a": {"b": "hub", "c": "anna"}, "d": "anna", "e": {"f": {"g": "hub"}}}
    desire(db, {"a": None, "e": {"f": 3}}, who="bob")
    assert owners(db) == {"d": "anna", "e": {"f": "bob"}}
    ask(db, "update", {"state": None})
    assert owners(db) == {}
    desire(db, {"a": 1}, who="anna")
    ask(db, "delete")
    assert owners(db) == {}
