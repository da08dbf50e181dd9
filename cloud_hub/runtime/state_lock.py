"""Locks the state directory for one hub or one restore. The lock ends with its process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import ConfigError
from shared.process.lock import process_lock

LOCK = "hub.lock"
RESTORING = "restoring"
"""Directory of a restore in progress: while it exists, the state is incomplete."""


@contextmanager
def hold_state_lock(folder: Path, *, alone: bool = False) -> Iterator[None]:
    """Hold the directory's lock. `alone` is for a restore.

    Raises ConfigError if another process holds it or, unless `alone`, if a restore was interrupted here.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            "state_dir", f"{folder} cannot be written ({error.strerror})", "Give it to this user"
        ) from error
    with process_lock(folder / LOCK, "Stop it first" if alone else "Stop it, or give this hub a state_dir of its own"):
        if not alone and (folder / RESTORING).exists():
            raise ConfigError(
                str(folder), "a restore was broken off here", "Run it again: tidegate-hub restore --force"
            )
        yield
