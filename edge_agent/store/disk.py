"""Handles a full disk with a reserve file, and moves damaged database files aside.

On a full disk SQLite cannot even delete rows, because its log must grow first. A reserve file in the state directory
is therefore deleted when a store finds the disk full, and created again once there is free space.
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
"""Bytes of the reserve file: the logs of both stores (at most 1,000 pages of 4 kB each) and a margin."""
PROBE = 256 << 10
SUFFIXES = ("", "-wal", "-shm")


def found_full(error: BaseException | None) -> bool:
    """Whether this SQLite error may mean that the disk is full."""
    return isinstance(error, sqlite3.OperationalError) and ("full" in str(error) or "disk I/O" in str(error))


def found_damage(error: BaseException | None) -> bool:
    """Whether this SQLite error means that the file is corrupt."""
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    texts = ("malformed", "not a database", "Could not decode", "corrupt")
    return type(error) is sqlite3.DatabaseError or any(text in str(error) for text in texts)


class Disk:
    """The directory of the stores. `full`: the reserve is released; `damaged`: files moved aside, and the reasons."""

    def __init__(self, folder: Path, reserve: int = RESERVE) -> None:
        self._file, self._size = folder / "reserve", reserve
        self.full = False
        self.damaged: dict[str, str] = {}
        self._fill()

    def release_reserve(self) -> bool:
        """Delete the reserve file because the disk is full. False if it is already deleted, or the disk is not full."""
        if not self._file.exists() or _can_allocate(self._file.with_name("probe"), PROBE):
            return False
        with suppress(OSError):
            self._file.unlink()
        self.full = True
        log.error("disk.full", extra={"fields": {"folder": str(self._file.parent), "given_away": self._size}})
        return True

    def recovered(self) -> bool:
        """Create the reserve again if there is enough free space; returns whether it did. Call it periodically."""
        if not self.full or shutil.disk_usage(self._file.parent).free < 2 * self._size or not self._fill():
            return False
        self.full = False
        log.warning("disk.room", extra={"fields": {"folder": str(self._file.parent)}})
        return True

    def set_aside(self, path: Path, reason: str) -> None:
        """Rename a damaged file to `<name>.damaged`, replacing an earlier one."""
        log.error("store.damaged", extra={"fields": {"path": f"{path}.damaged", "reason": reason}})
        self.damaged[path.name] = reason
        for suffix in SUFFIXES:
            file = Path(f"{path}{suffix}")
            if file.exists():
                file.replace(f"{path}.damaged{suffix}")

    def _fill(self) -> bool:
        if self._size == 0:
            return True
        with suppress(OSError):
            if self._file.stat().st_size == self._size:
                return True
        return _can_allocate(self._file, self._size, keep=True)


def _can_allocate(path: Path, size: int, *, keep: bool = False) -> bool:
    """Whether `size` bytes can be allocated; tries it with a file, which is deleted unless `keep` is set."""
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
