"""The files in `<state_dir>/ca`: root (`ca.pem`, `ca.key`), `crl.pem`, the hub's signing key (`signing.key`)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from cloud_hub.certificates.core.authority import SERVER_DAYS, Authority, Issued, Revoked, key_pem
from shared.errors import ConfigError


class CaFolder:
    """The folder; nothing in it is read or made before a method asks for it. Methods raise ConfigError."""

    def __init__(self, state_dir: str | Path) -> None:
        self.path = Path(state_dir) / "ca"
        self.certificate, self.key = self.path / "ca.pem", self.path / "ca.key"
        self.crl = self.path / "crl.pem"
        self.signing_key, self.signing_certificate = self.path / "signing.key", self.path / "signing.pem"

    @property
    def exists(self) -> bool:
        """Whether this hub has a CA."""
        return self.certificate.exists()

    def make(self, name: str, now_us: int) -> Authority:
        """Make root, signing key and an empty list of revoked ones; ConfigError where a CA is already."""
        if self.exists or self.key.exists():
            raise ConfigError(str(self.path), "holds a CA already", "Keep it: every device was told to trust it")
        authority = Authority.create(name, now_us)
        signing = ed25519.Ed25519PrivateKey.generate()
        vouched = authority.certify_signing_key(signing.public_key(), name, now_us)
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_file(self.key, authority.key_pem, secret=True)
            write_file(self.signing_key, key_pem(signing), secret=True)
            write_file(self.signing_certificate, vouched.public_bytes(Encoding.PEM))
            write_file(self.crl, authority.crl([], now_us))
            write_file(self.certificate, authority.pem)  # last: with it the CA is there, whole
        except OSError as error:
            raise ConfigError(str(self.path), f"cannot be written ({error.strerror})", "Set state_dir") from error
        return authority

    def open(self) -> Authority:
        """The CA; ConfigError where none is, or its files do not fit together."""
        try:
            key = load_pem_private_key(self.key.read_bytes(), None)
            certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError("not an EC key")
            return Authority(key, certificate)
        except FileNotFoundError as error:
            raise ConfigError(str(self.path), "holds no CA", "Make it: tidegate-hub ca init") from error
        except (OSError, ValueError) as error:
            cure = "Put the right files back, or give them to the hub's user"
            raise ConfigError(str(self.path), f"cannot be used ({type(error).__name__}: {error})", cure) from error

    def open_signing(self) -> ed25519.Ed25519PrivateKey:
        """The key that this hub signs commands and the time with."""
        try:
            key = load_pem_private_key(self.signing_key.read_bytes(), None)
        except (OSError, ValueError) as error:
            raise ConfigError(str(self.signing_key), f"cannot be used ({error})", "Put the right file back") from error
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise ConfigError(str(self.signing_key), "is no Ed25519 key", "Put the right file back")
        return key

    def issue_server(self, names: Iterable[str], now_us: int, days: float = SERVER_DAYS) -> Issued:
        """Key and certificate for the broker or for REST, reached by these names and addresses."""
        return self.open().server(names, now_us, days)

    def issue_client(self, cn: str, now_us: int, days: float = SERVER_DAYS) -> Issued:
        """Key and certificate for the identity `cn`, such as the hub's own `tidegate-hub`."""
        return self.open().client(cn, now_us, days)

    def write_crl(self, revoked: Iterable[Revoked], now_us: int) -> None:
        """Replace `crl.pem`. The broker reads it again after a reload (docs/broker.md)."""
        write_file(self.crl, self.open().crl(revoked, now_us))


def write_file(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Replace a file at once and durably: whoever reads it sees the old or the new one. Mode 0600 when `secret`."""
    with NamedTemporaryFile(dir=path.parent, delete=False) as file:  # made with mode 0600
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o600 if secret else 0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
