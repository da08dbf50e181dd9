"""AWS's own clients, unmodified, against a real hub: the IoT Device SDK over mutual TLS on mosquitto, boto3 over REST.

Nobody here wrote these clients: what they take for an AWS shadow is one.
"""

from __future__ import annotations

import contextlib
import io
import json
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
import botocore.auth
import botocore.config
import botocore.crt.auth
import httpx
import pytest
from awscrt import mqtt, mqtt5
from awscrt.mqtt_request_response import ClientOptions, SubscriptionStatusEventType
from awsiot import ServiceStreamOptions, V2ServiceException, iotshadow, mqtt5_client_builder, mqtt_connection_builder
from botocore import UNSIGNED
from botocore.exceptions import ClientError
from simulators.brokers import documented_mosquitto, until
from simulators.certificates import certificates

from cloud_hub.__main__ import main
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device
from shared.protocol import topics
from shared.transport.mqtt import Connection, Options, Tls

pytestmark = pytest.mark.slow

WAIT_S = 10
SETTINGS = """
[mqtt.tls]
ca = "{folder}/ca.pem"
certificate = "{folder}/tidegate-hub.pem"
key = "{folder}/tidegate-hub.key"
[twins]
aws_alias = true
"""
CLIENTS = ("v1-mqtt3", "v1-mqtt5", "v2-mqtt3", "v2-mqtt5")
DEVICES = (*CLIENTS, "press-3", "native-1")


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory, around: Any) -> Any:
    """The broker of docs/broker.md, a hub with the alias on, and six known devices."""
    folder = tmp_path_factory.mktemp("plant")
    certificates(folder, "broker", "tidegate-hub", *DEVICES)
    world = around(documented_mosquitto(folder), SETTINGS.format(folder=folder))
    db = Database(f"sqlite:///{folder / 'hub' / 'hub.sqlite'}")
    with db.write() as session:
        session.add_all([Device(id=name) for name in DEVICES])
    db.close()
    world.broker.start()
    world.start_hub()
    until("the hub listens at the broker", lambda: world.http.get("../../healthz").json()["broker"])
    return world


# -- MQTT ------------------------------------------------------------------------------------------


class Rejected(Exception):
    """What either SDK makes of a rejected answer."""

    def __init__(self, code: int, message: str, token: str) -> None:
        super().__init__(message)
        self.code, self.message, self.token = code, message, token


def took(events: queue.Queue[Any]) -> Any:
    return events.get(timeout=WAIT_S)


@dataclass
class Sdk:
    """One client of the SDK for one thing. `deltas` and `documents` are of the document watched last."""

    thing: str
    client: Any
    end: Callable[[], None]

    def __post_init__(self) -> None:
        self.deltas: queue.Queue[Any] = queue.Queue()
        self.documents: queue.Queue[Any] = queue.Queue()
        self.streams: list[Any] = []
        self.answers: dict[tuple[str, str], queue.Queue[Any]] = {}

    def request(self, kind: str, name: str, **more: Any) -> Any:
        """`GetNamedShadowRequest` and its like."""
        return getattr(iotshadow, f"{kind}{'Named' if name else ''}Shadow{more.pop('end', 'Request')}")(
            thing_name=self.thing, **({"shadow_name": name} if name else {}), **more
        )

    def get(self, name: str = "") -> Any:
        return self.ask("get", name)

    def update(self, name: str = "", version: int | None = None, **state: Any) -> Any:
        return self.ask("update", name, state=iotshadow.ShadowState(**state), version=version)

    def delete(self, name: str = "") -> Any:
        return self.ask("delete", name)


