"""A real hub between the tools people keep: a real Prometheus writes into it, and its alarms leave to a webhook."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from simulators.brokers import broker_process, until
from simulators.prometheus import prometheus
from simulators.receivers import Answer, Asked, receiver
from simulators.remote_write import HEADERS, request
from sqlmodel import select

from cloud_hub import clock
from cloud_hub.access import tokens
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import LearnedState

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

DEVICE, METRIC = "127-0-0-1", "prometheus/up"
CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs: [{{job_name: prometheus, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]
remote_write:
- url: http://127.0.0.1:{hub}/v1/prometheus/write
  authorization: {{credentials_file: token}}
  queue_config: {{batch_send_deadline: 1s, min_backoff: 100ms, max_backoff: 1s}}
  write_relabel_configs: [{{source_labels: [__name__], regex: 'up|scrape_.*|.*head_samples.*', action: keep}}]
"""


@pytest.fixture
def heard() -> Iterator[tuple[list[Any], str]]:
    """What a webhook was told, and where it is."""
    bodies: list[Any] = []

    def answer(asked: Asked) -> Answer:
        bodies.append(json.loads(asked.body))
        return 204, b""

    with receiver(answer) as url:
        yield bodies, url


@pytest.fixture
def world(around: Any, tmp_path: Path, heard: tuple[list[Any], str]) -> Any:
    settings = f'[notify.ops]\nkind = "webhook"\nurl = "{heard[1]}/in"\ngroup_wait_s = 0.0\n'
    one = around(broker_process("embedded", tmp_path), settings)
    one.broker.start()
    one.start_hub()
    return one


def writer(world: Any) -> str:
    db = Database(f"sqlite:///{world.folder / 'hub' / 'hub.sqlite'}")
    with db.write() as session:
        token = tokens.create(session, "prom", "writer", clock.now_us(), "test")
    db.close()
    return token


def stored(world: Any) -> list[tuple[int, float]]:
    rows = world.get(f"/devices/{DEVICE}/telemetry/{METRIC}", limit=10_000) or []
    return [(row["t_us"], row["value"]) for row in rows]


def test_a_prometheus_writes_through_a_killed_hub_and_nothing_is_lost_or_doubled(world: Any, tmp_path: Path) -> None:
    (tmp_path / "prom").mkdir()
    (tmp_path / "prom" / "token").write_text(writer(world))
    with prometheus(tmp_path / "prom", config=lambda port: CONFIG.format(port=port, hub=world.rest)) as url:
        until("samples are there", lambda: len(stored(world)) >= 5, 60)
        world.kill("hub")
        before = len(raw(url))
        until("it scraped on without the hub", lambda: len(raw(url)) >= before + 4, 60)
        world.restart("hub")
        last = raw(url)[-1][0]
        until("what was scraped in between is there", lambda: stored(world) and stored(world)[-1][0] >= last, 90)
        held = stored(world)
        scraped = [one for one in raw(url) if one[0] <= held[-1][0]]
        assert held == scraped
    device = world.get(f"/devices/{DEVICE}")
    assert {"prometheus/up", "prometheus/scrape_duration_seconds"} <= {one["name"] for one in device["metrics"]}
    kinds = {one["name"]: one["kind"] for one in device["metrics"]}
    assert kinds["prometheus/prometheus_tsdb_head_samples_appended_total/type-float"] == "counter"


def raw(url: str) -> list[tuple[int, float]]:
    """Every sample of `up` that Prometheus itself holds."""
    data = httpx.get(f"{url}/api/v1/query", params={"query": "up[1h]"}, timeout=20).json()["data"]["result"]
    return [(round(t * 1000) * 1000, float(value)) for one in data for t, value in one["values"]]


def write(world: Any, token: str, points: list[tuple[int, float]]) -> None:
    """The load of web-1, sent as Prometheus sends it."""
    labels = {"__name__": "node_load1", "instance": "web-1:9100", "job": "node"}
    sent = httpx.post(
        f"http://127.0.0.1:{world.rest}/v1/prometheus/write", content=request((labels, points)),
        headers=HEADERS | {"Authorization": f"Bearer {token}"}, timeout=20,
    )  # fmt: skip
    assert sent.status_code == 204, sent.text


