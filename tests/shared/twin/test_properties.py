"""The twin's rules as laws: merging, versions, limits in every state, hostile requests; seeded bugs are caught."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from shared.protocol.codec import encode
from shared.twin.shadow import (
    MAX_LEVELS,
    SECTIONS,
    Document,
    Reply,
    State,
    delete,
    difference,
    get,
    json_equal,
    merge,
    nesting_depth,
    size,
    stamp,
    update,
)

FIXED = settings(max_examples=300, deadline=None, derandomize=True, database=None)
MAX_BYTES = 120
Update: TypeAlias = Callable[[Document, bytes, int, int], tuple[Document, list[Reply]]]
Delete: TypeAlias = Callable[[Document, str, bytes, int], tuple[Document, list[Reply]]]


def caught(strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """`check` must fail on some example of `strategy`."""

    @settings(FIXED, max_examples=2000, phases=[Phase.generate], report_multiple_bugs=False)
    @given(strategy)
    def run(example: Any) -> None:
        check(example)

    with pytest.raises(AssertionError):
        run()


KEYS = st.sampled_from(["a", "b", "c"])
LEAVES = st.one_of(
    st.integers(-2, 2), st.booleans(), st.sampled_from([0.5, 1.0, -0.0]), st.sampled_from(["", "x", "水"]),
    st.lists(st.integers(0, 1), max_size=2),
)  # fmt: skip
STATES = st.dictionaries(
    KEYS, st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=4), max_size=3
)
PATCHES = st.dictionaries(
    KEYS,
    st.recursive(LEAVES | st.none(), lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=4),
    max_size=3,
)


def holds_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(holds_null, value.values()))
    return value is None or (isinstance(value, list) and any(map(holds_null, value)))


# -- merge and difference ----------------------------------------------------------------------------


@FIXED
@given(STATES, STATES)
def test_reporting_the_difference_leaves_none(desired: State, reported: State) -> None:
    left = difference(desired, reported)
    assert difference(desired, merge(reported, left)) == {}
    assert (left == {}) == (difference(desired, merge(reported, {})) == {})


def check_merge(merge: Callable[[State, State], State], example: tuple[State, State]) -> None:
    base, patch = example
    before = deepcopy(example)
    once = merge(base, patch)
    assert example == before, "merge changed what it was given"
    assert json_equal(merge(once, patch), once), "merging twice is not merging once"
    assert not holds_null(once), "null deletes and is never stored"
    assert all(json_equal(once[key], value) for key, value in base.items() if key not in patch), "untouched parts stay"
    for key, value in patch.items():
        if value is None:
            assert key not in once
        elif not isinstance(value, dict):
            assert json_equal(once[key], value), "arrays and scalars are replaced whole"
        elif not isinstance(base.get(key), dict):
            assert json_equal(once.get(key, {}), merge({}, value))
        else:
            assert json_equal(once.get(key, {}), merge(base[key], value)), "objects recurse"


@FIXED
@given(st.tuples(STATES, PATCHES))
def test_merge(example: tuple[State, State]) -> None:
    check_merge(merge, example)


def shallow(base: State, patch: State) -> State:
    return {key: value for key, value in (base | patch).items() if value is not None}


def keeps_null(base: State, patch: State) -> State:
    return merge(base, patch) | {key: None for key, value in patch.items() if value is None}


def in_place(base: State, patch: State) -> State:
    merged = merge(base, patch)
    base.clear()
    base.update(merged)
    return base


def appends(base: State, patch: State) -> State:
    lists = {k: base[k] + v for k, v in patch.items() if isinstance(v, list) and isinstance(base.get(k), list)}
    return merge(base, patch) | lists


@pytest.mark.parametrize("bug", [shallow, keeps_null, in_place, appends, lambda base, patch: base])
def test_the_merge_checker_catches(bug: Callable[[State, State], State]) -> None:
    caught(st.tuples(STATES, PATCHES), lambda example: check_merge(bug, example))


@FIXED
@given(STATES)
def test_nothing_differs_from_itself_and_all_from_nothing(state: State) -> None:
    assert difference(state, state) == {}
    assert difference(state, {}) == state
    assert merge(state, {}) == state


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [(1, 1.0, True), (True, 1, False), (0, False, False), ([1], [1.0], True), ([True], [1], False),
     ([1, 2], [2, 1], False),
     ({"a": 1}, {"a": 1.0}, True), ({"a": 1}, {"b": 1}, False), ({}, [], False), ("1", 1, False), (-0.0, 0, True)],
)  # fmt: skip
def test_same(left: Any, right: Any, equal: bool) -> None:
    assert json_equal(left, right) == json_equal(right, left) == equal


# -- the life of a document ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One request; `version` says how the one it carries stands to the document's."""

    verb: Literal["update", "delete"] = "update"
    patch: State | None = None
    version: Literal["none", "right", "stale", "ahead"] = "none"


