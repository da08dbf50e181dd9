"""Hub and agents over the broker that the command has set up: mutual TLS, faults included."""

from __future__ import annotations

import re
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from simulators.brokers import until
from simulators.plants import Plant

from cloud_hub.__main__ import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_hub_and_agents_work_over_mutual_tls_and_a_broker_that_lost_its_queue(secured: Any) -> None:
    """Killed, its store deleted: nothing that a device accepted is lost or doubled."""
    world = secured
    world.broker.start()
    world.start_hub()
    for device in ("press-1", "press-2"):
        world.start_edge(device)
    for device in ("press-1", "press-2"):
        until("it is online", lambda device=device: world.online(device))
    world.kill("hub")  # what is under way now waits in the broker's queue alone
    before = world.accepted("press-1")["streams"]["telemetry"]["accepted"]
    until("more is accepted", lambda: world.accepted("press-1")["streams"]["telemetry"]["accepted"] > before + 20)
    world.kill("broker")
    (world.folder / "broker/data/mosquitto.db").unlink(missing_ok=True)
    world.restart("broker")
    world.restart("hub")
    for device in ("press-1", "press-2"):
        until("it is online again", lambda device=device: world.online(device), 60)
        assert world.all_arrived(device)["telemetry"]["upto"] > 20


def test_one_identity_twice_evicts_with_patience(secured: Any) -> None:
    """Two agents with one certificate end each other's session. They slow down, work on, and the hub tells of it."""
    _twice(secured)


@pytest.mark.nightly
def test_one_identity_twice_loses_nothing(secured: Any) -> None:
    """A minute after the other one has gone, the hub listens again, and all that was accepted arrives."""
    _twice(secured)
    secured.end("doomed-double")
    accepted = secured.accepted("press-1")
    upto = accepted["streams"]["telemetry"]["accepted"]

    def heard() -> bool:
        held = secured.streams("press-1", accepted["epoch"]).get("telemetry", {"upto": 0})
        return bool(held["upto"] >= upto)

    until("the hub listens again", heard, 100)
    secured.all_arrived("press-1")


def _twice(world: Any) -> None:
    world.broker.start()
    world.start_hub()
    world.start_edge("press-1")
    until("the first is online", lambda: world.online("press-1"))
    world.start_edge("press-1", state="doomed-double")
    until("the hub tells", lambda: world.logged("hub", "device.conflict"), 45)
    accepted = world.accepted("press-1")["streams"]["telemetry"]["accepted"]
    until("the first works on", lambda: world.accepted("press-1")["streams"]["telemetry"]["accepted"] > accepted + 50)
    evicted = (world.folder / "broker.log").read_text("utf-8").count("Client press-1 already connected")
    assert 1 <= evicted < 40, "they chased each other at full speed"


def test_a_device_with_anothers_certificate_reaches_nothing(secured: Any) -> None:
    """Its id says press-1, its certificate press-2: the hub never sees press-1."""
    world = secured
    world.broker.start()
    world.start_hub()
    world.start_edge("press-2")
    world.start_edge("press-1")
    until("both are online", lambda: world.online("press-2") and world.online("press-1"))
    world.end("press-1")
    until("the hub knows", lambda: not world.online("press-1"))
    file = world.folder / "press-1.toml"
    tls = world.plant.identity("press-3")
    text = re.sub(r'certificate = ".*"', f'certificate = "{tls.certificate}"', file.read_text("utf-8"))
    file.write_text(re.sub(r'key = ".*"', f'key = "{tls.key}"', text), "utf-8")
    world.resume_edge("press-1")
    until("it is let in", lambda: "as press-3" in (world.folder / "broker.log").read_text("utf-8"))
    held = world.streams("press-1", world.accepted("press-1")["epoch"])["telemetry"]["upto"]
    until("it has accepted more", lambda: world.accepted("press-1")["streams"]["telemetry"]["accepted"] > held + 30)
    assert world.streams("press-1", world.accepted("press-1")["epoch"])["telemetry"]["upto"] == held
    assert not world.online("press-1")
    assert world.get("/devices/press-3") is None


def test_keys_are_readable_by_their_owner_alone(secured: Any) -> None:
    for path in (*(secured.folder / "broker").iterdir(), *(secured.folder / "hub/ca").glob("*.key")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert len(list(Path(secured.folder / "broker").iterdir())) == 7


REST = """
[rest.tls]
certificate = "{folder}/rest.pem"
key = "{folder}/rest.key"
"""


def said(*arguments: str) -> None:
    assert main(list(arguments)) == 0


@pytest.fixture
def page(tmp_path: Path, around: Any) -> Any:
    """Steps 1 to 3 of docs/broker.md: CA, broker, hub."""
    plant = Plant.make(tmp_path)
    config = ("--config", str(tmp_path / "hub.toml"))
    said("ca", "issue-server", "--name", "127.0.0.1", "--out", str(tmp_path / "rest"), *config)
    tls = "\n".join(f'{key} = "{getattr(plant.hub, key)}"' for key in ("ca", "certificate", "key"))
    world = around(plant.broker, f"[mqtt.tls]\n{tls}\n{REST.format(folder=tmp_path)}")
    headers = world.http.headers
    world.http.close()
    context = ssl.create_default_context(cafile=plant.hub.ca)
    world.http = httpx.Client(
        base_url=f"https://127.0.0.1:{world.rest}/api/v1", headers=headers, timeout=20, verify=context
    )
    said("broker", "check", "--address", _start(plant), *config)
    world.start_hub()
    return world


def _start(plant: Plant) -> str:
    plant.broker.start()
    return f"127.0.0.1:{plant.broker.port}"


def test_the_page_leads_from_nothing_to_an_enrolled_device_and_out_again(
    page: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    world, config = page, ("--config", str(page.folder / "hub.toml"))
    capsys.readouterr()
    said("ca", "claim", "press-3", *config)
    (world.folder / "claim").write_text(capsys.readouterr().out, "utf-8")
    world.start_edge("press-3")
    until("nobody lets it in", lambda: world.logged("press-3", "link.down"))
    world.end("press-3")
    assert not world.logged("press-3", "link.up")
    enrol = [world.program("tidegate-edge"), "enrol", "--url", f"https://127.0.0.1:{world.rest}", "--ca",
             str(world.folder / "hub/ca/ca.pem"), "--claim-file", str(world.folder / "claim"), "--config",
             str(world.folder / "press-3.toml")]  # fmt: skip
    made = subprocess.run(enrol, capture_output=True, text=True, check=False, timeout=50)
    assert made.returncode == 0, made.stderr
    world.resume_edge("press-3")
    until("it is online", lambda: world.online("press-3"))
    assert world.all_arrived("press-3")["telemetry"]["upto"] > 0
    said("ca", "revoke", "press-3", "--reason", "stolen", "--broker", str(world.folder / "broker"), *config)
    world.end("press-3")
    ups = len(world.logged("press-3", "link.up"))
    downs = len(world.logged("press-3", "link.down"))
    world.resume_edge("press-3")
    until("nobody lets it in any more", lambda: len(world.logged("press-3", "link.down")) > downs + 1)
    assert len(world.logged("press-3", "link.up")) == ups
