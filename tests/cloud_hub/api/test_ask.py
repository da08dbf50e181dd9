"""POST /api/v1/ask: questions over REST, streamed too, and how many at a time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from simulators.rest_world import World, problem

from cloud_hub.ask.slots import QuestionSlots
from cloud_hub.errors import HubError


def test_a_question_is_answered_with_facts_and_a_session(world: World) -> None:
    answer = world.ask("POST", "/api/v1/ask", "viewer", json={"question": "what is wrong?"}).json()
    assert (answer["author"], answer["note"]) == ("rules", "")
    assert any("digits/age_s" in fact["text"] for fact in answer["facts"])
    more = {"question": "how is it?", "session": answer["session"]}
    again = world.ask("POST", "/api/v1/ask", "viewer", json=more).json()
    assert again["session"] == answer["session"]
    assert again["facts"][0]["data"]["device"] == "press-3", "the device of the answer before"


def test_look_ups_and_the_answer_are_streamed_as_events(world: World) -> None:
    body = {"question": "what is wrong?", "stream": True}
    answer = world.ask("POST", "/api/v1/ask", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [part.split("\n", 1) for part in answer.text.strip().split("\n\n")]
    assert [name for name, _ in events] == ["event: tool", "event: tool", "event: answer"]
    assert json.loads(events[-1][1].removeprefix("data: "))["facts"]


@pytest.mark.parametrize("events", [0, 1])
def test_a_caller_who_leaves_a_stream_half_read_gives_the_place_back(world: World, events: int) -> None:
    """`events` are those that arrive before the connection ends."""
    for _ in range(5):
        assert leave(world, events) == 200
    assert world.ask("POST", "/api/v1/ask", json={"question": "what is wrong?"}).status_code == 200


def leave(world: World, events: int) -> int:
    """Ask over ASGI and disconnect; returns the status."""
    body = json.dumps({"question": "what is wrong?", "stream": True}).encode()
    token = f"Bearer {world.tokens['everything']}".encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": "/api/v1/ask", "raw_path": b"/api/v1/ask", "query_string": b"", "root_path": "",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        "headers": [(b"authorization", token), (b"content-type", b"application/json"), (b"host", b"hub"),
                    (b"content-length", str(len(body)).encode())],
    }  # fmt: skip
    sent: list[dict[str, Any]] = []
    asked = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def exchange() -> None:
        left = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if (message := next(asked, None)) is not None:
                return message
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if len(sent) > events:  # the head counts, too
                left.set()
                await asyncio.sleep(0)

        await world.app(scope, receive, send)  # type: ignore[arg-type]

    asyncio.run(exchange())
    return int(sent[0]["status"])


def test_the_audit_trail_is_for_auditors(world: World) -> None:
    question = {"question": "what changed in the last 300 days?"}
    by_viewer = world.ask("POST", "/api/v1/ask", "viewer", json=question).json()
    assert "may not audit" in by_viewer["facts"][0]["text"]
    by_auditor = world.ask("POST", "/api/v1/ask", "auditor", json=question).json()
    assert "may not audit" not in by_auditor["facts"][0]["text"]


@pytest.mark.parametrize(
    ("body", "place"),
    [({}, "question"), ({"question": ""}, "question"), ({"question": "x" * 1001}, "question"),
     ({"question": "x", "engine": "gpt"}, "engine"), ({"question": "x", "depth": 3}, "depth")],
)  # fmt: skip
def test_a_bad_request_names_its_place(world: World, body: dict[str, object], place: str) -> None:
    assert place in problem(world.ask("POST", "/api/v1/ask", json=body), 422)


def test_the_forms_are_listed_with_examples(world: World) -> None:
    forms = world.ask("GET", "/api/v1/ask/forms", "viewer").json()
    assert {"standing", "value", "changes"} <= {form["name"] for form in forms}
    assert all(form["examples"] for form in forms)


def test_a_caller_and_the_hub_have_so_many_questions_at_a_time() -> None:
    slots = QuestionSlots(most=3, each=2)
    with slots.hold("anna"), slots.hold("anna"):
        with pytest.raises(HubError, match="2 questions of yours are under way"), slots.hold("anna"):
            pass
        with slots.hold("ben"), pytest.raises(HubError, match="3 in all"), slots.hold("carl"):
            pass
    with slots.hold("carl"):
        assert not slots._running["anna"]


def test_a_stream_without_a_place_is_refused_before_its_head(world: World) -> None:
    slots: QuestionSlots = world.app.state.hub.questions
    with slots.hold("anna"), slots.hold("anna"), slots.hold("anna"):
        body = {"question": "what is wrong?", "stream": True}
        assert "under way" in problem(world.ask("POST", "/api/v1/ask", json=body), 429)
