"""Guessing tokens is locked out: after FREE wrong ones within WINDOW_S an address is not listened to for LOCK_S.

A core, and two functions that keep locks in the database, so that they outlive a restart. The memory of wrong tries
is bounded: the address that tried longest ago is forgotten first.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from typing import Any

from sqlalchemy import delete
from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.database.tables import LockoutRow
from cloud_hub.errors import HubError

FREE = 5
WINDOW_S = 60
LOCK_S = 60
MAX_ADDRESSES = 10_000


def address_key(host: str | None) -> str:
    """Whom to count for: an IPv4 address, or the /64 of an IPv6 one, which is one customer's."""
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return host or "unknown"
    if address.version == 4:
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))


class Lockout:
    """Wrong tries and locks by address; `locks` maps address to the end of its lock, in microseconds."""

    def __init__(self, locks: dict[str, int] | None = None) -> None:
        self._locks: OrderedDict[str, int] = OrderedDict(locks or {})
        self._tries: OrderedDict[str, list[int]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, address: str, now_us: int) -> None:
        """Raise HubError 429 while the address is locked."""
        left_us = self._locks.get(address, 0) - now_us
        if left_us > 0:
            wait = -(-left_us // 1_000_000)
            detail = f"too many wrong tokens came from {address}; wait {wait} s, then send a living one"
            raise HubError(429, "Locked out", detail, retry_after_s=str(wait))

    def record_failure(self, address: str, now_us: int) -> int | None:
        """Count a wrong try; the end of the lock when this one brought it about."""
        with self._lock:
            since = now_us - WINDOW_S * 1_000_000
            tries = [t_us for t_us in self._tries.pop(address, []) if t_us > since] + [now_us]
            if len(tries) < FREE:
                self._remember(self._tries, address, tries)
                return None
            until_us = now_us + LOCK_S * 1_000_000
            self._locks.pop(address, None)
            self._remember(self._locks, address, until_us)
            return until_us

    @staticmethod
    def _remember(where: OrderedDict[str, Any], address: str, what: Any) -> None:
        where[address] = what
        if len(where) > MAX_ADDRESSES:
            where.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._locks.clear()
            self._tries.clear()


def save_lock(session: Session, address: str, until_us: int, now_us: int) -> None:
    """Remember a lock, and forget those that have ended."""
    session.connection().execute(delete(LockoutRow).where(col(LockoutRow.until_us) <= now_us))
    session.merge(LockoutRow(address=address, until_us=until_us))
    trail.add(session, now_us, "hub", "address.locked", address, until_us=until_us)


def active_locks(session: Session, now_us: int) -> dict[str, int]:
    """Locks that have not ended."""
    rows = session.exec(select(LockoutRow).where(col(LockoutRow.until_us) > now_us).limit(MAX_ADDRESSES))
    return {row.address: row.until_us for row in rows}
