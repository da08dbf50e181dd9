"""From nothing to an enrolled device on mutual TLS over mosquitto: renewal, signed commands, revocation, rejoin."""

from __future__ import annotations

import json
import queue
import signal
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from simulators.brokers import mutual_mosquitto, until
from simulators.enrolment import enrolment_hub

from cloud_hub import __main__
from cloud_hub.audit import trail
from cloud_hub.certificates.core.authority import Revoked
from cloud_hub.certificates.files import CaFolder
from cloud_hub.database.sessions import Database
from edge_agent import clock
from edge_agent.link.core import hub_time
from edge_agent.link.pki import DeviceIdentity
from edge_agent.link.trust import TrustManager, enrol
from shared.transport.mqtt import Connection, Inbound, Options, Tls

World = Any
SETTINGS = """
[mqtt.tls]
ca = "{folder}/hub/ca/ca.pem"
certificate = "{folder}/tidegate-hub.pem"
key = "{folder}/tidegate-hub.key"
[rest.tls]
certificate = "{folder}/rest.pem"
key = "{folder}/rest.key"
[ca]
device_days = 0.01
"""


class Between:
    """Sits in the broker: sees every command and can send what it likes."""

    def __init__(self, tls: Tls, port: int) -> None:
        self.seen: queue.Queue[Inbound] = queue.Queue()
        self.ready: queue.Queue[str] = queue.Queue()
        self.connection = Connection(
            Options(client_id="between", filters=["tidegate/v1/things/+/commands/#"], tls=tls),
            lambda: ("127.0.0.1", port), on_message=self.seen.put, on_up=lambda: self.ready.put(""),
            on_down=self.ready.put,
        )  # fmt: skip
        self.connection.start()
        assert self.ready.get(timeout=20) == ""

    def next(self, ending: str) -> Inbound:
        while True:
            found = self.seen.get(timeout=20)
            if found.topic.endswith(ending):
                return found

    def answer(self, command: str) -> dict[str, object]:
        while True:
            found: dict[str, object] = json.loads(self.next(f"{command}/response").payload)
            if found["state"] not in {"accepted", "running"}:
                return found


def ca(world: World, *arguments: str) -> None:
    assert __main__.main(["ca", *arguments, "--config", str(world.folder / "hub.toml")]) == 0


def client_files(folder: Path, ca_folder: CaFolder, cn: str) -> Tls:
    made = ca_folder.issue_client(cn, clock.now_us())
    (folder / f"{cn}.pem").write_bytes(made.certificate)
    (folder / f"{cn}.key").write_bytes(made.key)
    return Tls(ca=str(ca_folder.certificate), certificate=str(folder / f"{cn}.pem"), key=str(folder / f"{cn}.key"))


@pytest.fixture
def world(tmp_path: Path, around: Any) -> World:
    """Nothing is enrolled yet: a hub with a CA, a broker that wants certificates."""
    broker = mutual_mosquitto(tmp_path, tmp_path / "hub" / "ca" / "ca.pem")
    made = around(broker, SETTINGS.format(folder=tmp_path))
    ca(made, "init")
    for stem in ("broker", "rest"):
        ca(made, "issue-server", "--name", "127.0.0.1", "--name", "localhost", "--out", str(tmp_path / stem))
    client_files(tmp_path, CaFolder(tmp_path / "hub"), "tidegate-hub")
    broker.start()
    context = ssl.create_default_context(cafile=str(tmp_path / "hub" / "ca" / "ca.pem"))
    headers = made.http.headers
    made.http.close()
    made.http = httpx.Client(
        base_url=f"https://127.0.0.1:{made.rest}/api/v1", headers=headers, timeout=20, verify=context
    )
    made.start_hub()
    return made


