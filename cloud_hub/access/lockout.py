"""Locks out addresses that guess tokens: after FREE wrong tokens within WINDOW_S, for LOCK_S.

Locks are stored in the database and survive a restart. The number of addresses in memory is bounded; the one whose
last try is the oldest is dropped first.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from functools import lru_cache
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


@lru_cache(maxsize=1024)
def address_key(host: str | None) -> str:
    """The key to count by: an IPv4 address, or the /64 of an IPv6 address, which belongs to one customer."""
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return host or "unknown"
    if address.version == 4:
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))


class Lockout:
    """Failed tries and locks by address; `locks` maps an address to the end of its lock in microseconds."""

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
        """Count a failed try; returns the end of the lock if this one caused it."""
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
    def _remember(entries: OrderedDict[str, Any], address: str, value: Any) -> None:
        entries[address] = value
        if len(entries) > MAX_ADDRESSES:
            entries.popitem(last=False)

    def clear(self) -> None:
        """Drop all tries and locks."""
        with self._lock:
            self._locks.clear()
            self._tries.clear()


def save_lock(session: Session, address: str, until_us: int, now_us: int) -> None:
    """Store a lock, and delete those that have ended."""
    session.connection().execute(delete(LockoutRow).where(col(LockoutRow.until_us) <= now_us))
    session.merge(LockoutRow(address=address, until_us=until_us))
    trail.add(session, now_us, "hub", "address.locked", address, until_us=until_us)


def active_locks(session: Session, now_us: int) -> dict[str, int]:
    """Locks that have not ended."""
    rows = session.exec(select(LockoutRow).where(col(LockoutRow.until_us) > now_us).limit(MAX_ADDRESSES))
    return {row.address: row.until_us for row in rows}