def nested(depth: int) -> State:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return {"reported": value}


SECTION = st.none() | PATCHES
PATCH = st.one_of(
    st.fixed_dictionaries({}, optional={"desired": SECTION, "reported": SECTION}),
    st.none(),
    st.integers(1, 9).map(nested),
    st.integers(1, 60).map(lambda n: {"desired": {"a": "水" * n}}),
    st.sampled_from(
        [{"reported": {"a": [None]}}, {"reported": {"a": [[None]]}}, {"reported": {"a": [{"b": None}]}}, {"other": {}}]
    ),
)
VERSIONS = st.sampled_from(["none", "none", "right", "stale", "ahead"])
STEPS = st.lists(st.builds(Step, patch=PATCH, version=VERSIONS) | st.just(Step(verb="delete")), min_size=1, max_size=8)


def check_document(document: Document) -> None:
    """T7: size, depth and shape hold, and each value has its mark."""
    assert set(document.state) == set(document.metadata) <= set(SECTIONS)
    assert size(document.state) <= MAX_BYTES, "too large"
    for section, value in document.state.items():
        assert value, "an empty section is not kept"
        assert nesting_depth(value) <= MAX_LEVELS, "too deep"
        assert not holds_null(value)
        marks = document.metadata[section]
        assert stamp_free(marks) == stamp_free(stamp(value, 0)), "metadata do not follow the state"


def stamp_free(marks: Any) -> Any:
    """Metadata without their times."""
    if isinstance(marks, dict):
        return {k: 0 if k == "timestamp" else stamp_free(v) for k, v in marks.items()}
    return [stamp_free(item) for item in marks] if isinstance(marks, list) else marks


def check_update(old: Document, new: Document, replies: list[Reply], step: Step, version: int | None) -> None:
    verbs = [reply.verb for reply in replies]
    if verbs == ["update/rejected"]:
        assert new == old, "a refused update changed the document"
        assert replies[0].body["code"] != 409 or (version is not None and version != old.version)
        return
    assert version is None or version == old.version, "a stale version was accepted (T4)"
    assert new.version == old.version + 1, "one version up for each accepted update"
    assert not new.deleted
    left = difference(new.state.get("desired", {}), new.state.get("reported", {}))
    assert verbs == ["update/accepted", *(["update/delta"] if left else []), "update/documents"]
    assert all(reply.body["version"] == new.version for reply in replies[:-1])
    if left:
        assert replies[1].body["state"] == left
    assert replies[-1].body["current"]["state"] == new.state
    base = {} if old.deleted else old.state
    for section in SECTIONS:
        sent = None if step.patch is None else step.patch.get(section, {})
        wanted = {} if sent is None else merge(base.get(section, {}), sent)
        assert json_equal(new.state.get(section, {}), wanted), "something else than the request was applied"


