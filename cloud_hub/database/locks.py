"""Who waits for whom. On SQLite every writer is alone; on PostgreSQL a writer may name the devices that it changes.

All locks of a transaction are taken before its first statement and in one order, the audit trail's after all others:
so no two writers, of one hub or of two, ever wait for each other in a circle.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from sqlalchemy import Connection
from sqlmodel import Session

_HUB, _DEVICES = 0x7467, 0x7468
"""Spaces of PostgreSQL's advisory locks. In the first: 0 the whole database, 1 the end of the audit trail."""


def acquire(connection: Connection, devices: Iterable[str]) -> None:
    """Wait until nobody else changes these devices, or, without any, until this transaction is alone."""
    keys = sorted({zlib.crc32(device.encode()) - (1 << 31) for device in devices})
    shared = "_shared" if keys else ""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock{shared}({_HUB}, 0)")
    if keys:
        query = "SELECT pg_advisory_xact_lock(%s, key) FROM unnest(%s::int[]) AS key"
        connection.exec_driver_sql(query, (_DEVICES, keys))


def require_lock(session: Session, device: str) -> None:
    """Raise RuntimeError unless this session may change `device`: its transaction would not be safe."""
    devices = session.info.get("devices")
    if devices is None or (devices and device not in devices):
        raise RuntimeError(f"twin of '{device}' changed outside `write()` or `write('{device}')`")


def lock_audit_trail(session: Session) -> None:
    """Wait until no other transaction adds to the audit trail; held until the end of this one.

    Taken after all others: who holds it waits for nobody.
    """
    if session.info.get("devices") and session.get_bind().dialect.name == "postgresql":
        session.connection().exec_driver_sql(f"SELECT pg_advisory_xact_lock({_HUB}, 1)")
