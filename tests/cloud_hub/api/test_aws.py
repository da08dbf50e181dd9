"""AWS's data plane over REST, signed by botocore: who may do what, and errors that AWS's clients understand.

boto3 itself plays on a running hub in tests/together/test_aws_clients.py.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from simulators.actions import action_service
from simulators.rest_app import RestApp, shared_app

from cloud_hub.access import tokens
from cloud_hub.api.dependencies import Hub
from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.security import aws_key
from cloud_hub.settings import Settings
from cloud_hub.twins import service as twins
from shared.ids import device_of_thing
from shared.protocol import topics
from shared.protocol.codec import MAX_PAYLOAD

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

NOW = 1_700_000_000_000_000
SHADOW = "/things/press-3/shadow"
LIST = "/api/things/shadow/ListNamedShadowsForThing/press-3"
ROUTES = {("GET", SHADOW): "read", ("POST", SHADOW): "operate", ("DELETE", SHADOW): "operate", ("GET", LIST): "read"}
Role = Literal["viewer", "operator", "auditor", "admin"]


class World:
    """The routes over a real database; each role has a key pair."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(state_dir=str(folder))
        self.path = settings.aws_key_path
        self.db = Database(settings.database_url)
        self.published: list[OutgoingMessage] = []
        self.notified: list[str] = []
        hub = Hub(
            settings=settings,
            db=self.db,
            publish=self.published.extend,
            notify=self.notified.append,
            actions=action_service(),
            connected=lambda: True,
        )
        self.client = TestClient(RestApp(hub), raise_server_exceptions=False, base_url="http://hub.example:8080")
        with self.db.write() as session:
            session.add(Device(id="press-3"))
            self.ids = {
                role: tokens.find(session, tokens.create(session, f"the {role}", role, NOW, "test"), NOW).id
                for role in tokens.MAY
            }  # type: ignore[misc]

    def ask(self, method: str, path: str, role: str = "operator", body: bytes = b"", key: bytes | None = None) -> Any:
        """A signed request, sent just as it was signed."""
        key_id = self.ids[role]
        pair = Credentials(key_id, aws_key.secret(key or aws_key.create(self.path), key_id))
        made = AWSRequest(method, f"http://hub.example:8080{path}", {"Host": "hub.example:8080"}, body)
        SigV4Auth(pair, "iotdata", "eu-central-1").add_auth(made)
        return self.client.request(method, path, headers=dict(made.headers.items()), content=body)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    yield one
    one.client.close()
    one.db.close()


def refused(answer: Any, status: int, kind: str) -> str:
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (status, kind), answer.text
    assert set(answer.json()) == {"message"}
    message: str = answer.json()["message"]
    return message


def state(**more: Any) -> bytes:
    return json.dumps({"state": {"desired": {"a": 1}}} | more).encode()


def test_the_table_of_routes_is_exhaustive() -> None:
    found = {
        (method.upper(), path.replace("{thing}", "press-3"))
        for path, methods in shared_app().openapi()["paths"].items() for method in methods
    }  # fmt: skip
    assert {
        route
        for route in found
        if not route[1].startswith(("/api/v1/", "/v1/", "/healthz", "/metrics", "/.well-known/"))
    } == set(ROUTES)


def test_each_role_may_what_its_token_may(world: World) -> None:
    for (method, path), power in ROUTES.items():
        for role, powers in tokens.MAY.items():
            answer = world.ask(method, path, role, state() if method == "POST" else b"")
            if power in powers:
                assert answer.status_code in {200, 404}
            else:
                assert refused(answer, 403, "ForbiddenException") == f"role '{role}' may not {power}"


def test_a_change_is_published_and_audited_under_the_tokens_name(world: World) -> None:
    answer = world.ask("POST", f"{SHADOW}?name=gates", "operator", state(clientToken="t"))
    assert answer.headers["content-type"] == "application/json"
    assert (answer.json()["version"], answer.json()["clientToken"]) == (1, "t")
    head = "tidegate/v1/things/press-3/shadow/name/gates/update"
    assert [m.topic for m in world.published] == [f"{head}/accepted", f"{head}/delta", f"{head}/documents"]
    assert world.notified == ["actions"]
    with world.db.read() as session:
        (row,) = trail.rows(session, kind="twin.desired")
        assert (row.actor, row.device, row.subject) == ("the operator", "press-3", "twin 'gates'")
        assert twins.load(session, "press-3", "gates").state == {"desired": {"a": 1}}


