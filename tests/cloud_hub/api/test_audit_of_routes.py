"""Every route that changes something leaves a row in the audit trail, and the row names who did it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulators import databases
from simulators.actions import action_service
from simulators.sites import MINE, Sites, routes
from sqlmodel import select

from cloud_hub.actions import worker
from cloud_hub.actions.core.policy import Policy, Rule
from cloud_hub.actions.service import Proposal
from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.database.tables import Device, Rollout

READING = {
    ("POST", "/api/v1/query"), ("POST", "/api/v1/jobs/preview"), ("POST", "/api/v1/thresholds/fit"),
    ("POST", "/api/v1/thresholds/backtest"), ("POST", "/api/v1/policy/try"),
    ("POST", "/api/v1/playbooks/{playbook}/dry-run"), ("POST", "/api/v1/ask"),
    ("POST", "/api/v1/autoscale/check"),
}  # fmt: skip
"""Asked with POST, and nothing changes."""
CHANGING = [route for route in routes() if route[0] != "GET" and route not in READING]


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    one = Sites(tmp_path, databases.sqlite(tmp_path))
    yield one
    one.close()


def executed(sites: Sites, device: str) -> str:
    """An action that has changed the twin."""
    service = action_service()
    service.policy = Policy(rules=(Rule(name="all", decision="allow"),))
    wanted = Proposal(type="twin", parameters={"patch": {"c": 1}}, device=device, proposer="bert")
    with sites.db.write() as session:
        number = service.propose(session, wanted, now_us()).id
    worker.run_once(sites.db, service, now_us())
    return number


def prepared(sites: Sites, method: str, path: str) -> dict[str, str]:
    """Path parameters that let the route do its work."""
    ids = sites.ids[MINE]
    headers = {"Authorization": f"Bearer {sites.whole}"}
    if path.endswith("{token_id}"):
        made = sites.client.post("/api/v1/tokens", headers=headers, json={"name": "gone", "roles": ["viewer"]})
        return ids | {"token_id": made.json()["id"]}
    if path.endswith("/jobs/{job_id}/cancel"):
        work = {"kind": "tags", "query": "*", "content": {"y": 1}, "start_us": now_us() + 10**12}
        return ids | {"job_id": sites.client.post("/api/v1/jobs", headers=headers, json=work).json()["id"]}
    if path.endswith("/actions/{action_id}/undo"):
        return ids | {"action_id": executed(sites, ids["device"])}
    if path.endswith("/tasks/{task_id}/cancel"):
        task = sites.client.post("/api/v1/tasks", headers=headers, json={"prompt": "x"}).json()
        return ids | {"task_id": task["id"]}
    if path.endswith("/playbook-runs/{run_id}/resume"):
        assert sites.client.post(f"/api/v1/playbook-runs/{ids['run_id']}/cancel", headers=headers).is_success
    if path.endswith("/split"):
        merge = path.removesuffix("split").format(**ids) + "merge"
        assert sites.client.post(merge, headers=headers, json=sites.body("POST", merge, ids["device"])).is_success
    if path.endswith("/unshelve"):
        body = {"for_s": 3600, "reason": "sensor ordered"}
        assert sites.client.post(f"/api/v1/alarms/{ids['alarm_id']}/shelve", headers=headers, json=body).is_success
    if path.endswith("/removed-devices/{name}/restore"):
        assert sites.client.delete(f"/api/v1/devices/{ids['device']}", headers=headers).is_success
        return ids | {"name": ids["device"]}
    if path.endswith("/alarms/{alarm_id}/resolve"):
        with sites.db.write() as session:
            session.delete(session.get_one(Device, ids["device"]))
    if (method, path) == ("PUT", "/api/v1/devices/{device}"):
        return ids | {"device": "new"}
    if (method, path) == ("PUT", "/api/v1/configurations/{configuration_id}"):
        return ids | {"configuration_id": "new"}
    return ids


@pytest.mark.parametrize(("method", "path"), CHANGING)
def test_every_change_is_told_with_who_made_it(sites: Sites, method: str, path: str) -> None:
    sites.ids["it"] = prepared(sites, method, path)
    with sites.db.write() as session:
        before, _ = trail.head(session)
        for row in session.exec(select(Rollout)):  # nobody starts another while one is watched
            row.state = "confirmed"
    body = sites.body(method, path, sites.ids["it"]["device"])
    answer = sites.client.request(
        method, path.format(**sites.ids["it"]), json=body,
        headers={"Authorization": f"Bearer {sites.whole}", "traceparent": f"00-{7:032x}-{7:016x}-01"},
    )  # fmt: skip
    assert answer.status_code in {200, 201, 202, 204}, answer.text
    with sites.db.read() as session:
        rows = [row for row in trail.rows(session) if (row.seq or 0) > before]
    assert "anna" in {row.actor for row in rows}, rows


def test_nothing_that_reads_leaves_a_row(sites: Sites) -> None:
    with sites.db.read() as session:
        before = trail.head(session)
    for method, path in [route for route in routes() if route not in CHANGING]:
        sites.ask(method, path, MINE, sites.whole)
    with sites.db.read() as session:
        assert trail.head(session) == before


def test_no_route_changes_the_trail(sites: Sites) -> None:
    assert [route for route in routes() if "/audit" in route[1]] == [("GET", "/api/v1/audit")]


def test_the_trail_is_searched_page_by_page_over_rest(sites: Sites) -> None:
    found, after = [], None
    while True:
        query = {"actor": "test", "limit": 2} | ({"after": after} if after else {})
        page = sites.ask("GET", "/api/v1/audit", MINE, sites.whole, **query).json()
        found += [row["seq"] for row in page["rows"]]
        after = page["next"]
        if after is None:
            break
    with sites.db.read() as session:
        assert found == [row.seq for row in trail.rows(session, actor="test")]
    assert len(found) == 5
    late = sites.ask("GET", "/api/v1/audit", MINE, sites.whole, since_us=now_us() + 10**9).json()
    assert (late["rows"], late["next"]) == ([], None)
    one = sites.ask("GET", "/api/v1/audit", MINE, sites.whole, until_us=1, verify=True).json()
    assert (one["rows"], one["verified"], one["broken_at"]) == ([], True, None)
