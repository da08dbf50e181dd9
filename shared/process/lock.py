"""A lock file that allows one process at a time and names the process that holds it.

Uses flock(2): the kernel releases the lock when the process ends, so there are no stale locks. The file stays.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from shared.errors import ConfigError


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """The process that holds the lock."""

    pid: int
    since: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} since {self.since} ({self.command})"


@contextmanager
def process_lock(file: Path, cure: str) -> Iterator[None]:
    """Hold the lock of `file`; raises ConfigError with the process that holds it, or why locking fails."""
    try:
        handle = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(str(file), f"cannot be opened ({error.strerror})", "Give its folder to this user") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(str(file.parent), f"is in use by {_holder(handle)}", cure) from error
        except OSError as error:
            raise ConfigError(str(file), f"cannot be locked ({error.strerror})", "Use a local file system") from error
        _write_holder(handle)
        yield
    finally:
        os.close(handle)


def _write_holder(handle: int) -> None:
    """Write the holder of the lock into the file. Errors are ignored: on a full disk the lock is held all the same."""
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, msgspec.json.encode(Holder(pid=os.getpid(), since=since, command=command[:500])), 0)


def _holder(handle: int) -> str:
    try:
        return str(msgspec.json.decode(os.pread(handle, 4096, 0), type=Holder))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return "another process"
