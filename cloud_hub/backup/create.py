"""The hub's whole state into one file while it runs: the database of one moment, keys, what else its folder holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic.runtime.migration import MigrationContext
from sqlmodel import Session

from cloud_hub.backup import archive, snapshot, state_files
from cloud_hub.backup.archive import Manifest, Tell
from cloud_hub.database.engine import open_engine
from cloud_hub.database.tables import Meta
from cloud_hub.errors import BackupError
from cloud_hub.settings import Settings

STATE = "state"
"""Folder in the archive for all that is not the database."""


def create_backup(settings: Settings, out: Path, now_us: int, tell: Tell) -> Manifest:
    """Write a backup to the new file `out`; raises BackupError or ConfigError. A hub may run and write meanwhile."""
    if out.exists():
        raise BackupError(f"{out} is already there: give another name")
    url, kind = settings.database_url, snapshot.database_kind(settings.database_url)
    member = snapshot.MEMBER[kind]
    with _scratch(out) as folder:
        copy = folder / member
        snapshot.save(url, copy, lambda done: tell(f"database {done} %"))
        schema, epoch = database_identity(f"sqlite:///{copy}" if kind == "sqlite" else url)
        found, strange = state_files.plain_files(settings)
        for path in strange:
            tell(f"NOT taken, because it is no plain file: {path}")
        sources = {member: copy} | {f"{STATE}/{name}": path for name, path in found.items() if path != out}
        files = {name: archive.file_digest(path) for name, path in sources.items()}
        manifest = Manifest(kind=kind, schema=schema, hub_epoch=epoch, taken_us=now_us, files=files)
        tell(f"writing {len(files)} files")
        archive.pack(out, manifest, sources, tell)
    return manifest


def database_identity(url: str) -> tuple[str, str]:
    """(revision of the schema, hub epoch) of a database; ('', '') where no hub ever was."""
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            schema = MigrationContext.configure(connection).get_current_revision()
            row = Session(connection).get(Meta, "hub_epoch") if schema else None
    finally:
        engine.dispose()
    return schema or "", row.value if row else ""


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A private folder beside the backup, on the disk that must hold it anyway."""
    try:
        with TemporaryDirectory(prefix=".backup-", dir=out.resolve().parent) as name:
            yield Path(name)
    except OSError as error:
        raise BackupError(f"{out}: cannot be written ({error.strerror or error})") from error
