"""What `tidegate-hub broker setup` writes, on a live mosquitto: who gets in, as whom, over what (controls 1, 2, 7)."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from simulators.brokers import listens, until
from simulators.plants import Peer, Plant, Refused

from cloud_hub.__main__ import main
from cloud_hub.broker import checks as broker_check
from cloud_hub.certificates.core.authority import Authority, Revoked
from cloud_hub.clock import now_us
from shared import topics
from shared.durations import DAY_US
from shared.mqtt import Tls
from shared.topics import thing

pytestmark = pytest.mark.slow

HUB = "tidegate-hub"


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    made = Plant.make(tmp_path_factory.mktemp("plant"), "--aws-alias")
    made.broker.start()
    yield made
    made.broker.stop()


@pytest.fixture
def own_plant(tmp_path: Path) -> Iterator[Plant]:
    """One of its own, for tests that change it."""
    made = Plant.make(tmp_path, "--aws-alias")
    made.broker.start()
    yield made
    made.broker.stop()


def gets_in(plant: Plant, tls: Tls | None, **more: Any) -> bool:
    try:
        Peer(plant.broker.port, tls, **more).close()
    except Refused:
        return False
    return True


def works(peer: Peer, device: str) -> bool:
    """Whether it hears what it says on its own topics."""
    peer.subscribe(thing(device, "acks"))
    payload = f"{len(peer.heard)}".encode()
    if not peer.publish(thing(device, "acks"), payload):
        return False
    until("it hears itself", lambda: payload in peer.payloads())
    return True


# -- certificates ----------------------------------------------------------------------------------


def test_only_a_certificate_of_the_hubs_ca_gets_in(plant: Plant) -> None:
    """A fresh install refuses everybody but who holds one; the last line is the positive control."""
    stranger = Authority.create("plant", now_us())  # another CA of the very same name
    month_ago = now_us() - 30 * DAY_US
    assert not gets_in(plant, None), "without TLS"
    assert not gets_in(plant, plant.identity("press-1", authority=stranger)), "of another CA"
    assert not gets_in(plant, plant.identity("press-1", begin_us=month_ago, days=29)), "expired"
    assert not gets_in(plant, plant.identity("press-1", begin_us=now_us() + DAY_US)), "not yet valid"
    assert not gets_in(plant, self_signed(plant, "press-1")), "self-signed"
    assert not gets_in(plant, servers_own(plant)), "the broker's own certificate is no client's"
    assert not gets_in(plant, certificate_of_the_ca(plant)), "nor is the CA's"
    assert gets_in(plant, plant.identity("press-1"))


def self_signed(plant: Plant, cn: str) -> Tls:
    """An authority that calls itself by the device's name and presents itself."""
    own = Authority.create(cn, now_us())
    tls = plant.identity(cn)
    Path(tls.certificate).write_bytes(own.pem)
    Path(tls.key).write_bytes(own.key_pem)
    return tls


def servers_own(plant: Plant) -> Tls:
    folder = plant.folder / "broker"
    return Tls(ca=str(plant.ca.certificate), certificate=f"{folder}/broker.pem", key=f"{folder}/broker.key")


def certificate_of_the_ca(plant: Plant) -> Tls:
    return Tls(ca=str(plant.ca.certificate), certificate=str(plant.ca.certificate), key=str(plant.ca.key))


def test_who_has_no_certificate_or_speaks_an_older_tls_is_refused(plant: Plant) -> None:
    """By hand, for no client of today tries it: TLS 1.3 without a certificate, and TLS 1.2 with a good one."""
    address, tls = ("127.0.0.1", plant.broker.port), plant.identity("press-1")
    new, old = ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2
    assert broker_check.accepts_connection(address, new, tls)
    assert not broker_check.accepts_connection(address, new, None)
    assert not broker_check.accepts_connection(address, old, tls)
    assert not broker_check.accepts_connection(address, None, None)


def test_a_name_in_the_certificate_is_the_identity_whatever_the_client_calls_itself(plant: Plant) -> None:
    """A good certificate of press-2, in the name of press-1: it has press-2's topics only."""
    liar = Peer(plant.broker.port, plant.identity("press-2"), client_id="press-1")
    hub = plant.peer(HUB)
    hub.subscribe(thing("+", "telemetry"))
    assert not liar.publish(thing("press-1", "telemetry"), b"lie")
    assert works(liar, "press-2")
    hub.publish(thing("press-1", "telemetry"), b"last")
    until("the last is heard", lambda: b"last" in hub.payloads())
    assert b"lie" not in hub.payloads()
    liar.close()
    hub.close()


# -- revocation --------------------------------------------------------------------------------------


def revoke(plant: Plant, *identities: Tls) -> None:
    """What the hub's revocation does to the CA's list, and what the page tells to do then."""
    serials = [x509.load_pem_x509_certificate(Path(tls.certificate).read_bytes()).serial_number for tls in identities]
    plant.ca.write_crl([Revoked(serial=serial, t_us=now_us()) for serial in serials], now_us())
    plant.command("reload")


