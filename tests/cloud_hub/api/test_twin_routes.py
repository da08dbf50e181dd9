"""REST of twins: conditional requests, replacement, deletion, history."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterator

import pytest
from simulators.rest_world import World, problem

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")


@pytest.fixture
def lathe(world: World) -> Iterator[str]:
    """A registered device that was never born, with one desired value."""
    path = f"/api/v1/devices/lathe-{secrets.token_hex(4)}"  # the versions of a removed device count on
    assert world.ask("PUT", path).status_code == 201
    world.ask("PATCH", f"{path}/twin", json={"desired": {"a": {"b": 1, "c": 2}}})
    yield f"{path}/twin"
    assert world.ask("DELETE", path).status_code == 204


def test_a_device_is_registered_once(world: World, lathe: str) -> None:
    again = world.ask("PUT", lathe.removesuffix("/twin"))
    assert (again.status_code, again.json()["state"]) == (200, "offline")
    assert "is no device id" in problem(world.ask("PUT", "/api/v1/devices/Lathe%201"), 422)


def test_the_etag_is_the_version_and_spares_the_body(world: World, lathe: str) -> None:
    first = world.ask("GET", lathe)
    assert first.headers["etag"] == '"1"'
    same = world.ask("GET", lathe, headers={"If-None-Match": '"1"'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", '"1"')
    assert world.ask("GET", lathe, headers={"If-None-Match": '"0"'}).status_code == 200


@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
def test_a_stale_if_match_changes_nothing(world: World, lathe: str, method: str) -> None:
    body = {} if method == "DELETE" else {"json": {"desired": {"a": 9}}}
    for stale in ('"0"', '"7"', "1", 'W/"1"', ""):
        detail = problem(world.ask(method, lathe, headers={"If-Match": stale}, **body), 412)
        assert "the version is 1" in detail
    assert world.ask("GET", lathe).json()["version"] == 1
    assert world.ask(method, lathe, headers={"If-Match": '"5", "1"'}, **body).status_code in {200, 204}


def test_if_match_star_wants_a_document(world: World, lathe: str) -> None:
    change = {"json": {"desired": {"x": 1}}, "headers": {"If-Match": "*"}}
    assert world.ask("PATCH", lathe, **change).status_code == 200
    problem(world.ask("PATCH", f"{lathe}/name/none", **change), 412)


def test_put_replaces_all_of_desired(world: World, lathe: str) -> None:
    answer = world.ask("PUT", lathe, json={"desired": {"a": {"c": 3}, "d": [1]}})
    assert answer.json()["state"]["desired"] == {"a": {"c": 3}, "d": [1]}
    assert (answer.json()["version"], answer.headers["etag"]) == (2, '"2"')


def test_a_deleted_document_counts_on(world: World, lathe: str) -> None:
    assert world.ask("DELETE", lathe).status_code == 204
    problem(world.ask("GET", lathe), 404)
    problem(world.ask("DELETE", lathe), 404)
    assert world.ask("PATCH", lathe, json={"desired": {"a": 1}}).json()["version"] == 3


def test_a_removed_device_comes_back_with_higher_versions(world: World) -> None:
    path = "/api/v1/devices/lathe-2"
    world.ask("PUT", path)
    world.ask("PATCH", f"{path}/twin", json={"desired": {"a": 1}})
    assert world.ask("DELETE", path).status_code == 204
    problem(world.ask("GET", f"{path}/twin"), 404)
    problem(world.ask("PUT", path), 409)
    removed = {row["device"]: row["heard_us"] for row in world.ask("GET", "/api/v1/removed-devices").json()}
    assert removed["lathe-2"] == 0
    assert world.ask("POST", "/api/v1/removed-devices/lathe-2/restore").status_code == 200
    assert world.ask("PATCH", f"{path}/twin", json={"desired": {"a": 1}}).json()["version"] == 3
    world.ask("DELETE", path)


def test_history_tells_who_and_when(world: World, lathe: str) -> None:
    world.ask("PATCH", lathe, "operator", json={"desired": {"a": {"b": None}}})
    newest, first = world.ask("GET", f"{lathe}/history").json()
    assert (newest["version"], newest["actor"], newest["patch"]) == (2, "the operator", {"desired": {"a": {"b": None}}})
    assert (first["version"], first["actor"]) == (1, "anna")
    assert [row["version"] for row in world.ask("GET", f"{lathe}/history?before=2").json()] == [1]
    then = world.ask("GET", f"{lathe}/at?version=1").json()
    assert then["state"] == {"desired": {"a": {"b": 1, "c": 2}}}
    by_time = world.ask("GET", f"{lathe}/at?t_us={newest['t_us']}").json()
    assert by_time["state"] == {"desired": {"a": {"c": 2}}}
    differs = world.ask("GET", f"{lathe}/diff?old=1").json()
    assert differs == [{"path": "desired.a.b", "before": 1, "after": None}]
    assert world.ask("GET", f"{lathe}/diff").json() == differs


@pytest.mark.parametrize("query", ["at?version=9", "at?t_us=1", "at?name=none", "diff?old=9", "diff?old=1&new=77"])
def test_what_history_does_not_hold_is_404(world: World, lathe: str, query: str) -> None:
    assert "does not hold" in problem(world.ask("GET", f"{lathe}/{query}"), 404)
