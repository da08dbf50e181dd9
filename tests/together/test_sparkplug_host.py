"""The hub as Sparkplug host on a real server: births, data, deaths, rebirths, restarts, floods and writes."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from simulators.brokers import BrokerProcess, mosquitto, until
from simulators.plants import Plant as Site
from simulators.sparkplug_node import SparkplugNode
from sqlmodel import select

from cloud_hub.access import tokens
from cloud_hub.app import HubApp
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AuditRow, Device, SparkplugWrite
from cloud_hub.database.tables import SparkplugNode as NodeRow
from cloud_hub.scada.host import SparkplugHost
from cloud_hub.scada.writes import WriteRequest
from cloud_hub.settings import Settings
from cloud_hub.telemetry import samples
from cloud_hub.twins import service as twins

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

pytestmark = pytest.mark.timeout(240)
PRESS = "plant-press"
RULE = {"device": PRESS, "metric": "setpoint", "low": 0, "high": 100, "verify_s": 0.8, "max_age_s": 60}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    broker = mosquitto(tmp_path_factory.mktemp("spb"))
    broker.start()
    yield broker
    broker.stop()


class Plant:
    """A host over a database file, and nodes on one server. The worker's timer runs in a thread."""

    def __init__(self, folder: Path, port: int, **spb: Any) -> None:
        self.folder, self.port, self.nodes = folder, port, []
        self.spb = {"host_id": "hub", "servers": [{"address": f"127.0.0.1:{port}"}]} | spb
        self.changed: set[str] = set()
        self._ended = threading.Event()
        self.start()

    def start(self) -> None:
        self.db = Database(f"sqlite:///{self.folder}/hub.sqlite")
        settings = Settings(state_dir=str(self.folder), sparkplug=self.spb)  # type: ignore[arg-type]
        self.host = SparkplugHost(self.db, settings, self.changed.update)
        self.host.start()
        self._ended = threading.Event()
        self._timer = threading.Thread(target=self._tick, args=(self.host, self._ended), daemon=True)
        self._timer.start()
        until("the host is connected", lambda: all(one.connected for one in self.host.status().servers))

    @staticmethod
    def _tick(host: SparkplugHost, ended: threading.Event) -> None:
        while not ended.wait(0.1):
            host.run_once()

    def stop(self) -> None:
        self._ended.set()
        self._timer.join()
        self.host.stop()
        self.db.close()

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        self.stop()

    def node(self, name: str, /, **values: Any) -> SparkplugNode:
        node = SparkplugNode(self.port, "plant", name, **values)
        self.nodes.append(node)
        return node.connect()

    def values(self, device: str, metric: str) -> list[Any]:
        with self.db.read() as session:
            return [one.text or one.value for one in samples.series(session, device, metric)]

    def state(self, device: str) -> str:
        with self.db.read() as session:
            row = session.get(Device, device)
            return "" if row is None else row.state

    def row(self, device: str) -> NodeRow:
        with self.db.read() as session:
            return session.exec(select(NodeRow).where(NodeRow.device == device)).one()

    def count(self, name: str) -> int:
        return self.host.status().counts.get(name, 0)

    def write(self, value: Any, *, metric: str = "setpoint", dry_run: bool = False) -> str:
        request = WriteRequest(device=PRESS, metric=metric, value=value, actor="anna", why="test", dry_run=dry_run)
        with self.db.write(PRESS) as session:
            row = self.host.writes.request(session, request, now_us())
        self.host.notify()
        return row.id

    def ended(self, write_id: str) -> SparkplugWrite:
        def done() -> SparkplugWrite | None:
            with self.db.read() as session:
                row = session.get(SparkplugWrite, write_id)
            return row if row is not None and row.done_us is not None else None

        return until("the write has ended", done)

    def desire(self, value: Any, actor: str = "anna") -> None:
        with self.db.write(PRESS) as session:
            wanted = {"metrics": {"setpoint": value}}
            twins.update_desired(session, PRESS, "sparkplug", wanted, now_us(), actor=actor, max_bytes=32768)
        self.host.devices_changed([PRESS])

    def audit(self) -> list[tuple[str, str]]:
        with self.db.read() as session:
            rows = session.exec(select(AuditRow).order_by(AuditRow.seq)).all()  # type: ignore[arg-type]
        return [(row.actor, row.kind) for row in rows if "write" in row.kind]


