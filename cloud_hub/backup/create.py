"""Creates a backup of a running hub: a snapshot of the database, the keys and the other state files in one archive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic.runtime.migration import MigrationContext
from sqlmodel import Session

from cloud_hub.backup import archive, snapshot, state_files
from cloud_hub.backup.archive import Manifest, ReportProgress
from cloud_hub.database.engine import open_engine
from cloud_hub.database.tables import Meta
from cloud_hub.errors import BackupError
from cloud_hub.settings import Settings

STATE = "state"
"""Directory in the archive for everything except the database."""


def create_backup(settings: Settings, out: Path, now_us: int, report: ReportProgress) -> Manifest:
    """Write a backup to the new file `out` while the hub may run; raises BackupError or ConfigError."""
    if out.exists():
        raise BackupError(f"{out} is already there: give another name")
    url, kind = settings.database_url, snapshot.database_kind(settings.database_url)
    member = snapshot.MEMBER[kind]
    with _scratch(out) as folder:
        copy = folder / member
        snapshot.save(url, copy, lambda done: report(f"database {done} %"))
        schema, epoch = database_identity(f"sqlite:///{copy}" if kind == "sqlite" else url)
        plain, strange = state_files.plain_files(settings)
        for path in strange:
            report(f"NOT taken, because it is no plain file: {path}")
        sources = {member: copy} | {f"{STATE}/{name}": path for name, path in plain.items() if path != out}
        files = {name: archive.file_digest(path) for name, path in sources.items()}
        manifest = Manifest(kind=kind, schema=schema, hub_epoch=epoch, taken_us=now_us, files=files)
        report(f"writing {len(files)} {'file' if len(files) == 1 else 'files'}")
        archive.pack(out, manifest, sources, report)
    return manifest


def database_identity(url: str) -> tuple[str, str]:
    """(revision of the schema, hub epoch) of a database; ('', '') if it is empty."""
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
    """A temporary directory next to the backup, on the same disk."""
    try:
        with TemporaryDirectory(prefix=".backup-", dir=out.resolve().parent) as name:
            yield Path(name)
    except OSError as error:
        raise BackupError(f"{out}: cannot be written ({error.strerror or error})") from error
