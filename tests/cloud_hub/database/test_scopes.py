"""Scopes: a token of one site sees and changes nothing of another, whatever the route and whatever a device claims."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulators.births import born
from simulators.sites import CANARY, MINE, PLACES, THEIRS, Sites, routes
from sqlmodel import select

from cloud_hub import query
from cloud_hub.access import tokens
from cloud_hub.audit import trail as audit
from cloud_hub.clock import now_us
from cloud_hub.configurations import service as configurations
from cloud_hub.configurations.reconciler import ConfigurationReconciler
from cloud_hub.database import scopes
from cloud_hub.database.tables import Configuration, ConfigurationDevice, Job
from cloud_hub.devices import registry as device_registry
from cloud_hub.jobs import service as jobs
from shared.protocol.messages import Birth

WHOLE_HUB = {
    ("GET", "/api/v1/tokens"), ("POST", "/api/v1/tokens"), ("DELETE", "/api/v1/tokens/{token_id}"),
    ("GET", "/api/v1/workers"), ("GET", "/api/v1/workers/items"),
    ("POST", "/api/v1/workers/items/{item_id}/retry"), ("GET", "/api/v1/inference"),
    ("GET", "/api/v1/sparkplug"),
} | {route for route in routes() if route[1].startswith("/api/v1/autoscale/")}  # fmt: skip
"""What a token with a scope is told 403 for."""
NO_TEXT = {
    ("GET", "/api/v1/ask/forms"), ("GET", "/api/v1/playbooks"), ("GET", "/api/v1/playbooks/{playbook}/drawing"),
    ("GET", "/api/v1/policy"), ("GET", "/api/v1/workers"), ("GET", "/api/v1/inference"), ("POST", "/api/v1/tasks"),
    ("GET", "/api/v1/devices/{device}/twin/documents"), ("GET", "/api/v1/devices/{device}/twin/progress"),
    ("POST", "/api/v1/jobs/preview"), ("POST", "/api/v1/thresholds/fit"), ("DELETE", "/api/v1/tokens/{token_id}"),
    ("GET", "/api/v1/tokens"), ("POST", "/api/v1/tokens"), ("POST", "/api/v1/jobs"),
    ("POST", "/api/v1/thresholds/rollouts"), ("POST", "/api/v1/thresholds/backtest"), ("POST", "/api/v1/limits"),
    ("POST", "/api/v1/alarms/suppressions"), ("GET", "/api/v1/sparkplug"),
    ("POST", "/api/v1/sparkplug/nodes/{device}/rebirth"), ("POST", "/api/v1/sparkplug/writes"),
} | {route for route in routes() if route[1].startswith("/api/v1/autoscale/")}  # fmt: skip
"""Routes whose answer holds no text that anybody planted."""
OF_A_DEVICE = {
    ("POST", f"/api/v1/{path}")
    for path in (
        "actions",
        "playbook-runs",
        "policy/try",
        "thresholds/fit",
        "thresholds/rollouts",
        "thresholds/backtest",
        "missed-faults",
        "limits",
        "alarms/suppressions",
        "sparkplug/writes",
    )
} | {("GET", "/api/v1/thresholds/forecast")}
"""Routes that name a device in their body, or beside their path."""
pytestmark = pytest.mark.one_database
OTHERS = [device for device in PLACES if device != MINE]


@pytest.fixture
def sites(url: str, tmp_path: Path) -> Iterator[Sites]:
    one = Sites(tmp_path, url)
    yield one
    one.close()


def seen(answer: Any, asked: str) -> bool:
    """Whether an answer tells of another site more than what was asked in its path."""
    shown = answer.text.replace(asked, "")
    return CANARY in shown or any(f'"{device}"' in shown for device in OTHERS)


def leaks(sites: Sites, device: str) -> list[str]:
    """Every route that shows something of another site, changes it, or tells that it is there."""
    found = []
    for method, path in sorted(routes(), key=lambda route: route[0] == "DELETE"):
        answer = sites.ask(method, path, device, sites.of_a)
        if (method, path) in WHOLE_HUB:
            wanted = {403}
        elif path.startswith(("/api/v1/configurations/", "/api/v1/learning-jobs/")) and method == "PUT":
            wanted = {409}
        elif path == "/api/v1/playbooks/{playbook}/drawing":  # of the catalogue, which every site may run
            wanted = {200}
        elif "{" in path or (method, path) in OF_A_DEVICE:
            wanted = {404}
        else:
            wanted = {200, 201, 202}
        name = next((name for name in ("configuration", "learning-job") if f"/{name}s/" in path), "")
        asked = sites.ids[device][f"{name}_id".replace("-", "_") if name else "device"]
        if answer.status_code not in wanted or seen(answer, asked):
            found.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
    return found


def trail(sites: Sites) -> list[int | None]:
    """Audit rows of the other sites."""
    with sites.db.read() as session:
        return [row.seq for row in audit.rows(session, limit=1000) if row.device in OTHERS]


@pytest.mark.parametrize("device", OTHERS)
def test_no_route_shows_or_changes_anything_of_another_site(sites: Sites, device: str) -> None:
    before = trail(sites)
    assert leaks(sites, device) == []
    while jobs.run_once(sites.db, now_us(), 32768).again:
        pass
    ConfigurationReconciler(sites.db, 32768, 300).run_once()
    assert trail(sites) == before
    with sites.db.read() as session:
        assert [query.count(session, text) for text in ("is_defined(tags.y)", "is_defined(tags.x)")] == [1, 0]


def test_the_walk_would_find_a_missing_filter(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without the one question that all filters ask, the walk finds leaks everywhere."""
    monkeypatch.setattr(scopes, "session_scope", lambda session: None)
    assert len(leaks(sites, THEIRS)) > 40


