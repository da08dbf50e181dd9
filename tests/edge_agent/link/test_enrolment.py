"""A device against a hub's real REST over TLS: it enrols, renews, rejoins with a clock of 1970, and is not fooled."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from simulators.enrolment import EnrolmentHub, enrolment_hub

from edge_agent import clock
from edge_agent.cli import main as edge_cli
from edge_agent.link import est, trust
from edge_agent.link.pki import DeviceIdentity
from edge_agent.link.trust import TrustManager, enrol
from shared import signatures
from shared.errors import ConfigError, NotReady, WireError
from shared.mqtt import Inbound

DAY = 86_400_000_000


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[EnrolmentHub]:
    with enrolment_hub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, hub: EnrolmentHub) -> Path:
    """The state_dir of press-3, which is enrolled."""
    enrol("press-3", str(tmp_path / "edge"), hub.url, hub.claim("press-3"), str(hub.ca))
    return tmp_path / "edge"


def device(folder: Path, renewed: list[str] | None = None) -> TrustManager:
    made = TrustManager("press-3", str(folder), lambda: "unsynced")
    made._on_renewed = lambda: renewed.append("renewed") if renewed is not None else None
    return made


def at(monkeypatch: pytest.MonkeyPatch, t_us: int) -> None:
    monkeypatch.setattr(clock, "now_us", lambda: t_us)


def test_from_nothing_to_a_certificate_at_the_command_line(
    hub: EnrolmentHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml, claim = tmp_path / "edge.toml", tmp_path / "claim"
    toml.write_text(f'[device]\nid = "press-3"\nprofile = "x86-64"\nstate_dir = "{tmp_path / "edge"}"\n', "utf-8")
    arguments = ["enrol", "--url", hub.url, "--ca", str(hub.ca), "--config", str(toml), "--claim-file", str(claim)]
    assert edge_cli.main(arguments) == 78
    claim.write_text("tgc_canary", "utf-8")
    assert edge_cli.main(arguments) == 1
    said = capsys.readouterr().err
    assert "401" in said
    assert "canary" not in said
    claim.write_text(hub.claim("press-3") + "\n", "utf-8")
    assert edge_cli.main(arguments) == 0
    pki = DeviceIdentity(tmp_path / "edge")
    assert {file.name: file.stat().st_mode & 0o777 for file in pki.path.iterdir()} == {
        "device.pem": 0o600, "floor": 0o600, "ca.pem": 0o644, "signing.pem": 0o644, "hub": 0o644,
        "lock": 0o600,
    }  # fmt: skip
    assert (pki.url, pki.enrolled) == (hub.url, True)
    assert pki.certificate().public_key() == pki.key().public_key()


def test_an_answer_that_got_lost_is_asked_for_again(
    hub: EnrolmentHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, state = hub.claim("press-3"), str(tmp_path / "edge")

    def cut(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(DeviceIdentity, "finish", cut)
        with pytest.raises(NotReady):
            enrol("press-3", state, hub.url, claim, str(hub.ca))
    enrol("press-3", state, hub.url, claim, str(hub.ca))
    assert not DeviceIdentity(state).pending.exists()


def test_nothing_is_renewed_before_its_time_and_all_of_it_at_once_after(hub: EnrolmentHub, folder: Path) -> None:
    before, renewed = (folder / "pki" / "device.pem").read_bytes(), []  # type: ignore[var-annotated]
    assert 60 <= device(folder, renewed).run_once() <= 86400
    hub.pass_days(18)
    device(folder, renewed).run_once()
    assert (renewed, (folder / "pki" / "device.pem").read_bytes()) == ([], before)
    hub.pass_days(2.5)
    device(folder, renewed).run_once()
    pki = DeviceIdentity(folder)
    assert renewed == ["renewed"]
    assert pki.certificate().public_key() == pki.key().public_key(), "a new key, and its own certificate"
    assert pki.device.read_bytes() != before


def test_after_ninety_days_with_a_clock_of_1970_it_rejoins_by_itself(
    hub: EnrolmentHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = DeviceIdentity(folder).certificate()
    hub.pass_days(90)
    at(monkeypatch, 60_000_000)
    returned, renewed = device(folder), []  # type: ignore[var-annotated]
    returned._on_renewed = lambda: renewed.append("renewed")
    assert not returned._time.known
    assert returned.now_us() >= old.not_valid_before_utc.timestamp() * 1e6
    returned.run_once()
    assert renewed == ["renewed"]
    assert abs(returned.now_us() - hub.now_us()) < 60_000_000
    fresh = DeviceIdentity(folder).certificate()
    assert fresh.not_valid_before_utc > old.not_valid_after_utc
    assert DeviceIdentity(folder).floor_us >= hub.now_us() - 3_600_000_000
    assert device(folder).now_us() >= fresh.not_valid_before_utc.timestamp() * 1e6, "the floor outlives a restart"


def test_a_revoked_one_does_not_rejoin(hub: EnrolmentHub, folder: Path) -> None:
    hub.pass_days(90)
    hub.revoke("press-3")
    with pytest.raises(est.EnrolmentRefused, match="revoked") as refused:
        device(folder).run_once()
    assert refused.value.status == 403


def test_an_expired_server_is_found_by_the_hubs_own_time_whatever_the_clock_says(
    hub: EnrolmentHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.pass_days(1000)  # its certificate was good for 825
    at(monkeypatch, 60_000_000)
    with pytest.raises(NotReady, match="has expired"):
        device(folder).run_once()


@pytest.mark.parametrize("what", ["authority", "name"])
def test_a_false_hub_is_told_nothing(hub: EnrolmentHub, folder: Path, tmp_path: Path, what: str) -> None:
    names = ["127.0.0.1"] if what == "authority" else ["elsewhere.example"]
    with enrolment_hub(tmp_path / "false", names=names, like=None if what == "authority" else hub) as false:
        with pytest.raises(NotReady, match="not proven"):
            enrol("press-4", str(tmp_path / "other"), false.url, "tgc_secret", str(hub.ca))
        assert false.heard == []
        DeviceIdentity(folder)._hub.write_text(false.url)
        with pytest.raises(NotReady, match="not proven"):
            device(folder).run_once()
        assert false.heard == []


def test_a_time_that_another_key_signed_or_that_is_kept_from_before_is_not_believed(
    hub: EnrolmentHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(est.secrets, "token_urlsafe", lambda _: "n" * 22)
        with est.connect(hub.url, str(hub.ca)) as (reached, _):
            kept = reached.request("GET", f"/.well-known/tidegate/time?nonce={'n' * 22}")
    with monkeypatch.context() as patch:
        patch.setattr(est.HubClient, "request", lambda *_: kept)
        with pytest.raises(WireError, match="no answer to this question"):
            device(folder).run_once()
        patch.setattr(est.HubClient, "request", lambda *_: (kept[0].replace(b"n", b"m"), kept[1]))
        with pytest.raises(WireError, match="not signed by the hub"):
            device(folder).run_once()


def test_a_hub_that_went_back_in_time_moves_no_floor(hub: EnrolmentHub, folder: Path) -> None:
    hub.pass_days(5)
    device(folder).run_once()
    floor = DeviceIdentity(folder).floor_us
    hub.pass_days(-3)
    with pytest.raises(NotReady, match="set its clock right"):
        device(folder).run_once()
    assert DeviceIdentity(folder).floor_us == floor


@pytest.mark.parametrize("url", ["hub", "ftp://hub", "http://hub.example:8080", ""])
def test_an_address_that_protects_nothing_is_refused(tmp_path: Path, hub: EnrolmentHub, url: str) -> None:
    with pytest.raises(ConfigError, match="--url"):
        enrol("press-3", str(tmp_path / "edge"), url, "tgc_x", str(hub.ca))


@pytest.mark.parametrize("file", ["device.pem", "signing.pem"])
def test_a_damaged_identity_is_named_at_the_start(folder: Path, file: str) -> None:
    (folder / "pki" / file).write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="Enrol the device again"):
        device(folder)


def test_nobody_there_is_no_reason_to_end(folder: Path, hub: EnrolmentHub) -> None:
    DeviceIdentity(folder)._hub.write_text("https://127.0.0.1:9")
    with pytest.raises(NotReady, match=r"127\.0\.0\.1:9"):
        device(folder).run_once()


# -- commands ----------------------------------------------------------------------------------------


def command(
    hub: EnrolmentHub, payload: bytes, topic: str = "tidegate/v1/things/press-3/commands/c1/request"
) -> Inbound:
    signature = signatures.pack(hub.folder.open_signing().sign(signatures.message(topic, payload)))
    return Inbound(topic=topic, payload=payload, traceparent="", acknowledge=lambda: None, signature=signature)


def test_only_what_the_hub_signed_is_obeyed_and_only_when_the_time_is_known(hub: EnrolmentHub, folder: Path) -> None:
    one, good = device(folder), command(hub, b'{"id":"c1"}')
    assert "does not know the time" in one.refusal(good)
    one.run_once()
    assert one.refusal(good) == ""
    for changed in (
        {"payload": b'{"id": "c1"}'},
        {"topic": good.topic.replace("press-3", "press-4")},
        {"topic": good.topic.replace("request", "cancel")},
        {"signature": ""},
        {"signature": "AAAA"},
        {"signature": "not base64 ="},
    ):
        import dataclasses

        assert "not signed" in one.refusal(dataclasses.replace(good, **changed))  # type: ignore[arg-type]
    assert one.clock()[1] == "synced"


def test_a_device_without_enrolment_takes_what_its_broker_brings(tmp_path: Path) -> None:
    plain = TrustManager("press-3", str(tmp_path), lambda: "unsynced")
    inbound = Inbound(topic="t", payload=b"{}", traceparent="", acknowledge=lambda: None)
    assert (plain.refusal(inbound), plain.tls(), plain.clock()[1]) == ("", None, "unsynced")


def test_no_claim_and_no_key_is_logged(hub: EnrolmentHub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    claim, state = hub.claim("press-3"), tmp_path / "edge"
    enrol("press-3", str(state), hub.url, claim, str(hub.ca))
    hub.pass_days(25)
    device(state).run_once()
    secret = DeviceIdentity(state).device.read_text().splitlines()[1]
    assert caplog.text
    assert claim not in caplog.text
    assert secret not in caplog.text


def test_what_the_hub_sends_back_must_be_what_was_asked_for(hub: EnrolmentHub, tmp_path: Path) -> None:
    pki, ca = DeviceIdentity(tmp_path / "edge"), hub.folder.open()
    key, request = pki.begin("press-3")
    own = x509.load_der_x509_csr(request).public_key()
    for wrong in (
        ca.sign(hub.folder.open_signing().public_key(), "press-3", hub.now_us(), 30),
        ca.sign(own, "press-4", hub.now_us(), 30),  # type: ignore[arg-type]
    ):
        with pytest.raises(WireError, match="another key or device"):
            pki.finish("press-3", key, wrong, ca.pem)
    assert not pki.enrolled
    assert trust.RENEW_AT < 1