class FirstSdk(Sdk):
    """IotShadowClient: subscribe to the answers, publish, and tell the answers apart by the client token."""

    def ask(self, verb: str, name: str, **more: Any) -> Any:
        token = f"{verb}-{name}-{len(self.answers)}"
        answers = self._answers(verb, name)
        request = self.request(verb.capitalize(), name, client_token=token, **more)
        publish = getattr(self.client, f"publish_{verb}_{'named_' if name else ''}shadow")
        publish(request, mqtt.QoS.AT_LEAST_ONCE).result(WAIT_S)
        answer = took(answers)
        assert answer.client_token == token
        if isinstance(answer, iotshadow.ErrorResponse):
            raise Rejected(answer.code, answer.message, answer.client_token)
        return answer

    def _answers(self, verb: str, name: str) -> queue.Queue[Any]:
        if (verb, name) not in self.answers:
            self.answers[verb, name] = queue.Queue()
            for outcome in ("accepted", "rejected"):
                subscribe = getattr(self.client, f"subscribe_to_{verb}_{'named_' if name else ''}shadow_{outcome}")
                request = self.request(verb.capitalize(), name, end="SubscriptionRequest")
                subscribe(request, mqtt.QoS.AT_LEAST_ONCE, self.answers[verb, name].put)[0].result(WAIT_S)
        return self.answers[verb, name]

    def watch(self, name: str = "") -> None:
        part = "named_" if name else ""
        for kind, events in (("DeltaUpdated", self.deltas), ("Updated", self.documents)):
            subscribe = getattr(
                self.client, f"subscribe_to_{part}shadow_{'delta_' if kind[0] == 'D' else ''}updated_events"
            )
            request = self.request("", name, end=f"{kind}SubscriptionRequest")
            subscribe(request, mqtt.QoS.AT_LEAST_ONCE, events.put)[0].result(WAIT_S)


class SecondSdk(Sdk):
    """IotShadowClientV2: one future a request; it makes the client tokens itself and waits for them to come back."""

    def ask(self, verb: str, name: str, **more: Any) -> Any:
        request = self.request(verb.capitalize(), name, **more)
        try:
            return getattr(self.client, f"{verb}_{'named_' if name else ''}shadow")(request).result(WAIT_S)
        except V2ServiceException as no:
            if no.modeled_error is None:
                raise no.inner_error or no from no
            raise Rejected(no.modeled_error.code, no.modeled_error.message, no.modeled_error.client_token) from no

    def watch(self, name: str = "") -> None:
        part = "named_" if name else ""
        for kind, events in (("DeltaUpdated", self.deltas), ("Updated", self.documents)):
            up: queue.Queue[Any] = queue.Queue()
            create = getattr(self.client, f"create_{part}shadow_{'delta_' if kind[0] == 'D' else ''}updated_stream")
            options = ServiceStreamOptions(incoming_event_listener=events.put, subscription_status_listener=up.put)
            stream = create(self.request("", name, end=f"{kind}SubscriptionRequest"), options)
            stream.open()
            self.streams.append(stream)
            assert took(up).type == SubscriptionStatusEventType.SUBSCRIPTION_ESTABLISHED


def over_mqtt3(**where: Any) -> tuple[Any, Callable[[], None]]:
    connection = mqtt_connection_builder.mtls_from_path(clean_session=True, **where)
    connection.connect().result(WAIT_S)
    return connection, lambda: connection.disconnect().result(WAIT_S)


def over_mqtt5(**where: Any) -> tuple[Any, Callable[[], None]]:
    up: queue.Queue[Any] = queue.Queue()
    down: queue.Queue[Any] = queue.Queue()
    client = mqtt5_client_builder.mtls_from_path(
        on_lifecycle_connection_success=up.put, on_lifecycle_connection_failure=up.put, on_lifecycle_stopped=down.put,
        **where,
    )  # fmt: skip
    client.start()
    assert isinstance(took(up), mqtt5.LifecycleConnectSuccessData)

    def end() -> None:
        client.stop()
        took(down)

    return client, end


@pytest.fixture(params=CLIENTS)
def sdk(request: pytest.FixtureRequest, plant: Any) -> Iterator[Any]:
    """One of the four: either generation of the SDK over either version of MQTT."""
    thing: str = request.param
    folder: Path = plant.folder
    connect = over_mqtt3 if thing.endswith("3") else over_mqtt5
    connection, end = connect(
        endpoint="localhost", port=plant.broker.port, ca_filepath=str(folder / "ca.pem"), client_id=thing,
        cert_filepath=str(folder / f"{thing}.pem"), pri_key_filepath=str(folder / f"{thing}.key"),
    )  # fmt: skip
    made: Sdk
    if thing.startswith("v1"):
        made = FirstSdk(thing=thing, client=iotshadow.IotShadowClient(connection), end=end)
    else:
        options = ClientOptions(
            max_request_response_subscriptions=8, max_streaming_subscriptions=8, operation_timeout_in_seconds=WAIT_S
        )  # fmt: skip
        made = SecondSdk(thing=thing, client=iotshadow.IotShadowClientV2(connection, options), end=end)
    yield made
    end()


def refused(ask: Callable[[], Any]) -> tuple[int, str]:
    with pytest.raises(Rejected) as no:
        ask()
    assert no.value.token
    return no.value.code, no.value.message


