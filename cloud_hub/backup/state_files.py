"""The files of a hub's state: which belong to it, where an old state is kept, whose they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cloud_hub.backup import snapshot
from cloud_hub.runtime.state_lock import HALF, LOCK
from cloud_hub.settings import Settings

ASIDE = "before-restore-"
LOGS = ("", "-wal", "-shm")
"""A SQLite database's file and what lies beside it."""


def entries(settings: Settings) -> list[Path]:
    """What stands in the state folder and is not the database, a lock, hidden, or left over from a restore."""
    state = Path(settings.state_dir)
    passed = {LOCK, HALF} | {path.name for path in database_files(settings) if path.parent.resolve() == state.resolve()}
    found = sorted(state.iterdir()) if state.is_dir() else []
    return [path for path in found if path.name not in passed and not path.name.startswith((ASIDE, "."))]


def plain_files(settings: Settings) -> tuple[dict[str, Path], list[Path]]:
    """Files of the state by their names in it, without the database; and what is neither file nor folder."""
    files: dict[str, Path] = {}
    strange = []
    for path in _walk(entries(settings)):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            strange.append(path)
        elif path.is_file():
            files[path.relative_to(settings.state_dir).as_posix()] = path
    return files, strange


def _walk(found: list[Path]) -> Iterator[Path]:
    for path in found:
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(sorted(path.iterdir()))


def database_files(settings: Settings) -> list[Path]:
    """The SQLite database's files that there are or may be; none on PostgreSQL."""
    if snapshot.database_kind(settings.database_url) != "sqlite":
        return []
    database = snapshot.sqlite_path(settings.database_url)
    return [database.with_name(f"{database.name}{suffix}") for suffix in LOGS]


def all_files(settings: Settings) -> list[Path]:
    """Everything of a state that lies in files."""
    return [path for path in database_files(settings) if path.exists()] + entries(settings)


def set_aside(settings: Settings, aside: Path) -> None:
    """All files of the state into the folder `aside`."""
    for path in all_files(settings):
        shutil.move(path, aside / path.name)


def restore_ownership(state: Path) -> None:
    """Whoever owns the folder owns all in it: root may have worked here."""
    if os.geteuid() != 0:
        return
    owner = state.stat()
    for path in state.rglob("*"):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