def test_the_canaries_are_where_the_walk_looks(sites: Sites) -> None:
    for method, path in routes():
        if method == "GET" and (method, path) not in NO_TEXT:
            assert seen(sites.ask(method, path, THEIRS, sites.whole), ""), path


def test_a_device_beyond_the_scope_looks_like_one_that_is_not_there(sites: Sites) -> None:
    for method, path in routes():
        if "{device}" in path:
            there = sites.ask(method, path, THEIRS, sites.of_a)
            sites.ids["none"] = sites.ids[THEIRS] | {"device": "none"}
            none = sites.ask(method, path, "none", sites.of_a)
            assert (there.status_code, there.text) == (none.status_code, none.text.replace("none", THEIRS)), path


@pytest.mark.sql
def test_within_its_scope_a_token_works(sites: Sites) -> None:
    assert [row["id"] for row in sites.ask("GET", "/api/v1/devices", MINE, sites.of_a).json()] == [MINE]
    for method, path in routes():
        if method == "GET" and (method, path) not in WHOLE_HUB:
            answer = sites.ask(method, path, MINE, sites.of_a)
            assert answer.status_code == 200, path
            assert answer.content not in {b"[]", b"{}"} or path.endswith("/progress"), path
    assert sites.ask("PATCH", "/api/v1/devices/{device}/twin", MINE, sites.of_a).status_code == 200
    assert sites.ask("POST", "/api/v1/devices/{device}/commands", MINE, sites.of_a).status_code == 202
    assert sites.ask("POST", "/api/v1/jobs/preview", MINE, sites.of_a).json()["found"] == 1
    rows = sites.ask("GET", "/api/v1/audit", MINE, sites.of_a).json()["rows"]
    assert {row["device"] for row in rows} == {MINE}


@pytest.mark.sql
def test_jobs_and_configurations_reach_no_further_than_their_maker(sites: Sites) -> None:
    number = sites.ask("POST", "/api/v1/jobs", MINE, sites.of_a).json()["id"]
    made = sites.client.put(
        "/api/v1/configurations/wide", headers={"Authorization": f"Bearer {sites.of_a}"},
        json={"target": "*", "content": {"wide": {"x": 1}}},
    )  # fmt: skip
    assert (made.status_code, made.json()["scope"]) == (201, ["acme/a"])
    while jobs.run_once(sites.db, now_us(), 32768).again:
        pass
    ConfigurationReconciler(sites.db, 32768, 300).run_once()
    with sites.db.read() as session:
        assert [row.device for row in jobs.devices(session, number, state="", after="", limit=9)] == [MINE]
        assert [row.device for row in configurations.devices(session, "wide")] == [MINE]
        assert session.get_one(Job, number).scope == session.get_one(Configuration, "wide").scope == ["acme/a"]
        assert set(session.exec(select(ConfigurationDevice.device))) == set(PLACES)  # by those of other sites


