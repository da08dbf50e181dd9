"""Migrates the schema with the Alembic revisions in `migrations/` when a database is opened."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Engine
from sqlalchemy.exc import DatabaseError, OperationalError

from cloud_hub.database import locks
from cloud_hub.database.engine import error_text, is_postgres
from shared.errors import ConfigError, NotReady


def alembic_config(url: str) -> Config:
    """Alembic's configuration for the shipped revisions."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["url"] = url
    return config


def migrate(engine: Engine, url: str) -> None:
    """Bring the schema up to date; raises ConfigError if it is newer than this hub, NotReady if the server is away."""
    config = alembic_config(url)
    head = ScriptDirectory.from_config(config).get_current_head()
    try:
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
        if current == head:
            return
        with engine.execution_options(writes=True).begin() as connection:
            if is_postgres(engine):
                locks.acquire(connection, ())
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        reason = f"the schema is newer than this hub ({error})"
        raise ConfigError("database", reason, "Install the newer version again, or restore a backup") from error
    except DatabaseError as error:  # missing folder, no write permission, or not a database file
        if is_postgres(engine) and isinstance(error, OperationalError):
            raise NotReady(f"the schema cannot be brought up to date now ({error_text(error)})") from error
        raise ConfigError(
            "database", f"cannot be opened ({error.orig})", "Check path, owner, rights and disk"
        ) from error
