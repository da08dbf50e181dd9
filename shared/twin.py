"""The twin's rules, exactly those of AWS device shadows, as pure functions on one document.

`get`, `update` and `delete` take the stored document, the request as received and the time, and
return the new document with the replies to publish. The hub wraps them in a transaction; device and
tests use the same parts (`merge`, `difference`). Sources: AWS IoT "Device Shadow service documents",
"Device Shadow MQTT topics" and "Device Shadow error messages"; Greengrass shadow-manager for the depth rule.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NoReturn

from shared.text_rules import holds_nul

Json = Any
State = dict[str, Json]

MAX_BYTES = 8192
PATCH_SHARE = 4
"""A request is not read at all when it is so many times larger than the document may be: nulls and blanks included."""
MAX_TOKEN_PAYLOAD = 4 * MAX_BYTES
"""In more than this no client token is looked for, where the payload means nothing else."""
MAX_LEVELS = 6
MAX_TOKEN_BYTES = 64
SECTIONS = ("desired", "reported")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One stored twin document; `version` 0 has never existed, `deleted` keeps the number counting on."""

    version: int = 0
    deleted: bool = True
    state: State = field(default_factory=dict)
    metadata: State = field(default_factory=dict)
    timestamp: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One message to publish: `verb` is the end of the topic, such as `update/accepted`."""

    verb: str
    body: State


class _Refused(ValueError):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


# -- values ----------------------------------------------------------------------------------------


def same(left: Json, right: Json) -> bool:
    """Equality of JSON values: 1 equals 1.0, true never equals 1, arrays are compared whole."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


def merge(base: State, patch: State) -> State:
    """`base` with `patch` laid over it: objects recurse, null deletes, all else is replaced whole.

    An object that loses its last field by nulls goes with it; an empty object sent as a value stays.
    """
    result = dict(base)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            old = result.get(key)
            merged = merge(old if isinstance(old, dict) else {}, value)
            if merged or not value:
                result[key] = merged
            else:
                result.pop(key, None)
        else:
            result[key] = value
    return result


def difference(desired: State, reported: State) -> State:
    """Every part of `desired` that `reported` lacks or holds otherwise, with its path from the root."""
    result: State = {}
    for key, want in desired.items():
        have = reported.get(key)
        if isinstance(want, dict) and isinstance(have, dict):
            inner = difference(want, have)
            if inner:
                result[key] = inner
        elif key not in reported or not same(want, have):
            result[key] = want
    return result


def apply_state(state: State, sent: State | None) -> State:
    """Desired and reported once the `state` node of an update has been laid over them; null empties the document."""
    result: State = {}
    for section in SECTIONS if sent is not None else ():
        part = (sent or {}).get(section, {})
        if part is not None and (new := merge(state.get(section, {}), part)):
            result[section] = new
    return result


def stamp(value: Json, now_s: int) -> Json:
    """The metadata of a value: the same shape with a timestamp in place of each leaf."""
    if isinstance(value, dict):
        return {key: stamp(inner, now_s) for key, inner in value.items()}
    if isinstance(value, list):
        return [stamp(inner, now_s) for inner in value]
    return {"timestamp": now_s}


def _restamp(metadata: State, state: State, patch: State, now_s: int) -> State:
    """Metadata of `state` after `patch`: touched leaves get `now_s`, untouched ones keep their time."""
    result: State = {}
    for key, value in state.items():
        old = metadata.get(key)
        if key not in patch:
            result[key] = old
        elif isinstance(value, dict) and isinstance(patch[key], dict):
            result[key] = _restamp(old if isinstance(old, dict) else {}, value, patch[key], now_s)
        else:
            result[key] = stamp(value, now_s)
    return result


def _pick(metadata: Json, shape: Json) -> Json:
    """The part of `metadata` that belongs to the leaves of `shape`."""
    if isinstance(shape, dict) and isinstance(metadata, dict):
        return {key: _pick(metadata.get(key), inner) for key, inner in shape.items()}
    return metadata


