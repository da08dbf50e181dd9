"""Who works on a state folder: hubs share its lock, a restore wants it alone. A lock ends with its process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import ConfigError

LOCK = "hub.lock"
HALF = "restoring"
"""Folder of a restore on its way: while it is there, the state is not whole."""


@contextmanager
def working(folder: Path, *, alone: bool = False) -> Iterator[None]:
    """Hold the folder's lock; raises ConfigError: a restore is at work or was broken off, or (`alone`) a hub runs."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            "state_dir", f"{folder} cannot be written ({error.strerror})", "Give it to this user"
        ) from error
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            reason, cure = (
                ("a hub runs on it", "Stop the hub first") if alone else ("a restore is at work", "Wait for it")
            )
            raise ConfigError(str(folder), reason, cure) from error
        if not alone and (folder / HALF).exists():
            raise ConfigError(
                str(folder), "a restore was broken off here", "Run it again: tidegate-hub restore --force"
            )
        yield
    finally:
        os.close(handle)
