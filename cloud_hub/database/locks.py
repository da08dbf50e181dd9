"""Takes PostgreSQL advisory locks for writers. On SQLite there is one writer at a time and no lock is needed.

A transaction takes all its locks before its first statement and in a fixed order, that of the audit trail last. So
writers cannot deadlock, in one hub or across several.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from sqlalchemy import Connection
from sqlmodel import Session

_HUB, _DEVICES = 0x7467, 0x7468
"""Key spaces of the advisory locks. In _HUB: 0 is the database, 1 the end of the audit trail."""


def acquire(connection: Connection, devices: Iterable[str]) -> None:
    """Lock these devices, or the database if none are given; waits for other writers."""
    keys = sorted({zlib.crc32(device.encode()) - (1 << 31) for device in devices})
    shared = "_shared" if keys else ""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock{shared}({_HUB}, 0)")
    if keys:
        query = "SELECT pg_advisory_xact_lock(%s, key) FROM unnest(%s::int[]) AS key"
        connection.exec_driver_sql(query, (_DEVICES, keys))


def require_lock(session: Session, device: str) -> None:
    """Raise RuntimeError unless this session holds the lock of `device`."""
    devices = session.info.get("devices")
    if devices is None or (devices and device not in devices):
        raise RuntimeError(f"twin of '{device}' changed outside `write()` or `write('{device}')`")


def lock_audit_trail(session: Session) -> None:
    """Lock the end of the audit trail until this transaction ends. Must be the last lock taken."""
    if session.info.get("devices") and session.get_bind().dialect.name == "postgresql":
        session.connection().exec_driver_sql(f"SELECT pg_advisory_xact_lock({_HUB}, 1)")
