"""Enrols devices (EST, RFC 7030): the first certificate for a one-time claim, renewals for the device's key.

Functions return a refusal instead of raising it where their writes must be committed anyway.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from sqlmodel import Session

from cloud_hub.audit import trail
from cloud_hub.certificates import registry as certificates
from cloud_hub.certificates.core.authority import Authority, common_name
from cloud_hub.database.tables import Claim
from cloud_hub.errors import HubError
from shared.ids import DEVICE_ID
from shared.protocol import signatures

CLAIM_LIFE_S = 86400.0
TRIES, TRIES_US = 5, 60_000_000
"""After TRIES wrong claims within TRIES_US, claims are refused until the window has passed."""

FRESH_US = 300_000_000
"""Maximum age of the time in a proof, which the device got from the hub."""

RESERVED = "tidegate-hub"
"""Prefix of the hub's own identities; no device may have one."""


def create_claim(
    session: Session, device: str, now_us: int, *, actor: str, life_s: float = CLAIM_LIFE_S, readmit: bool = False,
    hub: str = RESERVED,
) -> str:  # fmt: skip
    """Create a claim for `device`, which replaces an older one; returns its text, which cannot be read again.

    `hub` is the hub's own identity at the broker.
    """
    if not DEVICE_ID.match(device) or device.startswith(RESERVED) or device == hub:
        rule = f"1 to 60 of a-z 0-9 _ -, first a letter or digit; the hub's own and '{RESERVED}...' are taken"
        raise HubError(422, "Invalid request", f"'{device[:80]}' is no device id: {rule}")
    if readmit:
        certificates.readmit(session, device, now_us, actor=actor)
    certificates.refuse_revoked(session, device)
    text = f"tgc_{secrets.token_urlsafe(32)}"
    session.merge(Claim(device=device, digest=_digest(text), actor=actor, created_us=now_us,
                        expires_us=now_us + int(life_s * 1e6), wrong_us=[]))  # fmt: skip
    trail.add(session, now_us, actor, "claim.created", device, device=device, life_s=life_s)
    return text


def require_claim(session: Session, device: str) -> None:
    """HubError 401 unless the device has a claim: a cheap check before a write transaction."""
    if session.get(Claim, device) is None:
        raise _no_claim()


def enrol(
    session: Session, authority: Authority, device: str, text: str, body: bytes, now_us: int, days: float
) -> x509.Certificate | HubError:
    """The first certificate of a device. Call it in `write(device)` and commit before a refusal is raised."""
    refusal = _claimed(session, device, text, now_us)
    if refusal is not None:
        return refusal
    row = session.get_one(Claim, device)
    try:
        request = read_request(body)
        cn = _cn(request, device)
        if row.used_us is not None and not hmac.compare_digest(row.key_digest, _key_digest(request)):
            return _wrong(session, row, now_us, "used")
        certificates.refuse_revoked(session, device)
    except HubError as error:
        return error
    row.used_us, row.key_digest, row.wrong_us = row.used_us or now_us, _key_digest(request), []
    session.add(row)
    return _issue(session, authority, request, device, cn, now_us, days, "enrolled")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenDevice:
    """A device that proved to hold the key of a certificate of this CA; `t_us` is the time in its proof."""

    device: str
    serial: int
    t_us: int