def test_what_a_device_claims_changes_no_scope(sites: Sites) -> None:
    with sites.db.write() as session:
        born(session, Birth(device=THEIRS, session="t", epoch="e", asset_path="acme/a/hall-2"), now_us())
    shown = sites.ask("GET", "/api/v1/devices/{device}", THEIRS, sites.whole).json()
    assert (shown["asset_path"], shown["assigned_path"]) == ("acme/a/hall-2", "acme/b")
    assert sites.ask("GET", "/api/v1/devices/{device}", THEIRS, sites.of_a).status_code == 404
    found = sites.client.post(
        "/api/v1/query", headers={"Authorization": f"Bearer {sites.whole}"},
        json={"query": "SELECT id FROM devices WHERE asset_path != assigned_path"},
    ).json()["rows"]  # fmt: skip
    assert {"id": THEIRS} in found


def test_a_device_is_assigned_by_an_administrator_within_the_own_scope(sites: Sites) -> None:
    path = "/api/v1/devices/{device}/asset-path"
    assert sites.ask("PUT", path, MINE, sites.of_a).json()["assigned_path"] == "acme/a/hall-9"
    headers = {"Authorization": f"Bearer {sites.of_a}"}
    for away in ("acme/b", "acme", "acme/ab", ""):
        full = path.format(device=MINE)
        answer = sites.client.put(full, headers=headers, json={"asset_path": away})
        assert (answer.status_code, answer.json()["detail"]) == (403, "this token reaches only acme/a")
    for bad in ("/acme", "acme//b", "acme/", " acme", "a/b/c/d/e/f", "acme/\x01", "x" * 65):
        full = path.format(device=MINE)
        answer = sites.client.put(full, headers={"Authorization": f"Bearer {sites.whole}"}, json={"asset_path": bad})
        assert answer.status_code == 422, bad
    sites.client.put(full, headers={"Authorization": f"Bearer {sites.whole}"}, json={"asset_path": "acme/b"})
    assert sites.ask("GET", "/api/v1/devices/{device}", MINE, sites.of_a).status_code == 404
    with sites.db.read() as session:
        (row, *_) = audit.rows(session, kind="device.assigned")
    assert (row.actor, row.device, row.detail) == ("anna", MINE, {"before": "acme/a/hall-9", "path": "acme/b"})


def test_a_scoped_token_registers_nothing(sites: Sites) -> None:
    sites.ids["new"] = sites.ids[MINE] | {"device": "new"}
    assert sites.ask("PUT", "/api/v1/devices/{device}", "new", sites.of_a).status_code == 404
    assert sites.ask("PUT", "/api/v1/devices/{device}", "new", sites.whole).status_code == 201


# -- the rule --------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "ab", "b", "A", "a b", "ü", "%", "_", "a%"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@given(PATHS, st.lists(PATHS, min_size=1, max_size=2))
def test_below_compares_whole_names(path: str, tops: list[str]) -> None:
    names = path.split("/")
    wanted = any(names[: len(top.split("/"))] == top.split("/") for top in tops)
    assert scopes.covers(tuple(tops), (path,)) == wanted


@pytest.mark.sql
def test_the_database_says_what_the_rule_says(sites: Sites) -> None:
    paths = ["a", "a/b", "ab", "A/b", "a b", "ü/x", "%", "_", "a%", "a%/x", "a/%/x"]
    with sites.db.write() as session:
        for n, path in enumerate(paths):
            device_registry.register(session, f"d{n}", now_us(), actor="test")
            device_registry.assign_asset_path(session, f"d{n}", path, now_us(), within=None, actor="test")
    for top in [*paths, "u", "ü", "a/"]:
        with sites.db.read(scope=(top,)) as session:
            found = [row.assigned_path for row in device_registry.list_devices(session)]
        assert sorted(found) == sorted(path for path in paths if scopes.is_below(path, top))


@pytest.mark.sql
def test_an_empty_scope_is_nothing_and_none_is_everything(sites: Sites) -> None:
    assert (scopes.covers((), ("a",)), scopes.covers(None, None), scopes.covers(("a",), None)) == (False, True, False)
    with sites.db.read(scope=()) as session:
        assert device_registry.list_devices(session) == []
        assert query.count(session, "*") == 0
    with sites.db.read() as session:
        assert len(device_registry.list_devices(session)) == len(PLACES)


def test_a_scope_is_kept_with_its_token(sites: Sites) -> None:
    with sites.db.read() as session:
        token = tokens.find(session, sites.of_a, now_us())
        assert tokens.identity(token).scope == ("acme/a",)
        assert session.exec(select(Job)).first() is not None
