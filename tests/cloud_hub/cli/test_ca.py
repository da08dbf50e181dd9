"""tidegate-hub ca: from nothing to a claim, and what each wrong use is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from simulators.enrolment import new_key

from cloud_hub import __main__, settings
from cloud_hub.app import command_signer
from cloud_hub.certificates import registry as register
from cloud_hub.certificates.files import CaFolder
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from shared.errors import EXIT_CONFIG


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    file = tmp_path / "hub.toml"
    file.write_text(f'name = "plant-1"\nstate_dir = "{tmp_path / "hub"}"\n', "utf-8")
    return file


def ca(toml: Path, *arguments: str) -> int:
    return __main__.main(["ca", *arguments, "--config", str(toml)])


def test_without_a_ca_the_cure_is_named(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ca(toml, "show") == ca(toml, "claim", "press-3") == EXIT_CONFIG
    assert "tidegate-hub ca init" in capsys.readouterr().err


def test_from_nothing_to_a_claim_and_back(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ca(toml, "init") == 0
    assert ca(toml, "init") == EXIT_CONFIG
    capsys.readouterr()
    assert ca(toml, "show") == 0
    shown = capsys.readouterr()
    root = x509.load_pem_x509_certificate(shown.out.encode())
    assert shown.err.startswith("SHA-256 ")
    stem = toml.parent / "rest"
    assert ca(toml, "issue-server", "--name", "hub.example", "--name", "10.0.0.5", "--out", str(stem)) == 0
    served = x509.load_pem_x509_certificate(stem.with_name("rest.pem").read_bytes())
    served.verify_directly_issued_by(root)
    assert stem.with_name("rest.key").stat().st_mode & 0o777 == 0o600
    capsys.readouterr()
    assert ca(toml, "claim", "press-3", "--life", "2h") == 0
    assert capsys.readouterr().out.startswith("tgc_")
    assert ca(toml, "revoke", "press-3", "--reason", "stolen") == 0
    assert ca(toml, "claim", "press-3") == 1
    assert "--readmit" in capsys.readouterr().err
    assert ca(toml, "claim", "press-3", "--readmit") == 0


def test_what_is_revoked_stands_in_the_list_and_on_the_crl(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ca(toml, "init") == 0
    folder, db = CaFolder(toml.parent / "hub"), Database(f"sqlite:///{toml.parent / 'hub' / 'hub.sqlite'}")
    made = folder.open().sign(new_key().public_key(), "press-3", now_us(), 30)
    with db.write() as session:
        register.record_certificate(session, "press-3", made)
    capsys.readouterr()
    assert ca(toml, "list") == 0
    assert " good " in capsys.readouterr().out
    assert ca(toml, "revoke", "press-3") == 0
    assert ca(toml, "list") == 0
    assert "revoked 2" in capsys.readouterr().out
    crl = x509.load_pem_x509_crl(folder.crl.read_bytes())
    assert crl.is_signature_valid(folder.open().certificate.public_key())  # type: ignore[arg-type]
    assert [one.serial_number for one in crl] == [made.serial_number]
    folder.crl.unlink()
    assert ca(toml, "crl") == 0
    assert folder.crl.exists()
    db.close()


def test_the_hubs_own_name_at_the_broker_is_no_devices(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml.write_text(toml.read_text() + '[mqtt]\nclient_id = "plant-hub"\n', "utf-8")
    assert ca(toml, "init") == 0
    assert ca(toml, "claim", "plant-hub") == 1
    assert "are taken" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a b", "a/b", "", "a\nb"])
def test_a_name_that_is_none_is_refused(toml: Path, name: str) -> None:
    assert ca(toml, "init") == 0
    assert ca(toml, "issue-server", "--name", name, "--out", str(toml.parent / "x")) == EXIT_CONFIG


def test_a_server_certificate_that_ends_soon_is_a_problem_before_it_has_ended(
    toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ca(toml, "init") == 0
    stem = toml.parent / "rest"
    toml.write_text(f'{toml.read_text()}[rest.tls]\ncertificate = "{stem}.pem"\nkey = "{stem}.key"\n', "utf-8")
    for days, told in (("10", "ends on"), ("825", "")):
        assert ca(toml, "issue-server", "--name", "hub.example", "--out", str(stem), "--days", days) == 0
        __main__.main(["check", "--config", str(toml)])
        said = capsys.readouterr().err
        assert ("rest.tls.certificate" in said) == bool(told)
        assert told in said
    stem.with_name("rest.pem").write_text("nothing of the kind", "utf-8")
    assert __main__.main(["check", "--config", str(toml)]) == EXIT_CONFIG
    assert "are no pair that can be used" in capsys.readouterr().err


def test_a_hub_that_runs_already_signs_from_the_moment_on_that_the_ca_is_made(toml: Path) -> None:
    sign = command_signer(settings.read(toml))
    assert sign(b"a command") is None
    assert ca(toml, "init") == 0
    made = sign(b"a command")
    assert made is not None
    CaFolder(toml.parent / "hub").open_signing().public_key().verify(made, b"a command")