@pytest.fixture
def plant(tmp_path: Path, server: BrokerProcess, request: pytest.FixtureRequest) -> Iterator[Plant]:
    one = Plant(tmp_path, server.port, **getattr(request, "param", {}))
    yield one
    one.close()


writable = pytest.mark.parametrize("plant", [{"writable": [RULE]}], indirect=True)


def listen(port: int, topic: str) -> tuple[paho.Client, list[paho.MQTTMessage]]:
    found: list[paho.MQTTMessage] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="listener")
    client.on_message = lambda _c, _d, message: found.append(message)
    client.on_connect = lambda c, *_: c.subscribe(topic, 1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    return client, found


def test_a_node_is_born_reports_and_dies(plant: Plant) -> None:
    node = plant.node("press", speed=1.5, running=True, firmware="v1")
    until("the press is online", lambda: plant.state(PRESS) == "online")
    node.device_birth("drive", torque=3.0)
    node.data(speed=2.5)
    node.data("drive", torque=4.0)
    until("data came", lambda: plant.values(f"{PRESS}-drive", "torque") == [3.0, 4.0])
    assert plant.values(PRESS, "speed") == [1.5, 2.5]
    assert plant.values(PRESS, "firmware") == ["v1"]
    node.device_death("drive")
    until("the drive is offline", lambda: plant.state(f"{PRESS}-drive") == "offline")
    assert plant.state(PRESS) == "online"
    node.close()
    until("the Will is taken", lambda: plant.state(PRESS) == "offline")
    assert plant.changed == {PRESS, f"{PRESS}-drive"}
    assert plant.host.heard_us(PRESS) > 0


def test_a_death_of_an_older_session_is_ignored(plant: Plant) -> None:
    node = plant.node("press", speed=1.0)
    until("the press is online", lambda: plant.state(PRESS) == "online")
    node.bd_seq = 7
    node.publish(node.topic("NDEATH"), node._death())
    node.data(speed=2.0)
    until("data came", lambda: len(plant.values(PRESS, "speed")) == 2)
    assert plant.state(PRESS) == "online"


def test_the_host_says_that_it_is_online_and_when_it_ends(tmp_path: Path, server: BrokerProcess) -> None:
    client, found = listen(server.port, "spBv1.0/STATE/hub")
    plant = Plant(tmp_path, server.port)
    until("online", lambda: any(json.loads(one.payload)["online"] for one in found))
    plant.stop()
    until("offline", lambda: not json.loads(found[-1].payload)["online"])
    client.disconnect()
    client.loop_stop()


def test_a_gap_in_the_sequence_makes_the_host_ask_for_births(plant: Plant) -> None:
    node = plant.node("press", speed=1.0)
    until("the press is online", lambda: plant.state(PRESS) == "online")
    node.skip()
    node.data(speed=2.0)
    until("it is born again", lambda: node.born == 2)
    until("the request is counted", lambda: plant.row(PRESS).requested == 1)
    until("and the birth", lambda: plant.row(PRESS).births == 2)


def test_malformed_messages_are_refused_and_the_others_stored(plant: Plant) -> None:
    node = plant.node("press", speed=1.0)
    until("the press is online", lambda: plant.state(PRESS) == "online")
    for junk in (b"", b"\xff" * 50, b"{}", b"\x12\x7f"):
        node.publish(node.topic("NDATA"), junk)
        node.publish(node.topic("DBIRTH", "x"), junk)
    node.publish("spBv1.0/plant/NWRONG/press", b"")
    node.publish("spBv1.0/plant/NDATA/press/too/long", b"")
    node.data(speed=2.0)
    until("data came", lambda: 2.0 in plant.values(PRESS, "speed"))
    until("refusals are counted", lambda: plant.count("refused") > 0)
    assert plant.count("failures") == 0


def test_after_a_restart_of_the_hub_nodes_are_asked_for_their_births(plant: Plant) -> None:
    alive, gone = plant.node("press", speed=1.0), plant.node("lathe", speed=1.0)
    until("both are online", lambda: plant.state(PRESS) == plant.state("plant-lathe") == "online")
    plant.stop()
    gone.close()
    plant.start()
    assert plant.state("plant-lathe") == "online", "nobody told the hub"
    alive.data(speed=2.0)
    until("it is born again", lambda: alive.born == 2)
    until("and stored", lambda: plant.row(PRESS).births == 2)
    assert plant.values(PRESS, "speed")[0] == 1.0


def test_a_server_that_restarts_is_joined_again(tmp_path: Path) -> None:
    broker = mosquitto(tmp_path / "broker")
    broker.start()
    plant = Plant(tmp_path, broker.port)
    node = plant.node("press", speed=1.0)
    until("the press is online", lambda: plant.state(PRESS) == "online")
    node.close()
    broker.kill()
    until("the host knows", lambda: not plant.host.status().servers[0].connected)
    broker.start()
    until("the host is back", lambda: plant.host.status().servers[0].connected)
    node.connect()
    node.data(speed=5.0)
    until("data came", lambda: 5.0 in plant.values(PRESS, "speed"))
    plant.close()
    broker.stop()


def test_nodes_on_several_servers_belong_to_one_fleet(tmp_path: Path, server: BrokerProcess) -> None:
    other = mosquitto(tmp_path / "other")
    other.start()
    servers = [{"address": f"127.0.0.1:{port}"} for port in (server.port, other.port)]
    plant = Plant(tmp_path, server.port, servers=servers, writable=[RULE | {"device": "plant-lathe"}])
    plant.node("press", speed=1.0)
    lathe = SparkplugNode(other.port, "plant", "lathe", setpoint=1.0).connect()
    lathe.obeys = {"setpoint"}
    until("both are online", lambda: plant.state(PRESS) == plant.state("plant-lathe") == "online")
    assert plant.row("plant-lathe").server.endswith(str(other.port))
    request = WriteRequest(device="plant-lathe", metric="setpoint", value=9.0, actor="anna")
    with plant.db.write("plant-lathe") as session:
        row = plant.host.writes.request(session, request, now_us())
    assert plant.ended(row.id).state == "verified", "the command goes to the server of the node"
    lathe.close()
    plant.close()
    other.stop()


@pytest.mark.parametrize("plant", [{"node_rate": 20}], indirect=True)
def test_a_flooding_node_is_limited_and_the_others_are_heard(plant: Plant) -> None:
    flood, calm = plant.node("flood", speed=0.0), plant.node("press", speed=1.0)
    flood.rebirths = False
    until("both are online", lambda: plant.state(PRESS) == plant.state("plant-flood") == "online")
    for n in range(600):
        flood.data(speed=float(n), wait=False)
    calm.data(speed=2.0)
    until("the calm one is heard", lambda: 2.0 in plant.values(PRESS, "speed"))
    until("the flood is limited", lambda: plant.host.status().servers[0].limited > 0)
    assert len(plant.values("plant-flood", "speed")) < 300
    flood.close()
    until("its death is heard", lambda: plant.state("plant-flood") == "offline")


def test_the_certificate_and_the_access_list_of_broker_setup_are_enough(tmp_path: Path) -> None:
    site = Site.make(tmp_path)
    site.broker.start()
    ca = site.ca.path
    tls = {"ca": str(site.ca.certificate), "certificate": f"{ca}/spb.pem", "key": f"{ca}/spb.key"}
    plant = Plant(tmp_path, 0, servers=[{"address": f"localhost:{site.broker.port}", "tls": tls}])
    assert plant.host.status().servers[0].connected
    plant.stop()
    site.broker.stop()


def test_a_whole_hub_serves_its_plant_over_rest(tmp_path: Path, server: BrokerProcess) -> None:
    spb: Any = {
        "host_id": "hub", "servers": [{"address": f"127.0.0.1:{server.port}"}], "writable": [RULE],
        "groups": [{"group": "plant", "asset_path": "acme/a"}],
    }  # fmt: skip
    settings = Settings(
        state_dir=str(tmp_path),
        mqtt={"address": f"127.0.0.1:{server.port}"},
        discovery={"announce": False},
        sparkplug=spb,
    )  # type: ignore[arg-type]
    app = HubApp(settings)
    with app.db.write() as session:
        mine, theirs = (
            tokens.create(session, name, "operator", now_us(), "test", scope=(path,))
            for name, path in (("anna", "acme/a"), ("bob", "acme/b"))
        )
        whole = tokens.create(session, "carl", "viewer", now_us(), "test")
    node = SparkplugNode(server.port, "plant", "press", setpoint=1.0)
    node.obeys = {"setpoint"}
    with TestClient(app.rest(), base_url="http://hub/") as client:

        def ask(method: str, path: str, token: str, **more: Any) -> Any:
            return client.request(method, path, headers={"Authorization": f"Bearer {token}"}, **more)

        until("connected", lambda: ask("GET", "/api/v1/sparkplug", whole).json()["servers"][0]["connected"])
        node.connect()
        until(
            "listed", lambda: [one["device"] for one in ask("GET", "/api/v1/sparkplug/nodes", mine).json()] == [PRESS]
        )
        assert ask("GET", "/api/v1/sparkplug/nodes", theirs).json() == []
        path = f"/api/v1/sparkplug/nodes/{PRESS}"
        (metric,) = ask("GET", f"{path}/metrics?values=true", mine).json()
        assert (metric["metric"], metric["value"], metric["writable"], metric["stale"]) == (
            "setpoint",
            1.0,
            True,
            False,
        )
        body = {"device": PRESS, "metric": "setpoint", "value": 42}
        assert ask("POST", "/api/v1/sparkplug/writes", theirs, json=body).status_code == 404
        row = ask("POST", "/api/v1/sparkplug/writes", mine, json=body).json()
        written = f"/api/v1/sparkplug/writes/{row['id']}"
        until("verified", lambda: ask("GET", written, mine).json()["state"] == "verified")
        assert ask("GET", written, theirs).status_code == 404
        assert ask("PATCH", f"/api/v1/devices/{PRESS}/twin/name/sparkplug", mine,
                   json={"desired": {"metrics": {"setpoint": 17}}}).status_code == 200  # fmt: skip
        until("the leaf is written", lambda: node.values[""]["setpoint"] == 17.0)
        born = node.born
        assert ask("POST", f"{path}/rebirth", mine).json() == {"requested": True, "reason": ""}
        until("born again", lambda: node.born > born)
        assert ask("GET", f"/api/v1/devices/{PRESS}", mine).json()["reachable"]
        assert "tidegate_sparkplug_births_total" in ask("GET", "/metrics", whole).text
        assert ask("GET", "/healthz", whole).json()["failing_workers"] == []
        node.close()
        until("offline", lambda: ask("GET", f"/api/v1/devices/{PRESS}", mine).json()["state"] == "offline")


# -- writes -------------------------------------------------------------------------------------------


@writable
def test_a_write_is_sent_and_verified_by_what_the_node_reports(plant: Plant) -> None:
    node = plant.node("press", setpoint=1.0)
    node.obeys = {"setpoint"}
    until("the press is online", lambda: plant.state(PRESS) == "online")
    row = plant.ended(plant.write(42))
    assert (row.state, row.reason, row.read_back) == ("verified", "", 42.0)
    assert node.values[""]["setpoint"] == 42.0
    assert plant.audit() == [
        ("anna", "sparkplug.write.pending"), ("anna", "sparkplug.write.sent"), ("anna", "sparkplug.write.verified"),
    ]  # fmt: skip


@writable
def test_a_dry_run_sends_nothing(plant: Plant) -> None:
    node = plant.node("press", setpoint=1.0)
    until("the press is online", lambda: plant.state(PRESS) == "online")
    assert plant.ended(plant.write(42, dry_run=True)).state == "dry-run"
    assert plant.ended(plant.write(420, dry_run=True)).state == "refused"
    assert plant.ended(plant.write(42)).state == "failed"
    assert len(node.commands) == 1


@writable
def test_a_write_that_the_node_ignores_or_changes_fails(plant: Plant) -> None:
    node = plant.node("press", setpoint=1.0)
    until("the press is online", lambda: plant.state(PRESS) == "online")
    assert "it reported nothing" in plant.ended(plant.write(42)).reason
    node.obeys, node.applies = {"setpoint"}, {"setpoint": 7.0}
    row = plant.ended(plant.write(43))
    assert (row.state, row.read_back) == ("failed", 7.0)
    assert "it reported 7.0" in row.reason


@writable
def test_a_value_that_is_there_already_is_verified_at_the_deadline(plant: Plant) -> None:
    plant.node("press", setpoint=42.0)
    until("the press is online", lambda: plant.state(PRESS) == "online")
    assert plant.ended(plant.write(42)).state == "verified"


@writable
def test_refused_writes_say_why_and_are_audited(plant: Plant) -> None:
    node = plant.node("press", setpoint=1.0, other=1.0)
    until("the press is online", lambda: plant.state(PRESS) == "online")
    for value, metric, reason in (
        (420, "setpoint", "above high 100"), (1, "other", "not declared"), ("x", "setpoint", "no number"),
        (float("nan"), "setpoint", "finite"),
    ):  # fmt: skip
        row = plant.ended(plant.write(value, metric=metric))
        assert (row.state, reason in row.reason) == ("refused", True), row.reason
    node.close()
    until("the press is offline", lambda: plant.state(PRESS) == "offline")
    assert "offline" in plant.ended(plant.write(5)).reason
    assert plant.audit() == [("anna", "sparkplug.write.refused")] * 5
    assert node.commands == []


INTERLOCK = RULE | {"only_while": "running == 0"}


@pytest.mark.parametrize("plant", [{"writable": [INTERLOCK]}], indirect=True)
def test_an_interlock_needs_a_value_that_holds_and_is_fresh(plant: Plant) -> None:
    node = plant.node("press", setpoint=1.0, running=True)
    node.obeys = {"setpoint"}
    until("the press is online", lambda: plant.state(PRESS) == "online")
    until("its value is known", lambda: "running is 1" in plant.ended(plant.write(42, dry_run=True)).reason)
    node.data(running=False)
    until("it has stopped", lambda: plant.values(PRESS, "running")[-1] == 0.0)
    until("a write is allowed", lambda: plant.ended(plant.write(42, dry_run=True)).state == "dry-run")
    assert plant.ended(plant.write(42)).state == "verified"
    node.rebirths = False
    node.skip()
    node.data(setpoint=1.0)
    until("the gap is known", lambda: "running has no value" in plant.ended(plant.write(43)).reason)


@writable
def test_a_desired_leaf_is_one_write_with_its_progress_in_the_twin(plant: Plant) -> None:
    node = plant.node("press", setpoint=1.0)
    node.obeys = {"setpoint"}
    until("the press is online", lambda: plant.state(PRESS) == "online")
    plant.desire(17)
    until("it is written", lambda: node.values[""]["setpoint"] == 17.0)

    def progress() -> list[tuple[str, str]]:
        with plant.db.read() as session:
            return [(row.path, row.state) for row in twins.progress(session, PRESS)]

    until("and verified", lambda: progress() == [("metrics.setpoint", "verified")])
    with plant.db.read() as session:
        assert twins.reported(session, PRESS, "sparkplug")["metrics"]["setpoint"] == 17.0
    plant.host.devices_changed([PRESS])
    plant.desire(170)
    until("and refused", lambda: progress() == [("metrics.setpoint", "refused")])
    plant.stop()
    plant.start()
    until("births are asked for", lambda: plant.host.status().counts.get("messages", 0) >= 0)
    with plant.db.read() as session:
        rows = session.exec(select(SparkplugWrite)).all()
    assert sorted((row.state, row.origin, row.actor) for row in rows) == [
        ("refused", "twin", "anna"), ("verified", "twin", "anna"),
    ]  # fmt: skip


@writable
@pytest.mark.parametrize("owner", ["action:1", "job:1", "configuration:c", "learning:l", "hub", PRESS])
def test_a_leaf_that_no_person_set_is_refused(plant: Plant, owner: str) -> None:
    node = plant.node("press", setpoint=1.0)
    until("the press is online", lambda: plant.state(PRESS) == "online")
    plant.desire(17, actor=owner)

    def rows() -> list[SparkplugWrite]:
        with plant.db.read() as session:
            return list(session.exec(select(SparkplugWrite)))

    until("it is refused", rows)
    assert (rows()[0].state, "only a person" in rows()[0].reason) == ("refused", True)
    assert node.commands == []


@writable
def test_a_hub_that_ends_before_a_write_is_sent_does_not_send_it_later(plant: Plant) -> None:
    node = plant.node("press", setpoint=1.0)
    node.obeys = {"setpoint"}
    until("the press is online", lambda: plant.state(PRESS) == "online")
    plant.stop()
    request = WriteRequest(device=PRESS, metric="setpoint", value=42.0, actor="anna")
    plant.db = Database(f"sqlite:///{plant.folder}/hub.sqlite")
    with plant.db.write(PRESS) as session:
        row = plant.host.writes.request(session, request, now_us() - 60_000_000)
        assert row.state in {"pending", "refused"}
        row.state, row.done_us = "pending", None
        session.add(row)
        write_id = row.id
    plant.db.close()
    plant.start()
    assert plant.ended(write_id).state == "expired"
    assert node.values[""]["setpoint"] == 1.0
