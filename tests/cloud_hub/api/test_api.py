"""REST: who may do what, what a bad request is told, and that nothing a caller sends ends in a 500."""

from __future__ import annotations

import json
import secrets
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from pyarrow import parquet
from simulators import databases
from simulators.births import born
from simulators.postgres import postgres
from simulators.rest_app import RestApp, shared_app
from sqlalchemy import event
from sqlmodel import select

from cloud_hub.access import tokens
from cloud_hub.api.dependencies import Hub
from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.configurations.reconciler import ConfigurationReconciler
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import FailedItem, HighWater, Incident, LostRange
from cloud_hub.devices import commands
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.incidents import actions
from cloud_hub.incidents import service as incidents
from cloud_hub.jobs import service as jobs
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.runtime.worker import WorkerStatus
from cloud_hub.settings import Settings
from cloud_hub.telemetry import samples as telemetry
from cloud_hub.twins import service as twins
from shared.protocol.codec import encode
from shared.protocol.messages import Alarm, Birth, CommandResult, Sample

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

NOW = 1_700_000_000_000_000
SECOND = 1_000_000
Role = Literal["viewer", "operator", "auditor", "admin", "writer", "inference", "everything"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "auditor", "admin", "writer", "inference")

DEVICE = "/api/v1/devices/{device}"
ROUTES: dict[tuple[str, str], str] = {
    ("GET", "/api/v1/devices"): "read",
    ("GET", DEVICE): "read",
    ("PUT", DEVICE): "operate",
    ("DELETE", DEVICE): "administer",
    ("PUT", f"{DEVICE}/asset-path"): "administer",
    ("GET", "/api/v1/tokens"): "administer",
    ("POST", "/api/v1/tokens"): "administer",
    ("DELETE", "/api/v1/tokens/{token_id}"): "administer",
    ("POST", "/api/v1/query"): "read",
    ("GET", f"{DEVICE}/tags"): "read",
    ("PATCH", f"{DEVICE}/tags"): "operate",
    ("PUT", f"{DEVICE}/tags"): "operate",
    ("GET", f"{DEVICE}/telemetry/{{metric}}"): "read",
    ("GET", f"{DEVICE}/telemetry"): "read",
    ("GET", f"{DEVICE}/range/{{metric}}"): "read",
    ("GET", "/api/v1/telemetry/last"): "read",
    ("GET", "/api/v1/telemetry/top"): "read",
    ("GET", "/api/v1/telemetry/export"): "read",
    ("GET", f"{DEVICE}/events"): "read",
    ("GET", f"{DEVICE}/streams"): "read",
    ("POST", f"{DEVICE}/commands"): "operate",
    ("GET", f"{DEVICE}/commands"): "read",
    ("GET", "/api/v1/commands/{command_id}"): "read",
    ("POST", "/api/v1/commands/{command_id}/cancel"): "operate",
    ("GET", f"{DEVICE}/twin"): "read",
    ("PATCH", f"{DEVICE}/twin"): "operate",
    ("PUT", f"{DEVICE}/twin"): "operate",
    ("DELETE", f"{DEVICE}/twin"): "operate",
    ("GET", f"{DEVICE}/twin/history"): "read",
    ("GET", f"{DEVICE}/twin/at"): "read",
    ("GET", f"{DEVICE}/twin/diff"): "read",
    ("GET", f"{DEVICE}/twin/documents"): "read",
    ("GET", f"{DEVICE}/twin/progress"): "read",
    ("GET", f"{DEVICE}/twin/name/{{name}}"): "read",
    ("PATCH", f"{DEVICE}/twin/name/{{name}}"): "operate",
    ("PUT", f"{DEVICE}/twin/name/{{name}}"): "operate",
    ("DELETE", f"{DEVICE}/twin/name/{{name}}"): "operate",
    ("GET", "/api/v1/alarms"): "read",
    ("GET", "/api/v1/alarms/report"): "read",
    ("GET", "/api/v1/alarms/suppressions"): "read",
    ("POST", "/api/v1/alarms/suppressions"): "operate",
    ("DELETE", "/api/v1/alarms/suppressions/{suppression_id}"): "operate",
    ("GET", "/api/v1/alarms/{alarm_id}"): "read",
    ("POST", "/api/v1/alarms/{alarm_id}/acknowledge"): "operate",
    ("POST", "/api/v1/alarms/{alarm_id}/verdict"): "operate",
    ("POST", "/api/v1/alarms/{alarm_id}/shelve"): "operate",
    ("POST", "/api/v1/alarms/{alarm_id}/unshelve"): "operate",
    ("GET", "/api/v1/notifications"): "read",
    ("GET", "/api/v1/incidents"): "read",
    ("GET", "/api/v1/incidents/{incident_id}"): "read",
    ("POST", "/api/v1/incidents/{incident_id}/acknowledge"): "operate",
    ("POST", "/api/v1/incidents/{incident_id}/resolve"): "operate",
    ("POST", "/api/v1/alarms/{alarm_id}/resolve"): "operate",
    ("GET", "/api/v1/removed-devices"): "read",
    ("POST", "/api/v1/removed-devices/{name}/restore"): "administer",
    ("POST", "/api/v1/actions/{action_id}/decision"): "operate",
    ("GET", "/api/v1/audit"): "audit",
    ("GET", "/api/v1/escalations"): "read",
    ("POST", "/api/v1/thresholds/fit"): "operate",
    ("POST", "/api/v1/thresholds/rollouts"): "operate",
    ("GET", "/api/v1/thresholds/rollouts/{rollout_id}"): "read",
    ("GET", "/api/v1/thresholds/rollouts"): "read",
    ("GET", "/api/v1/thresholds/rollouts/{rollout_id}/devices"): "read",
    ("POST", "/api/v1/thresholds/backtest"): "operate",
    ("GET", "/api/v1/thresholds/forecast"): "read",
    ("GET", "/api/v1/learning-jobs"): "read",
    ("GET", "/api/v1/learning-jobs/{learning_job_id}"): "read",
    ("GET", "/api/v1/learning-jobs/{learning_job_id}/series"): "read",
    ("PUT", "/api/v1/learning-jobs/{learning_job_id}"): "operate",
    ("DELETE", "/api/v1/learning-jobs/{learning_job_id}"): "operate",
    ("POST", "/api/v1/learning-jobs/{learning_job_id}/refit"): "operate",
    ("POST", "/api/v1/learning-jobs/{learning_job_id}/release"): "operate",
    ("GET", "/api/v1/missed-faults"): "read",
    ("POST", "/api/v1/missed-faults"): "operate",
    ("GET", "/api/v1/limits"): "read",
    ("POST", "/api/v1/limits"): "operate",
    ("GET", "/api/v1/scaling/steps"): "read",
    ("GET", "/api/v1/workers"): "read",
    ("GET", "/api/v1/workers/items"): "read",
    ("POST", "/api/v1/workers/items/{item_id}/retry"): "operate",
    ("POST", "/api/v1/jobs/preview"): "operate",
    ("POST", "/api/v1/jobs"): "operate",
    ("GET", "/api/v1/jobs"): "read",
    ("GET", "/api/v1/jobs/{job_id}"): "read",
    ("GET", "/api/v1/jobs/{job_id}/devices"): "read",
    ("POST", "/api/v1/jobs/{job_id}/cancel"): "operate",
    ("GET", "/api/v1/configurations"): "read",
    ("GET", "/api/v1/configurations/{configuration_id}"): "read",
    ("GET", "/api/v1/configurations/{configuration_id}/devices"): "read",
    ("PUT", "/api/v1/configurations/{configuration_id}"): "operate",
    ("PATCH", "/api/v1/configurations/{configuration_id}"): "operate",
    ("DELETE", "/api/v1/configurations/{configuration_id}"): "operate",
    ("GET", f"{DEVICE}/twin/owners"): "read",
    ("POST", f"{DEVICE}/twin/release"): "operate",
    ("GET", "/api/v1/inference"): "read",
    ("POST", "/api/v1/tasks"): "infer",
    ("GET", "/api/v1/tasks"): "infer",
    ("GET", "/api/v1/tasks/{task_id}"): "infer",
    ("POST", "/api/v1/tasks/{task_id}/cancel"): "infer",
}
"""Every route and the power it needs: a route that is missing here fails the test below."""