def nesting_depth(value: Json) -> int:
    """Nested objects and arrays, the outermost counted. A loop: `parse` lets pass what recursion would not."""
    depth, layer = 0, [value]
    while nested := [item for item in layer if isinstance(item, (dict, list))]:
        depth += 1
        layer = [inner for item in nested for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


# -- requests --------------------------------------------------------------------------------------


def _no_duplicates(pairs: list[tuple[str, Json]]) -> State:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is out of range")
    return value


def _integer(digits: str) -> int:
    """Of 64 bits: a device that can hold no more would report another number, and the delta would never end."""
    value = int(digits)
    if not -1 << 63 <= value < 1 << 64:
        raise ValueError(f"{digits[:40]} is out of range")
    return value


def parse(payload: bytes) -> Json:
    """JSON that holds no NaN, no infinity, no integer beyond 64 bits, no NUL and no name twice.

    Raises a ValueError with the reply AWS would give. What passes can be stored by either database and sent again.
    """
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        raise _Refused(415, "Unsupported documented encoding; supported encoding is UTF-8") from None
    try:
        value = json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite_float,
            parse_int=_integer,
        )  # fmt: skip
        if holds_nul(payload):
            raise ValueError("a text holds NUL")
        if "\\u" in text:  # half of a surrogate pair could be stored but never sent again
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except RecursionError:
        raise _Refused(400, f"JSON contains too many levels of nesting; maximum is {MAX_LEVELS}") from None
    except ValueError:
        raise _Refused(400, "Invalid JSON") from None


def _null_in_array(value: Json, inside: bool = False) -> bool:
    """A null anywhere in an array: arrays are stored whole, so it would delete nothing and stay."""
    if isinstance(value, (dict, list)):
        inner = value.values() if isinstance(value, dict) else value
        return any(_null_in_array(item, inside or isinstance(value, list)) for item in inner)
    return inside and value is None


def check_state(state: Json) -> None:
    """Raise the reply AWS would give (a ValueError) unless this can be the `state` of a document or a request."""
    if state is None:
        return
    if not isinstance(state, dict):
        raise _Refused(400, "State node must be an object")
    if set(state) - {*SECTIONS, "delta"}:
        raise _Refused(400, "State contains an invalid node")
    for section in SECTIONS:
        value = state.get(section)
        if value is not None and not isinstance(value, dict):
            raise _Refused(400, f"{section.capitalize()} node must be an object")
        if nesting_depth(value) > MAX_LEVELS:
            raise _Refused(400, f"JSON contains too many levels of nesting; maximum is {MAX_LEVELS}")
        if _null_in_array(value):
            raise _Refused(400, "State contains an invalid node")


def _token(request: Json) -> str | None:
    token = request.get("clientToken") if isinstance(request, dict) else None
    return token if isinstance(token, str) and len(token.encode("utf-8", "replace")) <= MAX_TOKEN_BYTES else None


def _check(request: Json, document: Document) -> None:
    if not isinstance(request, dict):
        raise _Refused(400, "Invalid JSON")
    if "clientToken" in request and _token(request) is None:
        raise _Refused(400, "Invalid clientToken")
    if "state" not in request:
        raise _Refused(400, "Missing required node: state")
    check_state(request["state"])
    version = request.get("version")
    if version is not None:
        if not isinstance(version, int) or isinstance(version, bool) or version < 0:
            raise _Refused(400, "Invalid version")
        if version != document.version:
            raise _Refused(409, "Version conflict")