def check_life(update: Update, delete: Delete, steps: list[Step]) -> None:
    document = Document()
    for now, step in enumerate(steps, 1):
        old = document
        if step.verb == "delete":
            document, (reply,) = delete(old, "", b"", now)
            assert reply.verb == ("delete/rejected" if old.deleted else "delete/accepted")
            assert document.deleted
            assert document.version == old.version + (not old.deleted), "the number counts on over a delete (T5)"
            assert document.state == document.metadata == {}
            continue
        version = {"none": None, "right": old.version, "stale": old.version - 1, "ahead": old.version + 1}[step.version]
        version = None if version is not None and version < 0 else version
        request = {"state": step.patch} | ({} if version is None else {"version": version})
        document, replies = update(old, json.dumps(request).encode(), now, MAX_BYTES)
        check_update(old, document, replies, step, version)
        check_document(document)
        for reply in [*replies, *get(document, "", b"", now)]:
            encode(reply.body)


@FIXED
@given(STEPS)
def test_life_of_a_document(steps: list[Step]) -> None:
    check_life(update, delete, steps)


def on_request(change: Callable[[dict[str, Any]], Any]) -> Update:
    """`update` that sees `change(request)`."""
    return lambda document, payload, now, most: update(
        document, json.dumps(change(json.loads(payload))).encode(), now, most
    )


def on_document(change: Callable[[Document, Document], Document]) -> Update:
    """`update` that stores `change(old, new)`."""

    def bug(document: Document, payload: bytes, now: int, most: int) -> tuple[Document, list[Reply]]:
        new, replies = update(document, payload, now, most)
        return change(document, new), replies

    return bug


def limitless(document: Document, payload: bytes, now: int, _most: int) -> tuple[Document, list[Reply]]:
    return update(document, payload, now, 1 << 30)


def too_deep(document: Document, payload: bytes, now: int, most: int) -> tuple[Document, list[Reply]]:
    new, replies = update(document, payload, now, most)
    if replies[0].body.get("code") != 400 or "nesting" not in replies[0].body["message"]:
        return new, replies
    state = json.loads(payload)["state"]["reported"]
    return replace(document, state={"reported": state}, metadata={"reported": stamp(state, now)}), replies


def applied_though_refused(document: Document, payload: bytes, now: int, most: int) -> tuple[Document, list[Reply]]:
    new, replies = update(document, payload, now, most)
    return (update(document, payload, now, 1 << 30)[0] if replies[0].body.get("code") == 413 else new), replies


UPDATE_BUGS: dict[str, Update] = {
    "versions are ignored": on_request(lambda request: {k: v for k, v in request.items() if k != "version"}),
    "the version stays": on_document(lambda old, new: replace(new, version=old.version)),
    "the version skips": on_document(lambda old, new: replace(new, version=new.version + (new is not old))),
    "a refusal counts": on_document(lambda old, new: replace(new, version=old.version + 1)),
    "old metadata": on_document(lambda old, new: replace(new, metadata=old.metadata)),
    "no limit of size": limitless,
    "no limit of depth": too_deep,
    "applied, then refused": applied_though_refused,
}


@pytest.mark.parametrize("bug", UPDATE_BUGS)
def test_the_life_checker_catches(bug: str) -> None:
    caught(STEPS, lambda steps: check_life(UPDATE_BUGS[bug], delete, steps))


def forgets(document: Document, name: str, payload: bytes, now: int) -> tuple[Document, list[Reply]]:
    return Document(), delete(document, name, payload, now)[1]


def keeps_state(document: Document, name: str, payload: bytes, now: int) -> tuple[Document, list[Reply]]:
    gone, replies = delete(document, name, payload, now)
    return replace(gone, state=document.state, metadata=document.metadata), replies


@pytest.mark.parametrize("bug", [forgets, keeps_state])
def test_the_life_checker_catches_a_delete_that(bug: Delete) -> None:
    caught(STEPS, lambda steps: check_life(update, bug, steps))


# -- hostile requests -----------------------------------------------------------------------------------