@pytest.mark.parametrize(("path", "body", "status", "kind", "message"), [
    (SHADOW, b"{", 400, "InvalidRequestException", "Invalid JSON"),
    (f"{SHADOW}?name=a%2Fb", state(), 400, "InvalidRequestException", "Invalid shadow name: 'a/b'"),
    (f"{SHADOW}?name=", state(), 400, "InvalidRequestException", "Invalid shadow name: ''"),
    ("/things/nobody/shadow", state(), 404, "ResourceNotFoundException", "Thing not found"),
    ("/things/%00/shadow", state(), 404, "ResourceNotFoundException", "Thing not found"),
    (SHADOW, state(version=3), 409, "ConflictException", "Version conflict"),
    (SHADOW, b'{"state":{"reported":"' + b"x" * 9000 + b'"}}', 400, "InvalidRequestException",
     "Reported node must be an object"),
    (SHADOW, b'{"state":{"reported":{"a":"' + b"x" * 9000 + b'"}}}', 413, "RequestEntityTooLargeException",
     "The payload exceeds the maximum size allowed"),
    (SHADOW, b" " * (MAX_PAYLOAD + 1), 413, "RequestEntityTooLargeException",
     "The payload exceeds the maximum size allowed"),
    (SHADOW, b'"\xff"', 415, "UnsupportedDocumentEncodingException",
     "Unsupported documented encoding; supported encoding is UTF-8"),
])  # fmt: skip
def test_what_the_twin_refuses(world: World, path: str, body: bytes, status: int, kind: str, message: str) -> None:
    assert refused(world.ask("POST", path, body=body), status, kind) == message
    assert not world.published
    assert not world.notified


@pytest.mark.parametrize("query", ["pageSize=0", "pageSize=101", "pageSize=x", "pageSize=", "pageSize=%D9%A1",
                                   "pageSize=-1", "nextToken=a%2Fb", "nextToken=%00"])  # fmt: skip
def test_bad_pages(world: World, query: str) -> None:
    message = refused(world.ask("GET", f"{LIST}?{query}"), 400, "InvalidRequestException")
    assert query.partition("=")[0] in message


def test_no_key_no_entrance(world: World) -> None:
    """While no secret was handed out there is none to guess; another key gives other secrets."""
    answer = world.ask("GET", LIST, key=b"\0" * 32)
    refused(answer, 403, "UnrecognizedClientException")
    assert not world.path.exists(), "asking makes no key"
    assert world.ask("GET", LIST).status_code == 200
    refused(world.ask("GET", LIST, key=b"\0" * 32), 403, "SignatureDoesNotMatch")


def test_a_revoked_token_signs_nothing(world: World) -> None:
    with world.db.write() as session:
        tokens.revoke_by_name(session, "the viewer", NOW, "test")
    refused(world.ask("GET", LIST, "viewer"), 403, "UnrecognizedClientException")


def test_an_expired_token_signs_nothing(world: World) -> None:
    with world.db.write() as session:
        text = tokens.create(session, "late", "viewer", NOW, "test", expires_us=NOW + 1)
        world.ids["late"] = tokens.find(session, text, NOW).id
    refused(world.ask("GET", LIST, "late"), 403, "UnrecognizedClientException")


def test_a_scope_holds_here_too(world: World) -> None:
    with world.db.write() as session:
        session.add(Device(id="lathe-7", assigned_path="acme/b"))
        session.get_one(Device, "press-3").assigned_path = "acme/a/hall-2"
        text = tokens.create(session, "of b", "operator", NOW, "test", scope=("acme/b",))
        world.ids["of b"] = tokens.find(session, text, NOW).id
    for method, path in ROUTES:
        body = state() if method == "POST" else b""
        there, none = (world.ask(method, path.replace("press-3", id_), "of b", body) for id_ in ("press-3", "none"))
        assert refused(there, 404, "ResourceNotFoundException") == refused(
            none, 404, "ResourceNotFoundException"
        ).replace("none", "press-3")
    assert world.ask("POST", "/things/lathe-7/shadow", "of b", state()).status_code == 200


def test_guessing_a_secret_is_locked_out(world: World) -> None:
    assert world.ask("GET", LIST).status_code == 200
    for _ in range(5):
        refused(world.ask("GET", LIST, key=b"\0" * 32), 403, "SignatureDoesNotMatch")
    refused(world.ask("GET", LIST), 429, "ThrottlingException")


def test_unsigned_and_bearer_requests_are_refused(world: World) -> None:
    for method, path in ROUTES:
        refused(world.client.request(method, path), 403, "MissingAuthenticationTokenException")
        bearer = {"Authorization": "Bearer tg_x"}
        refused(world.client.request(method, path, headers=bearer), 403, "IncompleteSignatureException")


@pytest.mark.parametrize("thing", ["Press:3", "PRESS_3", "-press"])
def test_things_and_shadows_are_named_as_aws_allows(world: World, thing: str) -> None:
    with world.db.write() as session:
        session.add(Device(id=device_of_thing(thing)))
    path = f"/things/{quote(thing, safe='')}/shadow"
    answer = world.ask("GET", path)
    assert (answer.status_code, answer.json()) == (404, {"message": f"No shadow exists with name: '{thing}'"})
    body = b'{"state": {"desired": {"a": 1}}}'
    assert world.ask("POST", path, body=body).status_code == 200
    assert world.ask("POST", f"{path}?name=%24live", body=body).status_code == 200
    assert world.ask("GET", f"{path}?name=%24live").json()["state"]["desired"] == {"a": 1}
    listed = world.ask("GET", f"/api/things/shadow/ListNamedShadowsForThing/{quote(thing, safe='')}").json()
    assert listed["results"] == ["$live"]
    sent = {topic for one in world.published if (topic := topics.twin_topic(one.topic))}
    assert f"$aws/things/{thing}/shadow/update/delta" in sent
    assert f"$aws/things/{thing}/shadow/name/$live/update/delta" in sent
