"""Restores a backup. Nothing is changed until the whole archive is verified.

A restored hub has a new epoch, so devices discard their twin versions and fetch the twins again.
"""

from __future__ import annotations

import secrets
import shutil
from datetime import datetime, timezone
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlmodel import SQLModel

from cloud_hub.audit import trail
from cloud_hub.backup import archive, snapshot, state_files
from cloud_hub.backup.archive import Manifest, ReportProgress
from cloud_hub.backup.create import STATE, database_identity
from cloud_hub.database.engine import open_engine
from cloud_hub.database.schema import alembic_config
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Meta
from cloud_hub.errors import BackupError
from cloud_hub.runtime.state_lock import RESTORING, hold_state_lock
from cloud_hub.settings import Settings
from shared.errors import ConfigError


def restore(
    settings: Settings, source: Path, now_us: int, report: ReportProgress, *, force: bool = False
) -> tuple[Manifest, str]:
    """Replace the state by a backup; returns its manifest and the hub's new epoch.

    No hub may run. An existing state is refused, or with `force` moved aside within the state directory.
    Raises BackupError or ConfigError.
    """
    state, url = Path(settings.state_dir), settings.database_url
    half = state / RESTORING
    with hold_state_lock(state, alone=True):
        tables = snapshot.database_kind(url) == "postgresql" and _has_tables(url)
        there = [*map(str, state_files.all_files(settings)), *(["tables in the database"] if tables else [])]
        if there and not force:
            raise BackupError(f"there is a state already ({there[0]}). To keep it aside and restore: --force")
        manifest = _unpack(settings, source, half, now_us, report)
        if there:
            _set_aside(settings, now_us, tables, report)
        report("putting it in place")
        epoch = _install(settings, manifest, half, now_us)
        shutil.rmtree(half)
        state_files.restore_ownership(state)
    return manifest, epoch


def _unpack(settings: Settings, source: Path, half: Path, now_us: int, report: ReportProgress) -> Manifest:
    """Extract and verify the backup in the directory `half` and migrate its database there; cleans up on failure."""
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(mode=0o700)
    try:
        manifest = archive.unpack(source, half, report)
        _check_compatible(settings, manifest)
        if manifest.kind == "sqlite":
            copy = half / snapshot.MEMBER["sqlite"]
            snapshot.check(copy)
            _start_new_epoch(f"sqlite:///{copy}", manifest, now_us)
    except BaseException as error:
        shutil.rmtree(half, ignore_errors=True)
        if isinstance(error, OSError):
            raise BackupError(f"{half}: cannot be written ({error.strerror or error})") from error
        raise
    return manifest


def _check_compatible(settings: Settings, manifest: Manifest) -> None:
    """Raise unless this hub can use what the backup holds."""
    kind = snapshot.database_kind(settings.database_url)
    if manifest.kind != kind:
        cure = f"Restore it where `database` is {manifest.kind}: there is no way from one to the other"
        raise ConfigError("database", f"the backup is of {manifest.kind}, this hub is configured for {kind}", cure)
    if snapshot.MEMBER[kind] not in manifest.files:
        raise BackupError("the backup holds no database")
    known = {script.revision for script in ScriptDirectory.from_config(alembic_config("")).walk_revisions()}
    if manifest.schema not in known:
        reason = f"the backup's schema ({manifest.schema[:40]}) is newer than this hub"
        raise ConfigError("database", reason, "Install the version that wrote it, and restore with that")


def _install(settings: Settings, manifest: Manifest, half: Path, now_us: int) -> str:
    """Move everything into place, the database last; returns the hub's new epoch."""
    below, url = half / STATE, settings.database_url
    for path in sorted(below.iterdir()) if below.exists() else []:
        shutil.move(path, Path(settings.state_dir) / path.name)
    database = half / snapshot.MEMBER[manifest.kind]
    if manifest.kind == "postgresql":
        snapshot.load(url, database)
        return _start_new_epoch(url, manifest, now_us)
    target = snapshot.sqlite_path(url)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.move(database, target)
    return database_identity(url)[1]


def _start_new_epoch(url: str, manifest: Manifest, now_us: int) -> str:
    """Migrate the schema, set a new hub epoch and write an audit row."""
    db, epoch = Database(url), f"{secrets.randbits(64):016x}"
    try:
        with db.write() as session:
            session.merge(Meta(key="hub_epoch", value=epoch))
            trail.add(session, now_us, "command line", "hub.restored", manifest.hub_epoch, taken_us=manifest.taken_us)
        if db.is_file:
            with db.engine.connect() as connection:
                connection.exec_driver_sql("ROLLBACK")  # the journal mode cannot change inside a transaction
                connection.exec_driver_sql("PRAGMA journal_mode=DELETE")
    finally:
        db.close()
    return epoch


def _set_aside(settings: Settings, now_us: int, tables: bool, report: ReportProgress) -> None:
    """Move the current state to a directory of its own; a PostgreSQL database is dumped and emptied."""
    moment = datetime.fromtimestamp(now_us / 1e6, timezone.utc)
    aside = Path(settings.state_dir) / f"{state_files.ASIDE}{moment:%Y%m%dT%H%M%SZ}"
    aside.mkdir(mode=0o700)
    if tables:
        snapshot.save(settings.database_url, aside / snapshot.MEMBER["postgresql"], lambda _: None)
        engine = open_engine(settings.database_url)
        with engine.begin() as connection:
            SQLModel.metadata.drop_all(connection)
            connection.execute(text("DROP TABLE alembic_version"))
            connection.execute(text("DROP FUNCTION IF EXISTS audit_refuse()"))  # of the audit trail's trigger
        engine.dispose()
    state_files.set_aside(settings, aside)
    report(f"the old state is kept in {aside}")


def _has_tables(url: str) -> bool:
    """Whether the database on PostgreSQL holds a hub's tables; raises ConfigError when a hub is connected to it.

    A hub on another machine does not hold this lock, but the server lists its connections.
    """
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tidegate-hub'"
    query += " AND datname = current_database() AND pid <> pg_backend_pid()"
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            if connection.scalar(text(query)):
                raise ConfigError("database", "a hub is connected to it", "Stop the hub first")
    finally:
        engine.dispose()
    return bool(database_identity(url)[0])