def around(inner: bytes) -> bytes:
    return b'{"state":{"reported":{"x":' + inner + b"}}}"


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"hello",
    "half": b'{"state":{"reported":{"a":1}',
    "bad UTF-8": b'{"state":\xff}',
    "UTF-16": '{"state":{}}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + around(b"1"),
    "a zero byte": around(b'"\x00"'),
    "NaN": around(b"NaN"),
    "Infinity": around(b"-Infinity"),
    "1e999": around(b"1e999"),
    "5,000 digits": around(b"9" * 5000),
    "duplicate names": b'{"state":{"reported":{"a":1,"a":2}}}',
    "duplicate states": b'{"state":{},"state":{}}',
    "half a surrogate pair": around(b'"\\ud800"'),
    "half a surrogate pair as a name": b'{"state":{"reported":{"\\udfff":1}}}',
    "half a surrogate pair as a token": b'{"state":{},"clientToken":"\\ud800"}',
    "5,000 arrays": around(b"[" * 5000 + b"]" * 5000),
    "5,000 objects": around(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "5,000 arrays for a token": b'{"clientToken":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "open arrays": b"[" * 200_000,
    "one megabyte": around(b'"' + b"x" * 1_000_000 + b'"'),
    "a million names": around(b"{" + b",".join(b'"%d":0' % i for i in range(50_000)) + b"}"),
    "a list": b"[]",
    "null": b"null",
    "a state that is a list": b'{"state":[]}',
    "a section that is text": b'{"state":{"desired":"x"}}',
    "an unknown section": b'{"state":{"wanted":{}}}',
    "a null inside an array": around(b"[null]"),
    "a version that is true": b'{"state":{},"version":true}',
    "a version below 0": b'{"state":{},"version":-1}',
    "a huge version": b'{"state":{},"version":' + b"9" * 400 + b"}",
    "a version of text": b'{"state":{},"version":"1"}',
    "a token that is a number": b'{"state":{},"clientToken":1}',
    "a token of 65 bytes": b'{"state":{},"clientToken":"' + b"x" * 65 + b'"}',
    "no state": b'{"clientToken":"t"}',
}


def answers(document: Document, payload: bytes) -> None:
    """Every verb answers, the answer can be sent, and a refused update changes nothing."""
    new, replies = update(document, payload, 5)
    assert [reply.verb for reply in replies] == ["update/rejected"]
    assert replies[0].body["code"] in {400, 409, 413, 415}
    assert new is document
    for reply in [*replies, *get(document, "n", payload, 5), *delete(document, "n", payload, 5)[1]]:
        assert len(encode(reply.body)) < 10_000


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests_are_answered(name: str) -> None:
    some, _ = update(Document(), b'{"state":{"desired":{"a":1},"reported":{"a":2}}}', 1)
    answers(Document(), HOSTILE[name])
    answers(some, HOSTILE[name])


def test_no_depth_is_too_deep_to_refuse() -> None:
    """What the JSON reader lets through must not overflow the stack later on."""
    for depth in [*range(7, 20), *range(300, 1000, 7), *range(960, 1000), 2000]:
        answers(Document(), around(b"[" * depth + b"]" * depth))
        answers(Document(), around(b'{"a":' * depth + b"1" + b"}" * depth))


@pytest.mark.parametrize("text", ['"\\ud83d\\ude00"', '"\\u6c34"', '"\\\\ud800"'])
def test_whole_surrogate_pairs_pass(text: str) -> None:
    new, _ = update(Document(), around(text.encode()), 1)
    assert new.state["reported"]["x"] == json.loads(text)


@FIXED
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_answered(payload: bytes) -> None:
    document = Document(version=3, deleted=False)
    new, replies = update(document, payload, 1)
    assert replies
    assert new is document or new.version == 4
    assert len(get(document, "", payload, 1)) == len(delete(document, "", payload, 1)[1]) == 1