def test_a_revoked_certificate_gets_in_no_more_and_others_stay(own_plant: Plant) -> None:
    """SIGHUP reads the list anew. It ends no session; `ca revoke --broker` makes the one that is open mute and deaf."""
    plant, mine, canary = own_plant, own_plant.identity("press-1"), own_plant.identity("canary")
    live, other, hub = Peer(plant.broker.port, mine), plant.peer("press-2"), plant.peer(HUB)
    assert works(live, "press-1")
    revoke(plant, mine, canary)
    until("the list is read", lambda: not gets_in(plant, canary))
    assert not gets_in(plant, mine)
    assert works(live, "press-1"), "mosquitto ends open sessions on SIGHUP: better; tell docs/broker.md"
    config = ("--config", str(plant.folder / "hub.toml"))
    assert main(["ca", "revoke", "press-1", "--broker", str(plant.folder / "broker"), *config]) == 0
    until("it is mute", lambda: not live.publish(thing("press-1", "telemetry"), b"x"))
    assert works(other, "press-2")
    hub.publish(thing("press-1", "acks"), b"secret")
    hub.publish(thing("press-2", "acks"), b"open")
    until("the other hears", lambda: b"open" in other.payloads())
    assert not live.publish(thing("press-1", "shadow/get", topics.AWS), b"x")
    assert b"secret" not in live.payloads()
    assert live.downs.empty()
    plant.command("deny", "press-1", "--lift")
    plant.command("reload")
    until("enrolled anew, it works", lambda: live.publish(thing("press-1", "telemetry"), b"x"))
    anew = plant.peer("press-1")
    assert works(anew, "press-1")
    for peer in (live, anew, other, hub):
        peer.close()


def test_a_revoked_certificate_stays_out_after_a_restart(own_plant: Plant) -> None:
    plant, mine = own_plant, own_plant.identity("press-1")
    plant.broker.stop()
    with pytest.raises(AssertionError):
        revoke(plant, mine)  # the list is written; there is nobody to tell
    plant.broker.start()
    assert not gets_in(plant, mine)
    assert gets_in(plant, plant.identity("press-1"))


