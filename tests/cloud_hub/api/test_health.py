"""REST while the database is away; health, failed items and metrics of workers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from simulators.postgres import postgres
from simulators.rest_world import NOW, World, open_world, problem

from cloud_hub.access import tokens
from cloud_hub.autoscale.published import PUBLISHED
from cloud_hub.database.tables import FailedItem
from cloud_hub.runtime.worker import WorkerStatus

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")


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
    PUBLISHED.set("gateway", 7)
    answer = world.ask("GET", "/metrics")
    PUBLISHED.withdraw("gateway")
    assert 'tidegate_autoscale_desired_replicas{target="gateway"} 7.0' in answer.text
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
    assert world.ask("GET", "/metrics").status_code == 200
