"""Answers against their requests: the known faults of servers are repaired or refused, and nothing is guessed."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulators import glm_answers
from simulators.glm import GlmSimulator

from cloud_hub.inference.engines import ChatRequest, EngineBroken, EngineRefused
from cloud_hub.inference.engines.core.schemas import TooCostly, misfit
from cloud_hub.inference.engines.core.sse import EventSplitter
from cloud_hub.inference.engines.core.streams import assembled, events_of
from cloud_hub.inference.engines.core.validation import checked
from cloud_hub.inference.engines.openai import open_engine
from shared.errors import WireError

SCHEMA = {
    "type": "object", "properties": {"cause": {"enum": ["wear", "leak"]}, "days": {"type": "integer", "minimum": 0}},
    "required": ["cause", "days"], "additionalProperties": False,
}  # fmt: skip
MESSAGES = [{"role": "user", "content": "How is the pump?"}]
TYPED = ChatRequest.typed(MESSAGES, SCHEMA, max_tokens=50)
TOOL = {
    "type": "function",
    "function": {
        "name": "read_metric",
        "parameters": {
            "type": "object", "properties": {"metric": {"type": "string"}, "hours": {"type": "integer"}},
            "required": ["metric", "hours"],
        },
    },
}  # fmt: skip
PLAIN_TOOL = {"type": "function", "function": {"name": "status"}}


def tooled(*tools: Any, choice: Any = "auto") -> ChatRequest:
    return ChatRequest.from_body({"model": "m", "messages": MESSAGES, "tools": list(tools), "tool_choice": choice})


def answer(request: ChatRequest, behaviour: Any) -> bytes:
    body = request.body | {"model": "m"}
    return json.dumps(glm_answers.completion(body, glm_answers.message(body, behaviour), behaviour)).encode()


def message(body: bytes) -> Any:
    return json.loads(body)["choices"][0]["message"]


# -- typed text ------------------------------------------------------------------------------------


def test_an_answer_that_fits_is_left_as_it_is() -> None:
    body = answer(TYPED, "good")
    found = checked(TYPED, body)
    assert found.body is body
    assert found.repairs == ()
    free = ChatRequest.from_body({"messages": MESSAGES})
    assert checked(free, b"whatever").body == b"whatever"


@pytest.mark.parametrize(
    ("behaviour", "repair"),
    [("fenced", "fenced"), ("in-reasoning", "answer-in-reasoning"), ("thinks-aloud", "thinking-in-content")],
)
def test_an_answer_in_the_wrong_place_is_moved(behaviour: Any, repair: str) -> None:
    found = checked(TYPED, answer(TYPED, behaviour))
    assert found.repairs == (repair,)
    assert json.loads(message(found.body)["content"]) == {"cause": "wear", "days": 0}


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("skips-schema", "no JSON, as was asked for"),
        ("invalid-json", "no JSON"),
        ("wrong-schema", "does not fit the schema"),
    ],
)
def test_a_schema_that_was_skipped_is_noticed(behaviour: Any, reason: str) -> None:
    with pytest.raises(EngineBroken, match=reason) as caught:
        checked(TYPED, answer(TYPED, behaviour), "glm")
    assert "processor" not in str(caught.value), "answers never stand in errors, which are logged"


def test_a_cut_off_answer_is_the_callers_to_see() -> None:
    body = answer(TYPED, "cut-off")
    assert checked(TYPED, body).body is body


def test_the_callers_wrong_schema_is_the_callers_fault() -> None:
    wrong = ChatRequest.typed(MESSAGES, {"type": "objekt"}, max_tokens=5)
    with pytest.raises(EngineRefused):
        checked(wrong, answer(TYPED, "good"))


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1/schema", "file:///etc/passwd"])
def test_references_are_not_fetched(uri: str) -> None:
    with pytest.raises(ValueError, match="retrieving it failed"):
        misfit({"$ref": uri}, {})


def test_a_hostile_pattern_takes_no_time() -> None:
    assert misfit({"type": "string", "pattern": "^(a+)+$"}, "a" * 5000 + "!")


# -- tools -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", ["call-in-reasoning", "call-in-content"])
def test_a_swallowed_call_is_found(behaviour: Any) -> None:
    request = tooled(TOOL)
    found = checked(request, answer(request, behaviour))
    assert found.repairs == (behaviour,)
    (call,) = message(found.body)["tool_calls"]
    assert call["function"]["name"] == "read_metric"
    assert json.loads(call["function"]["arguments"]) == {"metric": "text", "hours": 1}
    assert json.loads(found.body)["choices"][0]["finish_reason"] == "tool_calls"
    assert "<tool_call>" not in json.dumps(message(found.body))


@pytest.mark.parametrize("behaviour", ["empty-arguments", "null-arguments"])
def test_empty_arguments_are_an_empty_object_where_none_are_needed(behaviour: Any) -> None:
    request = tooled(PLAIN_TOOL)
    found = checked(request, answer(request, behaviour))
    assert message(found.body)["tool_calls"][0]["function"]["arguments"] == "{}"
    assert found.repairs == ("empty-arguments",)
    with pytest.raises(EngineBroken, match="do not fit"):
        checked(tooled(TOOL), answer(tooled(TOOL), behaviour))


@pytest.mark.parametrize(
    ("behaviour", "choice", "reason"),
    [
        ("broken-arguments", "auto", "are no JSON"),
        ("unknown-tool", "auto", "was not offered"),
        ("no-call", "required", "one was required"),
        ("no-call", {"type": "function", "function": {"name": "read_metric"}}, "one was required"),
    ],
)
def test_calls_that_cannot_be_run_are_refused(behaviour: Any, choice: Any, reason: str) -> None:
    request = tooled(TOOL, choice=choice)
    with pytest.raises(EngineBroken, match=reason):
        checked(request, answer(request, behaviour))


def test_a_named_function_is_the_one_that_is_called() -> None:
    named = [tooled(TOOL, PLAIN_TOOL, choice={"type": "function", "function": {"name": name}})
             for name in ("read_metric", "status")]  # fmt: skip
    called = answer(tooled(TOOL, PLAIN_TOOL), "good")
    assert message(checked(named[0], called).body)["tool_calls"][0]["function"]["name"] == "read_metric"
    with pytest.raises(EngineBroken, match="calls another function than 'status', which was required"):
        checked(named[1], called)


@pytest.mark.parametrize("choice", [{"function": {"name": "other"}}, {"function": {}}, {}, "sometimes", 7, ["auto"]])
def test_a_choice_that_names_no_offered_function_is_refused(choice: Any) -> None:
    with pytest.raises(WireError, match="tool_choice"):
        tooled(TOOL, choice=choice)


def test_half_a_call_in_the_text_is_refused() -> None:
    made = {"role": "assistant", "content": "<tool_call>read_metric\n<arg_key>metric</arg_key>"}
    body = json.dumps(glm_answers.completion({"model": "m"}, made, "good")).encode()
    with pytest.raises(EngineBroken, match="not complete"):
        checked(tooled(TOOL), body)


def test_a_call_that_nobody_offered_is_refused() -> None:
    body = answer(tooled(TOOL), "good")
    with pytest.raises(EngineBroken, match="none was offered"):
        checked(TYPED, body)


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["choices", "message", "content", "tool_calls", "function", "name"]), inner),
                    max_leaves=12))  # fmt: skip
def test_any_json_is_checked_or_refused(value: Any) -> None:
    for request in (TYPED, tooled(TOOL)):
        with suppress(EngineBroken):
            checked(request, json.dumps(value).encode())


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [TYPED, tooled(TOOL), ChatRequest.from_body({"messages": MESSAGES})])
def test_a_stream_and_a_body_say_the_same(request_: ChatRequest) -> None:
    body = request_.body | {"model": "m"}
    made = glm_answers.message(body, "good")
    whole = json.dumps(glm_answers.completion(body, made, "good")).encode()
    streamed = assembled(glm_answers.events(body, made, "good"))
    for found in (streamed, assembled(events_of(whole))):
        assert message(found)["content"] == message(whole)["content"]
        assert json.loads(found)["choices"][0]["finish_reason"] == json.loads(whole)["choices"][0]["finish_reason"]
        assert bool(message(found).get("tool_calls")) == bool(message(whole).get("tool_calls"))
        checked(request_, found)


def test_a_stream_of_garbage_is_refused() -> None:
    for events in ([b"data: {\n\n"], [b"data: 7\n\n"], [b": nothing\n\n"], []):
        with pytest.raises(EngineBroken):
            assembled(events)


@given(st.lists(st.sampled_from([b"data: a", b"\n", b"\n\n", b"\r\n", b": c", b"x"]), max_size=30), st.integers(1, 9))
def test_events_are_cut_alike_however_the_bytes_arrive(parts: list[bytes], size: int) -> None:
    content = b"".join(parts)
    whole, pieces = EventSplitter(1000), EventSplitter(1000)
    in_one = whole.feed(content)
    in_parts = [event for n in range(0, len(content), size) for event in pieces.feed(content[n : n + size])]
    assert b"".join(in_one) == content[: len(b"".join(in_one))]
    assert b"".join(in_parts) == content[: len(b"".join(in_parts))]
    if b"\r" not in content:
        assert in_one == in_parts


def test_an_endless_event_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than 10"):
        EventSplitter(10).feed(b"data: " + b"x" * 20)


# -- requests --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "boss", "content": "x"}]}, r"messages\.0"),
        ({"messages": MESSAGES, "max_tokens": 0}, "max_tokens"),
        ({"messages": MESSAGES, "max_tokens": True}, "max_tokens"),
        ({"messages": MESSAGES, "stream": "yes"}, "stream"),
        ({"messages": MESSAGES, "temperature": "hot"}, "temperature"),
        ({"messages": MESSAGES, "tools": {}}, "list"),
        ({"messages": MESSAGES, "tools": {"a": 1}}, "tools"),
        ({"messages": MESSAGES, "tools": [{"type": "function"}]}, r"tools\.0"),
        ({"messages": MESSAGES, "response_format": {"type": "xml"}}, "response_format"),
        ({"messages": MESSAGES, "response_format": {"type": "json_schema"}}, "schema"),
    ],
)
def test_requests_that_no_server_would_take_are_refused(body: Any, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        ChatRequest.from_body(body)


def test_the_accessors_read_what_the_caller_sent() -> None:
    request = ChatRequest.from_json(
        json.dumps(
            {"model": "m", "messages": MESSAGES, "max_completion_tokens": 7, "max_tokens": 9, "seed": 1}
        ).encode()
    )
    assert (request.model, request.max_tokens, request.stream, request.extra) == ("m", 7, False, {"seed": 1})
    assert request.changed({"seed": None, "top_p": 0.5}).extra == {"top_p": 0.5}
    assert request.extra == {"seed": 1}
    for content in (b"", b"[]", b"\xff", b"[" * 100_000):
        with pytest.raises(WireError):
            ChatRequest.from_json(content)


def test_the_simulated_server_shows_the_faults_over_http(tmp_path: Path) -> None:
    """The same faults through the engine: nothing on the way hides or mends them."""

    async def ask(glm: GlmSimulator) -> bytes:
        engine = open_engine({"url": glm.url, "model": glm.model})
        async with aclosing(engine), aclosing(engine.chat(tooled(TOOL), 5.0)) as items:
            return b"".join([item async for item in items])

    with GlmSimulator(key="", behaviour="call-in-reasoning") as glm:
        found = checked(tooled(TOOL), asyncio.run(ask(glm)))
    assert found.repairs == ("call-in-reasoning",)


# -- the cost of validating ------------------------------------------------------------------------


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


AGAIN = {"type": "array", "items": {"$ref": "#/$defs/a"}}
DOUBLED = {"$defs": {"a": {"anyOf": [AGAIN, AGAIN]}}, "$ref": "#/$defs/a"}
CHAIN = {"$defs": {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(60)} | {"a60": {}},
         "$ref": "#/$defs/a0"}  # fmt: skip
ITSELF = {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
WIDE = {"items": {"anyOf": [{"const": n} for n in range(2000)]}}
TREE = {"type": "object", "properties": {"name": {"type": "string"}, "left": {"$ref": "#"}, "right": {"$ref": "#"},
        "kind": {"anyOf": [{"type": "null"}, {"$ref": "#/properties/name"}]}}}  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "value"), [(DOUBLED, nested(40)), (CHAIN, 1), (ITSELF, 1), (WIDE, list(range(500)))]
)
def test_a_schema_that_would_hold_up_the_hub_is_refused_at_once(schema: Any, value: Any) -> None:
    with pytest.raises(TooCostly):
        misfit(schema, value)


def test_usual_recursive_schemas_are_validated() -> None:
    tree: Any = {"name": "leaf"}
    for number in range(12):
        tree = {"name": f"{number}", "left": tree, "right": {"name": "x"}, "kind": None}
    assert misfit(TREE, tree) == ""
    assert misfit(TREE, tree | {"left": {"left": {"name": 3}}}) == "left.left.name breaks 'type'"
    assert misfit(DOUBLED, nested(6)) != ""


def test_an_answer_that_is_too_costly_to_check_is_the_callers_matter() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "d", "schema": DOUBLED}}
    request = ChatRequest.from_body({"model": "m", "messages": MESSAGES, "response_format": form})
    made = {"role": "assistant", "content": json.dumps(nested(40))}
    body = json.dumps(glm_answers.completion({"model": "m"}, made, "good")).encode()
    with pytest.raises(EngineRefused, match="cannot be used"):
        checked(request, body)