def enrolled(world: World, capsys: pytest.CaptureFixture[str]) -> str:
    """As docs/security.md has it: a claim, then `tidegate-edge enrol`, then `run`. Returns the claim."""
    capsys.readouterr()
    ca(world, "claim", "press-3")
    claim = capsys.readouterr().out.strip()
    (world.folder / "claim").write_text(claim, "utf-8")
    world.start_edge("press-3")  # before it is enrolled, nobody lets it in
    until("the link is refused", lambda: world.logged("press-3", "link.down"))
    world.end("press-3")
    assert not world.logged("press-3", "link.up")
    made = subprocess.run(
        [world.program("tidegate-edge"), "enrol", "--url", f"https://127.0.0.1:{world.rest}",
         "--ca", str(world.folder / "hub" / "ca" / "ca.pem"), "--claim-file", str(world.folder / "claim"),
         "--config", str(world.folder / "press-3.toml")], capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (made.returncode, made.stderr) == (0, "")
    return claim


def test_rest_speaks_tls_1_3_and_nothing_older(world: World) -> None:
    context = ssl.create_default_context(cafile=str(world.folder / "hub" / "ca" / "ca.pem"))
    address = ("127.0.0.1", world.rest)
    with (
        socket.create_connection(address, 20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        assert wrapped.version() == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(address, 20) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")  # its end tells us


def test_from_nothing_to_signed_commands_renewal_and_revocation(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = enrolled(world, capsys)
    first = DeviceIdentity(world.folder / "press-3").certificate()
    world.resume_edge("press-3")
    until("the device is online", lambda: world.online("press-3"))

    # Of a life of a quarter of an hour two thirds are over by the tolerance for clocks alone: it renews at once.
    until("the certificate is renewed", lambda: world.logged("press-3", "enrolment.renewed"))
    until("the device is online again", lambda: world.online("press-3"))
    second = DeviceIdentity(world.folder / "press-3").certificate()
    assert (second.serial_number != first.serial_number, second.public_key() != first.public_key()) == (True, True)

    between = Between(client_files(world.folder, CaFolder(world.folder / "hub"), "between"), world.broker.port)
    sent = world.http.post("/devices/press-3/commands", json={"verb": "diagnose", "target": "processes", "wait": True})
    assert (sent.status_code, sent.json()["state"]) == (200, "succeeded")
    heard = between.next("/request")
    assert heard.signature
    assert between.answer(sent.json()["id"])["state"] == "succeeded"
    forged = heard.payload.replace(sent.json()["id"].encode(), b"forged-1")
    for number, signature in ((1, ""), (2, heard.signature)):
        topic = f"tidegate/v1/things/press-3/commands/forged-{number}/request"
        between.connection.publish(topic, forged.replace(b"forged-1", f"forged-{number}".encode()), signature=signature)
        said = between.answer(f"forged-{number}")
        assert (said["state"], "not signed" in str(said["text"])) == ("refused", True)
    between.connection.publish(heard.topic, heard.payload, signature=heard.signature)
    assert between.answer(sent.json()["id"])["state"] == "succeeded"
    assert len(world.logged("press-3", "command.disbelieved")) == 2
    between.connection.stop()

    ca(world, "revoke", "press-3", "--reason", "stolen")
    world.end("press-3")
    world.resume_edge("press-3")
    until("the hub refuses its birth", lambda: world.logged("press-3", "link.refused"))
    until("the hub refuses its renewal", lambda: world.logged("press-3", "enrolment.refused"))
    db = Database(f"sqlite:///{world.folder / 'hub' / 'hub.sqlite'}")
    with db.read() as session:
        kinds = {row.kind for row in trail.rows(session, device="press-3")}
    db.close()
    assert {"claim.created", "device.enrolled", "device.renewed", "device.revoked"} <= kinds
    secret = DeviceIdentity(world.folder / "press-3").device.read_text().splitlines()[1]
    for log in ("hub", "press-3"):
        text = (world.folder / f"{log}.log").read_text()
        assert claim not in text
        assert secret not in text


def attempt(tls: Tls, port: int) -> str:
    """'' when the broker lets this identity in, else why not."""
    said: queue.Queue[str] = queue.Queue()
    connection = Connection(
        Options(client_id="press-3", filters=["tidegate/v1/things/press-3/acks"], tls=tls), lambda: ("127.0.0.1", port),
        on_message=lambda _: None, on_up=lambda: said.put(""), on_down=said.put,
    )  # fmt: skip
    connection.start()
    try:
        return said.get(timeout=20)
    finally:
        connection.stop()


def test_after_ninety_days_away_with_a_clock_of_1970_it_is_back_on_mutual_tls_without_a_visit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_time, "BUILD_US", 0)  # it was enrolled 90 days before now, which is before this build
    with enrolment_hub(tmp_path / "hub", days=-90) as hub:
        broker = mutual_mosquitto(tmp_path / "broker", hub.ca)
        made = hub.folder.issue_server(["127.0.0.1"], hub.now_us())
        (broker.folder / "broker.pem").write_bytes(made.certificate)
        (broker.folder / "broker.key").write_bytes(made.key)
        broker.start()
        try:
            state = tmp_path / "edge"
            enrol("press-3", str(state), hub.url, hub.claim("press-3"), str(hub.ca))
            hub.pass_days(90)
            monkeypatch.setattr(clock, "now_us", lambda: 60_000_000)
            returned = TrustManager("press-3", str(state), lambda: "unsynced")
            tls = returned.tls()
            assert tls
            assert attempt(tls, broker.port) != "", "mosquitto takes no expired certificate"
            returned.run_once()
            assert attempt(tls, broker.port) == ""
        finally:
            broker.stop()


def test_mosquitto_refuses_what_is_on_the_list_once_it_is_told_to_read_it_again(tmp_path: Path) -> None:
    folder, now = CaFolder(tmp_path), clock.now_us()
    folder.make("plant-1", now)
    made = folder.issue_server(["127.0.0.1"], now)
    (tmp_path / "broker.pem").write_bytes(made.certificate)
    (tmp_path / "broker.key").write_bytes(made.key)
    tls = client_files(tmp_path, folder, "press-3")
    serial = x509.load_pem_x509_certificate(Path(tls.certificate).read_bytes()).serial_number
    broker = mutual_mosquitto(tmp_path, folder.certificate)
    with (tmp_path / "mosquitto.conf").open("a") as conf:
        conf.write(f"crlfile {folder.crl}\n")
    broker.start()
    try:
        assert attempt(tls, broker.port) == ""
        folder.write_crl([Revoked(serial=serial, t_us=now)], now)
        assert attempt(tls, broker.port) == "", "until it is told, mosquitto goes by the list that it has read"
        assert broker.process
        broker.process.send_signal(signal.SIGHUP)
        until("the certificate is refused", lambda: attempt(tls, broker.port))
    finally:
        broker.stop()
