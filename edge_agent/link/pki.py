"""The device's identity in `<state_dir>/pki`: key and certificate (`device.pem`, 0600), the hub's CA and signing key.

Key and certificate are in one file, so that a renewal replaces both atomically, also in a power cut. A key whose
certificate has not been issued yet is in `pending.key`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from shared.errors import ConfigError, WireError
from shared.process.lock import process_lock
from shared.protocol import signatures

SIGNING_SUFFIX = ":signing"


class DeviceIdentity:
    """The files of the identity. Raises ConfigError for a damaged file, WireError for invalid data from it."""

    def __init__(self, state_dir: str | Path) -> None:
        self.path = Path(state_dir) / "pki"
        self.device, self.pending = self.path / "device.pem", self.path / "pending.key"
        self.ca, self.signing = self.path / "ca.pem", self.path / "signing.pem"
        self._hub, self._floor = self.path / "hub", self.path / "floor"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the directory until a certificate is issued: an enrolment and a renewal must not mix keys."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with process_lock(self.path / "lock", "Wait until it is done"):
            yield

    @property
    def enrolled(self) -> bool:
        """Whether a hub has given this device a certificate."""
        return self.device.exists()

    @property
    def url(self) -> str:
        """URL of the hub's REST API; '' before enrolment."""
        return self._hub.read_text("utf-8").strip() if self._hub.exists() else ""

    @property
    def floor_us(self) -> int:
        """The stored time floor; 0 if there is none or it is damaged."""
        try:
            return int(self._floor.read_text("utf-8"))
        except (OSError, ValueError):
            return 0

    def keep_floor(self, floor_us: int) -> None:
        """Store the time floor if it is higher than the stored one."""
        if floor_us > self.floor_us and self.path.exists():
            write_file(self._floor, str(floor_us).encode())

    def certificate(self) -> x509.Certificate:
        """This device's certificate."""
        try:
            return x509.load_pem_x509_certificate(self._read(self.device))
        except ValueError as error:
            raise ConfigError(str(self.device), "holds no certificate", "Enrol the device again") from error

    def key(self) -> ec.EllipticCurvePrivateKey:
        """The private key of the certificate."""
        return _key(self._read(self.device), self.device)

    def signing_key(self) -> ed25519.Ed25519PublicKey | None:
        """The hub's public signing key, pinned at enrolment; None if the device is not enrolled."""
        if not self.signing.exists():
            return None
        try:
            return signing_key_of(self._read(self.signing), self._read(self.ca))
        except WireError as error:
            raise ConfigError(str(self.signing), "is not what enrolment put there", "Enrol the device again") from error

    def begin(self, device: str) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
        """The next key and a certificate request (PKCS#10, DER) for it. Reused until it has a certificate."""
        if not self.pending.exists():
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            made = ec.generate_private_key(ec.SECP256R1())
            write_file(self.pending, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key = _key(self._read(self.pending), self.pending)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
        return key, request.public_bytes(Encoding.DER)

    def finish(self, device: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, ca: bytes) -> None:
        """Store the certificate issued for `key`; raises WireError if it is not the requested one."""
        verify_issuer(certificate, ca)
        names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if certificate.public_key() != key.public_key() or names != [device]:
            raise WireError("the hub sent a certificate for another key or device")
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_file(self.device, private + certificate.public_bytes(Encoding.PEM))
        self.pending.unlink(missing_ok=True)

    def trust(self, ca: bytes, signing: bytes, url: str) -> None:
        """Pin the hub: its CA, its signing key and its URL."""
        write_file(self.ca, ca, 0o644)
        write_file(self.signing, signing, 0o644)
        write_file(self._hub, url.encode(), 0o644)

    def proof(self, path: str, t_us: int, body: bytes) -> str:
        """The header that proves possession of the certificate's key; the certificate may have expired."""
        signature = self.key().sign(signatures.proof("POST", path, t_us, body), ec.ECDSA(hashes.SHA256()))
        der = self.certificate().public_bytes(Encoding.DER)
        return signatures.Proof(certificate=der, t_us=t_us, signature=signature).header

    @staticmethod
    def _read(file: Path) -> bytes:
        try:
            return file.read_bytes()
        except OSError as error:
            raise ConfigError(str(file), f"cannot be read ({error.strerror})", "Enrol the device") from error


def verify_issuer(certificate: x509.Certificate, ca: bytes) -> None:
    """Raise WireError unless the pinned CA has signed this certificate."""
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise WireError("the hub sent a certificate that the pinned CA has not signed") from error


def signing_key_of(pem: bytes, ca: bytes) -> ed25519.Ed25519PublicKey:
    """The hub's signing key from its certificate, which the pinned CA must have issued; raises WireError."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
    except ValueError as error:
        raise WireError("the hub sent no certificate for its signing key") from error
    verify_issuer(certificate, ca)
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not isinstance(key, ed25519.Ed25519PublicKey) or len(names) != 1 or not names[0].endswith(SIGNING_SUFFIX):
        raise WireError("the certificate for the hub's signing key is of another kind")
    return key


def _key(pem: bytes, file: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(str(file), "holds no private key", "Enrol the device again") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(str(file), "holds no EC key", "Enrol the device again")
    return key


def write_file(file: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file atomically and durably."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = file.with_name(f"{file.name}.new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as out:
        os.fchmod(out.fileno(), mode)
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)
