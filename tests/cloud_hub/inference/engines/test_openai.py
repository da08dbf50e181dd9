"""The client of OpenAI-compatible servers, against a strict simulated one."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from examiners.engines import Bench, answer, examine_engine
from simulators.certificates import certificates
from simulators.glm import GlmSimulator
from simulators.stub_engine import StubEngine

from cloud_hub.inference.engines import (
    ChatRequest,
    Engine,
    EngineBroken,
    EngineBusy,
    EngineRefused,
    EngineTimeout,
    EngineUnreachable,
)
from cloud_hub.inference.engines.openai import open_engine
from cloud_hub.inference.engines.pools import open_engines
from cloud_hub.settings.inference import Pool
from shared.errors import ConfigError, NotReady

KEY = "secret-key-4711"


@pytest.fixture
def glm() -> Iterator[GlmSimulator]:
    with GlmSimulator(key=KEY) as simulator:
        yield simulator


def opened(glm: GlmSimulator, folder: Path, **changes: object) -> Engine:
    (folder / "key").write_text(KEY + "\n")
    options: dict[str, object] = {"url": glm.url, "model": glm.model, "key_file": str(folder / "key")}
    return open_engine(options | changes)


def asked(engine: Engine, deadline_s: float = 5.0, **fields: Any) -> list[bytes]:
    async def whole() -> list[bytes]:
        try:
            return await answer(engine, deadline_s, **fields)
        finally:
            await engine.aclose()

    return asyncio.run(whole())


async def until_free(glm: GlmSimulator) -> None:
    for _ in range(400):
        if not glm.running:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the server still works for callers that left")


def test_the_examiner_accepts_the_engine(glm: GlmSimulator, tmp_path: Path) -> None:
    glm.event_s = 0.01

    def cut() -> None:
        glm.behaviour = "fails"

    examine_engine(Bench(engine=opened(glm, tmp_path), secret=KEY, cut=cut, free=lambda: until_free(glm)))


def test_the_examiner_accepts_the_stub_and_catches_one_that_shows_its_key() -> None:
    stub = StubEngine(text="one two three", word_s=0.01)

    def cut() -> None:
        stub.behaviour = "unreachable"

    async def free() -> None:
        assert stub.running == 0

    examine_engine(Bench(engine=stub, secret=KEY, cut=cut, free=free))
    assert stub.left == 3, "one after the first event, one while waiting, one that found nobody"
    with pytest.raises(AssertionError):
        examine_engine(Bench(engine=StubEngine(name=f"at {KEY}"), secret=KEY, cut=cut, free=free))


def test_an_answer_is_passed_on_as_the_server_wrote_it(glm: GlmSimulator, tmp_path: Path) -> None:
    (body,) = asked(opened(glm, tmp_path))
    assert json.loads(body)["usage"]["prompt_tokens"] == 10
    events = asked(opened(glm, tmp_path), stream=True)
    assert events[0] == b": keep-alive\n\n"
    assert events[-1] == b"data: [DONE]\n\n"


def test_the_first_event_comes_before_the_last_is_made(glm: GlmSimulator, tmp_path: Path) -> None:
    glm.event_s = 5.0

    async def first() -> float:
        start = time.monotonic()
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
        async with aclosing(opened(glm, tmp_path)) as engine:
            items = engine.chat(ChatRequest.from_body(body), 30.0)
            await anext(items)
            took_s = time.monotonic() - start
            await items.aclose()
        return took_s

    assert asyncio.run(first()) < 5.0


def test_what_the_caller_sends_arrives_and_the_pool_names_the_model(glm: GlmSimulator, tmp_path: Path) -> None:
    asked(opened(glm, tmp_path), model="auto", seed=7, top_p=0.5, metadata={"site": "a"})
    request = glm.requests[0]
    assert (request["model"], request["seed"], request["top_p"], request["metadata"]) == (
        glm.model, 7, 0.5, {"site": "a"},
    )  # fmt: skip


def test_extra_body_overrides_and_null_removes(glm: GlmSimulator, tmp_path: Path) -> None:
    asked(opened(glm, tmp_path, extra_body={"seed": 7, "temperature": None}), temperature=1.0)
    assert glm.requests[0]["seed"] == 7
    assert "temperature" not in glm.requests[0]


def test_priority_is_sent_where_the_server_has_it(glm: GlmSimulator, tmp_path: Path) -> None:
    async def ask(**options: object) -> None:
        request = ChatRequest({"messages": [{"role": "user", "content": "x"}]}, priority=2)
        engine = opened(glm, tmp_path, **options)
        async with aclosing(engine.chat(request, 5.0)) as items:
            assert [item async for item in items]
        await engine.aclose()

    asyncio.run(ask())
    asyncio.run(ask(priority=True))
    assert [request.get("priority") for request in glm.requests] == [None, 2]


@pytest.mark.parametrize(
    ("behaviour", "stream", "kind", "reason"),
    [
        ("fails", False, NotReady, "HTTP 500"),
        ("busy", False, EngineBusy, "too many requests"),
        ("quota", True, EngineBusy, "quota"),
        ("no-completion", False, EngineBroken, "no chat completion"),
        ("garbage", False, EngineBroken, "no chat completion"),
        ("garbage", True, EngineBroken, "a stream was asked for, the answer is text/html"),
        ("huge", False, EngineBroken, "longer than"),
        ("half-a-body", False, EngineBroken, "broke off"),
        ("half-a-stream", True, EngineBroken, "broke off"),
        ("stream-error", True, EngineBroken, "reports an error"),
    ],
)
def test_errors_say_whose_fault_it_is(
    glm: GlmSimulator, tmp_path: Path, behaviour: Any, stream: bool, kind: type[Exception], reason: str
) -> None:
    glm.behaviour = behaviour
    with pytest.raises(kind, match=reason) as caught:
        asked(opened(glm, tmp_path), stream=stream)
    assert type(caught.value) is kind
    if kind is EngineBusy:
        assert caught.value.wait_s == 7.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("behaviour", ["slow", "drip"])
def test_the_deadline_is_for_the_whole_exchange(glm: GlmSimulator, tmp_path: Path, behaviour: Any) -> None:
    glm.behaviour = behaviour
    start = time.monotonic()
    with pytest.raises(EngineTimeout, match=r"no complete answer within 0\.2 s"):
        asked(opened(glm, tmp_path), deadline_s=0.2)
    assert time.monotonic() - start < 8.0, "the server would go on for ten seconds"


def test_the_deadline_never_hits_a_slow_consumer(glm: GlmSimulator, tmp_path: Path) -> None:
    """A caller that takes longer than the deadline between two events gets the timeout, not a cancelled task."""

    async def slow() -> None:
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
        glm.event_s = 1.0
        async with (
            aclosing(opened(glm, tmp_path)) as engine,
            aclosing(engine.chat(ChatRequest.from_body(body), 1.0)) as items,
        ):
            await anext(items)
            await asyncio.sleep(1.2)
            with pytest.raises(EngineTimeout):
                async for _ in items:
                    pass

    asyncio.run(slow())


def test_no_connection_means_nothing_was_sent(glm: GlmSimulator, tmp_path: Path) -> None:
    with pytest.raises(EngineUnreachable):
        asked(opened(glm, tmp_path, url="http://127.0.0.1:1/v1"))


def test_the_callers_fault_carries_the_servers_text_for_the_caller_only(glm: GlmSimulator, tmp_path: Path) -> None:
    with pytest.raises(EngineRefused) as caught:
        asked(opened(glm, tmp_path), max_tokens=100_000)
    assert (caught.value.status, caught.value.detail) == (400, "This model's maximum context length is 8192 tokens")
    assert "8192" not in str(caught.value)


def test_the_operators_fault_names_the_cure_and_the_key_is_never_shown(
    glm: GlmSimulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ConfigError, match="Correct url and model"):
        asked(opened(glm, tmp_path, model="other"))
    glm.key = "changed"  # this server repeats the refused key in its answer
    with pytest.raises(ConfigError, match="key is not accepted") as caught:
        asked(opened(glm, tmp_path))
    assert KEY not in str(caught.value) + caplog.text


def test_a_certificate_that_nobody_trusts_is_the_operators_matter(tmp_path: Path) -> None:
    certificates(tmp_path, "server")
    with GlmSimulator(key=KEY, tls=(str(tmp_path / "server.pem"), str(tmp_path / "server.key"))) as glm:
        with pytest.raises(ConfigError, match="ca_file"):
            asked(opened(glm, tmp_path))
        assert asked(opened(glm, tmp_path, ca_file=str(tmp_path / "ca.pem")))


def test_load_is_read_from_the_servers_metrics(glm: GlmSimulator, tmp_path: Path) -> None:
    async def load() -> Any:
        async with aclosing(opened(glm, tmp_path)) as engine:
            return await engine.load()

    found = asyncio.run(load())
    assert (found.running, found.waiting, found.kv_cache) == (0, 2, 0.25)
    glm.features -= {"metrics"}
    assert asyncio.run(load()) is None


def test_a_pool_opens_an_engine_for_each_address(glm: GlmSimulator, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    pool = Pool(
        name="large", addresses=[glm.url, glm.url + "/"], model=glm.model, key_file=str(tmp_path / "key"),
        options={"priority": True},
    )  # fmt: skip
    engines = open_engines(pool)
    assert [engine.address for engine in engines] == [glm.url, glm.url]
    assert asked(engines[1])
    with pytest.raises(ConfigError, match=r"inference\.pools\.large: .*priorty"):
        open_engines(pool.model_copy(update={"options": {"priorty": True}}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"url": "http://models.example/v1"}, "https"),
        ({"url": "ftp://x"}, "url"),
        ({"connect_s": 0}, "connect_s"),
        ({"modle": "x"}, "modle"),
        ({"key_file": "does-not-exist"}, "key_file"),
        ({"ca_file": "does-not-exist"}, "ca_file"),
    ],
)
def test_options_are_checked_at_the_start(
    glm: GlmSimulator, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        opened(glm, tmp_path, **changes)
