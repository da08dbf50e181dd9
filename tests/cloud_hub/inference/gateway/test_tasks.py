"""Queued tasks: answered once through restarts, refused, expired, cancelled, and told to their webhooks."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from simulators.brokers import until
from simulators.gateways import MakeHub, bind, pool
from simulators.openai_server import OpenAIServer
from simulators.receivers import Answer, Asked, receiver
from simulators.rest import RestHub

from cloud_hub.access import tokens
from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.inference.gateway import tasks
from cloud_hub.inference.gateway.tasks import TaskRunner
from cloud_hub.inference.gateway.webhooks import WebhookDelivery
from cloud_hub.security.core.webhook_signature import sign


def request(hub: RestHub, method: str, path: str, token: str = "", **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token or hub.token}"}
    return httpx.request(method, f"http://127.0.0.1:{hub.port}/api/v1/tasks{path}", headers=headers, timeout=60, **more)


def create(hub: RestHub, **body: Any) -> str:
    answered = request(hub, "POST", "", json={"prompt": "summarise the night shift"} | body)
    assert answered.status_code == 202, answered.text
    return str(answered.json()["id"])


def runner_of(hub: RestHub) -> TaskRunner:
    assert hub.gateway is not None
    bind(hub)
    return TaskRunner(hub.db, hub.gateway, lambda: None)


def state_of(hub: RestHub, task: str) -> dict[str, Any]:
    return dict(request(hub, "GET", f"/{task}").json())


def run_until(runner: TaskRunner, done: Callable[[], bool]) -> None:
    def step() -> bool:
        runner.run_once()
        return done()

    until("the tasks are there", step)


def test_a_task_is_answered_and_its_request_is_the_callers(make_hub: MakeHub, engine: OpenAIServer) -> None:
    hub = make_hub(pool(engine))
    task = create(hub)
    whole = create(hub, prompt=None, body={"model": "large", "messages": [{"role": "user", "content": "x"}], "seed": 1})
    runner = runner_of(hub)
    run_until(runner, lambda: state_of(hub, whole)["state"] == state_of(hub, task)["state"] == "succeeded")
    assert state_of(hub, task)["answer"]["choices"][0]["message"]["content"] == "all is well"
    assert sorted(sent.get("seed", 0) for sent in engine.requests) == [0, 1]
    with hub.db.read() as session:
        assert trail.rows(session, kind="inference.task-created")


def test_tasks_survive_a_killed_hub_and_are_done_once(make_hub: MakeHub, engine: OpenAIServer) -> None:
    engine.first_s = 30
    hub = make_hub(pool(engine))
    ids = [create(hub, prompt=f"task {number}") for number in range(5)]
    first = runner_of(hub)
    first.run_once()
    until("all run", lambda: engine.running == 5)
    engine.first_s = 0.0
    hub = make_hub(pool(engine))  # the first gateway is gone in the middle of all five
    until("the engine is free", lambda: engine.running == 0)
    second = runner_of(hub)
    run_until(second, lambda: all(state_of(hub, task)["state"] == "succeeded" for task in ids))
    assert [state_of(hub, task)["attempts"] for task in ids] == [2] * 5
    before = len(engine.requests)
    second.run_once()
    first.run_once()
    assert len(engine.requests) == before


def test_a_task_waits_while_no_engine_answers_and_expires_at_its_deadline(
    make_hub: MakeHub, engine: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "FIRST_WAIT_S", 0.05)
    engine.behaviour = "fails"
    hub = make_hub(pool(engine))
    patient, hasty = create(hub, deadline_s=600), create(hub, deadline_s=0.5)
    runner = runner_of(hub)
    run_until(runner, lambda: state_of(hub, hasty)["state"] == "expired")
    assert state_of(hub, patient)["state"] in ("queued", "running")
    reason = state_of(hub, hasty)["reason"]
    assert any(part in reason for part in ("no engine of pool", "deadline", "did not answer in time")), reason


@pytest.mark.parametrize(
    ("body", "part"),
    [({}, "either"), ({"prompt": "x", "body": {"messages": []}}, "either"),
     ({"body": {"messages": []}}, "at least one"),
     ({"body": {"messages": [{"role": "user"}], "stream": True}}, "not streamed"),
     ({"prompt": "x", "webhook": "http://169.254.169.254/"}, "is none of those"),
     ({"prompt": "x", "deadline_s": -1}, "")],
)  # fmt: skip
def test_a_task_that_cannot_be_carried_out_is_refused(
    make_hub: MakeHub, engine: OpenAIServer, body: dict[str, Any], part: str
) -> None:
    answered = request(make_hub(pool(engine)), "POST", "", json=body)
    assert answered.status_code == 422
    assert part in answered.json()["detail"]


def test_a_task_that_the_engine_refuses_fails_and_one_that_is_cancelled_frees_the_engine(
    make_hub: MakeHub, engine: OpenAIServer
) -> None:
    hub = make_hub(pool(engine))
    engine.first_s = 60
    task = create(hub)
    runner = runner_of(hub)
    runner.run_once()
    until("it runs", lambda: engine.running == 1)
    assert request(hub, "POST", f"/{task}/cancel").status_code == 202
    runner.run_once()
    until("the engine is free", lambda: engine.running == 0)
    assert request(hub, "POST", f"/{task}/cancel").status_code == 409
    engine.behaviour = "refuses"
    other = create(hub)
    run_until(runner, lambda: state_of(hub, other)["state"] == "failed")
    assert "maximum context length" in state_of(hub, other)["reason"]


def test_a_caller_sees_only_own_tasks(make_hub: MakeHub, engine: OpenAIServer) -> None:
    hub = make_hub(pool(engine))
    task = create(hub)
    with hub.db.write() as session:
        token = tokens.create(session, "bob", "inference", now_us(), "test")
    assert request(hub, "GET", f"/{task}", token).status_code == 404
    assert request(hub, "POST", f"/{task}/cancel", token).status_code == 404
    assert request(hub, "GET", "", token).json() == []
    assert task in [row["id"] for row in request(hub, "GET", "?state=queued").json()]
    request(hub, "POST", f"/{task}/cancel")


def test_a_webhook_is_told_once_it_answers_and_can_verify_who_asks(
    make_hub: MakeHub, engine: OpenAIServer, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("s3cret-of-the-webhook\n")
    told: list[Asked] = []
    statuses = [500, 200, 200]

    def answer(asked: Asked) -> Answer:
        told.append(asked)
        return statuses.pop(0), b""

    with receiver(answer) as url:
        webhooks = {"mes": {"url": url, "secret_file": str(tmp_path / "secret")}}
        hub = make_hub(pool(engine), webhooks=webhooks)
        task = create(hub, webhook="mes")
        runner = runner_of(hub)
        run_until(runner, lambda: state_of(hub, task)["state"] == "succeeded")
        delivery = WebhookDelivery(hub.db, hub.app.state.hub.settings.inference.webhooks)
        delivery.run_once()
        assert state_of(hub, task)["webhook_state"] == "pending"
        until("told again", lambda: [delivery.run_once(), len(told) > 1][1])
        delivery.run_once()
    assert len(told) == 2
    body, signature = msgspec.json.decode(told[1].body), told[1].headers["tidegate-signature"]
    assert body["id"] == task
    assert body["answer"]["choices"]
    seconds = int(signature.partition(",")[0][2:])
    assert signature == sign("s3cret-of-the-webhook", told[1].body, seconds)
    assert abs(seconds - time.time()) < 60
    assert state_of(hub, task)["webhook_state"] == "delivered"