MAY: dict[Role, set[str]] = {
    "viewer": {"read"}, "operator": {"read", "operate", "infer"}, "auditor": {"read", "audit"},
    "admin": {"read", "administer"}, "writer": {"write"}, "inference": {"infer"},
}  # fmt: skip


class World:
    """REST over a real database; what it would publish is kept in `published`."""

    def __init__(self, folder: Path, url: str) -> None:
        self.db = Database(url)
        self.published: list[OutgoingMessage] = []
        self.notified: list[str] = []
        self.changed: list[str] = []
        self.workers: list[WorkerStatus] = []
        hub = Hub(
            settings=Settings(state_dir=str(folder)), db=self.db, publish=self.published.extend,
            notify=self.notified.append, connected=lambda: True, changed=self.changed.extend,
            workers=lambda: self.workers,
        )  # fmt: skip
        self.app = RestApp(hub)
        self.client = TestClient(self.app, raise_server_exceptions=False)
        with self.db.write() as session:
            self.tokens = {role: tokens.create(session, f"the {role}", role, NOW, "test") for role in ROLES}
            self.tokens["everything"] = tokens.create(session, "anna", "operator auditor admin", NOW, "test")
            self._fill(session)

    def _fill(self, session: Any) -> None:
        born(session, Birth(device="press-3", session="s", epoch="e"), NOW)
        born(session, Birth(device="gone", session="s", epoch="e"), NOW)
        born(session, Birth(device="gone", session="s", epoch="e", state="offline"), NOW)
        marks = StreamOffsets(session)
        mark = marks.get(("press-3", "e", "telemetry"))
        samples = [(n, Sample(metric="cpu.load", t_us=NOW + n * SECOND, value=float(n))) for n in range(1, 11)]
        telemetry.store_samples(session, telemetry.sample_rows("press-3", mark.source, samples))
        mark.upto = 10
        marks.save()
        alarm = Alarm(id="a1", metric="digits/age_s", kind="high", state="raised", priority="high", t_us=NOW, value=9,
                      limit=2)  # fmt: skip
        incidents.handle_alarm(session, "press-3", alarm, NOW, "")
        incident = session.exec(select(Incident)).one()
        settings = Settings().actions
        self.ids = {
            "device": "press-3", "metric": "cpu.load", "name": "gates", "incident_id": incident.id,
            "action_id": actions.propose(session, incident, "capture", "digits", "why", NOW, settings).id,
            "command_id": commands.create(session, "press-3", "restart", "digits", NOW, actor="test")[0].id,
            "rollout_id": "none", "job_id": "none", "configuration_id": "none", "token_id": "none",
            "learning_job_id": "none", "item_id": "none", "task_id": "none", "alarm_id": "a1", "suppression_id": "none",
        }  # fmt: skip
        for name in ("", "gates"):
            twins.update_desired(session, "press-3", name, {"a": 1}, NOW, actor="test", max_bytes=32768)

    def ask(self, method: str, path: str, role: Role | None = "everything", **more: Any) -> Any:
        self.app.state.hub.lockout.clear()  # all tests ask from one address
        headers = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        return self.client.request(method, path, headers=headers | more.pop("headers", {}), **more)


@contextmanager
def open_world(folder: Path, url: str) -> Iterator[World]:
    one = World(folder, url)
    yield one
    one.client.close()
    one.db.close()


