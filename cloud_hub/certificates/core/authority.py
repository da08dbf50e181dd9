"""What a certificate of this hub looks like: server, client and device certificates, the list of revoked ones.

A core over `cryptography`: `now_us` is an argument and no file is touched; keys and serial numbers are random.
EC P-256 throughout (RFC 5280 profiles; TLS 1.3 and every MQTT broker know it). The hub's own signature is Ed25519.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ROOT_DAYS = 7300.0
SERVER_DAYS = 825.0
SIGNING_SUFFIX = ":signing"
"""CN of the certificate that says with which key this hub signs commands and the time: `<hub>:signing`."""

_EARLY = timedelta(hours=1)
"""Certificates are good from an hour before they were made: clocks differ."""

DeviceKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate and, where it was made here, its key; both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """One certificate that is good no longer."""

    serial: int
    t_us: int


class Authority:
    """A root key with its certificate. Every method that issues returns something signed by it."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        if key.public_key() != certificate.public_key():
            raise ValueError("the key is not that of the certificate")
        self._key, self.certificate = key, certificate

    @classmethod
    def create(cls, name: str, now_us: int, days: float = ROOT_DAYS) -> Authority:
        """A new root for the hub `name`."""
        key = new_key()
        subject = _cn(f"{name[:60]} CA")
        built = (
            _dated(now_us, days).subject_name(subject).issuer_name(subject).public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )  # fmt: skip
        return cls(key, built.sign(key, hashes.SHA256()))

    @property
    def pem(self) -> bytes:
        """The root certificate, to be given to everybody."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The root key, to be given to nobody."""
        return key_pem(self._key)

    def server(self, names: Iterable[str], now_us: int, days: float = SERVER_DAYS) -> Issued:
        """For a server reached by these host names and addresses. ValueError without any."""
        named = list(names)
        if not named:
            raise ValueError("a server certificate needs at least one name or address")
        key = new_key()
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in named])
        certificate = self._issue(key.public_key(), named[0][:64], now_us, days, ExtendedKeyUsageOID.SERVER_AUTH,
                                  alternatives)  # fmt: skip
        return Issued(certificate=certificate.public_bytes(Encoding.PEM), key=key_pem(key))

    def client(self, cn: str, now_us: int, days: float = SERVER_DAYS) -> Issued:
        """For an identity whose key is made here: the hub's own, or a device that cannot make one."""
        key = new_key()
        certificate = self.sign(key.public_key(), cn, now_us, days)
        return Issued(certificate=certificate.public_bytes(Encoding.PEM), key=key_pem(key))

    def sign(self, key: DeviceKey, cn: str, now_us: int, days: float) -> x509.Certificate:
        """A client certificate for `cn` over a key that was made elsewhere; who asked must have proven to hold it."""
        return self._issue(key, cn, now_us, days, ExtendedKeyUsageOID.CLIENT_AUTH)

    def certify_signing_key(self, key: ed25519.Ed25519PublicKey, hub: str, now_us: int) -> x509.Certificate:
        """Says that the hub signs with this key; good as long as the root."""
        days = (self.certificate.not_valid_after_utc - x509_time(now_us)) / timedelta(days=1)
        return self._issue(key, f"{hub[:50]}{SIGNING_SUFFIX}", now_us, days, ExtendedKeyUsageOID.CODE_SIGNING)

    def crl(self, revoked: Iterable[Revoked], now_us: int) -> bytes:
        """The list of revoked certificates, PEM, as mosquitto's `crlfile` reads it.

        It is good as long as the root: a broker whose list has grown old refuses everybody.
        """
        built = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(x509_time(now_us) - _EARLY)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(x509.CRLNumber(now_us), critical=False)
            .add_extension(self._key_identifier(), critical=False)
        )
        for certificate in revoked:
            entry = (
                x509.RevokedCertificateBuilder()
                .serial_number(certificate.serial)
                .revocation_date(x509_time(certificate.t_us))
                .build()
            )
            built = built.add_revoked_certificate(entry)
        return built.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())

    def _issue(
        self, key: DeviceKey, cn: str, now_us: int, days: float, use: x509.ObjectIdentifier,
        alternatives: x509.SubjectAlternativeName | None = None,
    ) -> x509.Certificate:  # fmt: skip
        built = (
            _dated(now_us, days).subject_name(_cn(cn)).issuer_name(self.certificate.subject).public_key(key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(self._key_identifier(), critical=False)
        )  # fmt: skip
        if alternatives is not None:
            built = built.add_extension(alternatives, critical=False)
        return built.sign(self._key, hashes.SHA256())


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh key of the kind that this hub gives and takes."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """A private key as unencrypted PKCS#8 PEM, for a file of mode 0600."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def x509_time(t_us: int) -> datetime:
    """A time in UTC microseconds as X.509 has it: whole seconds."""
    return datetime.fromtimestamp(t_us // 1_000_000, timezone.utc)


def common_name(name: x509.Name) -> str:
    """The one common name, or '' where there is none, or more."""
    attributes = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attributes[0].value) if len(attributes) == 1 else ""


def _dated(now_us: int, days: float) -> x509.CertificateBuilder:
    begin = x509_time(now_us)
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _EARLY)
        .not_valid_after(begin + timedelta(days=days))
    )


def _cn(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