def test_a_process_that_is_no_mosquitto_gets_no_signal(own_plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    plant = own_plant
    plant.broker.kill()
    process = subprocess.Popen(["sleep", "60"])
    (plant.folder / "broker/data/mosquitto.pid").write_text(str(process.pid))
    arguments = ["--folder", str(plant.folder / "broker"), "--config", str(plant.folder / "hub.toml")]
    assert main(["broker", "reload", *arguments]) == 78
    assert "no mosquitto runs" in capsys.readouterr().err
    assert process.poll() is None
    process.kill()
    process.wait()


# -- client ids --------------------------------------------------------------------------------------


def test_another_device_cannot_take_the_victims_session(own_plant: Plant) -> None:
    """Control 7. The negative control is the same without `use_username_as_clientid`: there the victim goes."""
    plant = own_plant
    victim = plant.peer("press-1", session_s=3600)
    attacker = Peer(plant.broker.port, plant.identity("press-2"), client_id="press-1")
    assert works(attacker, "press-2")
    assert works(victim, "press-1")
    assert victim.downs.empty()
    for peer in (victim, attacker):
        peer.close()
    plant.broker.stop()
    file = plant.folder / "broker/mosquitto.conf"
    file.write_text(file.read_text("utf-8").replace("use_username_as_clientid true", ""), "utf-8")
    plant.broker.start()
    victim = plant.peer("press-1", session_s=3600)
    attacker = Peer(plant.broker.port, plant.identity("press-2"), client_id="press-1")
    assert victim.downs.get(timeout=10).is_failure
    attacker.close()
    victim.close()


def test_a_thief_in_a_shared_subscription_takes_nothing_from_an_ordinary_one(plant: Plant) -> None:
    """mosquitto lets anybody join any group and drops what the joiner may not read: so the hub must not rely on one."""
    hub, thief, device = plant.peer(HUB), plant.peer("press-2"), plant.peer("press-1")
    thief.subscribe(f"$share/hubs/{thing('+', 'telemetry')}")
    hub.subscribe(thing("+", "telemetry"))
    for number in range(10):
        assert device.publish(thing("press-1", "telemetry"), b"%d" % number)
    until("the hub has heard all", lambda: len(hub.heard) == 10)
    assert thief.heard == []
    for peer in (hub, thief, device):
        peer.close()


# -- the suites ----------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
@pytest.mark.nightly
def test_testssl_finds_nothing_below_tls_1_3(plant: Plant, tmp_path: Path) -> None:
    """Control 2, by a program that nobody here wrote."""
    program = shutil.which("testssl") or shutil.which("testssl.sh")
    if program is None:
        pytest.skip("testssl is not installed: apt-get install testssl.sh")
    file = tmp_path / "found.json"
    command = [program, "--quiet", "--color", "0", "--warnings", "off", "-p", "-f", "--nodns", "none",
               "--jsonfile", str(file), f"127.0.0.1:{plant.broker.port}"]  # fmt: skip
    subprocess.run(command, capture_output=True, timeout=100, check=False, stdin=subprocess.DEVNULL)
    found = {row["id"]: row["finding"] for row in json.loads(file.read_text("utf-8"))}
    assert found["TLS1_3"].startswith("offered"), "the positive control"
    for old in ("SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2"):
        assert found[old].startswith("not offered"), (old, found[old])
    curves = set((found.get("PFS_ECDHE_curves") or found["FS_ECDHE_curves"]).split())
    assert curves, found
    assert curves <= {"prime256v1", "secp384r1", "secp521r1", "X25519", "X448"}, curves


# -- the check -----------------------------------------------------------------------------------------


def check(plant: Plant, aws_alias: bool = True) -> list[str]:
    return broker_check.check_broker(("127.0.0.1", plant.broker.port), plant.ca, aws_alias)


def test_the_check_finds_a_set_up_broker_well(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(plant) == []
    arguments = ["--config", str(plant.folder / "hub.toml"), "--address", f"localhost:{plant.broker.port}"]
    assert main(["broker", "check", *arguments]) == 0
    assert capsys.readouterr().out.startswith("well: ")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less patient: what does not come here never comes."""
    monkeypatch.setattr(broker_check, "WAIT_S", 2.5)


MISTAKES: dict[str, tuple[str, ...]] = {
    "no certificate": (
        "require_certificate true\n",
        "require_certificate false\nallow_anonymous true\n",
        "use_identity_as_username true\nuse_username_as_clientid true\n",
    ),
    "TLS 1.2": ("tls_version tlsv1.3", "tls_version tlsv1.2"),
    "client ids are free": ("use_username_as_clientid true", "use_username_as_clientid false"),
    "bytes do not pass": ("max_packet_size 1052672", "max_packet_size 100000"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_check_finds_a_mistake_in_the_configuration(tmp_path: Path, mistake: str, hasty: None) -> None:
    plant, (right, wrong, *gone) = Plant.make(tmp_path, "--aws-alias"), MISTAKES[mistake]
    file = tmp_path / "broker/mosquitto.conf"
    text = file.read_text("utf-8")
    assert right in text
    file.write_text(text.replace(right, wrong).replace("".join(gone) or "\0", ""), "utf-8")
    plant.broker.start()
    try:
        found = check(plant)
    finally:
        plant.broker.stop()
    assert [line for line in found if mistake in line], found


@pytest.mark.parametrize(
    ("told", "right", "wrong"),
    [
        ("hears others' messages by '#'", "pattern readwrite tidegate/v1/things/%u/#",
         "pattern readwrite tidegate/v1/things/%u/#\npattern read tidegate/v1/things/#"),
        ("speak in another's name", "pattern readwrite tidegate/v1/things/%u/#",
         "pattern readwrite tidegate/v1/things/%u/#\npattern write tidegate/v1/things/#"),
        ("hears others' messages by '$SYS/#'", "pattern readwrite tidegate/v1/things/%u/#",
         "pattern readwrite tidegate/v1/things/%u/#\npattern read $SYS/#"),
        ("cannot use its own topics", "pattern readwrite tidegate/v1/things/%u/#", ""),
        ("$aws is missing", "pattern readwrite $aws/things/%u/shadow/#", ""),
    ],
)  # fmt: skip
def test_the_check_finds_a_mistake_in_the_access_list(
    tmp_path: Path, told: str, right: str, wrong: str, hasty: None
) -> None:
    plant = Plant.make(tmp_path, "--aws-alias")
    plant.rules(right, wrong)
    plant.broker.start()
    try:
        found = check(plant)
    finally:
        plant.broker.stop()
    assert [line for line in found if told in line], found


def test_the_check_tells_where_nothing_listens(tmp_path: Path) -> None:
    plant = Plant.make(tmp_path)
    assert not listens(plant.broker.port)
    (line,) = check(plant)
    assert "refused" in line


@pytest.mark.parametrize(
    "damage", [bytes(4096), b"\x00\xb5\x00mosquitto db" + bytes(8) + b"\xff" * 8], ids=["zeros", "cut"]
)
def test_the_check_tells_how_to_go_on_with_a_damaged_store(
    own_plant: Plant, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    own_plant.broker.stop()
    store = own_plant.folder / "broker" / "data" / "mosquitto.db"
    store.write_bytes(damage)
    address = ["--address", f"127.0.0.1:{own_plant.broker.port}"]
    command = [*own_plant.broker.command]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert "Couldn't open database" in ended.stderr, "the broker does stay down"
    config = ["--config", str(own_plant.folder / "hub.toml"), "--folder", str(own_plant.folder / "broker")]
    assert main(["broker", "check", *address, *config]) == 1
    said = capsys.readouterr().err
    (cure,) = [line for line in said.splitlines() if str(store) in line]
    assert f"mv {store} {store}.damaged" in cure
    shutil.move(store, f"{store}.damaged")
    own_plant.broker.start()
    assert main(["broker", "check", *address, *config]) == 0