@pytest.fixture(scope="module")
def world(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rest")
    with databases.empty(folder, server) as url, open_world(folder, url) as one:
        yield one


def problem(answer: Any, status: int) -> str:
    """The detail of an RFC 9457 answer."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["type"]) == (status, "about:blank")
    assert body["title"]
    detail: str = body["detail"]
    return detail


# -- who -------------------------------------------------------------------------------------------


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


# -- what is well ----------------------------------------------------------------------------------


def test_devices_and_samples(world: World) -> None:
    rows = world.ask("GET", "/api/v1/devices").json()
    assert {row["id"]: row["state"] for row in rows} == {"gone": "offline", "press-3": "online"}
    points = world.ask("GET", "/api/v1/devices/press-3/telemetry/cpu.load", params={"limit": 3}).json()
    assert [point["value"] for point in points] == [8.0, 9.0, 10.0]
    part = {"start_us": NOW + 2 * SECOND, "end_us": NOW + 4 * SECOND}
    points = world.ask("GET", "/api/v1/devices/press-3/telemetry/cpu.load", params=part).json()
    assert [point["seq"] for point in points] == [2, 3]
    (telemetry_row,) = [
        r for r in world.ask("GET", "/api/v1/devices/press-3/streams?count=true").json() if r["stream"] == "telemetry"
    ]
    assert (telemetry_row["upto"], telemetry_row["rows"], telemetry_row["distinct"]) == (10, 10, 10)


def test_streams_of_a_device_of_many_epochs_are_a_bounded_list_in_two_questions(world: World) -> None:
    """A device may begin an epoch with each message: 4,180 of them took 9 s, a question for each."""
    with world.db.write() as session:
        for number in range(30):
            mark = HighWater(device="press-3", epoch=f"e{number}", stream="event", upto=5)
            session.add(mark)
            session.flush()
            session.add(LostRange(source=mark.id or 0, first=2, last=3, reason="invalid"))
    asked: list[str] = []
    event.listen(world.db.engine, "before_cursor_execute", lambda _c, _u, statement, *_: asked.append(statement))
    rows = world.ask("GET", "/api/v1/devices/press-3/streams?limit=20").json()
    assert [row["epoch"] for row in rows] == [f"e{number}" for number in range(10, 30)]
    assert all(row["lost"] == [[2, 3, "invalid"]] for row in rows)
    assert sum(" lost" in statement for statement in asked) == 1


def test_telemetry_is_asked_for_in_four_ways(world: World) -> None:
    span = {"start_us": NOW, "end_us": NOW + 60 * SECOND}
    (newest,) = world.ask("GET", "/api/v1/devices/press-3/telemetry", "viewer").json()
    assert (newest["metric"], newest["value"], newest["t_us"]) == ("cpu.load", 10.0, NOW + 10 * SECOND)
    page = world.ask("GET", "/api/v1/telemetry/last", params={"where": "id = 'press-3'"}).json()
    assert page == {"rows": [newest], "next": ""}
    found = world.ask("GET", "/api/v1/devices/press-3/range/cpu.load", params=span).json()
    assert (found["resolution"], [one["value"] for one in found["samples"]]) == (
        "raw",
        [float(n) for n in range(1, 11)],
    )
    found = world.ask("GET", "/api/v1/devices/press-3/range/cpu.load", params=span | {"points": 5}).json()
    assert (found["resolution"], found["samples"], found["waiting"]) == ("1m", [], 0)
    assert sum(one["count"] for one in found["buckets"]) == 10
    top = world.ask("GET", "/api/v1/telemetry/top", params=span | {"metric": "cpu.load", "quantile": 0.5}).json()
    assert (top["exact"], top["rows"]) == (True, [{"device": "press-3", "value": 5.5, "count": 10}])
    answer = world.ask("GET", "/api/v1/telemetry/export", params=span | {"device": ["press-3"]})
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    assert parquet.read_table(BytesIO(answer.content))["value"].to_pylist() == [float(n) for n in range(1, 11)]
    assert "'nobody'" in problem(world.ask("GET", "/api/v1/telemetry/export", params={"device": "nobody"}), 404)
    assert "expected a condition" in problem(world.ask("GET", "/api/v1/telemetry/last", params={"where": ""}), 400)


def test_a_command_is_stored_then_published(world: World) -> None:
    before = len(world.published)
    trace = "00-" + "ef" * 16 + "-" + "cd" * 8 + "-01"
    body = {"verb": "diagnose", "target": "processes"}
    answer = world.ask("POST", "/api/v1/devices/press-3/commands", json=body, headers={"traceparent": trace})
    assert answer.status_code == 202
    (message,) = world.published[before:]
    assert message.topic.endswith(f"commands/{answer.json()['id']}/request")
    assert message.trace == trace
    with world.db.write() as session:
        word = CommandResult(id=answer.json()["id"], state="succeeded", t_us=NOW)
        commands.handle_result(session, "press-3", word, NOW)
    assert world.ask("GET", f"/api/v1/commands/{answer.json()['id']}").json()["state"] == "succeeded"
    rows = world.ask("GET", "/api/v1/audit", params={"trace": "ef" * 16}).json()["rows"]
    assert {(row["actor"], row["kind"]) for row in rows} == {
        ("anna", "command.sent"), ("press-3", "command.succeeded"),
    }  # fmt: skip


def test_a_command_for_a_device_that_is_away(world: World) -> None:
    body = {"verb": "diagnose", "target": "processes"}
    assert "not connected" in problem(world.ask("POST", "/api/v1/devices/gone/commands", json=body), 404)
    before = len(world.published)
    answer = world.ask("POST", "/api/v1/devices/gone/commands", json=body | {"mode": "queued", "args": {"seconds": 5}})
    row = answer.json()
    assert (answer.status_code, row["state"], row["args"], row["actor"]) == (202, "queued", {"seconds": 5.0}, "anna")
    assert row["expires_us"] - row["created_us"] == 86400 * SECOND
    assert len(world.published) == before
    listed = world.ask("GET", "/api/v1/devices/gone/commands", params={"state": "queued"}).json()
    assert [one["id"] for one in listed] == [row["id"]]
    assert world.ask("GET", "/api/v1/devices/gone/commands", params={"state": "running"}).json() == []
    cancelled = world.ask("POST", f"/api/v1/commands/{row['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    assert "already cancelled" in problem(world.ask("POST", f"/api/v1/commands/{row['id']}/cancel"), 409)


def test_who_waits_for_a_command_gets_its_end(world: World) -> None:
    hub = world.app.state.hub

    def device() -> None:
        """Answers as soon as it is asked; the ingest would ring just so after its commit."""
        while not world.published:
            time.sleep(0.01)
        cid = world.published[-1].correlation.decode()
        with world.db.write() as session:
            commands.handle_result(session, "press-3", CommandResult(id=cid, state="failed", t_us=NOW, text="no"), NOW)
        hub.waiters.notify(cid)

    world.published.clear()
    answering = threading.Thread(target=device)
    answering.start()
    body = {"verb": "diagnose", "target": "processes", "wait": True, "timeout_s": 20}
    answer = world.ask("POST", "/api/v1/devices/press-3/commands", json=body)
    answering.join()
    assert (answer.status_code, answer.json()["state"], answer.json()["text"]) == (200, "failed", "no")
    (message,) = world.published
    assert message.response_topic == message.topic.replace("/request", "/response")


def test_who_waits_in_vain_is_told_the_id(world: World) -> None:
    body = {"verb": "diagnose", "target": "processes", "wait": True, "timeout_s": 0.05}
    answer = world.ask("POST", "/api/v1/devices/press-3/commands", json=body)
    detail = problem(answer, 504)
    assert f"command {answer.json()['command']} is sent after 0.05 s" in detail
    assert world.ask("GET", f"/api/v1/commands/{answer.json()['command']}").json()["done_us"] is None


def test_a_twin_changes_under_a_version(world: World) -> None:
    path = "/api/v1/devices/press-3/twin/name/settings-test"
    assert world.ask("PATCH", path, json={"desired": {"a": {"b": 1}}}).json()["version"] == 1
    assert world.ask("PATCH", path, json={"desired": {"a": {"b": 2}}, "version": 1}).json()["version"] == 2
    assert "Version conflict" in problem(
        world.ask("PATCH", path, json={"desired": {"a": {"b": 3}}, "version": 1}), 409
    )  # fmt: skip
    assert "maximum size" in problem(world.ask("PATCH", path, json={"desired": {"a": "x" * 40_000}}), 413)
    found = world.ask("GET", path).json()
    assert found["state"] == {"desired": {"a": {"b": 2}}, "delta": {"a": {"b": 2}}}
    assert world.ask("GET", "/api/v1/devices/press-3/twin/documents").json()["settings-test"] == 2


def test_tags_change_under_their_entity_tag_and_never_reach_the_device(world: World) -> None:
    path, before = "/api/v1/devices/press-3/tags", len(world.published)
    world.ask("PUT", path, json={})
    changed = len(world.changed)
    first = world.ask("PATCH", path, json={"site": "a", "line": {"no": 3}})
    assert (first.status_code, first.json()) == (200, {"site": "a", "line": {"no": 3}})
    tag = first.headers["etag"]
    second = world.ask("PATCH", path, json={"line": None}, headers={"If-Match": tag})
    assert second.json() == {"site": "a"}
    assert second.headers["etag"] != tag
    assert tag in problem(world.ask("PUT", path, json={"site": "b"}, headers={"If-Match": tag}), 412)
    assert world.ask("PUT", path, json={"site": "b"}, headers={"If-Match": "*"}).json() == {"site": "b"}
    assert world.ask("PATCH", path, json={"site": "b"}).headers["etag"] == world.ask("GET", path).headers["etag"]
    assert world.changed[changed:] == ["press-3"] * 3, "nothing changed, nothing is looked at"
    assert "8192" in problem(world.ask("PATCH", path, json={f"a{n}": "x" * 4000 for n in range(3)}), 413)
    assert world.ask("PUT", "/api/v1/devices/gone/tags", json={"a": 1}, headers={"If-Match": "*"}).status_code == 200
    kinds = [row["kind"] for row in world.ask("GET", "/api/v1/audit", params={"kind": "tags."}).json()["rows"]]
    assert kinds[:4] == ["tags.replaced", "tags.replaced", "tags.changed", "tags.changed"]
    assert len(world.published) == before


def test_the_fleet_is_asked_in_its_language(world: World) -> None:
    world.ask("PUT", "/api/v1/devices/press-3/tags", json={"asked": "it's"})
    body = {"query": "SELECT id, tags.asked FROM devices WHERE tags.asked = 'it''s' OR id = 'gone'", "limit": 1}
    first = world.ask("POST", "/api/v1/query", "viewer", json=body).json()
    assert first == {"rows": [{"id": "gone"}], "next": "gone"}
    assert world.ask("POST", "/api/v1/query", json=body | {"after": first["next"]}).json() == {
        "rows": [{"id": "press-3", "asked": "it's"}], "next": "",
    }  # fmt: skip
    counted = {"query": "SELECT state, COUNT() AS n FROM devices GROUP BY state"}
    assert {"state": "offline", "n": 1} in world.ask("POST", "/api/v1/query", json=counted).json()["rows"]
    chosen = world.ask("GET", "/api/v1/devices", params={"where": "is_defined(tags.asked)"}).json()
    assert [device["id"] for device in chosen] == ["press-3"]
    unread = {"query": "SELECT * FROM devices WHERE tags.asked ="}
    assert "line 1, column 41: expected a value" in problem(world.ask("POST", "/api/v1/query", json=unread), 400)
    assert "expected a condition" in problem(world.ask("GET", "/api/v1/devices", params={"where": ""}), 400)
    for text in ("(" * 8000, "\ud800", "tags.a = '\ud800'", "tags.[[\ud800]] = 1"):
        raw = json.dumps({"query": text})  # with \\u escapes: half of a surrogate pair comes in this way
        assert world.ask("POST", "/api/v1/query", content=raw).status_code in {400, 422}


def test_incidents_and_a_persons_word(world: World) -> None:
    number = world.ids["incident_id"]
    assert world.ask("POST", f"/api/v1/incidents/{number}/acknowledge").json()["state"] == "acknowledged"
    found = world.ask("GET", f"/api/v1/incidents/{number}").json()
    assert [a["id"] for a in found["alarms"]] == ["a1"]
    decision = f"/api/v1/actions/{world.ids['action_id']}/decision"
    assert world.ask("POST", decision, "operator", json={"approve": True}).json()["state"] == "approved"
    assert "already approved" in problem(world.ask("POST", decision, json={"approve": True}), 409)
    assert "actions" in world.notified
    rows = world.ask("GET", "/api/v1/audit", params={"kind": "action.approved"}).json()["rows"]
    assert rows[0]["actor"] == "the operator"


def test_a_rollout_is_started_and_shown(world: World) -> None:
    body = {"devices": ["press-3"], "limits": [{"metric": "cpu.load", "high": 90}], "watch_s": 5}
    answer = world.ask("POST", "/api/v1/thresholds/rollouts", json=body)
    assert answer.status_code == 201
    shown = world.ask("GET", f"/api/v1/thresholds/rollouts/{answer.json()['id']}").json()
    assert (shown["state"], shown["devices"]) == ("watching", ["press-3"])


def test_the_audit_trail_is_verified_when_asked(world: World) -> None:
    unasked = world.ask("GET", "/api/v1/audit").json()
    assert (unasked["verified"], unasked["broken_at"]) == (None, None)
    asked = world.ask("GET", "/api/v1/audit", params={"verify": True}).json()
    assert (asked["verified"], asked["broken_at"]) == (True, None)
    with world.db.read() as session:
        assert trail.verify(session) is None


def test_a_job_from_preview_to_end(world: World) -> None:
    work = {"kind": "twin", "query": "id = 'press-3'", "document": "bulk", "content": {"period_s": 5}}
    seen = world.ask("POST", "/api/v1/jobs/preview", json=work | {"limit": 5}).json()
    assert seen["found"] == 1
    assert seen["devices"] == [
        {"device": "press-3", "state": "written", "reason": "", "changes": [{"path": "period_s", "after": 5}]}
    ]
    answer = world.ask("POST", "/api/v1/jobs", json=work)
    assert answer.status_code == 202
    assert "jobs" in world.notified
    path = f"/api/v1/jobs/{answer.json()['id']}"
    while jobs.run_once(world.db, now_us(), 32768).again:
        pass
    shown = world.ask("GET", path).json()
    assert (shown["job"]["state"], shown["devices"]) == ("completed", {"written": 1})
    (device,) = world.ask("GET", f"{path}/devices", params={"state": "written"}).json()
    assert (device["device"], device["version"], device["in_force"]) == ("press-3", 1, False)
    assert world.ask("GET", f"{path}/devices", params={"after": "press-3"}).json() == []
    assert world.ask("GET", "/api/v1/jobs", params={"state": "completed"}).json()[0] == shown
    assert "already completed" in problem(world.ask("POST", f"{path}/cancel"), 409)
    problem(world.ask("POST", "/api/v1/jobs", json=work | {"query": "tags.x ="}), 400)


def test_a_job_of_commands_shows_how_each_stands(world: World) -> None:
    content = {"verb": "diagnose", "target": "processes"}
    work = {"kind": "command", "query": "id IN ['press-3', 'gone']", "content": content}
    number = world.ask("POST", "/api/v1/jobs", json=work | {"max_s": 60}).json()["id"]
    while jobs.run_once(world.db, now_us(), 32768).again:
        pass
    rows = world.ask("GET", f"/api/v1/jobs/{number}/devices").json()
    assert [(row["device"], row["command"]["state"], row["in_force"]) for row in rows] == [
        ("gone", "queued", None), ("press-3", "sent", None),
    ]  # fmt: skip


def test_a_configuration_from_its_creation_to_its_end(world: World) -> None:
    path, content = "/api/v1/configurations/slow", {"conf": {"period_s": 60, "x": 1}}
    body = {"target": "id = 'press-3'", "content": content, "metrics": {"all": "*"}, "labels": {"by": "test"}}
    loop = ConfigurationReconciler(world.db, 32768, 300)
    assert world.ask("PUT", path, json=body).status_code == 201
    assert world.ask("PUT", path, json=body | {"priority": 3}).status_code == 200
    assert "other content" in problem(world.ask("PUT", path, json=body | {"content": {"conf": {"x": 2}}}), 409)
    assert world.ask("PATCH", path, json={"priority": 4}).json()["priority"] == 4
    problem(world.ask("PATCH", path, json={"target": "tags.x ="}), 400)
    assert "configurations" in world.notified
    loop.run_once()
    world.ask("PATCH", "/api/v1/devices/press-3/twin/name/conf", json={"desired": {"period_s": 7}})
    assert "press-3" in world.changed
    loop.changed(["press-3"])
    loop.run_once()
    shown = world.ask("GET", path).json()
    assert shown["metrics"] == {
        "targeted": 1, "applied": 0, "conflicts": 1, "overridden": 0, "refused": 0, "in_force": 0, "all": 1,
    }  # fmt: skip
    (row,) = world.ask("GET", f"{path}/devices", params={"state": "conflict"}).json()
    assert row["conflicts"][0]["at"] == "period_s"
    owners = world.ask("GET", "/api/v1/devices/press-3/twin/owners", params={"name": "conf"}).json()
    assert {(one["path"], one["owner"], one["value"]) for one in owners["owners"]} == {
        ("period_s", "anna", 7), ("x", "configuration:slow", 1),
    }  # fmt: skip
    assert owners["conflicts"] == row["conflicts"]
    release = "/api/v1/devices/press-3/twin/release"
    given = world.ask("POST", release, json={"document": "conf", "paths": ["period_s"]})
    assert given.json() == ["period_s"]
    assert "nobody has set 'y'" in problem(world.ask("POST", release, json={"document": "conf", "paths": ["y"]}), 404)
    loop.changed(["press-3"])
    loop.run_once()
    listed = world.ask("GET", "/api/v1/configurations").json()
    assert [(one["configuration"]["id"], one["devices"]) for one in listed] == [("slow", {"applied": 1})]
    assert world.ask("DELETE", path).status_code == 204
    problem(world.ask("GET", path), 404)
    loop.all_changed()
    loop.run_once()
    state = world.ask("GET", "/api/v1/devices/press-3/twin/name/conf").json()["state"]
    assert state == {}
    kinds = {row["kind"] for row in world.ask("GET", "/api/v1/audit").json()["rows"]}
    assert kinds >= {"configuration.created", "configuration.changed", "configuration.deleted", "twin.released"}


# -- what is not there -----------------------------------------------------------------------------

PUTS_ANEW = {
    ("PUT", DEVICE), ("PUT", "/api/v1/configurations/{configuration_id}"),
    ("PUT", "/api/v1/learning-jobs/{learning_job_id}"),
}  # fmt: skip
GOOD_BODY: dict[str, Any] = {
    f"{DEVICE}/asset-path": {"asset_path": "acme/a"},
    f"{DEVICE}/commands": {"verb": "restart", "target": "x"},
    f"{DEVICE}/tags": {"a": 1},
    f"{DEVICE}/twin": {"desired": {"a": 1}},
    f"{DEVICE}/twin/name/{{name}}": {"desired": {"a": 1}},
    "/api/v1/actions/{action_id}/decision": {"approve": True},
    f"{DEVICE}/twin/release": {"paths": ["a"]},
    "/api/v1/alarms/{alarm_id}/acknowledge": {},
    "/api/v1/alarms/{alarm_id}/resolve": {"reason": "its device is gone"},
    "/api/v1/incidents/{incident_id}/resolve": {"reason": "its device is gone"},
    "/api/v1/alarms/{alarm_id}/verdict": {"verdict": "real"},
    "/api/v1/alarms/{alarm_id}/shelve": {"for_s": 60, "reason": "a sensor is changed"},
    "/api/v1/configurations/{configuration_id}": {},
    "/api/v1/thresholds/fit": {"device": "nobody", "metric": "cpu.load"},
    "/api/v1/thresholds/backtest": {"series": [{"device": "nobody", "metric": "cpu.load"}]},
    "/api/v1/learning-jobs/{learning_job_id}/release": {"device": "press-3"},
    "/api/v1/thresholds/rollouts": {"devices": ["nobody"], "limits": [{"metric": "cpu.load", "high": 1}]},
}


@pytest.mark.parametrize(
    ("method", "path"),
    [key for key in ROUTES if key not in PUTS_ANEW and ("{" in key[1] or (key[1] in GOOD_BODY and key[0] != "GET"))],
)
def test_unknown_ids_are_404(world: World, method: str, path: str) -> None:
    unknown = {"metric": "cpu.load", "name": "gates"}
    full = path.format(**{key: unknown.get(key, "nobody") for key in world.ids})
    assert problem(world.ask(method, full, json=GOOD_BODY.get(path)), 404)


def test_unknown_paths_and_methods_are_problems_too(world: World) -> None:
    assert problem(world.ask("GET", "/api/v1/nothing"), 404)
    assert problem(world.ask("DELETE", "/api/v1/devices"), 405)


# -- bad bodies ------------------------------------------------------------------------------------

HUGE = 10**30
BAD: list[tuple[str, str, Any, str]] = [
    ("POST", f"{DEVICE}/commands", {}, "body.verb"),
    ("POST", f"{DEVICE}/commands", {"verb": "erase", "target": "x"}, "body.verb"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": ""}, "body.target"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x" * 129}, "body.target"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "life_s": -1}, "body.life_s"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "life_s": float("nan")}, "body.life_s"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "life_s": HUGE}, "body.life_s"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "more": 1}, "body.more"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "mode": "sometime"}, "body.mode"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "timeout_s": 301}, "body.timeout_s"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "args": {"a": float("nan")}}, "body.args.a"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "args": {"a": [1]}}, "body.args.a"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "args": {"a": "x" * 1001}}, "body.args.a"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "args": {str(n): 1 for n in range(33)}},
     "body.args"),
    ("GET", f"{DEVICE}/commands?state=lost", None, "query.state"),
    ("POST", f"{DEVICE}/commands", [], "body"),
    ("POST", f"{DEVICE}/commands", None, "body"),
    ("PATCH", f"{DEVICE}/twin", {}, "body.desired"),
    ("PATCH", f"{DEVICE}/twin", {"desired": 7}, "body.desired"),
    ("PATCH", f"{DEVICE}/twin", {"desired": {}, "version": "x"}, "body.version"),
    ("PATCH", f"{DEVICE}/twin", {"desired": {"a": float("nan")}}, "body.desired"),
    ("PATCH", f"{DEVICE}/twin", {"desired": {"a": [{"b": float("-inf")}]}}, "body.desired"),
    ("PATCH", f"{DEVICE}/tags", [], "body"),
    ("PATCH", f"{DEVICE}/tags", {"a": [float("nan")]}, "tags.a"),
    ("PUT", f"{DEVICE}/tags", {"a.b": 1}, "tags"),
    ("PUT", f"{DEVICE}/tags", {"a": HUGE}, "tags.a"),
    ("POST", "/api/v1/query", {"query": "*", "limit": 0}, "body.limit"),
    ("POST", "/api/v1/query", {"query": "*", "after": "a'b"}, "body.after"),
    ("POST", "/api/v1/actions/{action_id}/decision", {"approve": "perhaps"}, "body.approve"),
    ("POST", "/api/v1/thresholds/rollouts", {"devices": [], "limits": [{"metric": "a", "high": 1}]}, "body.devices"),
    ("POST", "/api/v1/thresholds/rollouts", {"devices": ["press-3"], "limits": []}, "body.limits"),
    ("POST", "/api/v1/thresholds/rollouts", {"devices": ["press-3"], "limits": [{"metric": "a"}]}, "body.limits.0"),
    ("POST", "/api/v1/thresholds/rollouts",
     {"devices": ["press-3"], "limits": [{"metric": "a", "high": float("nan")}]}, "body.limits.0"),
    ("POST", "/api/v1/thresholds/rollouts",
     {"devices": ["press-3"], "limits": [{"metric": "a", "high": 1, "low": 2}]}, "body.limits.0"),
    ("POST", "/api/v1/thresholds/rollouts",
     {"devices": ["press-3"], "limits": [{"metric": "a", "high": 1}], "watch_s": 0}, "body.watch_s"),
    ("POST", "/api/v1/thresholds/rollouts",
     {"devices": ["press-3"], "limits": [{"metric": "a", "high": 1}], "max_alarms": HUGE}, "body.max_alarms"),
    ("POST", "/api/v1/thresholds/fit", {"device": "press-3"}, "body.metric"),
    ("POST", "/api/v1/jobs", {"kind": "wish", "query": "*", "content": {"a": 1}}, "body.kind"),
    ("POST", "/api/v1/jobs", {"kind": "twin", "query": "", "content": {"a": 1}}, "body.query"),
    ("POST", "/api/v1/jobs", {"kind": "twin", "query": "*", "content": {"a": float("nan")}}, "body.content"),
    ("POST", "/api/v1/jobs", {"kind": "tags", "query": "*", "document": "x", "content": {"a": 1}}, "body"),
    ("POST", "/api/v1/jobs", {"kind": "command", "query": "*", "content": {"verb": "erase", "target": "x"}}, "body"),
    ("POST", "/api/v1/jobs",
     {"kind": "command", "query": "*", "content": {"verb": "restart", "target": "x", "life_s": 1}}, "body"),
    ("POST", "/api/v1/jobs", {"kind": "twin", "query": "*", "content": {"a": 1}, "start_us": HUGE}, "body.start_us"),
    ("POST", "/api/v1/jobs", {"kind": "twin", "query": "*", "content": {"a": 1}, "max_s": 0}, "body.max_s"),
    ("POST", "/api/v1/jobs/preview", {"kind": "twin", "query": "*", "content": {"a": 1}, "limit": 201}, "body.limit"),
    ("GET", "/api/v1/jobs/{job_id}/devices?state=happy", None, "query.state"),
    ("PUT", "/api/v1/configurations/one", {"target": "*", "content": {}}, "body.content"),
    ("PUT", "/api/v1/configurations/one", {"target": "*", "content": {"": {"a": None}}}, "body.content"),
    ("PUT", "/api/v1/configurations/one", {"target": "*", "content": {"no/name": {"a": 1}}}, "body.content"),
    ("PUT", "/api/v1/configurations/one",
     {"target": "*", "content": {"": {"a": 1}}, "metrics": {f"m{n}": "*" for n in range(6)}}, "body.metrics"),
    ("PUT", "/api/v1/configurations/one",
     {"target": "*", "content": {"": {"a": 1}}, "metrics": {"applied": "*"}}, "body.metrics"),
    ("PUT", "/api/v1/configurations/a:b", {"target": "*", "content": {"": {"a": 1}}}, "path.configuration_id"),
    ("PATCH", "/api/v1/configurations/one", {"content": {"": {"a": 1}}}, "body.content"),
    ("POST", f"{DEVICE}/twin/release", {"paths": []}, "body.paths"),
    ("POST", "/api/v1/thresholds/fit", {"device": "press-3", "metric": "cpu.load", "days": 0}, "body.days"),
    ("GET", f"{DEVICE}/telemetry/{{metric}}?limit=x", None, "query.limit"),
    ("GET", f"{DEVICE}/telemetry/{{metric}}?start_us=-1", None, "query.start_us"),
    ("GET", f"{DEVICE}/telemetry/{{metric}}?end_us={HUGE}", None, "query.end_us"),
    ("GET", f"{DEVICE}/events?since_us={HUGE}", None, "query.since_us"),
    ("GET", f"{DEVICE}/range/{{metric}}?points=0", None, "query.points"),
    ("GET", f"{DEVICE}/range/{{metric}}?resolution=2m", None, "query.resolution"),
    ("GET", f"{DEVICE}/range/{{metric}}?start_us=7&end_us=7", None, "query.end_us"),
    ("GET", f"{DEVICE}/range/{{metric}}?start_us={HUGE}", None, "query.start_us"),
    ("GET", f"{DEVICE}/range/{{metric}}?start_us=0&resolution=1h", None, "query: more than 10000 points"),
    ("GET", "/api/v1/telemetry/last?limit=0", None, "query.limit"),
    ("GET", "/api/v1/telemetry/top", None, "query.metric"),
    ("GET", "/api/v1/telemetry/top?metric=a&quantile=1.5", None, "query.quantile"),
    ("GET", "/api/v1/telemetry/top?metric=a&quantile=nan", None, "query.quantile"),
    ("GET", "/api/v1/telemetry/top?metric=a&k=0", None, "query.k"),
    ("GET", "/api/v1/telemetry/top?metric=a&start_us=8&end_us=7", None, "query.end_us"),
    ("GET", "/api/v1/telemetry/export?resolution=2m", None, "query.resolution"),
    ("GET", "/api/v1/alarms?state=loud", None, "query.state"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "place"), BAD)
def test_bad_requests_are_422_and_name_the_place(world: World, method: str, path: str, body: Any, place: str) -> None:
    content = None if body is None else json.dumps(body).encode()
    sort = {"content-type": "application/json"}
    answer = world.ask(method, path.format(**world.ids), content=content, headers=sort)
    assert problem(answer, 422).startswith(place)


NASTY = [
    b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"null", b"7" * 5000, b'{"desired": {"a": "\\ud800"}}',
    b'{"desired": {"\\udfff": 1}}', b'{"desired": {"a": ' + b"[" * 400 + b"]" * 400 + b"}}",
    b'{"desired": {"a": ' + b'{"b":' * 900 + b"1" + b"}" * 900 + b"}}", b'{"desired": {"a": 1e999}}',
    b'{"desired": {"a": ' + b"9" * 400 + b"}}", b'{"desired": {}, "version": ' + b"9" * 400 + b"}",
    b'{"desired": {"a": 99999999999999999999999}}', b'{"desired": {"a": [-9223372036854775809]}}',
    b'{"desired": {"a": "\\u0000"}}', b'{"desired": {"\\u0000": 1}}',
    b'{"desired": {"a": NaN}}', b'{"desired": {}, "version": -1}', b'{"desired": {}, "version": 1e400}',
    b'{"verb": "restart", "target": "\\ud800"}', b'{"verb": "restart", "target": "\\u0000"}',
    b'{"devices": ["\\ud800"], "limits": [{"metric": "a", "high": 1}]}',
    b'{"devices": ["press-3"], "limits": [{"metric": "a", "high": ' + b"9" * 400 + b"}]}",
    b'{"devices": ["press-3"], "limits": [{"metric": "a", "high": 1, "fitted_us": ' + b"9" * 40 + b"}]}",
    b'{"devices": ["press-3"], "limits": [{"metric": "a", "high": 1, "on_delay_s": 1e999}]}',
    b'{"device": "press-3", "metric": "\\ud800"}', b'{"device": "press-3", "metric": "", "days": 1e-320}',
    b'{"device": "press-3", "metric": "Not A Name"}', b'{"approve": 1e999}',
]  # fmt: skip


@pytest.mark.one_database
@pytest.mark.parametrize(("method", "path"), [key for key in ROUTES if key[0] not in {"GET", "DELETE"}])
def test_nasty_bodies_never_give_500(world: World, method: str, path: str) -> None:
    for body in NASTY:
        answer = world.ask(method, path.format(**world.ids), content=body, headers={"content-type": "application/json"})
        assert answer.status_code < 500, (body[:80], answer.text)


NUMBERS = ["-1", "0", "1", str(2**31), str(2**63 - 1), str(2**63), str(-(2**63) - 1), "9" * 30, "9" * 5000, "NaN",
           "1e9", "", " ", "x", "\x00", "１"]  # fmt: skip


@cache
def query_parameters() -> list[tuple[str, str]]:
    """Each parameter in the query of each GET route."""
    paths = shared_app().openapi()["paths"]
    found = [(path, paths[path]["get"].get("parameters", [])) for method, path in ROUTES if method == "GET"]
    return [(path, one["name"]) for path, parameters in found for one in parameters if one["in"] == "query"]


@pytest.mark.one_database
@pytest.mark.parametrize("value", NUMBERS, ids=range(len(NUMBERS)))
def test_odd_numbers_never_give_500(world: World, value: str) -> None:
    for path, key in query_parameters():
        answer = world.ask("GET", path.format(**world.ids), params={key: value})
        assert answer.status_code < 500, (path, key, answer.text)


TEXTS = st.text(max_size=30) | st.sampled_from(
    ["..", "%", "%00", "\x00", "'; --", "a" * 300, "press-3", "\ud83d\ude00"]
)
FUZZ = hypothesis_settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@FUZZ
@given(data=st.data())
def test_whatever_stands_in_path_and_query_never_gives_500(world: World, data: st.DataObject) -> None:
    method, path = data.draw(st.sampled_from(sorted(ROUTES.keys() - {("DELETE", DEVICE)})))  # the others need theirs
    parts = {key: quote(_bytes(data.draw(TEXTS | st.just(known))), safe="") for key, known in world.ids.items()}
    query = data.draw(st.dictionaries(
        st.sampled_from(["limit", "device", "kind", "trace", "state", "model", "since_us", "start_us", "end_us"]),
        TEXTS | st.integers().map(str), max_size=4,
    ))  # fmt: skip
    pairs = "&".join(f"{key}={quote(_bytes(value), safe='')}" for key, value in query.items())
    body = data.draw(st.none() | st.binary(max_size=40) | st.sampled_from(NASTY)) if method != "GET" else None
    sort = {"content-type": "application/json"}
    answer = world.ask(method, f"{path.format(**parts)}?{pairs}", content=body, headers=sort)
    assert answer.status_code < 500, (method, path, parts, pairs, answer.text)


def test_headers_of_any_kind_never_give_500(world: World) -> None:
    for value in ("Bearer \xff\xfe", "Bearer " + "x" * 5000, "bearer tg_é", "Bearer\t"):
        headers = [(b"authorization", value.encode("latin1"))]
        answer = world.client.get("/api/v1/devices", headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 401
    answer = world.ask("GET", "/api/v1/devices", headers={"traceparent": "00-zz"})
    assert answer.status_code == 200


def test_a_body_of_state_is_kept_as_it_was(world: World) -> None:
    """What goes in comes out: big numbers, unicode, empty objects."""
    path = "/api/v1/devices/press-3/twin/name/kept"
    wanted = {"a": 2**53, "b": "尺寸", "c": {}, "d": [1, {"e": 2.5}], "f": False}
    wanted |= {"g": 1e300, "h": 2**64 - 1, "i": 5e-324, "j": "\\u0000"}
    assert world.ask("PATCH", path, json={"desired": wanted}).status_code == 200
    assert world.ask("GET", path).json()["state"]["desired"] == wanted
    assert encode(wanted)


# -- twins: conditional, whole, deleted ----------------------------------------------------------------


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


# -- a database that is away -----------------------------------------------------------------------


def test_while_postgresql_is_away_every_answer_is_503_and_then_all_is_well(tmp_path: Path) -> None:
    with postgres() as server, server.database() as url, open_world(tmp_path, url) as world:
        assert world.ask("GET", "/api/v1/devices").status_code == 200
        server.stop()
        answer = world.ask("GET", "/api/v1/devices")
        assert "does not answer" in problem(answer, 503)
        assert answer.headers["retry-after"] == "1"
        server.start()
        path = "/api/v1/devices/press-3/twin"
        assert world.ask("PATCH", path, json={"desired": {"b": 1}}).json()["version"] == 2


# -- background workers ------------------------------------------------------------------------------


def test_health_names_the_workers_that_fail_and_since_when(world: World) -> None:
    world.workers = [
        WorkerStatus(name="jobs", succeeded_us=NOW), WorkerStatus(name="actions", state="failing", failures=3,
                                                                  failing_since_us=NOW, error="secret"),
        WorkerStatus(name="refit", state="stopped"),
    ]  # fmt: skip
    answer = world.ask("GET", "/healthz", None)
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["failing_workers"]) == (
        "degraded", [{"name": "actions", "since_us": NOW}, {"name": "refit", "since_us": None}],
    )  # fmt: skip
    assert "secret" not in answer.text
    world.workers = []
    assert world.ask("GET", "/healthz", None).json()["status"] == "ok"


def parked(world: World, number: str = "f1", **change: Any) -> None:
    row: dict[str, Any] = {"id": number, "worker": "jobs", "kind": "job", "item": f"item {number}", "failures": 5,
                           "error": "KeyError: 'x'", "first_us": NOW, "next_us": NOW, "parked_us": NOW}  # fmt: skip
    with world.db.write() as session:
        session.add(FailedItem(**(row | change)))


def test_items_that_failed_are_listed_and_retried(world: World) -> None:
    parked(world)
    parked(world, "f2", parked_us=None)
    parked(world, "f3", worker="actions")

    def listed(**wanted: Any) -> set[str]:
        return {row["id"] for row in world.ask("GET", "/api/v1/workers/items", params=wanted).json()}

    assert (listed(), listed(parked=True), listed(worker="actions")) == ({"f1", "f2", "f3"}, {"f1", "f3"}, {"f3"})
    world.workers = [WorkerStatus(name="jobs", runs=7)]
    (row,) = world.ask("GET", "/api/v1/workers").json()
    assert (row["name"], row["runs"], row["parked"], row["retrying"]) == ("jobs", 7, 1, 1)
    assert world.ask("POST", "/api/v1/workers/items/f1/retry").json()["error"] == "KeyError: 'x'"
    assert listed() == {"f2", "f3"}
    assert world.notified[-1] == "jobs"
    assert world.ask("GET", "/api/v1/audit").json()["rows"][0]["kind"] == "worker.item-retried"
    problem(world.ask("POST", "/api/v1/workers/items/f1/retry"), 404)


def test_metrics_are_in_the_text_format_of_prometheus(world: World) -> None:
    parked(world)
    world.workers = [
        WorkerStatus(name="jobs", runs=7, succeeded_us=NOW),
        WorkerStatus(name="actions", state="failing", runs=4, failed_runs=3, failing_since_us=NOW),
    ]
    answer = world.ask("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = {
        (one.name, one.labels.get("worker", "")): one.value
        for family in text_string_to_metric_families(answer.text) for one in family.samples
    }  # fmt: skip
    assert found["tidegate_worker_runs_total", "actions"] == 4
    assert found["tidegate_worker_failures_total", "actions"] == 3
    assert (found["tidegate_worker_failing", "actions"], found["tidegate_worker_failing", "jobs"]) == (1, 0)
    assert found["tidegate_worker_last_success_timestamp_seconds", "jobs"] == NOW / 1e6
    assert found["tidegate_worker_parked_items", "jobs"] == 1
    assert found["tidegate_broker_connected", ""] == 1


def test_metrics_want_a_token_that_reads_the_whole_hub(world: World) -> None:
    problem(world.ask("GET", "/metrics", None), 401)
    problem(world.ask("GET", "/metrics", "writer"), 403)
    with world.db.write() as session:
        scoped = tokens.create(session, "bob", "viewer", NOW, "test", scope=("acme/a",))
    problem(world.client.get("/metrics", headers={"Authorization": f"Bearer {scoped}"}), 403)
