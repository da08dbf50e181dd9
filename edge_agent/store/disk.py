"""The disk below the stores: a reserve for the moment when it is full, and where a damaged file goes.

SQLite cannot even delete on a full disk: its log must grow first. So some room stands aside in the state folder; when a
store finds the disk full it is given away, and taken back once there is room again.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

RESERVE = 6 << 20
"""Bytes: the logs of both stores (1,000 pages of 4 kB at most before they are used again), and some."""
PROBE = 256 << 10
BESIDE = ("", "-wal", "-shm")


def found_full(error: BaseException | None) -> bool:
    """Whether SQLite may mean that the disk has no room."""
    return isinstance(error, sqlite3.OperationalError) and ("full" in str(error) or "disk I/O" in str(error))


def found_damage(error: BaseException | None) -> bool:
    """Whether SQLite means that the file's content cannot be right."""
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    words = ("malformed", "not a database", "Could not decode", "corrupt")
    return type(error) is sqlite3.DatabaseError or any(word in str(error) for word in words)


class Disk:
    """The folder of the stores. `full` while its reserve is given away; `damaged`: files moved aside, and why."""

    def __init__(self, folder: Path, reserve: int = RESERVE) -> None:
        self._file, self._size = folder / "reserve", reserve
        self.full = False
        self.damaged: dict[str, str] = {}
        self._fill()

    def release_reserve(self) -> bool:
        """A store met a full disk: give the reserve away. False when there is none left, or there is room after all."""
        if not self._file.exists() or _room_for(self._file.with_name("probe"), PROBE):
            return False
        with suppress(OSError):
            self._file.unlink()
        self.full = True
        log.error("disk.full", extra={"fields": {"folder": str(self._file.parent), "given_away": self._size}})
        return True

    def recovered(self) -> bool:
        """Whether there is room again; then the reserve stands aside as before. Ask from time to time."""
        if not self.full or shutil.disk_usage(self._file.parent).free < 2 * self._size or not self._fill():
            return False
        self.full = False
        log.warning("disk.room", extra={"fields": {"folder": str(self._file.parent)}})
        return True

    def set_aside(self, path: Path, reason: str) -> None:
        """Move a damaged file away, in place of an earlier one of that name."""
        log.error("store.damaged", extra={"fields": {"path": f"{path}.damaged", "reason": reason}})
        self.damaged[path.name] = reason
        for suffix in BESIDE:
            file = Path(f"{path}{suffix}")
            if file.exists():
                file.replace(f"{path}.damaged{suffix}")

    def _fill(self) -> bool:
        if self._size == 0:
            return True
        with suppress(OSError):
            if self._file.stat().st_size == self._size:
                return True
        return _room_for(self._file, self._size, keep=True)


def _room_for(path: Path, size: int, *, keep: bool = False) -> bool:
    """Whether so many bytes can be had, tried on a file, which stays with `keep`."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.posix_fallocate(handle, 0, size)
        finally:
            os.close(handle)
    except OSError:
        keep = False
        return False
    finally:
        if not keep:
            with suppress(OSError):
                path.unlink()
    return True