def verify_proof(authority: Authority, header: str, path: str, body: bytes) -> ProvenDevice:
    """Verify the proof in `header` for this request; the certificate may be expired. HubError 401.

    Needs no database, so a caller without a valid key costs no query.
    """
    proof, current = _shown(authority, header)
    device = common_name(current.subject)
    key = current.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not DEVICE_ID.match(device) or device.startswith(RESERVED):
        raise _unproven("the certificate is no device's")
    try:
        key.verify(proof.signature, signatures.proof("POST", path, proof.t_us, body), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise _unproven("the signature is not over this request") from None
    return ProvenDevice(device=device, serial=current.serial_number, t_us=proof.t_us)


def reenrol(
    session: Session, authority: Authority, actor: ProvenDevice, body: bytes, now_us: int, days: float
) -> x509.Certificate:
    """The next certificate of a device that has proven itself, in `write(who.device)`. HubError."""
    certificates.refuse_revoked(session, actor.device, actor.serial)
    row = certificates.identity(session, actor.device)
    if not row.proof_us < actor.t_us or abs(now_us - actor.t_us) > FRESH_US:
        raise _unproven("its time is not the hub's, or was used before: ask /.well-known/tidegate/time again")
    row.proof_us = actor.t_us
    session.add(row)
    request = read_request(body)
    return _issue(session, authority, request, actor.device, _cn(request, actor.device), now_us, days, "renewed")


def read_request(body: bytes) -> x509.CertificateSigningRequest:
    """A PKCS#10 request as EST sends it (base64 of DER) or as PEM, signed by its own key; HubError 400."""
    try:
        if body.lstrip().startswith(b"-----"):
            request = x509.load_pem_x509_csr(body)
        else:
            der = b64decode(b"".join(body.split()), validate=True)
            request = x509.load_der_x509_csr(der)
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise HubError(400, "Bad certificate request", "make an EC key on the curve P-256")
        proven = request.is_signature_valid
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise HubError(400, "Bad certificate request", f"send PKCS#10, base64 or PEM ({error})"[:300]) from error
    if not proven:
        raise HubError(400, "Bad certificate request", "it is not signed by the key that it names")
    return request


def _shown(authority: Authority, header: str) -> tuple[signatures.Proof, x509.Certificate]:
    try:
        proof = signatures.Proof.read(header)
        current = x509.load_der_x509_certificate(proof.certificate)
        current.verify_directly_issued_by(authority.certificate)
        uses = current.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise _unproven(f"{signatures.PROOF_HEADER} shows no certificate of this hub's CA") from error
    if ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
        raise _unproven("the certificate is no device's")
    return proof, current


def _claimed(session: Session, device: str, text: str, now_us: int) -> HubError | None:
    row = session.get(Claim, device)
    if row is None:
        return _no_claim()
    row.wrong_us = [t_us for t_us in row.wrong_us if now_us - TRIES_US < t_us <= now_us]
    if len(row.wrong_us) >= TRIES:
        return HubError(429, "Locked", f"{TRIES} wrong claims within a minute: wait a minute")
    if not hmac.compare_digest(row.digest, _digest(text)):
        return _wrong(session, row, now_us, "wrong")
    if now_us >= row.expires_us:
        return _wrong(session, row, now_us, "expired")
    return None


def _wrong(session: Session, row: Claim, now_us: int, why: str) -> HubError:
    row.wrong_us = [*row.wrong_us, now_us]
    session.add(row)
    trail.add(session, now_us, row.device, "claim.refused", row.device, device=row.device, why=why,
              locked=len(row.wrong_us) >= TRIES)  # fmt: skip
    return _no_claim()


def _no_claim() -> HubError:
    """One answer, whatever is wrong with it."""
    return HubError(401, "No such claim", "ask for one: tidegate-hub ca claim DEVICE")


def _cn(request: x509.CertificateSigningRequest, device: str) -> str:
    asked = common_name(request.subject) or device
    if asked not in {device, device + certificates.SPARKPLUG}:
        raise HubError(
            400, "Bad certificate request", f"its CN must be '{device}' or '{device}{certificates.SPARKPLUG}'"
        )
    return asked


def _issue(
    session: Session, authority: Authority, request: x509.CertificateSigningRequest, device: str, cn: str,
    now_us: int, days: float, kind: str,
) -> x509.Certificate:  # fmt: skip
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise HubError(400, "Bad certificate request", "make an EC key on the curve P-256")
    certificate = authority.sign(key, cn, now_us, days)
    certificates.record_certificate(session, device, certificate)
    trail.add(session, now_us, device, f"device.{kind}", cn, device=device, serial=f"{certificate.serial_number:x}",
              expires=certificate.not_valid_after_utc.isoformat())  # fmt: skip
    return certificate


def _unproven(detail: str) -> HubError:
    return HubError(401, "Not proven", detail)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _key_digest(request: x509.CertificateSigningRequest) -> str:
    spki = request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()
