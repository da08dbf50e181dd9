"""The twin service: the rules of `shared.twin.shadow` in the database, progress, and an audit row a change."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, TwinRow
from cloud_hub.errors import HubError
from cloud_hub.twins import service as twins
from shared.protocol.messages import Applied, AppliedState

NOW = 1_800_000_000_000_000
DEVICE = "press-3"
LIMIT = 2048


@pytest.fixture(autouse=True)
def a_device(db: Database) -> None:
    with db.write() as session:
        session.add(Device(id=DEVICE))


def desire(
    db: Database, wanted: dict[str, Any], name: str = "", version: int | None = None, actor: str = "anna"
) -> Any:
    with db.write() as session:
        return twins.update_desired(
            session, DEVICE, name, wanted, NOW, actor=actor, max_bytes=LIMIT, trace="", version=version
        )  # fmt: skip


def ask(db: Database, verb: str, payload: Any = b"", name: str = "") -> list[Any]:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    with db.write() as session:
        return twins.handle_request(session, DEVICE, name, verb, body, NOW, actor="test", max_bytes=LIMIT)


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
    desire(db, {"limits": []}, "thresholds", actor="hub")
    with pytest.raises(HubError):
        desire(db, {"a": 1}, version=9)
    with db.read() as session:
        rows = trail.rows(session, device=DEVICE, kind="twin.desired")
    assert [(row.actor, row.subject, row.detail) for row in rows] == [
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
        rows = trail.rows(session, device=DEVICE)
    assert [(row.actor, row.kind, row.detail["version"]) for row in rows] == [
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


def change_together(hubs: list[Database], devices: tuple[str, ...] = (DEVICE,)) -> list[Exception]:
    """Each hub changes a key of its own ten times, all at once, the very first time included; what went wrong."""
    errors: list[Exception] = []

    def change(hub: Database, key: str) -> None:
        try:
            for value in range(10):
                with hub.write(*devices) as session:
                    twins.update_desired(session, DEVICE, "", {key: value}, NOW, actor=key, max_bytes=LIMIT)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must show it
            errors.append(error)

    threads = [threading.Thread(target=change, args=(hub, key)) for hub, key in zip(hubs, "abcd", strict=False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return errors


@pytest.mark.parametrize("devices", [(), (DEVICE,)])
def test_two_hubs_lose_no_change(db: Database, url: str, devices: tuple[str, ...]) -> None:
    other = Database(url)
    assert change_together([db, other, db, other], devices) == []
    other.close()
    assert version(db) == 40
    with db.read() as session:
        assert twins.load(session, DEVICE, "").state["desired"] == {"a": 9, "b": 9, "c": 9, "d": 9}
        assert trail.verify(session) is None
        assert len(trail.rows(session, kind="twin.desired")) == 40


def test_without_the_locks_the_history_refuses_the_second_change(
    postgres_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seeded bug: that nothing is lost in the test above is the locks' doing, and even without them it shows."""
    with postgres_server.database() as url:
        hub, other = Database(url), Database(url)
        with hub.write() as session:
            session.add(Device(id=DEVICE))
        monkeypatch.setattr("cloud_hub.database.locks.acquire", lambda *_: None)
        assert any(isinstance(error, IntegrityError) for error in change_together([hub, other, hub, other]))
        hub.close()
        other.close()


def test_a_twin_is_changed_only_by_who_holds_its_device(db: Database) -> None:
    with db.write("press-4") as session, pytest.raises(RuntimeError, match=r"write\('press-3'\)"):
        twins.update_desired(session, DEVICE, "", {"a": 1}, NOW, actor="anna", max_bytes=LIMIT)
    with db.read() as session, pytest.raises(RuntimeError, match="outside"):
        twins.update_desired(session, DEVICE, "", {"a": 1}, NOW, actor="anna", max_bytes=LIMIT)


@pytest.mark.parametrize("value", [
    b'"a\\u0000b"', b'{"\\u0000": 1}', b'["\\\\\\u0000"]', str(1 << 64).encode(), b"-9223372036854775809",
    b"9" * 400,
])  # fmt: skip
def test_what_one_database_could_not_hold_neither_is_given(db: Database, value: bytes) -> None:
    (reply,) = ask(db, "update", b'{"state": {"reported": {"a": %s}}}' % value)
    assert (reply.verb, reply.body["code"]) == ("update/rejected", 400)
    assert version(db) == 0


@pytest.mark.parametrize("value", [
    1 << 63, (1 << 64) - 1, -(1 << 63), 1e16, 1e300, 1.7976931348623157e308, 5e-324, 1e-7, 0.1, -0.0, 1e19, 0.125,
    "\\u0000", "尺寸 \U0001f600", "", "'; --", {}, [], [[]], True, False,
])  # fmt: skip
def test_what_is_stored_comes_back(db: Database, value: Any) -> None:
    desire(db, {"a": value, "b": [value]})
    with db.read() as session:
        found = twins.load(session, DEVICE, "").state["desired"]
    assert found == {"a": value, "b": [value]}
    assert (isinstance(found["a"], bool), len(str(found["a"])) < 30) == (isinstance(value, bool), True)
    assert ask(db, "get")[0].body["state"]["desired"] == found


def applied(db: Database, number: int, state: AppliedState, reason: str = "") -> None:
    with db.write() as session:
        word = Applied(shadow="", version=number, path="settings", state=state, reason=reason)
        twins.record_progress(session, DEVICE, word, NOW)


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
    desire(db, {"a": {"b": 1, "c": [1, 2]}, "d": {}}, actor="anna")
    assert owners(db) == {"a": {"b": "anna", "c": "anna"}, "d": "anna"}
    desire(db, {"a": {"b": 2}, "e": {"f": {"g": 1}}}, actor="hub")
    assert owners(db) == {"a": {"b": "hub", "c": "anna"}, "d": "anna", "e": {"f": {"g": "hub"}}}
    ask(db, "update", {"state": {"reported": {"a": {"b": 2}}}})
    assert owners(db) == {"a": {"b": "hub", "c": "anna"}, "d": "anna", "e": {"f": {"g": "hub"}}}
    desire(db, {"a": None, "e": {"f": 3}}, actor="bob")
    assert owners(db) == {"d": "anna", "e": {"f": "bob"}}
    ask(db, "update", {"state": None})
    assert owners(db) == {}
    desire(db, {"a": 1}, actor="anna")
    ask(db, "delete")
    assert owners(db) == {}
