"""Alembic's entry: runs the revisions on the connection that `schema.migrate` hands over."""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

from cloud_hub.database import tables  # noqa: F401 - fills the metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True)
context.run_migrations()
