"""What the hub remembers of identities: who was given which certificate, and who is revoked."""

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
    """How this hub stands to a device, known or not; not stored before it is added."""
    return session.get(Identity, device) or Identity(device=device)


def revocation_reason(session: Session, device: str) -> str:
    """Why a device is no longer let in, or ''. Asked once for each device and transaction."""
    known: dict[str, str] = session.info.setdefault("revoked", {})
    if device not in known:
        row = session.get(Identity, device)
        known[device] = "" if row is None or row.revoked_us is None else row.reason or "revoked"
    return known[device]


def removed(session: Session, device: str) -> bool:
    """Whether the device was removed, and not restored. Asked once for each device and transaction."""
    known: dict[str, bool] = session.info.setdefault("removed", {})
    if device not in known:
        known[device] = session.get(RemovedDevice, device) is not None
    return known[device]


def forget(session: Session) -> None:
    """Ask again who is revoked and removed: it has changed."""
    session.info.pop("revoked", None)
    session.info.pop("removed", None)


def end(session: Session, device: str, now_us: int) -> int:
    """Revoke a device's certificates; returns how many there were."""
    ended = [one for one in certificates(session, device) if one.revoked_us is None]
    for one in ended:
        one.revoked_us = now_us
        session.add(one)
    return len(ended)


_IDENTITIES: Any = Identity.__table__  # type: ignore[attr-defined]
_REVOKED = select(_IDENTITIES.c.device, _IDENTITIES.c.reason).where(
    _IDENTITIES.c.device.in_(bindparam("b_devices", expanding=True)), _IDENTITIES.c.revoked_us.is_not(None)
)

_GONE: Any = RemovedDevice.__table__  # type: ignore[attr-defined]
_REMOVED = select(_GONE.c.device).where(_GONE.c.device.in_(bindparam("b_devices", expanding=True)))


def preload(session: Session, devices: Collection[str]) -> None:
    """Ask for many devices at once, so that `revocation_reason` and `removed` know of each. Asked for every batch:
    Core.
    """
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
    """Remember a certificate, so that it can be revoked."""
    row = CertificateRow(
        serial=f"{certificate.serial_number:x}", device=device, cn=common_name(certificate.subject),
        issued_us=int(certificate.not_valid_before_utc.timestamp() * 1e6),
        expires_us=int(certificate.not_valid_after_utc.timestamp() * 1e6),
    )  # fmt: skip
    session.add(row)


def revoke(session: Session, device: str, now_us: int, *, actor: str, reason: str = "") -> int:
    """Let a device in no more: it, its certificates and its claim; returns how many certificates ended with it."""
    row = identity(session, device)
    row.revoked_us, row.reason = row.revoked_us or now_us, reason or row.reason or "revoked"
    session.add(row)
    ended = end(session, device, now_us)
    forget(session)
    trail.add(session, now_us, actor, "device.revoked", device, device=device, reason=row.reason, certificates=ended)
    return ended


def readmit(session: Session, device: str, now_us: int, *, actor: str) -> None:
    """Let a revoked device enrol again. Its old certificates stay revoked."""
    row = identity(session, device)
    if row.revoked_us is not None:
        row.revoked_us, row.reason = None, ""
        session.add(row)
        forget(session)
        trail.add(session, now_us, actor, "device.readmitted", device, device=device)


def refuse_revoked(session: Session, device: str, serial: int | None = None) -> None:
    """HubError 403 when the device was removed, or it or this certificate of it was revoked."""
    if removed(session, device):
        raise HubError(403, "Removed", f"'{device}' was removed: put it back first (tidegate-hub device restore)")
    row = None if serial is None else session.get(CertificateRow, f"{serial:x}")
    if (row is not None and row.revoked_us is not None) or revocation_reason(session, device):
        raise HubError(403, "Revoked", f"'{device}' was revoked: an administrator readmits it with a new claim")


def certificates(session: Session, device: str = "") -> list[CertificateRow]:
    """Certificates of one device, or of all, the oldest first."""
    query = select(CertificateRow).order_by(col(CertificateRow.issued_us), col(CertificateRow.serial))
    return list(session.exec(query.where(CertificateRow.device == device) if device else query))


def revocations(session: Session, now_us: int) -> list[Revoked]:
    """What belongs into the list of revoked certificates: those that time has not ended too."""
    query = select(CertificateRow).where(
        col(CertificateRow.revoked_us).is_not(None), CertificateRow.expires_us > now_us - 30 * 86_400_000_000
    )
    return [Revoked(serial=int(row.serial, 16), t_us=row.revoked_us or 0) for row in session.exec(query)]
