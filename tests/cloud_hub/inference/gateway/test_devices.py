"""Devices' questions: answered before the deadline or refused with a reason, once; over a real broker too."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from simulators.births import born
from simulators.brokers import broker_process, until
from simulators.gateways import MakeHub, bind, pool
from simulators.openai_server import OpenAIServer
from simulators.rest import RestHub

from cloud_hub.access import tokens
from cloud_hub.app import HubApp
from cloud_hub.clock import now_us
from cloud_hub.inference.gateway.devices import PER_DEVICE, DeviceDesk, DeviceQuestion
from cloud_hub.ingest.core import cost
from cloud_hub.ingest.core.router import route
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.settings import Discovery, Mqtt, Settings
from cloud_hub.settings.inference import Inference
from shared.errors import WireError
from shared.protocol import topics
from shared.protocol.codec import decode, encode
from shared.protocol.messages import Birth, InferenceRequest, InferenceResponse
from shared.transport.mqtt import Connection, Inbound, Options

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Desk:
    """A desk whose responses are kept."""

    def __init__(self, hub: RestHub) -> None:
        bind(hub)
        self.sent: list[OutgoingMessage] = []
        self._desk = DeviceDesk(hub.gateway, self._publish, hub.app.state.hub.settings.inference)

    def _publish(self, messages: Iterable[OutgoingMessage]) -> None:
        self.sent += messages

    def ask(self, number: str = "q1", device: str = "press-3", known: bool = True, **more: Any) -> None:
        request = InferenceRequest(**{"id": number, "prompt": "why did the pressure fall?"} | more)
        self._desk.ask(DeviceQuestion(device, ("acme/a",), known, request, TRACE))

    def responses(self, count: int = 1) -> list[InferenceResponse]:
        until("the responses", lambda: len(self.sent) >= count)
        return [decode(InferenceResponse, message.payload) for message in self.sent]


def test_a_question_is_answered_on_the_devices_topic(make_hub: MakeHub, engine: OpenAIServer) -> None:
    desk = Desk(make_hub(pool(engine, sites=["acme/a"])))
    desk.ask(system="You know presses.", max_tokens=77)
    (response,) = desk.responses()
    assert (response.id, response.state, response.text) == ("q1", "answered", "all is well")
    assert desk.sent[0].topic == "tidegate/v1/things/press-3/inference/response"
    assert desk.sent[0].trace == TRACE
    assert engine.requests[0]["max_tokens"] == 77
    assert engine.headers[0]["traceparent"] == TRACE
    desk.ask("q2", schema={"type": "object"})
    assert desk.responses(2)[1].text.startswith("{")


def test_a_repeated_message_is_answered_again_and_not_asked_again(make_hub: MakeHub, engine: OpenAIServer) -> None:
    engine.first_s = 0.2
    desk = Desk(make_hub(pool(engine)))
    for _ in range(3):
        desk.ask()
    assert len(desk.responses()) == 1
    desk.ask()
    assert [response.state for response in desk.responses(2)] == ["answered"] * 2
    assert len(engine.requests) == 1


def test_a_question_past_its_deadline_is_refused_in_time(make_hub: MakeHub, engine: OpenAIServer) -> None:
    engine.behaviour = "stalls"
    desk, start = Desk(make_hub(pool(engine))), time.monotonic()
    desk.ask(deadline_s=0.5)
    (response,) = desk.responses()
    assert time.monotonic() - start < 2
    assert (response.state, response.code) in [("refused", "deadline"), ("refused", "unavailable")]
    assert response.reason


def test_what_cannot_be_asked_is_refused_with_its_reason(make_hub: MakeHub, engine: OpenAIServer) -> None:
    engine.first_s = 20
    desk = Desk(make_hub(pool(engine, sites=["acme/a"]), device_prompt_bytes=2000))
    desk.ask("unknown", known=False)
    desk.ask("long", prompt="x" * 2001)
    desk.ask("model", model="gpt-9")
    assert {response.id: response.code for response in desk.responses(3)} == {
        "unknown": "invalid", "long": "invalid", "model": "model",
    }  # fmt: skip
    for number in range(PER_DEVICE + 1):
        desk.ask(f"many-{number}", prompt=f"question {number}", deadline_s=5)
    assert desk.responses(4)[3].code == "queue_full"


def test_only_devices_of_named_sites_may_claim_an_emergency(make_hub: MakeHub, engine: OpenAIServer) -> None:
    desk = Desk(make_hub(pool(engine)))
    desk.ask(request_class="emergency")
    assert (desk.responses()[0].code, engine.requests) == ("class", [])
    assert "emergency_devices" in desk.responses()[0].reason
    desk = Desk(make_hub(pool(engine), emergency_devices=["acme/b"]))
    desk.ask(request_class="emergency")
    assert desk.responses()[0].code == "class"
    desk = Desk(make_hub(pool(engine), emergency_devices=["acme"]))
    desk.ask(request_class="emergency")
    assert desk.responses()[0].state == "answered"


def test_without_pools_a_device_is_told_so(make_hub: MakeHub) -> None:
    desk = Desk(make_hub())
    desk.ask()
    assert "no pool" in desk.responses()[0].reason


def test_a_question_is_checked_and_charged_when_it_arrives() -> None:
    topic = topics.thing("press-3", "inference/request")
    payload = encode(InferenceRequest(id="q", prompt="x"))
    message = route(topic, payload)
    assert cost.of_message(message, payload) >= cost.QUESTION
    for wrong in (b'{"id":"q"}', b'{"id":"","prompt":"x"}', b'{"id":"q","prompt":"x","deadline_s":1e9}', b"{"):
        with pytest.raises(WireError):
            route(topic, wrong)


# -- a whole hub ---------------------------------------------------------------------------------------


@pytest.fixture
def whole_hub(tmp_path: Path, engine: OpenAIServer) -> Any:
    broker = broker_process("embedded", tmp_path)
    broker.start()
    settings = Settings(
        state_dir=str(tmp_path / "hub"), mqtt=Mqtt(address=f"127.0.0.1:{broker.port}"),
        discovery=Discovery(announce=False), inference=Inference.model_validate({"pools": [pool(engine)]}),
    )  # fmt: skip
    yield HubApp(settings), broker.port
    broker.stop()


def connected(port: int, on_message: Callable[[Inbound], None]) -> Connection:
    device = Connection(
        Options(client_id="press-3", filters=topics.device_filters("press-3")), lambda: ("127.0.0.1", port),
        on_message=on_message, on_up=lambda: None, on_down=lambda _: None,
    )  # fmt: skip
    device.start()
    return device


def test_a_device_gets_its_answer_from_a_whole_hub_over_mqtt(whole_hub: Any) -> None:
    hub, port = whole_hub
    heard: list[Inbound] = []
    with hub.db.write() as session:
        token = tokens.create(session, "tester", "operator", now_us(), "test")
        born(session, Birth(device="press-3", session="s", epoch="e"), now_us())
    with TestClient(hub.rest(), headers={"Authorization": f"Bearer {token}"}) as rest:
        device = connected(port, heard.append)
        try:
            until("the hub is connected", lambda: rest.get("/healthz").json()["broker"])
            request = encode(InferenceRequest(id="q1", prompt="why?", deadline_s=10))
            device.publish(topics.thing("press-3", "inference/request"), request, traceparent=TRACE)
            answers = until("an answer", lambda: [one for one in heard if one.topic.endswith("inference/response")])
        finally:
            device.stop()
        assert decode(InferenceResponse, answers[0].payload).text == "all is well"
        assert answers[0].traceparent == TRACE
        chat = rest.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}]})
        assert chat.json()["choices"][0]["message"]["content"] == "all is well"
        task = rest.post("/api/v1/tasks", json={"prompt": "later"}).json()["id"]
        until("the task", lambda: rest.get(f"/api/v1/tasks/{task}").json()["state"] == "succeeded")
        metrics = rest.get("/metrics").text
        assert (
            'tidegate_inference_requests_total{outcome="answered",pool="large",request_class="normal"} 2.0' in metrics
        )
        assert 'tidegate_inference_breaker_state{address="' in metrics
        overview = rest.get("/api/v1/inference").json()
        assert overview["pools"][0]["addresses"][0]["breaker"] == "closed"
        assert {row["name"] for row in overview["usage"]} == {"hub", "press-3", "tester"}
