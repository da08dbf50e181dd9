"""Stores issued certificates, and which devices and certificates are revoked."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from cryptography import x509
from sqlalchemy import bindparam
from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.certificates.core.authority import Revoked, common_name
from cloud_hub.database.tables import CertificateRow, Identity, RemovedDevice
from cloud_hub.errors import HubError

SPARKPLUG = ":spb"
"""A device's second identity, for its Sparkplug connection, is `<id>:spb`."""


def identity(session: Session, device: str) -> Identity:
    """The identity row of a device; a new one, not yet added, if there is none."""
    return session.get(Identity, device) or Identity(device=device)


def revocation_reason(session: Session, device: str) -> str:
    """Why a device is revoked, or ''. Cached for the transaction."""
    known: dict[str, str] = session.info.setdefault("revoked", {})
    if device not in known:
        row = session.get(Identity, device)
        known[device] = "" if row is None or row.revoked_us is None else row.reason or "revoked"
    return known[device]


def removed(session: Session, device: str) -> bool:
    """Whether the device was removed and not restored. Cached for the transaction."""
    known: dict[str, bool] = session.info.setdefault("removed", {})
    if device not in known:
        known[device] = session.get(RemovedDevice, device) is not None
    return known[device]


def clear_cache(session: Session) -> None:
    """Drop the cached revocations and removals of this transaction, because they changed."""
    session.info.pop("revoked", None)
    session.info.pop("removed", None)


def revoke_certificates(session: Session, device: str, now_us: int) -> int:
    """Revoke a device's certificates; returns how many."""
    ended = [row for row in certificates(session, device) if row.revoked_us is None]
    for row in ended:
        row.revoked_us = now_us
        session.add(row)
    return len(ended)


_IDENTITIES: Any = Identity.__table__  # type: ignore[attr-defined]
_REVOKED = select(_IDENTITIES.c.device, _IDENTITIES.c.reason).where(
    _IDENTITIES.c.device.in_(bindparam("b_devices", expanding=True)), _IDENTITIES.c.revoked_us.is_not(None)
)

_GONE: Any = RemovedDevice.__table__  # type: ignore[attr-defined]
_REMOVED = select(_GONE.c.device).where(_GONE.c.device.in_(bindparam("b_devices", expanding=True)))


def preload(session: Session, devices: Collection[str]) -> None:
    """Cache `revocation_reason` and `removed` of many devices with two queries, for each ingested batch."""
    known: dict[str, str] = session.info.setdefault("revoked", {})
    unknown = [device for device in devices if device not in known]
    known.update(dict.fromkeys(unknown, ""))
    rows = session.connection().execute(_REVOKED, {"b_devices": unknown})
    known.update((device, reason or "revoked") for device, reason in rows)
    gone: dict[str, bool] = session.info.setdefault("removed", {})
    gone.update(dict.fromkeys(devices, False))
    found = session.connection().execute(_REMOVED, {"b_devices": list(devices)})
    gone.update(dict.fromkeys(found.scalars(), True))


def record_certificate(session: Session, device: str, certificate: x509.Certificate) -> None:
    """Store a certificate, so that it can be revoked."""
    row = CertificateRow(
        serial=f"{certificate.serial_number:x}", device=device, cn=common_name(certificate.subject),
        issued_us=int(certificate.not_valid_before_utc.timestamp() * 1e6),
        expires_us=int(certificate.not_valid_after_utc.timestamp() * 1e6),
    )  # fmt: skip
    session.add(row)


def revoke(session: Session, device: str, now_us: int, *, actor: str, reason: str = "") -> int:
    """Revoke a device and its certificates; returns the number of certificates."""
    row = identity(session, device)
    row.revoked_us, row.reason = row.revoked_us or now_us, reason or row.reason or "revoked"
    session.add(row)
    ended = revoke_certificates(session, device, now_us)
    clear_cache(session)
    trail.add(session, now_us, actor, "device.revoked", device, device=device, reason=row.reason, certificates=ended)
    return ended


def readmit(session: Session, device: str, now_us: int, *, actor: str) -> None:
    """Let a revoked device enrol again; its old certificates stay revoked."""
    row = identity(session, device)
    if row.revoked_us is not None:
        row.revoked_us, row.reason = None, ""
        session.add(row)
        clear_cache(session)
        trail.add(session, now_us, actor, "device.readmitted", device, device=device)


def refuse_revoked(session: Session, device: str, serial: int | None = None) -> None:
    """HubError 403 when the device was removed, or it or this certificate of it was revoked."""
    if removed(session, device):
        raise HubError(403, "Removed", f"'{device}' was removed: put it back first (tidegate-hub device restore)")
    row = None if serial is None else session.get(CertificateRow, f"{serial:x}")
    if (row is not None and row.revoked_us is not None) or revocation_reason(session, device):
        raise HubError(403, "Revoked", f"'{device}' was revoked: readmit it with `tidegate-hub ca claim --readmit`")


def certificates(session: Session, device: str = "") -> list[CertificateRow]:
    """Certificates of one device, or of all, the oldest first."""
    query = select(CertificateRow).order_by(col(CertificateRow.issued_us), col(CertificateRow.serial))
    return list(session.exec(query.where(CertificateRow.device == device) if device else query))


def revocations(session: Session, now_us: int) -> list[Revoked]:
    """The entries of the revocation list (CRL): revoked certificates that have not expired long ago."""
    query = select(CertificateRow).where(
        col(CertificateRow.revoked_us).is_not(None), CertificateRow.expires_us > now_us - 30 * 86_400_000_000
    )
    return [Revoked(serial=int(row.serial, 16), t_us=row.revoked_us or 0) for row in session.exec(query)]
