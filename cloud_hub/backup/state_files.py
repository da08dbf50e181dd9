"""Lists, moves and changes the owner of the files in the state directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cloud_hub.backup import snapshot
from cloud_hub.runtime.state_lock import LOCK, RESTORING
from cloud_hub.settings import Settings

ASIDE = "before-restore-"
LOGS = ("", "-wal", "-shm")
"""Suffixes of a SQLite database's files."""


def entries(settings: Settings) -> list[Path]:
    """Entries of the state directory without the database, the lock, hidden files and remains of a restore."""
    state = Path(settings.state_dir)
    databases = {path.name for path in database_files(settings) if path.parent.resolve() == state.resolve()}
    paths = sorted(state.iterdir()) if state.is_dir() else []
    return [
        path
        for path in paths
        if path.name not in databases | {LOCK, RESTORING} and not path.name.startswith((ASIDE, "."))
    ]


def plain_files(settings: Settings) -> tuple[dict[str, Path], list[Path]]:
    """State files by relative path, without the database; and the entries that are neither file nor directory."""
    files: dict[str, Path] = {}
    strange = []
    for path in _walk(entries(settings)):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            strange.append(path)
        elif path.is_file():
            files[path.relative_to(settings.state_dir).as_posix()] = path
    return files, strange


def _walk(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(sorted(path.iterdir()))


def database_files(settings: Settings) -> list[Path]:
    """The possible files of the SQLite database; none on PostgreSQL."""
    if snapshot.database_kind(settings.database_url) != "sqlite":
        return []
    database = snapshot.sqlite_path(settings.database_url)
    return [database.with_name(f"{database.name}{suffix}") for suffix in LOGS]


def all_files(settings: Settings) -> list[Path]:
    """All files of the state, the SQLite database included."""
    return [path for path in database_files(settings) if path.exists()] + entries(settings)


def set_aside(settings: Settings, aside: Path) -> None:
    """Move all files of the state to the directory `aside`."""
    for path in all_files(settings):
        shutil.move(path, aside / path.name)


def restore_ownership(state: Path) -> None:
    """Give all files to the owner of the directory, if root runs this."""
    if os.geteuid() != 0:
        return
    owner = state.stat()
    for path in state.rglob("*"):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