def size(state: State) -> int:
    """Bytes of desired and reported as compact JSON; metadata does not count."""
    return sum(len(json.dumps(state[s], separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass"))
               for s in SECTIONS if s in state)  # fmt: skip


def _apply(document: Document, sent: State | None, now_s: int, max_bytes: int) -> Document:
    state = apply_state({} if document.deleted else document.state, sent)
    if size(state) > max_bytes:
        raise _Refused(413, "The payload exceeds the maximum size allowed")
    old = {} if document.deleted else document.metadata
    metadata = {
        section: _restamp(old.get(section, {}), part, (sent or {}).get(section) or {}, now_s)
        for section, part in state.items()
    }
    return Document(version=document.version + 1, deleted=False, state=state, metadata=metadata, timestamp=now_s)


def _snapshot(document: Document) -> State:
    return {"state": document.state, "metadata": document.metadata, "version": document.version}


def delta(document: Document) -> tuple[State, State]:
    """(state, metadata) of what is desired and not yet reported."""
    left = difference(document.state.get("desired", {}), document.state.get("reported", {}))
    return left, _pick(document.metadata.get("desired", {}), left)


def _with(token: str | None) -> State:
    return {} if token is None else {"clientToken": token}


def _rejected(verb: str, error: _Refused, token: str | None, now_s: int) -> Reply:
    body: State = {"code": error.code, "message": error.message, "timestamp": now_s}
    return Reply(verb=f"{verb}/rejected", body=body | _with(token))


def rejected(verb: str, code: int, message: str, payload: bytes, now_s: int) -> Reply:
    """The answer to a request that never reaches a document, with its client token where it can be read."""
    return _rejected(verb, _Refused(code, message), _optional_token(payload), now_s)


def update(document: Document, payload: bytes, now_s: int, max_bytes: int = MAX_BYTES) -> tuple[Document, list[Reply]]:
    """Apply an update request as received; a refused one returns the document untouched.

    Replies in order: `update/accepted`, `update/delta` while desired and reported differ, `update/documents`.
    """
    token = None
    try:
        if len(payload) > PATCH_SHARE * max_bytes:
            raise _Refused(413, "The payload exceeds the maximum size allowed")
        request = parse(payload)
        token = _token(request)
        _check(request, document)
        patch = request["state"]
        new = _apply(document, patch, now_s, max_bytes)
    except _Refused as error:
        return document, [_rejected("update", error, token, now_s)]
    echo: State = {"timestamp": now_s} | _with(token)
    versioned = {"version": new.version} | echo
    sent = None if patch is None else {key: patch[key] for key in SECTIONS if key in patch}
    marks = {"timestamp": now_s} if sent is None else stamp(sent, now_s)
    replies = [Reply(verb="update/accepted", body={"state": sent, "metadata": marks} | versioned)]
    left, left_marks = delta(new)
    if left:
        replies.append(Reply(verb="update/delta", body={"state": left, "metadata": left_marks} | versioned))
    previous = {} if document.deleted else {"previous": _snapshot(document)}
    replies.append(Reply(verb="update/documents", body=previous | {"current": _snapshot(new)} | echo))
    return new, replies


def _optional_token(payload: bytes) -> str | None:
    """The client token of a get or delete, whose body may be empty or anything at all."""
    try:
        return _token(parse(payload)) if 0 < len(payload) <= MAX_TOKEN_PAYLOAD else None
    except _Refused:
        return None


def _missing(verb: str, name: str, payload: bytes, now_s: int) -> Reply:
    return rejected(verb, 404, f"No shadow exists with name: '{name or 'Unnamed Shadow'}'", payload, now_s)


def get(document: Document, name: str, payload: bytes, now_s: int) -> list[Reply]:
    """Answer a get: the whole document with the delta beside it, or 404 with `name` (AWS: a classic one's thing).

    The body may be anything, as in `delete`; only its client token is looked for.
    """
    if document.deleted:
        return [_missing("get", name, payload, now_s)]
    state, metadata = dict(document.state), dict(document.metadata)
    left, left_marks = delta(document)
    if left:
        state["delta"], metadata["delta"] = left, left_marks
    body: State = {"state": state, "metadata": metadata, "version": document.version, "timestamp": now_s}
    return [Reply(verb="get/accepted", body=body | _with(_optional_token(payload)))]


def delete(document: Document, name: str, payload: bytes, now_s: int) -> tuple[Document, list[Reply]]:
    """Delete the document; its version counts on, so that a late message cannot bring it back."""
    if document.deleted:
        return document, [_missing("delete", name, payload, now_s)]
    gone = Document(version=document.version + 1, timestamp=now_s)
    body: State = {"version": document.version, "timestamp": now_s}
    return gone, [Reply(verb="delete/accepted", body=body | _with(_optional_token(payload)))]