def test_a_shadow_lives_through_the_sdk(plant: Any, sdk: Any) -> None:
    """Get (404 first), reported, desired with its delta and documents, conflict, REST's change, named, delete."""
    assert refused(sdk.get) == (404, f"No shadow exists with name: '{sdk.thing}'")
    sdk.watch()
    assert sdk.update(reported={"speed": 1, "mode": "auto"}).version == 1
    first = took(sdk.documents)
    assert (first.previous, first.current.version) == (None, 1)
    accepted = sdk.update(desired={"speed": 2}, version=1)
    assert (accepted.state.desired, accepted.state.reported, accepted.version) == ({"speed": 2}, None, 2)
    assert accepted.timestamp.timestamp() == pytest.approx(time.time(), abs=60)
    delta, documents = took(sdk.deltas), took(sdk.documents)
    assert (delta.state, delta.version, delta.client_token) == ({"speed": 2}, 2, accepted.client_token)
    assert (documents.previous.version, documents.current.version) == (1, 2)
    assert documents.current.state.reported == {"speed": 1, "mode": "auto"}
    assert refused(lambda: sdk.update(desired={"speed": 3}, version=1)) == (409, "Version conflict")

    # the two sides meet: a person's change over REST arrives here, and what is reported here is seen over REST
    path = f"/devices/{sdk.thing}/twin"
    assert plant.http.patch(path, json={"desired": {"speed": 5}}).json()["version"] == 3
    assert (took(sdk.deltas).state, took(sdk.documents).current.version) == ({"speed": 5}, 3)
    sdk.update(reported={"speed": 5})
    assert took(sdk.documents).current.version == 4
    seen = plant.get(path)
    assert seen["state"] == {"desired": {"speed": 5}, "reported": {"speed": 5, "mode": "auto"}}
    whole = sdk.get()
    assert (whole.state.reported, whole.state.delta, whole.version) == (seen["state"]["reported"], None, 4)

    # whoever touched desired state is in the audit trail: the device itself, then the person
    rows = plant.get("/audit", device=sdk.thing)["rows"]
    assert [(row["actor"], row["kind"], row["detail"]["version"]) for row in rows] == [
        ("tester", "twin.desired", 3), (sdk.thing, "twin.desired", 2),
    ]  # fmt: skip

    sdk.watch("gates")
    assert refused(lambda: sdk.get("gates")) == (404, "No shadow exists with name: 'gates'")
    assert sdk.update("gates", desired={"a": 1}).version == 1
    assert (took(sdk.deltas).state, took(sdk.documents).current.version) == ({"a": 1}, 1)
    assert sdk.get("gates").state.delta == {"a": 1}
    assert sdk.delete("gates").version == 1
    assert sdk.delete().version == 4
    assert refused(sdk.delete)[0] == 404
    assert sdk.update(reported={"speed": 0}).version > 4, "a deleted shadow's number counts on"


def test_limits_of_the_alias(sdk: Any) -> None:
    assert refused(lambda: sdk.update("big", reported={"a": "x" * 8192})) == (
        413, "The payload exceeds the maximum size allowed",
    )  # fmt: skip
    assert refused(lambda: sdk.update("deep", reported={"a": {"b": {"c": {"d": {"e": {"f": {}}}}}}})) == (
        400, "JSON contains too many levels of nesting; maximum is 6",
    )  # fmt: skip


def test_a_tidegate_device_and_an_aws_client_see_each_others_changes(plant: Any) -> None:
    """A connection of Tidegate's own on the native prefix; boto3 in the place of the AWS client."""
    folder, heard = plant.folder, queue.Queue[Any]()
    tls = Tls(ca=f"{folder}/ca.pem", certificate=f"{folder}/native-1.pem", key=f"{folder}/native-1.key")
    up: queue.Queue[None] = queue.Queue()
    filters = [topics.shadow("native-1", "", verb, prefix)
               for verb in ("update/delta", "update/accepted") for prefix in (topics.PREFIX, topics.AWS)]  # fmt: skip
    native = Connection(
        Options(client_id="native-1", filters=filters, tls=tls), lambda: ("127.0.0.1", plant.broker.port),
        on_message=heard.put, on_up=lambda: up.put(None), on_down=lambda _: None,
    )  # fmt: skip
    native.start()
    try:
        took(up)
        data_plane(plant, credentials(plant, "meets", "operator")).update_thing_shadow(
            thingName="native-1", payload=json.dumps({"state": {"desired": {"a": 1}}})
        )
        arrived = {took(heard).topic for _ in range(3)}
        assert arrived == {filters[0], filters[1], topics.shadow("native-1", "", "update/accepted")}
        native.publish(topics.shadow("native-1", "", "update", topics.AWS), b'{"state": {"reported": {"a": 2}}}')
        arrived = {took(heard).topic for _ in range(3)}
        assert arrived == {filters[0], filters[1], topics.shadow("native-1", "", "update/accepted", topics.AWS)}
        assert heard.empty()
    finally:
        native.stop()


