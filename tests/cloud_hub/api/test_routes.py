"""REST: what each route answers when all is well, and what unknown ids are answered."""

from __future__ import annotations

import json
import threading
import time
import warnings
from io import BytesIO
from typing import Any

import pytest
from pyarrow import parquet
from simulators.rest_world import DEVICE, NOW, ROUTES, SECOND, World, problem
from sqlalchemy import event

from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.configurations.reconciler import ConfigurationReconciler
from cloud_hub.database.tables import EscalationRow, FailedItem, HighWater, LostRange
from cloud_hub.devices import commands
from cloud_hub.jobs import service as jobs
from shared.protocol.messages import CommandResult

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")


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
    "/api/v1/actions/{action_id}/cancel": {},
    "/api/v1/playbooks/{playbook}/dry-run": {},
    "/api/v1/playbook-runs/{run_id}/decision": {"approve": True},
    "/api/v1/actions/{action_id}/undo": {},
    f"{DEVICE}/twin/release": {"paths": ["a"]},
    "/api/v1/alarms/{alarm_id}/acknowledge": {},
    "/api/v1/alarms/{alarm_id}/resolve": {"reason": "its device is gone"},
    "/api/v1/incidents/{incident_id}/resolve": {"reason": "its device is gone"},
    "/api/v1/incidents/{incident_id}/merge": {"incidents": ["nobody"], "reason": "the same pump"},
    "/api/v1/incidents/{incident_id}/split": {"reason": "another pump"},
    f"{DEVICE}/notes": {"text": "the fan was replaced"},
    "/api/v1/alarms/{alarm_id}/verdict": {"verdict": "real"},
    "/api/v1/alarms/{alarm_id}/shelve": {"for_s": 60, "reason": "a sensor is changed"},
    "/api/v1/configurations/{configuration_id}": {},
    "/api/v1/thresholds/fit": {"device": "nobody", "metric": "cpu.load"},
    "/api/v1/thresholds/backtest": {"series": [{"device": "nobody", "metric": "cpu.load"}]},
    "/api/v1/learning-jobs/{learning_job_id}/release": {"device": "press-3"},
    "/api/v1/autoscale/targets/{target}/pause": {},
    "/api/v1/autoscale/targets/{target}/override": {"count": 2},
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


def test_experts_show_what_waits_what_was_answered_and_what_it_cost(world: World) -> None:
    now = now_us()
    with world.db.write() as session:
        for number, answer in enumerate(["ok", "", None]):
            answered_us = None if answer is None else now - 9 * SECOND
            session.add(EscalationRow(
                id=f"x{number}", device="press-3", model="weld", digest="d", number=number, reason="unsure", label="ok",
                margin=0.1, height=1, width=1, frame=b"x", t_us=now, received_us=now - 10 * SECOND, answer=answer,
                expert="" if answer is None else "weld-large 1", answered_us=answered_us, cost=0.25,
            ))  # fmt: skip
        session.add(FailedItem(id="f1", worker="experts", kind="escalation", item="x2", failures=1, error="e",
                               first_us=now, next_us=now, parked_us=None))  # fmt: skip
    rows = {row["expert"]: row for row in world.ask("GET", "/api/v1/experts").json() if row["model"] == "weld"}
    assert (rows[""]["waiting"], rows[""]["answered"], rows[""]["mean_s"], rows[""]["failed"]) == (1, 0, None, 1)
    assert "no expert is configured" in rows[""]["hint"]
    assert 'tidegate_expert_waiting{model="weld"} 1.0' in world.ask("GET", "/metrics").text
    answered = rows["weld-large 1"]
    assert (answered["answered"], answered["without_label"], answered["cost"]) == (2, 1, 0.5)
    assert answered["mean_s"] == pytest.approx(1.0)
    assert answered["hint"] == ""
    assert problem(world.ask("GET", "/api/v1/experts", params={"hours": "NaN"}), 422).startswith("query.hours")
