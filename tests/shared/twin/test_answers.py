"""Every code and message that a twin answers with, and the rules of AWS that the vectors leave out.

Not here: 404 "Thing not found" (test_writer.py) and 500 "Internal service failure" (test_listener.py), both the hub's;
401, 403 and 429 are never sent over MQTT (docs/topics.md).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.twin.shadow import Document, Reply, delete, get, rejected, update

LEVELS = "JSON contains too many levels of nesting; maximum is 6"
NODE = "State contains an invalid node"
TOO_LARGE = "The payload exceeds the maximum size allowed"


def ask(document: Document, request: Any, now: int = 7, **more: int) -> tuple[Document, list[Reply]]:
    payload = request if isinstance(request, bytes) else json.dumps(request).encode()
    return update(document, payload, now, **more)


def reported(value: Any) -> dict[str, Any]:
    return {"state": {"reported": value}}


def nested(names: int) -> Any:
    """An object with so many names on the path to its leaf."""
    value: Any = 1
    for _ in range(names):
        value = {"n": value}
    return value


SOME, _ = ask(Document(), {"state": {"desired": {"a": 1, "b": {"c": 2}}, "reported": {"a": 1}}})

REFUSED: list[tuple[Any, int, str]] = [
    (b"", 400, "Invalid JSON"), (b"{", 400, "Invalid JSON"), (b"[]", 400, "Invalid JSON"), (b"7", 400, "Invalid JSON"),
    (b'{"state":{"desired":{"a":NaN}}}', 400, "Invalid JSON"), (b'{"state":{},"state":{}}', 400, "Invalid JSON"),
    (reported({"a": 2**64}), 400, "Invalid JSON"), (reported({"a": -(2**63) - 1}), 400, "Invalid JSON"),
    (b'{"state":{"reported":{"a":1e999}}}', 400, "Invalid JSON"),
    (b'{"state":{"reported":{"a":"x\\u0000"}}}', 400, "Invalid JSON"),
    (b'{"state":{"reported":{"a":"\\\\\\u0000"}}}', 400, "Invalid JSON"),
    (b'{"state":{"reported":{"\\ud800":1}}}', 400, "Invalid JSON"),
    ({}, 400, "Missing required node: state"), ({"version": 1}, 400, "Missing required node: state"),
    ({"state": []}, 400, "State node must be an object"), ({"state": "x"}, 400, "State node must be an object"),
    ({"state": {"desired": []}}, 400, "Desired node must be an object"),
    ({"state": {"desired": 1}}, 400, "Desired node must be an object"),
    ({"state": {"reported": "x"}}, 400, "Reported node must be an object"),
    ({"state": {}, "version": "1"}, 400, "Invalid version"), ({"state": {}, "version": 1.0}, 400, "Invalid version"),
    ({"state": {}, "version": -1}, 400, "Invalid version"), ({"state": {}, "version": True}, 400, "Invalid version"),
    ({"state": {}, "clientToken": 1}, 400, "Invalid clientToken"),
    ({"state": {}, "clientToken": None}, 400, "Invalid clientToken"),
    ({"state": {}, "clientToken": "x" * 65}, 400, "Invalid clientToken"),
    ({"state": {}, "clientToken": "水" * 22}, 400, "Invalid clientToken"),  # 66 bytes
    (reported(nested(7)), 400, LEVELS), ({"state": {"desired": {"a": [[[[[[]]]]]]}}}, 400, LEVELS),
    (b'{"state":{"reported":' + b'{"a":' * 5000 + b"1" + b"}" * 5002, 400, LEVELS),
    ({"state": {"wanted": {}}}, 400, NODE), ({"state": {"desired": {}, "x": 1}}, 400, NODE),
    (reported({"a": [1, None]}), 400, NODE), (reported({"a": [[None]]}), 400, NODE),
    (reported({"a": [{"b": None}]}), 400, NODE), ({"state": {"desired": {"a": {"b": [{"c": [None]}]}}}}, 400, NODE),
    ({"state": {}, "version": 2}, 409, "Version conflict"), ({"state": {}, "version": 0}, 409, "Version conflict"),
    (reported({"a": "x" * 8192}), 413, TOO_LARGE),
    (b'{"state":{"reported":{"a":"\xff"}}}', 415, "Unsupported documented encoding; supported encoding is UTF-8"),
    ('{"state":{}}'.encode("utf-16"), 415, "Unsupported documented encoding; supported encoding is UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "code", "message"), REFUSED)
def test_refused(request_: Any, code: int, message: str) -> None:
    new, (reply,) = ask(SOME, request_)
    assert new is SOME
    assert reply == Reply(verb="update/rejected", body={"code": code, "message": message, "timestamp": 7})


@pytest.mark.parametrize("request_", [
    reported({"a": 2**64 - 1, "b": -(2**63)}), reported({"a": "\\u0000"}), reported({"a": "\\\\u0000"}),
    reported(nested(6)), {"state": {"desired": {"a": [[[[[]]]]]}}}, reported({"a": {"b": None}, "c": []}),
    {"state": {}, "version": 1, "clientToken": "x" * 64}, {"state": {}, "version": None},
    {"state": {"delta": {"a": 1}}, "other": {"a": [None]}}, {"state": None}, {"state": {"desired": None}},
])  # fmt: skip
def test_just_allowed(request_: Any) -> None:
    """The deepest leaf is 8 names below `state`, with the section: state.reported.n.n.n.n.n.n; and 6 nested objects."""
    new, replies = ask(SOME, request_)
    assert (new.version, replies[0].verb) == (2, "update/accepted")


def test_the_limit_is_on_the_merged_document_without_metadata() -> None:
    """`{"a":"xxx"}` and `{"b":"xxx"}`: 8 bytes around each text, 8192 in all."""
    first, _ = ask(Document(), {"state": {"desired": {"a": "x" * 4088}}})
    full, replies = ask(first, reported({"b": "x" * 4088}))
    assert replies[0].verb == "update/accepted"
    _, (reply,) = ask(full, reported({"b": "x" * 4089}))
    assert reply.body["code"] == 413
    assert ask(full, reported({"b": "x"}))[1][0].verb == "update/accepted"
    assert ask(full, reported({"b": "x" * 4089}), max_bytes=8193)[1][0].verb == "update/accepted"


@pytest.mark.parametrize(
    ("token", "echoed"), [("t", True), ("", True), ("x" * 64, True), ("x" * 65, False), (7, False)]
)
def test_the_token_comes_back_wherever_it_can_be_read(token: Any, echoed: bool) -> None:
    payload = json.dumps({"state": {"reported": {"a": 2}}, "clientToken": token}).encode()
    refused = json.dumps({"state": 1, "clientToken": token}).encode()
    replies = [
        *get(SOME, "n", payload, 1), *get(Document(), "n", payload, 1), *delete(SOME, "n", payload, 1)[1],
        *delete(Document(), "n", payload, 1)[1], *update(SOME, refused, 1)[1],
        rejected("update", 404, "Thing not found", payload, 1),
    ]  # fmt: skip
    if echoed:
        replies += update(SOME, payload, 1)[1]
        assert [r.verb for r in replies[-3:]] == ["update/accepted", "update/delta", "update/documents"]
    assert {reply.body.get("clientToken") for reply in replies} == ({token} if echoed else {None})


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"no JSON", b"\xff", b"[]", b'{"clientToken":' + b"[" * 9999, b"[" * 9999]
)
def test_get_and_delete_are_answered_whatever_their_body(body: bytes) -> None:
    assert get(SOME, "n", body, 9)[0].verb == "get/accepted"
    gone, (reply,) = delete(SOME, "n", body, 9)
    assert (reply.verb, reply.body, gone.version) == ("delete/accepted", {"version": 1, "timestamp": 9}, 2)


def test_what_is_not_there_is_404() -> None:
    body = {"code": 404, "message": "No shadow exists with name: 'gates'", "timestamp": 9}
    assert get(Document(), "gates", b"", 9) == [Reply(verb="get/rejected", body=body)]
    assert delete(Document(), "gates", b"", 9)[1] == [Reply(verb="delete/rejected", body=body)]


def test_a_document_made_again_counts_on_and_has_no_previous() -> None:
    gone, _ = delete(SOME, "n", b"", 9)
    again, replies = ask(gone, reported({"a": 1}))
    assert again.version > SOME.version + 1
    assert replies[-1].verb == "update/documents"
    assert set(replies[-1].body) == {"current", "timestamp"}
    assert again.state == {"reported": {"a": 1}}, "nothing of the old one came back"


def test_documents_hold_previous_and_current() -> None:
    new, replies = ask(SOME, reported({"a": 5}), now=9)
    body = replies[-1].body
    assert (body["previous"]["version"], body["current"]["version"], body["timestamp"]) == (1, 2, 9)
    assert body["previous"]["state"]["reported"] == {"a": 1}
    assert (body["current"]["state"], body["current"]["metadata"]) == (new.state, new.metadata)


def test_the_delta_is_all_that_differs_after_any_accepted_update() -> None:
    """Also after a report that leaves a difference, after one that changes nothing, and never on a get."""
    for sent in (reported({"z": 1}), {"state": {}}, reported({"a": 1})):
        new, replies = ask(SOME, sent)
        assert (replies[1].verb, replies[1].body["state"]) == ("update/delta", {"b": {"c": 2}})
        assert replies[1].body["metadata"] == {"b": {"c": {"timestamp": 7}}}
    _, replies = ask(new, reported({"a": None}))
    assert replies[1].body["state"] == {"a": 1, "b": {"c": 2}}, "what is deleted from reported is wanted again"
    assert [r.verb for r in ask(new, reported({"b": {"c": 2.0}}))[1]] == ["update/accepted", "update/documents"]
    assert [r.verb for r in get(new, "n", b"", 1)] == ["get/accepted"]


def test_an_emptied_document_lives_on() -> None:
    new, replies = ask(SOME, {"state": None}, now=9)
    assert replies[0].body == {"state": None, "metadata": {"timestamp": 9}, "version": 2, "timestamp": 9}
    (reply,) = get(new, "n", b"", 9)
    assert reply.body == {"state": {}, "metadata": {}, "version": 2, "timestamp": 9}
