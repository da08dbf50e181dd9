"""Tokens: roles, ends and revocation; made over REST by administrators, shown once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulators.sites import MINE, Sites

import cloud_hub.api.dependencies
from cloud_hub.access import tokens
from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.errors import HubError, WrongToken
from cloud_hub.security.core import roles
from shared.durations import DAY_US
from shared.errors import ConfigError

NOW, S = 1_800_000_000_000_000, 1_000_000


@pytest.fixture
def sites(url: str, tmp_path: Path) -> Iterator[Sites]:
    one = Sites(tmp_path, url)
    yield one
    one.close()


def test_a_token_is_dead_from_its_end_on(db: Database) -> None:
    with db.write() as session:
        text = tokens.create(session, "anna", "viewer", NOW, "test", expires_us=NOW + 10 * S)
        number = tokens.find(session, text, NOW + 10 * S - 1).id
    with db.read() as session:
        assert tokens.is_active(session, number, NOW + 10 * S - 1)
        assert not tokens.is_active(session, number, NOW + 10 * S)
        with pytest.raises(HubError, match="expired") as no:
            tokens.find(session, text, NOW + 11 * S)
    assert not isinstance(no.value, WrongToken)


def test_over_rest_a_token_is_dead_at_its_end(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sites.ask("POST", "/api/v1/tokens", MINE, sites.whole).json()
    assert made["expires_us"] - made["created_us"] == tokens.LIFE_DAYS * DAY_US
    assert sites.ask("GET", "/api/v1/devices", MINE, made["token"]).status_code == 200
    monkeypatch.setattr(cloud_hub.api.dependencies, "now_us", lambda: made["expires_us"] + S)
    answer = sites.ask("GET", "/api/v1/devices", MINE, made["token"])
    assert (answer.status_code, "has expired" in answer.json()["detail"]) == (401, True)


def test_a_token_is_made_shown_once_listed_and_ended(sites: Sites) -> None:
    headers = {"Authorization": f"Bearer {sites.whole}"}
    body = {"name": "robot", "roles": ["auditor", "operator"], "scope": ["acme/a"], "life_days": 0.5}
    answer = sites.client.post("/api/v1/tokens", headers=headers, json=body)
    made = answer.json()
    assert (answer.status_code, made["role"], made["scope"]) == (201, "operator auditor", ["acme/a"])
    listed = sites.client.get("/api/v1/tokens", headers=headers)
    assert made["token"] not in listed.text
    assert "digest" not in listed.text
    assert listed.json()[0] == {key: value for key, value in made.items() if key != "token"}
    assert sites.ask("GET", "/api/v1/devices", MINE, made["token"]).status_code == 200
    for _ in range(2):  # a second time is well
        assert sites.client.delete(f"/api/v1/tokens/{made['id']}", headers=headers).status_code == 204
        assert sites.ask("GET", "/api/v1/devices", MINE, made["token"]).status_code == 401
    with sites.db.read() as session:
        rows = [(row.actor, row.kind, row.subject) for row in trail.rows(session, limit=2)]
    assert rows == [("anna", "token.revoked", "robot"), ("anna", "token.created", "robot")]


@pytest.mark.parametrize("body", [
    {"name": "x"}, {"name": "x", "roles": []}, {"name": "x", "roles": ["king"]}, {"name": "", "roles": ["viewer"]},
    {"name": "job:x", "roles": ["viewer"]}, {"name": "oidc:anna", "roles": ["viewer"]},
    {"name": "anna ", "roles": ["viewer"]}, {"name": "anna  b", "roles": ["viewer"]},
    {"name": "Jo\u0308rg", "roles": ["viewer"]},
    {"name": "hub", "roles": ["viewer"]}, {"name": "command line", "roles": ["viewer"]},
    {"name": "a\nb", "roles": ["viewer"]}, {"name": "x" * 201, "roles": ["viewer"]},
    {"name": "x", "roles": ["viewer"], "scope": []}, {"name": "x", "roles": ["viewer"], "scope": ["/"]},
    {"name": "x", "roles": ["viewer"], "life_days": 0}, {"name": "x", "roles": ["viewer"], "life_days": 367},
    {"name": "x", "roles": ["viewer"], "life_days": "never"}, {"name": "x", "roles": ["viewer"], "more": 1},
])  # fmt: skip
def test_what_is_no_token_is_refused(sites: Sites, body: dict[str, object]) -> None:
    answer = sites.client.post("/api/v1/tokens", headers={"Authorization": f"Bearer {sites.whole}"}, json=body)
    assert answer.status_code == 422, answer.text


def test_several_roles_have_the_powers_of_each() -> None:
    assert roles.format_roles(["admin", "operator"]) == "operator admin"
    for power in ("read", "operate", "administer"):
        roles.require("operator admin", power)
    with pytest.raises(HubError, match="role 'operator admin' may not audit"):
        roles.require("operator admin", "audit")
    with pytest.raises(HubError):
        roles.require("", "read")
    with pytest.raises(HubError):
        roles.require("king", "read")


def test_duties_are_separated() -> None:
    """Who administers neither operates nor reads the trail; who reads it changes nothing."""
    assert roles.MAY["admin"].isdisjoint({"operate", "audit"})
    assert roles.MAY["auditor"].isdisjoint({"operate", "administer"})
    assert all("administer" not in powers for role, powers in roles.MAY.items() if role != "admin")
    assert all("audit" not in powers for role, powers in roles.MAY.items() if role != "auditor")


def test_a_nameless_or_roleless_token_is_not_made(db: Database) -> None:
    with db.write() as session:
        for name, role in (("", "viewer"), ("x", ""), ("x", "king"), ("x", "viewer king")):
            with pytest.raises(ConfigError):
                tokens.create(session, name, role, now_us(), "test")
        with pytest.raises(ConfigError):
            tokens.create(session, "x", "viewer", now_us(), "test", scope=())
