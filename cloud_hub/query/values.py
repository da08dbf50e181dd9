"""Reads JSON values in SQL, by SQLite's JSON functions or PostgreSQL's jsonb; names and values are parameters."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Protocol

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Float,
    Integer,
    Numeric,
    Text,
    case,
    cast,
    false,
    func,
    literal,
    literal_column,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB

from cloud_hub.query.core.tree import Scalar

Expr = ColumnElement[Any]

KINDS = ("string", "number", "bool", "null")
_SQLITE_TYPES = {"string": ("text",), "number": ("integer", "real"), "bool": ("true", "false")}


def kind_of(value: Scalar) -> str:
    """The type of a literal, one of KINDS."""
    if value is None:
        return "null"
    return "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"


class Value(Protocol):
    """An operand in SQL."""

    @property
    def kinds(self) -> Sequence[str]:
        """The primitive types that it may have."""

    def defined(self) -> Expr:
        """Whether it is there."""

    def has(self, kind: str) -> Expr:
        """Whether it is of that type; NULL where it is missing."""

    def read(self, kind: str) -> Expr:
        """Its value; asked for only where it has that type."""

    def primitive(self) -> Expr:
        """Its value in the form that rows are read in; NULL where it is missing or no primitive."""


class Fixed:
    """A literal or a device's own field: always there, of one type."""

    def __init__(self, kind: str, value: Expr) -> None:
        self.kinds, self._value = (kind,), value

    def defined(self) -> Expr:
        return true()

    def has(self, kind: str) -> Expr:
        return true() if kind in self.kinds else false()

    def read(self, kind: str) -> Expr:
        return self._value

    def primitive(self) -> Expr:
        return self._value


def kind_in_sql(value: Value) -> Expr:
    """The type as a text; NULL where the value is missing or no primitive."""
    return case(*[(value.has(kind), literal(kind, Text)) for kind in value.kinds])


class _SqliteJson:
    """A value inside a JSON text."""

    kinds = KINDS

    def __init__(self, column: Expr, names: Sequence[str]) -> None:
        self._place = (column, "$" + "".join(f'."{name}"' for name in names))

    def _type(self) -> Expr:
        return func.json_type(*self._place)

    def defined(self) -> Expr:
        return self._type().is_not(None)

    def has(self, kind: str) -> Expr:
        return self._type().in_(_SQLITE_TYPES.get(kind, (kind,)))

    def read(self, kind: str) -> Expr:
        return literal_column("0") if kind == "null" else func.json_extract(*self._place)

    def primitive(self) -> Expr:
        return case((self._type().not_in(["array", "object"]), func.json_extract(*self._place)))


class _PostgresJson:
    """A value inside a jsonb."""

    kinds = KINDS

    def __init__(self, column: Expr, names: Sequence[str]) -> None:
        self._value: Expr = column
        for name in names:  # -> with a text takes a member only; #> would also take elements of arrays
            self._value = self._value.op("->", return_type=JSONB())(cast(literal(name, Text), Text))

    def defined(self) -> Expr:
        return self._value.is_not(None)

    def has(self, kind: str) -> Expr:
        return func.jsonb_typeof(self._value) == ("boolean" if kind == "bool" else kind)

    def read(self, kind: str) -> Expr:
        text: Expr = self._value.op("#>>", return_type=Text())(literal_column("'{}'"))
        if kind == "string":
            return text.collate("C")  # by code point, as SQLite
        return literal_column("0") if kind == "null" else cast(text, Numeric if kind == "number" else Boolean)

    def primitive(self) -> Expr:
        return case((func.jsonb_typeof(self._value).not_in(["array", "object"]), self._value))


class Sqlite:
    """The SQL that differs on SQLite."""

    json = _SqliteJson

    @staticmethod
    def literal(value: Scalar) -> Expr:
        """A bound value. A fraction goes through the reader of numbers that the documents go through."""
        if value is None:
            return literal_column("0")
        if isinstance(value, float):
            return cast(literal(repr(value), Text), Float)
        return literal(int(value), Integer) if isinstance(value, (bool, int)) else literal(value, Text)

    @staticmethod
    def contains(text: Expr, part: Expr) -> Expr:
        """Whether `part` is in `text`."""
        return func.instr(text, part) > 0

    @staticmethod
    def summable(number: Expr) -> Expr:
        """A number whose sum cannot overflow."""
        return cast(number, Float)

    @staticmethod
    def listed(texts: str) -> Any:
        """The rows of a JSON list of texts."""
        return func.json_each(literal(texts, Text)).table_valued("value")


class Postgres:
    """The SQL that differs on PostgreSQL."""

    json = _PostgresJson

    @staticmethod
    def literal(value: Scalar) -> Expr:
        """A bound value; numbers are exact decimals, as in jsonb."""
        if value is None:
            return literal_column("0")
        if isinstance(value, bool):
            return literal(value, Boolean)
        if isinstance(value, str):
            return cast(literal(value, Text), Text)
        return cast(literal(Decimal(repr(value)), Numeric), Numeric)

    @staticmethod
    def contains(text: Expr, part: Expr) -> Expr:
        """Whether `part` is in `text`."""
        return func.strpos(text, part) > 0

    @staticmethod
    def summable(number: Expr) -> Expr:
        """A number whose sum cannot overflow."""
        return cast(number, Numeric)

    @staticmethod
    def listed(texts: str) -> Any:
        """The rows of a JSON list of texts."""
        return func.jsonb_array_elements_text(cast(literal(texts, Text), JSONB)).table_valued("value")
