"""Rules of twin documents, identical to AWS IoT device shadows, as pure functions on one document.

`get`, `update` and `delete` take the stored document, the request as received and the time, and
return the new document with the replies to publish. The hub calls them in a transaction; the agent uses
the same `merge` and `difference`. Sources: AWS IoT "Device Shadow service documents",
"Device Shadow MQTT topics" and "Device Shadow error messages"; Greengrass shadow-manager for the depth rule.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NoReturn

from shared.protocol.text_rules import holds_nul

Json = Any
State = dict[str, Json]

MAX_BYTES = 8192
PATCH_SHARE = 4
"""A request larger than this multiple of the maximum document size is rejected before it is parsed."""
MAX_TOKEN_PAYLOAD = 4 * MAX_BYTES
"""The payload of a get or delete is searched for a client token only up to this size."""
MAX_LEVELS = 6
MAX_TOKEN_BYTES = 64
SECTIONS = ("desired", "reported")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A stored twin document. `version` 0: it has never existed. A `deleted` document keeps its version, which goes on
    from there."""

    version: int = 0
    deleted: bool = True
    state: State = field(default_factory=dict)
    metadata: State = field(default_factory=dict)
    timestamp: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A message to publish; `verb` is the end of the topic, such as `update/accepted`."""

    verb: str
    body: State


class _Refused(ValueError):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


# -- values ----------------------------------------------------------------------------------------


def json_equal(left: Json, right: Json) -> bool:
    """Equality of JSON values: 1 equals 1.0, true never equals 1, arrays are compared as one value."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(json_equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(json_equal(left[key], right[key]) for key in left)
    return bool(left == right)


def merge(base: State, patch: State) -> State:
    """Apply `patch` to `base`: objects are merged recursively, null deletes, all other values are replaced.

    An object whose last field was deleted is removed; an empty object sent as a value is stored.
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
    """The part of `desired` that is missing in `reported` or differs there, with its path from the root."""
    result: State = {}
    for key, want in desired.items():
        have = reported.get(key)
        if isinstance(want, dict) and isinstance(have, dict):
            inner = difference(want, have)
            if inner:
                result[key] = inner
        elif key not in reported or not json_equal(want, have):
            result[key] = want
    return result


def apply_state(state: State, sent: State | None) -> State:
    """Apply the `state` node of an update to desired and reported; null empties the document."""
    result: State = {}
    for section in SECTIONS if sent is not None else ():
        part = (sent or {}).get(section, {})
        if part is not None and (new := merge(state.get(section, {}), part)):
            result[section] = new
    return result


def stamp(value: Json, now_s: int) -> Json:
    """The metadata of a value: the same structure with a timestamp in place of each leaf."""
    if isinstance(value, dict):
        return {key: stamp(inner, now_s) for key, inner in value.items()}
    if isinstance(value, list):
        return [stamp(inner, now_s) for inner in value]
    return {"timestamp": now_s}


def _restamp(metadata: State, state: State, patch: State, now_s: int) -> State:
    """Metadata of `state` after `patch`: changed leaves get `now_s`, the others keep their timestamp."""
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
    """Levels of nested objects and arrays, including the outermost. A loop, because `parse` accepts deeper nesting than
    recursion can handle."""
    depth, layer = 0, [value]
    while nested := [item for item in layer if isinstance(item, (dict, list))]:
        depth += 1
        layer = [inner for item in nested for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


# -- requests --------------------------------------------------------------------------------------


def _no_duplicates(pairs: list[tuple[str, Json]]) -> State:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate name in an object")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is out of range")
    return value


def _integer(digits: str) -> int:
    """An integer of at most 64 bits: a device would report a larger one differently, and the delta would never end."""
    value = int(digits)
    if not -1 << 63 <= value < 1 << 64:
        raise ValueError(f"{digits[:40]} is out of range")
    return value


def parse(payload: bytes) -> Json:
    """Parse JSON; rejects NaN, infinity, integers beyond 64 bits, NUL and duplicate names.

    Raises a ValueError with the reply that AWS gives. Accepted values can be stored in both databases and sent again.
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
        if "\\u" in text:  # half of a surrogate pair cannot be encoded as UTF-8
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except RecursionError:
        raise _Refused(400, f"JSON contains too many levels of nesting; maximum is {MAX_LEVELS}") from None
    except ValueError:
        raise _Refused(400, "Invalid JSON") from None


