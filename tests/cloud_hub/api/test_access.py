"""Who may do what over REST."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from simulators import databases
from simulators.rest_app import shared_app
from simulators.rest_world import NOW, ROLES, ROUTES, Role, World, open_world, problem

from cloud_hub.access import tokens

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")

MAY: dict[Role, set[str]] = {
    "viewer": {"read"}, "operator": {"read", "operate"}, "auditor": {"read", "audit"},
    "admin": {"read", "administer"}, "writer": {"write"},
}  # fmt: skip


def test_the_table_of_routes_is_exhaustive() -> None:
    """The routes of AWS's data plane are signed in another way: test_aws.py."""
    described = {
        (method.upper(), path) for path, methods in shared_app().openapi()["paths"].items() for method in methods
        if path.startswith("/api/v1/")
    }  # fmt: skip
    assert described == set(ROUTES)


def test_the_roles_are_those_of_the_code() -> None:
    assert set(tokens.MAY) == set(ROLES)
    assert {role: set(powers) for role, powers in tokens.MAY.items()} == MAY


@pytest.mark.parametrize(("method", "path"), list(ROUTES))
def test_every_route_needs_a_token_and_the_right_role(world: World, method: str, path: str) -> None:
    ids = world.ids | ({"device": "nobody"} if method == "DELETE" else {})  # the others still need theirs
    full = path.format(**ids)
    for sent in ("", "Bearer ", "Bearer tg_wrong", f"Basic {world.tokens['admin']}", world.tokens["admin"]):
        answer = world.ask(method, full, None, headers={"Authorization": sent} if sent else {})
        assert "Authorization: Bearer" in problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    for role in ROLES:
        answer = world.ask(method, full, role, json={"nonsense": 1} if method != "GET" else None)
        if ROUTES[method, path] in MAY[role]:
            assert answer.status_code not in {401, 403, 500}
        else:
            assert problem(answer, 403) == f"role '{role}' may not {ROUTES[method, path]}"


def test_a_revoked_token_is_dead(world: World) -> None:
    with world.db.write() as session:
        text = tokens.create(session, "guest", "viewer", NOW, "test")
    headers = {"Authorization": f"Bearer {text}"}
    assert world.ask("GET", "/api/v1/devices", None, headers=headers).status_code == 200
    with world.db.write() as session:
        assert tokens.revoke_by_name(session, "guest", NOW, "test") == 1
        assert tokens.revoke_by_name(session, "guest", NOW, "test") == 0
    problem(world.ask("GET", "/api/v1/devices", None, headers=headers), 401)


def test_no_token_is_stored_readably(tmp_path: Path) -> None:
    with open_world(tmp_path, databases.sqlite(tmp_path)) as world:
        content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert b"the admin" in content
        assert all(text.encode() not in content for text in world.tokens.values())


def test_health_needs_no_token(world: World) -> None:
    answer = world.ask("GET", "/healthz", None)
    assert answer.status_code == 200
    assert answer.json()["hub_epoch"] == world.db.hub_epoch
    assert answer.json()["broker"] is True
