"""openapi.json is whole: a client that is generated from it works for every route, and every refusal is described."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from typing import Any, get_type_hints

import pytest
from simulators.rest import RestHub, rest_hub

from cloud_hub.api.routes import create_rest_app
from cloud_hub.clock import now_us
from cloud_hub.incidents import service as incidents
from cloud_hub.twins import service as twins
from shared.protocol.messages import Alarm

DESCRIBED = create_rest_app().openapi()
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, methods in DESCRIBED["paths"].items()
    for method, operation in methods.items()
}
BINARY = ("application/vnd.apache.parquet", "application/pkcs10", "application/x-protobuf")
IDS = {"device": "press-3", "metric": "cpu.load", "name": "gates", "alarm_id": "a1", "thing": "press-3"}
QUERIES = {"k": 3, "quantile": 0.5, "metric": "cpu.load", "device": "press-3", "nonce": "A" * 22}
BODIES: dict[str, Any] = {
    "query_run_query": {"query": "SELECT id FROM devices"}, "alarms_acknowledge": {"comment": "seen"},
    "jobs_preview": {"query": "id = 'press-3'", "kind": "twin", "content": {"a": 1}},
    "tokens_create": {"name": "generated", "roles": ["viewer"]},
}  # fmt: skip
"""Where the smallest body that fits the schema would not be a sensible one."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestHub]:
    with rest_hub(tmp_path_factory.mktemp("rest")) as one:
        with one.db.write() as session:
            for name in ("", "gates"):
                twins.update_desired(session, "press-3", name, {"a": 1}, now_us(), actor="test", max_bytes=32768)
            alarm = Alarm(id="a1", metric="cpu.load", kind="high", state="raised", priority="high", t_us=now_us(),
                          value=9, limit=2)  # fmt: skip
            incidents.handle_alarm(session, "press-3", alarm, now_us(), "")
        yield one


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The client's package, as `openapi-python-client` makes it."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "openapi.json").write_text(json.dumps(DESCRIBED), "utf-8")
    overrides = dict.fromkeys(BINARY, "application/octet-stream")
    (folder / "config.json").write_text(json.dumps({"content_type_overrides": overrides, "post_hooks": []}), "utf-8")
    made = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json", "--output-path",
         "tidegate_generated", "--meta", "none", "--config", "config.json", "--fail-on-warning"],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    sys.path.insert(0, str(folder))
    yield importlib.import_module("tidegate_generated")
    sys.path.remove(str(folder))


def smallest(schema: dict[str, Any]) -> Any:
    """The smallest value of a JSON schema of ours."""
    if "$ref" in schema:
        return smallest(DESCRIBED["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return smallest(schema["anyOf"][0])
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: smallest(schema["properties"][name]) for name in schema.get("required", [])}
    if kind == "array":
        return [smallest(schema["items"])] * schema.get("minItems", 0)
    return {"string": "x" * schema.get("minLength", 1), "integer": schema.get("minimum", 1), "number": 1.0,
            "boolean": True}[kind]  # fmt: skip


def arguments_of(operation: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in operation.get("parameters", []):
        if one["in"] == "path":
            found[one["name"]] = IDS.get(one["name"], "none")
        elif one.get("required"):
            found[one["name"]] = QUERIES[one["name"]]
    return found


def arguments(generated: Any, call: Any, operation: dict[str, Any]) -> dict[str, Any]:
    found = arguments_of(operation)
    if "requestBody" in operation:
        kind = get_type_hints(call)["body"]
        (media, described), *_ = operation["requestBody"]["content"].items()
        body = BODIES.get(operation["operationId"]) or smallest(described["schema"])
        if media in BINARY:
            found["body"] = importlib.import_module(f"{generated.__name__}.types").File(payload=BytesIO(b"x"))
        else:
            found["body"] = kind.from_dict(body)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OPERATIONS, key=lambda name: (OPERATIONS[name][0] == "delete", name)))
def test_a_generated_client_works_for_every_route(hub: RestHub, generated: Any, name: str) -> None:
    """Routes that a bearer token opens succeed or say why not, in the form that is described; others say who may."""
    method, path, operation = OPERATIONS[name]
    call = importlib.import_module(f"{generated.__name__}.api.{operation['tags'][0]}.{name}").sync_detailed
    url = f"http://127.0.0.1:{hub.port}"
    with generated.AuthenticatedClient(url, hub.token, raise_on_unexpected_status=True) as client:
        answer = call(client=client, **arguments(generated, call, operation))
    assert str(answer.status_code.value) in operation["responses"]
    described = operation["responses"][str(answer.status_code.value)].get("content", {})
    if answer.content and described and "text/plain" not in described:  # the generator parses no plain text
        assert answer.parsed is not None or answer.content == b"null"
    if method == "get" and operation["security"] == [{"token": []}] and "none" not in arguments_of(operation).values():
        assert answer.status_code.value == 200, path
    if answer.status_code.value >= 400:
        error = getattr(answer.parsed, "error", answer.parsed)  # OpenAI's form
        problem = getattr(error, "detail", None) or getattr(error, "message", None)
        assert problem


def test_every_route_says_who_may_ask_and_how_it_refuses() -> None:
    for name, (_, path, operation) in OPERATIONS.items():
        if path.startswith("/api/v1/"):
            assert operation["security"] == [{"token": []}], name
        codes = set(operation["responses"])
        if operation["security"]:
            assert {"403", "429", "503"} <= codes, name
        if "requestBody" in operation:
            assert "413" in codes, name
        for code in codes:
            if code >= "400":
                (media,) = operation["responses"][code]["content"]
                foreign = "sigv4" in str(operation["security"]) or path.startswith(("/v1/chat/", "/v1/models"))
                assert media == ("application/json" if foreign else "application/problem+json")


def test_names_are_used_once() -> None:
    assert len(OPERATIONS) == sum(map(len, DESCRIBED["paths"].values()))
    schemas = DESCRIBED["components"]["schemas"]
    titles = Counter(schema.get("title", name) for name, schema in schemas.items())
    assert [title for title, count in titles.items() if count > 1] == []
    assert [name for name in schemas if not name.isidentifier()] == []


@pytest.mark.parametrize(("path", "status", "known"), [
    ("/api/v1/devices?limti=3", 422, "where"), ("/api/v1/audit?sinse=1", 422, "since_us, until_us, actor"),
    ("/api/v1/devices/press-3/twin?name=gates", 422, "none"), ("/healthz?now=1", 200, ""),
])  # fmt: skip
def test_a_parameter_that_a_route_does_not_have_is_refused(hub: RestHub, path: str, status: int, known: str) -> None:
    import httpx

    answer = httpx.get(
        f"http://127.0.0.1:{hub.port}{path}", headers={"Authorization": f"Bearer {hub.token}"}, timeout=60
    )
    assert answer.status_code == status
    assert known in answer.text
    if status != 200:
        assert httpx.get(f"http://127.0.0.1:{hub.port}{path}", timeout=60).status_code == 401
