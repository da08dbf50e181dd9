"""One trace from the device to the engine and back: real broker, real hub, simulated engine, spans kept in memory."""

from __future__ import annotations

import gzip
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulators.births import born
from simulators.brokers import broker_process, until
from simulators.glm import GlmSimulator
from simulators.receivers import Answer, Asked, receiver

from cloud_hub.app import HubApp
from cloud_hub.clock import now_us
from cloud_hub.runtime import tracing
from cloud_hub.settings import Discovery, Mqtt, Settings, Tracing
from cloud_hub.settings.experts import Experts, Vision
from cloud_hub.settings.inference import Inference
from shared.errors import ConfigError
from shared.ids import trace_id
from shared.protocol import topics
from shared.protocol.codec import encode
from shared.protocol.messages import Batch, Birth, Escalation, InferenceRequest
from shared.transport.mqtt import Connection, Inbound, Options

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry is not installed: pip install -e '.[dev]'")
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

SPAN = "b7ad6b7169203331"


def traceparent(digit: str) -> str:
    return f"00-{digit * 32}-{SPAN}-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.shutdown()


@pytest.fixture
def engine() -> Iterator[GlmSimulator]:
    with GlmSimulator(key="") as server:
        yield server


def settings(folder: Path, port: int, engine: GlmSimulator) -> Settings:
    pool = {"name": "large", "addresses": [engine.url], "model": engine.model, "redact": False}
    return Settings(
        state_dir=str(folder / "hub"), mqtt=Mqtt(address=f"127.0.0.1:{port}"), discovery=Discovery(announce=False),
        inference=Inference.model_validate({"pools": [pool]}),
        experts=Experts(vision={"gate": Vision(pool="large", labels=["closed", "open"])}),
    )  # fmt: skip


def tree(spans: InMemorySpanExporter, digit: str) -> dict[str, str]:
    """The spans of a trace by name, each with its parent's name; the device's own span is `device`."""
    found: list[ReadableSpan] = [
        span for span in spans.get_finished_spans() if span.context and f"{span.context.trace_id:032x}" == digit * 32
    ]
    names = {span.context.span_id: span.name for span in found if span.context} | {int(SPAN, 16): "device"}
    return {span.name: names.get(span.parent.span_id, "?") if span.parent else "" for span in found}


def test_a_question_and_an_escalation_are_one_trace_each_from_the_device_to_the_engine_and_back(
    tmp_path: Path, engine: GlmSimulator, spans: InMemorySpanExporter
) -> None:
    broker = broker_process("embedded", tmp_path)
    broker.start()
    heard: list[Inbound] = []

    def answers(rest: str) -> list[Inbound]:
        return [message for message in heard if message.topic.endswith(rest)]

    hub = HubApp(settings(tmp_path, broker.port, engine))
    with hub.db.write() as session:
        born(session, Birth(device="press-3", session="s", epoch="e"), now_us())
    with TestClient(hub.rest()) as rest:
        device = Connection(
            Options(client_id="press-3", filters=topics.device_filters("press-3")),
            lambda: ("127.0.0.1", broker.port), on_message=heard.append, on_up=lambda: None, on_down=lambda _: None,
        )  # fmt: skip
        device.start()
        try:
            until("the hub is connected", lambda: rest.get("/healthz").json()["broker"])
            question = encode(InferenceRequest(id="q1", prompt="why?", deadline_s=20))
            device.publish(topics.thing("press-3", "inference/request"), question, traceparent=traceparent("a"))
            (answer,) = until("an answer", lambda: answers("inference/response"))
            frame = Escalation(
                id="x1", t_us=1, model="gate", digest="d", number=1, reason="unsure", label="", margin=0.1,
                shape=(2, 2, 1), frame=bytes(4),
            )  # fmt: skip
            batch = encode(Batch(epoch="e", first=1, items=[frame]))
            device.publish(topics.thing("press-3", "escalations"), batch, traceparent=traceparent("b"))
            (opinion,) = until("the expert", lambda: answers("escalations/answers"))
        finally:
            device.stop()
    broker.stop()
    assert [trace_id(message.traceparent) for message in (answer, opinion)] == ["a" * 32, "b" * 32]
    assert [trace_id(headers["traceparent"]) for headers in engine.headers] == ["a" * 32, "b" * 32]
    assert tree(spans, "a") == {
        "device.question": "device", "inference.request": "device.question", "inference.queue": "inference.request",
        "inference.engine": "inference.request", "device.answer": "device.question",
    }  # fmt: skip
    assert tree(spans, "b") == {
        "escalation.ingest": "device", "escalation.answer": "?", "inference.request": "escalation.answer",
        "inference.queue": "inference.request", "inference.engine": "inference.request",
    }  # fmt: skip
    text = "".join(span.to_json() for span in spans.get_finished_spans())
    assert "why?" not in text, "spans hold no prompts"


def test_a_failed_request_is_a_failed_span_and_a_broken_traceparent_begins_a_new_trace(
    spans: InMemorySpanExporter,
) -> None:
    def fail() -> None:
        with tracing.span("outer", "no traceparent") as outer:
            tracing.start("inner", outer.traceparent).end({"n": 1})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    inner, failed = spans.get_finished_spans()
    assert (inner.name, failed.name, failed.status.description) == ("inner", "outer", "ZeroDivisionError")
    assert inner.parent is not None
    assert failed.context is not None
    assert inner.parent.span_id == failed.context.span_id


def test_nothing_is_recorded_unless_it_is_configured() -> None:
    tracing.configure(Tracing(), "hub")
    with tracing.span("outer", traceparent("c")) as span:
        assert span.traceparent == traceparent("c"), "the device's own goes on"


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"tidegate\[otel\]"):
        tracing.configure(Tracing(endpoint="http://127.0.0.1:4318/v1/traces"), "hub")


def test_spans_reach_a_collector() -> None:
    received: list[Asked] = []

    def keep(request: Asked) -> Answer:
        received.append(request)
        return 200, b""

    with receiver(keep) as url:
        tracing.configure(Tracing(endpoint=f"{url}/v1/traces"), "hub-1")
        tracing.start("a-span", "").end()
        tracing.shutdown()
    (request,) = received
    assert (request.method, request.path) == ("POST", "/v1/traces")
    body = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
    assert b"a-span" in body
    assert b"hub-1" in body