def ordinary(n: int) -> float:
    """The load of minute n: a wave, and what looks like chance."""
    return 50 + 10 * math.sin(n / 7) + math.sin(n * n)


def test_limits_are_learned_from_what_was_written_without_an_agent(world: Any) -> None:
    now = clock.now_us() // 1000
    points = [(now - n * 60_000, 50 + 10 * math.sin(n / 7)) for n in range(3 * 1440)]
    write(world, writer(world), points)
    learned = world.http.post("/thresholds/fit", json={"device": "web-1", "metric": "node/node_load1"})
    assert learned.status_code == 200, learned.text
    assert 55 < learned.json()["high"] < 100


def test_an_alarm_of_a_device_reaches_the_webhook_once_and_its_hub_may_die(
    world: Any, heard: tuple[list[Any], str]
) -> None:
    bodies, _ = heard
    world.start_edge("press-3", '[[limits]]\nmetric = "memory.used"\nhigh = 0.0\npriority = "high"\n')
    until("the webhook hears of it", lambda: bodies, 60)
    world.kill("hub")
    world.restart("hub")
    (row,) = until("it stands as notified", lambda: world.get("/notifications", state="notified"), 60)
    assert (row["channel"], row["device"], row["sent_status"], row["error"]) == ("ops", "press-3", "open", "")
    told = [(one["id"], one["state"], one["priority"]) for body in bodies for one in body["incidents"]]
    assert set(told) == {(row["page"], "open", "high")}
    assert world.get("/notifications", state="given-up") == []


@pytest.mark.nightly
def test_what_was_written_is_watched_and_its_anomaly_reaches_the_webhook(
    world: Any, heard: tuple[list[Any], str]
) -> None:
    """Samples of the coming hour are taken in, so nothing here waits for minutes to pass.

    An alarm clears after 20 calm samples in a row. The features look back over up to 100 samples, so that takes 27 to
    49 ordinary ones after four extreme ones, depending on the minute at which this begins (50 minutes tried).
    """
    token, now = writer(world), clock.now_us() // 60_000_000
    write(world, token, [(n * 60_000, ordinary(n)) for n in range(now - 3 * 1440, now)])
    policy = {"metrics": ["node/node_load1"], "train_days": 4, "backtest_days": 1, "monitor": True}
    made = world.http.put("/learning-jobs/load", json={"target": "deviceId = 'web-1'", "policy": policy})
    assert made.status_code == 201, made.text
    until("the watch has learned what was", lambda: watched(world) >= (now - 1) * 60_000_000, 120)
    write(world, token, [(n * 60_000, 400.0) for n in range(now + 2, now + 6)])
    until("an alarm is raised", lambda: alarms(world, "raised"), 60)
    until("the webhook hears of it", lambda: heard[0], 60)
    write(world, token, [(n * 60_000, ordinary(n)) for n in range(now + 6, now + 60)])
    until("what is ordinary again clears it", lambda: alarms(world, "cleared"), 60)
    (alarm,) = world.get("/alarms")
    assert (alarm["device"], alarm["metric"], alarm["kind"]) == ("web-1", "node/node_load1", "high")
    assert now + 2 <= alarm["raised_us"] // 60_000_000 < now + 6
    devices = {(one["device"], one["subject"]) for body in heard[0] for one in body["incidents"]}
    assert devices == {("web-1", "node")}


def watched(world: Any) -> int:
    """Up to where the live watch has read the series, in microseconds."""
    db = Database(f"sqlite:///{world.folder / 'hub' / 'hub.sqlite'}")
    with db.read() as session:
        found = [one["upto_us"] for row in session.exec(select(LearnedState)) for one in row.series]
    db.close()
    return max(found, default=0)


def alarms(world: Any, state: str) -> list[Any]:
    return [one for one in world.get("/alarms") or [] if (one["about"], one["state"]) == ("anomaly", state)]