def _null_in_array(value: Json, inside: bool = False) -> bool:
    """Whether there is a null anywhere in an array. An array is stored as one value, so null would not delete."""
    if isinstance(value, (dict, list)):
        inner = value.values() if isinstance(value, dict) else value
        return any(_null_in_array(item, inside or isinstance(value, list)) for item in inner)
    return inside and value is None


def check_state(state: Json) -> None:
    """Raise the reply that AWS gives (a ValueError) unless `state` is a valid node of a document or request."""
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
    """(state, metadata) of the delta: what is desired and not yet reported."""
    differing = difference(document.state.get("desired", {}), document.state.get("reported", {}))
    return differing, _pick(document.metadata.get("desired", {}), differing)


def _with(token: str | None) -> State:
    return {} if token is None else {"clientToken": token}


def _rejected(verb: str, error: _Refused, token: str | None, now_s: int) -> Reply:
    body: State = {"code": error.code, "message": error.message, "timestamp": now_s}
    return Reply(verb=f"{verb}/rejected", body=body | _with(token))


def rejected(verb: str, code: int, message: str, payload: bytes, now_s: int) -> Reply:
    """The reply to a request that is rejected before a document is read, with its client token if there is one."""
    return _rejected(verb, _Refused(code, message), _optional_token(payload), now_s)


def update(document: Document, payload: bytes, now_s: int, max_bytes: int = MAX_BYTES) -> tuple[Document, list[Reply]]:
    """Apply an update request as received; a rejected one returns the document unchanged.

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
    metadata = {"timestamp": now_s} if sent is None else stamp(sent, now_s)
    replies = [Reply(verb="update/accepted", body={"state": sent, "metadata": metadata} | versioned)]
    differing, delta_metadata = delta(new)
    if differing:
        replies.append(Reply(verb="update/delta", body={"state": differing, "metadata": delta_metadata} | versioned))
    previous = {} if document.deleted else {"previous": _snapshot(document)}
    replies.append(Reply(verb="update/documents", body=previous | {"current": _snapshot(new)} | echo))
    return new, replies


def _optional_token(payload: bytes) -> str | None:
    """The client token of a get or delete, whose body may be empty or invalid."""
    try:
        return _token(parse(payload)) if 0 < len(payload) <= MAX_TOKEN_PAYLOAD else None
    except _Refused:
        return None


def _missing(verb: str, name: str, payload: bytes, now_s: int) -> Reply:
    return rejected(verb, 404, f"No shadow exists with name: '{name or 'Unnamed Shadow'}'", payload, now_s)


def get(document: Document, name: str, payload: bytes, now_s: int) -> list[Reply]:
    """Answer a get: the document with its delta, or 404 with `name`.

    Only the client token of the body is used, as in `delete`.
    """
    if document.deleted:
        return [_missing("get", name, payload, now_s)]
    state, metadata = dict(document.state), dict(document.metadata)
    differing, delta_metadata = delta(document)
    if differing:
        state["delta"], metadata["delta"] = differing, delta_metadata
    body: State = {"state": state, "metadata": metadata, "version": document.version, "timestamp": now_s}
    return [Reply(verb="get/accepted", body=body | _with(_optional_token(payload)))]


def delete(document: Document, name: str, payload: bytes, now_s: int) -> tuple[Document, list[Reply]]:
    """Delete the document. Its version is kept and increased, so that a late message cannot restore it."""
    if document.deleted:
        return document, [_missing("delete", name, payload, now_s)]
    tombstone = Document(version=document.version + 1, timestamp=now_s)
    body: State = {"version": document.version, "timestamp": now_s}
    return tombstone, [Reply(verb="delete/accepted", body=body | _with(_optional_token(payload)))]