def test_a_device_reads_and_writes_its_own_shadow_only(plant: Any, boto: Any) -> None:
    """The access list of docs/broker.md, with press-3's certificate and native-1's topics."""
    folder, heard = plant.folder, queue.Queue[Any]()
    up: queue.Queue[None] = queue.Queue()
    tls = Tls(ca=f"{folder}/ca.pem", certificate=f"{folder}/press-3.pem", key=f"{folder}/press-3.key")
    curious = Connection(
        Options(client_id="press-3", filters=["$aws/things/+/shadow/#", "$aws/#"], tls=tls),
        lambda: ("127.0.0.1", plant.broker.port),
        on_message=heard.put, on_up=lambda: up.put(None), on_down=lambda _: None,
    )  # fmt: skip
    curious.start()
    try:
        took(up)
        curious.publish(topics.shadow("native-1", "mine", "update", topics.AWS), state(desired={"a": "taken"}))
        boto.update_thing_shadow(thingName="native-1", shadowName="other", payload=state(desired={"a": 1}))
        curious.publish(topics.shadow("press-3", "", "get", topics.AWS), b"")
        while not (message := took(heard)).topic.startswith("$aws/things/press-3/shadow/get/"):
            assert message.topic == "$aws/things/press-3/shadow/get"
        with pytest.raises(boto.exceptions.ResourceNotFoundException):
            boto.get_thing_shadow(thingName="native-1", shadowName="mine")
    finally:
        curious.stop()
        boto.delete_thing_shadow(thingName="native-1", shadowName="other")


# -- REST ------------------------------------------------------------------------------------------


def credentials(plant: Any, name: str, role: str) -> dict[str, str]:
    """An AWS key pair, as `tidegate-hub token create --aws` prints it."""
    config = str(plant.folder / "hub.toml")
    command = ["token", "create", "--name", name, "--role", role, "--aws", "--config", config]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(command) == 0
    token, *lines = out.getvalue().splitlines()
    assert token.startswith("tg_")
    return dict(line.split(" = ") for line in lines)


def data_plane(plant: Any, keys: dict[str, str], **config: Any) -> Any:
    options = botocore.config.Config(retries={"total_max_attempts": 1}, **config)
    return boto3.client(
        "iot-data", region_name="eu-central-1", endpoint_url=f"http://127.0.0.1:{plant.rest}", config=options, **keys
    )


@pytest.fixture(scope="module")
def keys(plant: Any) -> dict[str, str]:
    return credentials(plant, "boto", "operator")


@pytest.fixture
def boto(plant: Any, keys: dict[str, str]) -> Any:
    return data_plane(plant, keys)


def body(answer: Any) -> Any:
    return json.loads(answer["payload"].read())


def state(**sections: Any) -> bytes:
    return json.dumps({"state": sections}).encode()


