"""The device-shadow vectors, step by step, against the twin's rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.protocol.topics import split_shadow
from shared.twin import shadow

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "device_shadow.json").read_text("utf-8"))["device_shadow"]


def payload_of(step: dict[str, Any]) -> bytes:
    if "payload_hex" in step:
        return bytes.fromhex(step["payload_hex"])
    if "payload_raw" in step:
        return str(step["payload_raw"]).encode()
    return json.dumps(step["payload"]).encode()


def forget(body: Any, path: list[str]) -> None:
    """Remove what a vector leaves unchecked, at `path`, where it is there."""
    *way, last = path
    for name in way:
        body = body.get(name, {}) if isinstance(body, dict) else {}
    if isinstance(body, dict):
        body.pop(last, None)


def cleaned(verb: str, body: dict[str, Any], ignored: list[str], wanted: dict[str, Any]) -> dict[str, Any]:
    body = json.loads(json.dumps(body))
    for entry in ignored:
        where, _, path = entry.partition(":")
        if where == verb:
            forget(body, path.split("."))
    if verb.endswith("rejected") and "timestamp" not in wanted:
        body.pop("timestamp", None)
    return body


def run(
    documents: dict[str, shadow.Document], topic: str, payload: bytes, now: int
) -> list[tuple[str, dict[str, Any]]]:
    base, rest = topic.split("/shadow", 1)
    name, verb = split_shadow("shadow" + rest) or ("", "")
    document = documents.get(name, shadow.Document())
    if verb == "get":
        replies = shadow.get(document, name, payload, now)
    elif verb == "update":
        documents[name], replies = shadow.update(document, payload, now)
    else:
        documents[name], replies = shadow.delete(document, name, payload, now)
    head = f"{base}/shadow" + (f"/name/{name}" if name else "")
    return [(f"{head}/{reply.verb}", reply.body) for reply in replies]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['id']} {v['title']}")
def test_vector(vector: dict[str, Any]) -> None:
    documents: dict[str, shadow.Document] = {}
    for step in vector["steps"]:
        got = dict(run(documents, step["in"]["topic"], payload_of(step["in"]), step["now"]))
        wanted = {out["topic"]: out["payload"] for out in step["out"]}
        assert set(got) == set(wanted)
        for topic, want in wanted.items():
            verb = "/".join(topic.split("/")[-2:])
            ignored = vector["ignore_paths"]
            assert cleaned(verb, got[topic], ignored, want) == cleaned(verb, want, ignored, want), topic
