"""One row by the database's own driver: what nearly every request asks costs a twentieth of SQLAlchemy's way.

The statement is compiled once by SQLAlchemy, and its column types read the row: text and results are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from sqlalchemy import Engine, Select
from sqlalchemy.dialects import sqlite


class DriverQuery:
    """A SELECT of at most one row, with bind parameters."""

    def __init__(self, query: Select[Any]) -> None:
        self.query = query

    @cached_property
    def _sqlite(self) -> tuple[str, list[str], list[Callable[[Any], Any] | None]]:
        compiled = self.query.compile(dialect=sqlite.dialect())
        return str(compiled), list(compiled.positiontup or ()), []

    def first(self, engine: Engine, parameters: dict[str, Any]) -> tuple[Any, ...] | None:
        """The row, or None. On SQLite without a transaction of its own: one statement sees one moment."""
        text, names, readers = self._sqlite
        if not readers:  # how this engine reads the types, such as JSON
            dialect = engine.dialect
            readers += [column.type.dialect_impl(dialect).result_processor(dialect, None)
                        for column in self.query.selected_columns]  # fmt: skip
        connection = engine.raw_connection()
        try:
            cursor = connection.driver_connection.execute(text, [parameters[name] for name in names])  # type: ignore[union-attr]
            row = cursor.fetchone()
            cursor.close()
        finally:
            connection.close()
        if row is None:
            return None
        return tuple(value if read is None else read(value) for read, value in zip(readers, row, strict=True))
