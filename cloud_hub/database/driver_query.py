"""Runs a one-row SELECT directly on the SQLite driver, at a twentieth of SQLAlchemy's cost.

SQLAlchemy compiles the statement once, and its column types convert the row, so SQL and results are the same. For
queries that nearly every request makes.
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
        """The row, or None. Needs no transaction: one statement reads one snapshot."""
        text, names, readers = self._sqlite
        if not readers:  # converters of the column types, such as JSON
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
