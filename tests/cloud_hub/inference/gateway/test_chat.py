"""The gateway before a strict engine, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from simulators.brokers import until
from simulators.certificates import certificates
from simulators.gateways import MakeHub, client_of, pool
from simulators.openai_server import Behaviour, OpenAIServer
from simulators.rest import RestHub

from cloud_hub.access import tokens
from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.inference.gateway import service

HELLO: list[Any] = [{"role": "user", "content": "how is press-3?"}]
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {"name": "d", "schema": {"type": "object", "properties": {"cause": {"type": "string"}}}},
}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


def ask(client: OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model="auto", messages=HELLO, **more)


def text_of(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_a_question_is_answered_whole_and_streamed(make_hub: MakeHub, engine: OpenAIServer) -> None:
    client = client_of(make_hub(pool(engine)))
    answered = ask(client)
    assert answered.choices[0].message.content == "all is well"
    assert answered.usage.completion_tokens == 3
    assert text_of(ask(client, stream=True)) == "all is well"
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.total_tokens == 13
    assert not any(chunk.usage for chunk in ask(client, stream=True)), "not asked for"
    assert [model.id for model in client.models.list()] == ["auto", "large", "glm-simulated"]


def test_schema_and_tools_reach_the_engine_unchanged(make_hub: MakeHub, engine: OpenAIServer) -> None:
    client = client_of(make_hub(pool(engine)))
    assert ask(client, response_format=SCHEMA).choices[0].message.content.startswith("{")
    called = ask(client, tools=TOOLS, tool_choice="auto", seed=7, parallel_tool_calls=False)
    assert called.choices[0].message.tool_calls[0].function.name == "look"
    assert called.choices[0].finish_reason == "tool_calls"
    first, second = engine.requests
    assert first["response_format"] == SCHEMA
    assert (second["tools"], second["tool_choice"], second["seed"]) == (TOOLS, "auto", 7)


def test_the_trace_reaches_the_engine_and_comes_back(make_hub: MakeHub, engine: OpenAIServer) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    client = client_of(make_hub(pool(engine)), default_headers={"traceparent": trace})
    reply = client.chat.completions.with_raw_response.create(model="large", messages=HELLO)
    assert reply.headers["traceparent"] == trace
    assert engine.headers[0]["traceparent"] == trace
    assert reply.headers["tidegate-pool"] == "large"


# -- who may ask, and what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(("role", "status"), [("inference", 200), ("operator", 200), ("viewer", 403), ("writer", 403)])
def test_a_role_may_ask_or_not(make_hub: MakeHub, engine: OpenAIServer, role: str, status: int) -> None:
    hub = make_hub(pool(engine))
    with hub.db.write() as session:
        token = tokens.create(session, "p", role, now_us(), "test")
    if status == 200:
        assert ask(client_of(hub, token)).choices
        return
    with pytest.raises(openai.PermissionDeniedError) as caught:
        ask(client_of(hub, token))
    assert "may not infer" in caught.value.message
    with pytest.raises(openai.AuthenticationError):
        ask(client_of(hub, "tg_wrong"))


def test_only_named_roles_may_claim_an_emergency(make_hub: MakeHub, engine: OpenAIServer) -> None:
    hub = make_hub(pool(engine))
    with hub.db.write() as session:
        program = tokens.create(session, "p", "inference", now_us(), "test")
    urgent: Any = {"extra_headers": {"Tidegate-Class": "emergency"}}
    assert ask(client_of(hub), **urgent).choices, "an operator"
    with pytest.raises(openai.PermissionDeniedError) as caught:
        ask(client_of(hub, program), **urgent)
    assert "for callers with role operator on this hub: ask with class normal" in caught.value.message
    assert ask(client_of(hub, program)).choices
    task = {"prompt": "x", "request_class": "emergency"}
    url, headers = f"http://127.0.0.1:{hub.port}/api/v1/tasks", {"Authorization": f"Bearer {program}"}
    assert httpx.post(url, headers=headers, json=task, timeout=60).status_code == 403
    hub = make_hub(pool(engine), emergency_roles=["inference"])
    assert ask(client_of(hub, program), **urgent).choices
    with pytest.raises(openai.PermissionDeniedError):
        ask(client_of(make_hub(pool(engine), emergency_roles=[])), **urgent)


def test_a_streamed_answer_that_does_not_fit_ends_with_an_error_and_is_not_cached(
    make_hub: MakeHub, engine: OpenAIServer
) -> None:
    client = client_of(make_hub(pool(engine)))
    fitting = {"stream": True, "response_format": SCHEMA, "temperature": 0}
    assert text_of(ask(client, **fitting)).startswith("{")
    engine.behaviour = "no-json"
    for _ in range(2):
        with pytest.raises(openai.APIError) as caught:
            text_of(ask(client, **fitting, seed=1))
        assert caught.value.message == "the answer is no JSON, as was asked for"
    required: Any = {"stream": True, "tools": TOOLS, "tool_choice": "required"}
    with pytest.raises(openai.APIError, match="one was required"):
        text_of(ask(client, **required))
    assert text_of(ask(client, stream=True, tools=TOOLS)) == "all is well", "it may answer without a call"
    assert len(engine.requests) == 5


def test_an_endless_answer_is_broken_off(
    make_hub: MakeHub, engine: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_ANSWER", 10_000)
    engine.text = "word " * 5000
    client = client_of(make_hub(pool(engine)))
    with pytest.raises(openai.APIError, match="broke off"):
        text_of(ask(client, stream=True))
    until("the engine is free", lambda: engine.running == 0)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}', 400),
        (b'{"messages":[{"role":"user","content":"x"}],"temperature":1e999}', 400),
        (b'{"messages":[{"role":"user","content":"x"}],"temperature":-3}', 400),
        (b'{"messages":[{"role":"user","content":"x"}],"n":1000000}', 400),
        (b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"messages":[{"role":"user","content":' + b"[" * 90 + b"]" * 90 + b"}]}", 200),
        (b'{"messages":[{"role":"user","content":' + b"[" * 900 + b"]" * 900 + b"}]}", 400),
        (b'{"messages":[{"role":"user","content":"\\ud800"}]}', 400),
        (b'{"messages":[{"role":"user","content":"x"}],"response_format":[]}', 400),
        (b'{"messages":[{"role":"user","content":"x"}],"response_format":"json"}', 400),
        (b'{"messages":[{"role":"user","content":"x"}],"tool_choice":{"function":{"name":["x"]}}}', 400),
        (b'{"messages":[{"role":["user"],"content":"x"}]}', 400),
        (b'{"messages":[{"role":"user","content":"x","tool_calls":7}],"model":["x"]}', 404),
        (b"\xff", 400),
    ],
)
def test_a_hostile_body_gets_an_answer_or_its_reason(
    make_hub: MakeHub, engine: OpenAIServer, body: bytes, status: int
) -> None:
    hub = make_hub(pool(engine))
    url, headers = f"http://127.0.0.1:{hub.port}/v1/chat/completions", {"Authorization": f"Bearer {hub.token}"}
    answered = httpx.post(url, headers=headers, content=body, timeout=60)
    assert answered.status_code == status, answered.text[:300]
    assert status == 200 or answered.json()["error"]["message"]


def test_a_thousand_requests_of_one_token_leave_room_for_another_and_the_hub_alive(
    make_hub: MakeHub, engine: OpenAIServer
) -> None:
    """Those that find no room are refused at once, with when to try again; the queue is empty at the end."""
    engine.first_s = 0.02
    hub = make_hub(pool(engine, max_concurrent=8), max_queued=40)
    with hub.db.write() as session:
        other = client_of(hub, tokens.create(session, "other", "inference", now_us(), "test"))

    async def storm() -> list[int]:
        url, headers = f"http://127.0.0.1:{hub.port}/v1/chat/completions", {"Authorization": f"Bearer {hub.token}"}
        limits = httpx.Limits(max_connections=60)
        async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:
            bodies = [{"messages": [{"role": "user", "content": f"{n}"}]} for n in range(300)]
            asked = [client.post(url, headers=headers, json=body) for body in bodies]
            friend = asyncio.to_thread(ask, other)
            *answers, whole = await asyncio.gather(*asked, friend)
        assert whole.choices
        return [answer.status_code for answer in answers]

    statuses = asyncio.run(storm())
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) >= 50
    assert hub.gateway is not None
    assert (hub.gateway.pools["large"].running, sum(hub.gateway.pools["large"].waiting.values())) == (0, 0)


def test_a_request_that_no_engine_would_take_is_refused_with_its_reason(
    make_hub: MakeHub, engine: OpenAIServer
) -> None:
    client = client_of(make_hub(pool(engine, context=100)))
    create: Any = client.chat.completions.create
    for body, kind, part in [
        ({"model": "gpt-9", "messages": HELLO}, openai.NotFoundError, "name one of auto, large"),
        ({"model": "auto", "messages": []}, openai.BadRequestError, "at least one"),
        ({"model": "auto", "messages": HELLO, "max_tokens": -1}, openai.BadRequestError, "max_tokens"),
        ({"model": "auto", "messages": HELLO, "max_tokens": 500}, openai.BadRequestError, "context of 100"),
        ({"model": "auto", "messages": HELLO, "extra_headers": {"Tidegate-Class": "x"}},
         openai.UnprocessableEntityError, "emergency, normal, low"),
        ({"model": "auto", "messages": HELLO, "extra_headers": {"Tidegate-Deadline-S": "-3"}},
         openai.UnprocessableEntityError, "more than 0"),
    ]:  # fmt: skip
        with pytest.raises(kind) as caught:
            create(**body)
        assert part in caught.value.message
    assert engine.requests == []


def test_ten_megabytes_are_refused_clearly_and_a_large_prompt_passes(make_hub: MakeHub, engine: OpenAIServer) -> None:
    client = client_of(make_hub(pool(engine)))
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "x" * (10 << 20)}])
    assert caught.value.status_code == 413
    assert "at most 4194304 bytes" in caught.value.message
    large = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "wort " * 700_000}])
    assert large.choices[0].message.content == "all is well"


def test_an_endless_tool_loop_is_stopped(make_hub: MakeHub, engine: OpenAIServer) -> None:
    client = client_of(make_hub(pool(engine), max_tool_rounds=3))
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages: list[Any] = list(HELLO)
    result = {"role": "tool", "tool_call_id": "c", "content": ""}

    def loop() -> None:
        for _ in range(10):
            client.chat.completions.create(model="auto", messages=messages, tools=TOOLS)
            messages.extend([{"role": "assistant", "tool_calls": [call]}, result])

    with pytest.raises(openai.BadRequestError) as caught:
        loop()
    assert "seems to loop" in caught.value.message
    assert len(engine.requests) == 4


# -- sites, redaction, audit -----------------------------------------------------------------------------


def audit_kinds(hub: RestHub, since_us: int = 0) -> list[tuple[str, dict[str, Any]]]:
    assert hub.gateway is not None
    hub.gateway.recorder.run_once()
    with hub.db.read() as session:
        return [(row.kind, row.detail) for row in trail.rows(session, kind="inference", since_us=since_us)]


def test_a_pool_sees_only_its_sites_and_refusals_are_audited(make_hub: MakeHub) -> None:
    with OpenAIServer() as outside, OpenAIServer(model="local") as inside:
        began, hub = now_us(), make_hub(pool(outside, sites=["acme/a"]), pool(inside, name="local"))
        client = client_of(hub)
        assert ask(client).model == "local", "without a site it may be about any"
        assert ask(client, extra_headers={"Tidegate-Site": "acme/a/hall-2"}).model == "glm-simulated"
        assert ask(client, extra_headers={"Tidegate-Site": "acme/b"}).model == "local"
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(model="large", messages=HELLO, extra_headers={"Tidegate-Site": "acme/b"})
        assert [kind for kind, _ in audit_kinds(hub, began)] == ["inference.refused"]
        with hub.db.write() as session:
            token = tokens.create(session, "b", "inference", now_us(), "test", scope=("acme/b",))
        assert ask(client_of(hub, token)).model == "local"
        assert [model.id for model in client_of(hub, token).models.list()] == ["auto", "local"]
        with pytest.raises(openai.PermissionDeniedError) as caught:
            ask(client_of(hub, token), extra_headers={"Tidegate-Site": "acme/a"})
        assert "outside of your scope" in caught.value.message
        assert len(outside.requests) == 1


def test_what_leaves_is_redacted_and_audited_without_its_text(make_hub: MakeHub, tmp_path: Any) -> None:
    (tmp_path / "words").write_text("# ours\nKestrel\n", "utf-8")
    secret = "mail li@acme.cn, password=hunter22, project kestrel"
    messages: Any = [{"role": "user", "content": secret}]
    with OpenAIServer() as outside, OpenAIServer(model="local") as inside:
        pools = [pool(outside), pool(inside, name="local", redact=False)]
        began, hub = now_us(), make_hub(*pools, words_file=str(tmp_path / "words"), keep="texts")
        client = client_of(hub)
        for name in ("large", "local"):
            client.chat.completions.create(model=name, messages=messages)
        seen = outside.requests[0]["messages"][0]["content"]
        assert seen == "mail [EMAIL-1], password=[SECRET-1], project [WORD-1]"
        assert inside.requests[0]["messages"] == messages
        ((kind, detail),) = audit_kinds(hub, began)
        assert kind == "inference.redacted"
        assert detail["replaced"] == {"EMAIL": 1, "SECRET": 1, "WORD": 1}
        image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}]
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="large", messages=image)  # type: ignore[arg-type]
        assert "redact" in caught.value.message


# -- budgets and cache -----------------------------------------------------------------------------------


def test_a_spent_budget_is_refused_until_midnight_and_survives_a_restart(
    make_hub: MakeHub, engine: OpenAIServer
) -> None:
    budget = {"kind": "tenant", "name": "anna", "tokens": 130}
    hub = make_hub(pool(engine, price_in=2.0), budgets=[budget])
    client = client_of(hub)
    for _ in range(2):
        ask(client, max_tokens=100)
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client, max_tokens=100)
    assert "daily budget of tenant 'anna' in tokens" in caught.value.message
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert int(caught.value.response.headers["retry-after"]) <= 86401
    audit_kinds(hub)
    again = make_hub(pool(engine), budgets=[budget])
    with pytest.raises(openai.RateLimitError):
        ask(client_of(again), max_tokens=100)


def test_a_repeated_question_is_answered_from_the_cache(make_hub: MakeHub, engine: OpenAIServer) -> None:
    client = client_of(make_hub(pool(engine)))
    raw = client.chat.completions.with_raw_response
    results = [raw.create(model="auto", messages=HELLO, temperature=0).headers.get("tidegate-cache") for _ in range(3)]
    assert results == [None, "hit", "hit"]
    assert [text_of(ask(client, stream=True, temperature=0)) for _ in range(2)] == ["all is well"] * 2
    ask(client, temperature=0.7)
    ask(client, temperature=0.7)
    assert len(engine.requests) == 4


def test_equal_questions_at_one_time_are_one_request(make_hub: MakeHub, engine: OpenAIServer) -> None:
    engine.first_s = 0.3
    client = client_of(make_hub(pool(engine)))
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask(client, temperature=0).choices[0].message.content, range(8)))
    assert answers == ["all is well"] * 8
    assert len(engine.requests) == 1


def test_a_stale_answer_is_the_last_resort(make_hub: MakeHub, engine: OpenAIServer) -> None:
    client = client_of(make_hub(pool(engine), cache_s=0.0))
    raw = client.chat.completions.with_raw_response
    assert raw.create(model="auto", messages=HELLO, temperature=0).headers.get("tidegate-cache") is None
    engine.kill()
    late = raw.create(model="auto", messages=HELLO, temperature=0, extra_headers={"Tidegate-Deadline-S": "2"})
    assert late.headers["tidegate-cache"] == "stale"
    with pytest.raises(openai.APIStatusError):
        ask(client, temperature=0.5, extra_headers={"Tidegate-Deadline-S": "2"})


# -- clients that leave ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_engine(make_hub: MakeHub, engine: OpenAIServer, stream: bool) -> None:
    engine.word_s, engine.text = 0.05, "word " * 2000
    hub = make_hub(pool(engine, max_concurrent=1))
    body = b'{"model":"auto","messages":[{"role":"user","content":"x"}],"stream":%s}' % (
        b"true" if stream else b"false"
    )
    for _ in range(3):
        with hub.connect() as connection:
            head = hub.head("POST /v1/chat/completions", f"Content-Length: {len(body)}")
            connection.sendall(head + body)
            until("it runs", lambda: engine.running == 1)
            if stream:
                assert b"200 OK" in connection.recv(4096)
        until("the engine is free", lambda: engine.running == 0)
    assert hub.gateway is not None
    assert hub.gateway.pools["large"].queue.running == 0
    assert set(hub.gateway.pools["large"].balancer.outstanding.values()) == {0}
    engine.text, engine.word_s = "fine", 0.0
    assert ask(client_of(hub)).choices[0].message.content == "fine"


def test_a_client_that_leaves_the_queue_is_forgotten(make_hub: MakeHub, engine: OpenAIServer) -> None:
    engine.first_s = 1.0
    hub = make_hub(pool(engine, max_concurrent=1))
    assert hub.gateway is not None
    queue = hub.gateway.pools["large"].queue
    first = threading.Thread(target=lambda: ask(client_of(hub)))
    first.start()
    until("it runs", lambda: engine.running == 1)
    body = b'{"model":"auto","messages":[{"role":"user","content":"x"}]}'
    with hub.connect() as connection:
        connection.sendall(hub.head("POST /v1/chat/completions", f"Content-Length: {len(body)}") + body)
        until("it waits", lambda: len(queue) == 1)
    until("nobody waits", lambda: len(queue) == 0)
    first.join()
    assert len(engine.requests) == 1


# -- faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "part"),
    [("fails", "HTTP 500"), ("garbage", "no chat completion"), ("no-model", "no such address or model"),
     ("bad-key", "key"), ("half-a-stream", "broke off"), ("no-http", "broke off"), ("busy", "no engine of pool"),
     ("quota", "no engine of pool"), ("stalls", "in time")],
)  # fmt: skip
def test_a_fault_of_the_only_engine_is_answered_by_rule(
    make_hub: MakeHub, engine: OpenAIServer, behaviour: Behaviour, part: str
) -> None:
    engine.behaviour = behaviour
    client = client_of(make_hub(pool(engine)))
    start = time.monotonic()
    with pytest.raises((openai.InternalServerError, openai.APIStatusError)) as caught:
        ask(client, response_format=SCHEMA, extra_headers={"Tidegate-Deadline-S": "1"})
    assert caught.value.status_code in (503, 504)
    assert part in caught.value.message or caught.value.status_code == 504
    assert time.monotonic() - start < 15, "of a second, not the minute that an engine may take"


def test_what_the_engine_refuses_is_the_callers_to_read(make_hub: MakeHub, engine: OpenAIServer) -> None:
    engine.behaviour = "refuses"
    hub = make_hub(pool(engine))
    for _ in range(5):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client_of(hub))
        assert "maximum context length" in caught.value.message
    assert hub.gateway is not None
    assert hub.gateway.pools["large"].addresses == {engine.url: ("closed", 0)}, "the refused tokens are not outstanding"


def test_an_answer_that_does_not_fit_is_asked_of_the_next_address_and_harms_none(make_hub: MakeHub) -> None:
    with OpenAIServer(behaviour="no-json") as one, OpenAIServer(behaviour="no-json") as other:
        hub = make_hub(pool(one, other))
        for _ in range(4):
            with pytest.raises(openai.InternalServerError) as caught:
                ask(client_of(hub), response_format={"type": "json_object"})
            assert (caught.value.status_code, caught.value.code) == (502, "bad_answer")
        assert len(one.requests) == len(other.requests) == 4
        assert hub.gateway is not None
        assert set(hub.gateway.pools["large"].addresses.values()) == {("closed", 0)}


@pytest.mark.parametrize("behaviour", ["half-a-stream", "pauses"])
def test_a_stream_that_breaks_ends_with_an_error_and_is_not_repeated(
    make_hub: MakeHub, engine: OpenAIServer, behaviour: Behaviour
) -> None:
    engine.behaviour = behaviour
    client = client_of(make_hub(pool(engine, idle_s=0.3)))
    seen = []

    def read() -> None:
        for chunk in ask(client, stream=True):
            seen.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError) as caught:
        read()
    assert seen == ["all"]
    assert "broke off" in caught.value.message
    assert len(engine.requests) == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ["killed", "stalls", "garbage", "fails", "busy", "no-model", "half-a-stream"])
def test_one_of_three_addresses_fails_under_load_and_no_client_sees_an_error(
    make_hub: MakeHub, fault: Any, stream: bool
) -> None:
    with OpenAIServer() as one, OpenAIServer() as two, OpenAIServer() as bad:
        hub = make_hub(pool(one, two, bad, first_token_s=2.0))
        client = client_of(hub)

        def work(number: int) -> str:
            if number == 12:
                bad.kill() if fault == "killed" else setattr(bad, "behaviour", fault)
            messages: Any = [{"role": "user", "content": f"question {number % 7}"}]
            got = client.chat.completions.create(
                model="auto", messages=messages, stream=stream, extra_headers={"Tidegate-Deadline-S": "40"}
            )
            return text_of(got) if stream else got.choices[0].message.content

        if stream and fault == "half-a-stream":
            pytest.skip("a stream that breaks after its first event cannot be repeated")
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(work, range(48)))
        assert answers == ["all is well"] * 48


def test_another_pool_answers_while_the_first_is_away(make_hub: MakeHub) -> None:
    with OpenAIServer() as large, OpenAIServer(model="small") as small:
        client = client_of(make_hub(pool(large), pool(small, name="small")))
        assert ask(client).model == "glm-simulated"
        large.kill()
        assert {ask(client).model for _ in range(6)} == {"small"}


def test_an_emergency_is_sent_twice_if_the_first_address_is_slow(make_hub: MakeHub) -> None:
    with OpenAIServer(first_s=20) as slow, OpenAIServer() as fast:
        hub = make_hub(pool(slow, fast, hedge_s=0.2))
        client = client_of(hub)
        for number in range(6):
            messages: Any = [{"role": "user", "content": f"question {number}"}]
            start = time.monotonic()
            client.chat.completions.create(
                model="auto", messages=messages, extra_headers={"Tidegate-Class": "emergency"}
            )
            assert time.monotonic() - start < 15
        until("the slow one is free", lambda: slow.running == 0)
        assert slow.left >= 1


def test_without_pools_there_is_nothing_to_ask(make_hub: MakeHub) -> None:
    hub = make_hub()
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client_of(hub))
    assert "inference.pools" in caught.value.message
    assert list(client_of(hub).models.list()) == []


def test_without_repetition_clients_would_see_the_failing_address(
    make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_ATTEMPTS", 1)
    monkeypatch.setattr(service, "LONGEST_PAUSE_S", -1.0)
    with OpenAIServer() as good, OpenAIServer(behaviour="fails") as bad:
        client = client_of(make_hub(pool(good, bad)))
        errors = 0
        for number in range(12):
            messages: Any = [{"role": "user", "content": f"question {number}"}]
            try:
                client.chat.completions.create(model="auto", messages=messages)
            except openai.APIStatusError:
                errors += 1
        assert errors >= 1


def test_an_address_that_stalls_costs_seconds_and_not_half_of_a_long_deadline(make_hub: MakeHub) -> None:
    with OpenAIServer() as one, OpenAIServer() as bad:
        hub = make_hub(pool(one, bad, hedge_s=0.3))
        client = client_of(hub)

        def work(number: int) -> float:
            messages: Any = [{"role": "user", "content": f"question {number}"}]
            start = time.monotonic()
            client.chat.completions.create(model="auto", messages=messages)
            return time.monotonic() - start

        for number in range(6):
            work(number)
        bad.behaviour = "stalls"
        assert max(work(number) for number in range(20)) < 5
        assert hub.gateway is not None
        assert "open" in {state for state, _ in hub.gateway.pools["large"].addresses.values()}
        until("the stalled one is left", lambda: bad.running == 0)


def test_a_certificate_that_is_not_trusted_is_named(make_hub: MakeHub, tmp_path: Path) -> None:
    certificates(tmp_path, "engine")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "engine.pem", tmp_path / "engine.key")
    with OpenAIServer(tls=tls) as server:
        address = server.url.replace("127.0.0.1", "localhost")
        wrong = make_hub({"name": "large", "addresses": [address], "model": server.model})
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client_of(wrong), extra_headers={"Tidegate-Deadline-S": "1"})
        assert "certificate is not trusted" in caught.value.message
        options = {"ca_file": str(tmp_path / "ca.pem")}
        right = make_hub({"name": "large", "addresses": [address], "model": server.model, "options": options})
        assert ask(client_of(right)).choices[0].message.content == "all is well"