def test_boto3_reads_and_writes_documents(plant: Any, boto: Any) -> None:
    thing = {"thingName": "press-3"}
    with pytest.raises(boto.exceptions.ResourceNotFoundException, match="No shadow exists with name: 'press-3'"):
        boto.get_thing_shadow(**thing)
    first = body(boto.update_thing_shadow(**thing, payload=state(desired={"a": 1}, reported={"a": 0})))
    assert (first["version"], first["state"]) == (1, {"desired": {"a": 1}, "reported": {"a": 0}})
    assert body(boto.get_thing_shadow(**thing))["state"]["delta"] == {"a": 1}
    assert plant.get("/devices/press-3/twin")["version"] == 1
    with pytest.raises(boto.exceptions.ConflictException, match="Version conflict"):
        boto.update_thing_shadow(**thing, payload=b'{"state": {"desired": {"a": 2}}, "version": 7}')
    with pytest.raises(boto.exceptions.RequestEntityTooLargeException):
        boto.update_thing_shadow(**thing, payload=state(desired={"a": "x" * 8192}))
    with pytest.raises(boto.exceptions.RequestEntityTooLargeException):
        boto.update_thing_shadow(**thing, payload=state(desired={"a": "x" * 2_000_000}))
    with pytest.raises(boto.exceptions.InvalidRequestException, match="Missing required node: state"):
        boto.update_thing_shadow(**thing, payload=b"{}")
    with pytest.raises(boto.exceptions.UnsupportedDocumentEncodingException):
        boto.update_thing_shadow(**thing, payload=b'{"state": {"desired": {"a": "\xff"}}}')
    with pytest.raises(boto.exceptions.ResourceNotFoundException, match="Thing not found"):
        boto.get_thing_shadow(thingName="nobody")
    named = thing | {"shadowName": "a:b_c-D"}
    assert body(boto.update_thing_shadow(**named, payload=state(desired={"n": 1})))["version"] == 1
    assert body(boto.delete_thing_shadow(**named))["version"] == 1
    assert body(boto.delete_thing_shadow(**thing))["version"] == 1
    rows = plant.get("/audit", device="press-3")["rows"]
    assert [(row["actor"], row["kind"], row["subject"]) for row in rows] == [
        ("boto", "twin.deleted", "twin"), ("boto", "twin.deleted", "twin 'a:b_c-D'"),
        ("boto", "twin.desired", "twin 'a:b_c-D'"), ("boto", "twin.desired", "twin"),
    ]  # fmt: skip


def test_boto3_lists_named_documents_by_pages(boto: Any) -> None:
    thing = {"thingName": "native-1"}
    for name in ("e", "b", "a", "d", "c"):
        boto.update_thing_shadow(**thing, shadowName=name, payload=state(reported={"a": 1}))
    boto.delete_thing_shadow(**thing, shadowName="d")
    assert boto.list_named_shadows_for_thing(**thing)["results"] == ["a", "b", "c", "e"]
    first = boto.list_named_shadows_for_thing(**thing, pageSize=2)
    assert first["results"] == ["a", "b"]
    last = boto.list_named_shadows_for_thing(**thing, pageSize=2, nextToken=first["nextToken"])
    assert (last["results"], last.get("nextToken")) == (["c", "e"], None)
    assert abs(last["timestamp"] - time.time()) < 60
    with pytest.raises(boto.exceptions.InvalidRequestException, match="pageSize"):
        boto.list_named_shadows_for_thing(**thing, pageSize=101)
    with pytest.raises(boto.exceptions.ResourceNotFoundException, match="Thing not found"):
        boto.list_named_shadows_for_thing(thingName="nobody")


def denied(client: Any, call: str = "get", **more: Any) -> str:
    with pytest.raises(ClientError) as no:
        getattr(client, f"{call}_thing_shadow")(thingName="press-3", **more)
    assert no.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    code: str = no.value.response["Error"]["Code"]
    return code


def test_who_is_not_signed_in_is_403(plant: Any, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = data_plane(plant, keys | {"aws_secret_access_key": "x" * 64})
    assert denied(wrong) == "SignatureDoesNotMatch"
    assert denied(wrong, "update", payload=state(desired={"a": 1})) == "SignatureDoesNotMatch"
    assert denied(data_plane(plant, {}, signature_version=UNSIGNED)) == "MissingAuthenticationTokenException"
    unknown = data_plane(plant, keys | {"aws_access_key_id": "0" * 36})
    assert denied(unknown) == "UnrecognizedClientException"
    viewer = data_plane(plant, credentials(plant, "looks", "viewer"))
    assert denied(viewer, "update", payload=state(desired={"a": 1})) == "ForbiddenException"
    gone = data_plane(plant, credentials(plant, "leaves", "operator"))
    gone.list_named_shadows_for_thing(thingName="press-3")
    assert main(["token", "revoke", "--name", "leaves", "--config", str(plant.folder / "hub.toml")]) == 0
    assert denied(gone) == "UnrecognizedClientException"
    for minutes in (-6, 6):
        at = datetime.now(timezone.utc) + timedelta(minutes=minutes)
        for signer in (botocore.auth, botocore.crt.auth):  # with awscrt installed, botocore signs with it
            monkeypatch.setattr(signer, "get_current_datetime", lambda at=at, **_: at)
        assert denied(data_plane(plant, keys)) == "RequestTimeTooSkewed"
    answer = httpx.get(
        f"http://127.0.0.1:{plant.rest}/things/press-3/shadow", headers=dict(plant.http.headers), timeout=60
    )
    assert (answer.status_code, set(answer.json())) == (403, {"message"}), "a bearer token opens this door too"
