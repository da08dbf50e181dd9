"""POST /api/v1/ask: questions over REST, streamed too, and how many at a time."""

from __future__ import annotations

import json

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
