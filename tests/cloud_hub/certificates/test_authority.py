"""What the hub's CA issues: shape, dates, names, and what real OpenSSL makes of it over real sockets."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloud_hub.certificates.core.authority import Authority, Issued, Revoked, common_name
from cloud_hub.certificates.files import CaFolder
from cloud_hub.clock import now_us
from shared.durations import DAY_US
from shared.errors import ConfigError


def certificate(issued: Issued) -> x509.Certificate:
    return x509.load_pem_x509_certificate(issued.certificate)


@pytest.fixture
def folder(tmp_path: Path) -> CaFolder:
    made = CaFolder(tmp_path)
    made.make("plant-1", now_us())
    return made


def test_a_client_certificate_names_its_identity_and_serves_for_nothing_else(folder: CaFolder) -> None:
    at = 1_800_000_000_000_000
    made = certificate(folder.open().client("press-3:spb", at, days=30))
    assert common_name(made.subject) == "press-3:spb"
    assert (made.not_valid_after_utc.timestamp() * 1e6) - at == 30 * DAY_US
    use = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(use) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    made.verify_directly_issued_by(folder.open().certificate)


def test_a_hundred_certificates_share_neither_key_nor_serial(folder: CaFolder) -> None:
    ca = folder.open()
    made = [ca.client(f"d{n}", now_us()) for n in range(100)]
    assert len({one.key for one in made}) == len({certificate(one).serial_number for one in made}) == 100


def test_secrets_are_the_owners_alone(folder: CaFolder) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.path.iterdir()}
    assert modes == {"ca.key": 0o600, "signing.key": 0o600, "ca.pem": 0o644, "crl.pem": 0o644, "signing.pem": 0o644}
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_a_second_ca_is_refused_and_a_missing_one_has_a_cure(folder: CaFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a CA already"):
        folder.make("plant-1", now_us())
    with pytest.raises(ConfigError, match="holds no CA"):
        CaFolder(tmp_path / "elsewhere").open()
    folder.key.write_bytes(Authority.create("other", now_us()).key_pem)
    with pytest.raises(ConfigError, match="not that of the certificate"):
        folder.open()


def test_a_server_needs_a_name(folder: CaFolder) -> None:
    with pytest.raises(ValueError, match="at least one name"):
        folder.issue_server([], now_us())


def handshake(folder: CaFolder, server: Issued, client: Issued | None, name: str, *, crl: bool = False) -> str:
    """Mutual TLS 1.3 over a socket pair: '' when both are content, else why not."""
    files = folder.path / "pair"
    files.mkdir(exist_ok=True)
    contexts = []
    for side, issued in (("server", server), ("client", client)):
        purpose = ssl.Purpose.CLIENT_AUTH if side == "server" else ssl.Purpose.SERVER_AUTH
        context = ssl.create_default_context(purpose, cafile=str(folder.certificate))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if issued is not None:
            (files / f"{side}.pem").write_bytes(issued.certificate + issued.key)
            context.load_cert_chain(str(files / f"{side}.pem"))
        contexts.append(context)
    serving, asking = contexts
    serving.verify_mode = ssl.CERT_REQUIRED
    if crl:
        serving.load_verify_locations(str(folder.crl))
        serving.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    left, right = socket.socketpair()
    refused: list[str] = []

    def serve() -> None:
        try:
            with serving.wrap_socket(left, server_side=True) as wrapped:
                wrapped.sendall(b"well")
        except (ssl.SSLError, OSError) as error:
            refused.append(str(error))
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with asking.wrap_socket(right, server_hostname=name) as wrapped:
            refused += [] if wrapped.recv(10) == b"well" else ["closed"]
    except (ssl.SSLError, OSError) as error:
        refused.append(str(error))
    thread.join(10)
    return "; ".join(refused)


def test_openssl_accepts_what_is_right_and_nothing_else(folder: CaFolder, tmp_path: Path) -> None:
    now = now_us()
    server, client = folder.issue_server(["broker.example", "127.0.0.1"], now), folder.issue_client("press-3", now)
    assert handshake(folder, server, client, "broker.example") == ""
    assert handshake(folder, server, client, "127.0.0.1") == ""
    assert "Hostname mismatch" in handshake(folder, server, client, "other.example")
    assert "peer did not return a certificate" in handshake(folder, server, None, "broker.example")
    foreign = CaFolder(tmp_path / "foreign").make("plant-1", now).client("press-3", now)
    assert handshake(folder, server, foreign, "broker.example") != ""
    old = folder.issue_client("press-3", now - 31 * DAY_US, days=30)
    assert "expired" in handshake(folder, server, old, "broker.example")
    assert "purpose" in handshake(folder, client, client, "broker.example"), "a device must not pass for a server"


def test_a_revoked_certificate_is_refused_where_the_list_is_read(folder: CaFolder) -> None:
    now = now_us()
    server = folder.issue_server(["broker.example"], now)
    good, bad = folder.issue_client("press-3", now), folder.issue_client("press-4", now)
    folder.write_crl([Revoked(serial=certificate(bad).serial_number, t_us=now)], now)
    assert handshake(folder, server, good, "broker.example", crl=True) == ""
    assert "revoked" in handshake(folder, server, bad, "broker.example", crl=True)


def test_the_signing_certificate_is_vouched_for_by_the_root(folder: CaFolder) -> None:
    vouched = x509.load_pem_x509_certificate(folder.signing_certificate.read_bytes())
    vouched.verify_directly_issued_by(folder.open().certificate)
    assert common_name(vouched.subject) == "plant-1:signing"
    assert vouched.public_key() == folder.open_signing().public_key()
