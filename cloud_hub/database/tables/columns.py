"""Kinds of columns that tables share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Integer
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field

JSONS = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
TEXT_JSON = JSON(none_as_null=True)
"""Kept as written on PostgreSQL too: JSONB would sort the names, and a hash over the text would no longer fit."""
SERIAL = BigInteger().with_variant(Integer, "sqlite")
"""A number that the database gives; SQLite counts INTEGER keys only."""


def big_integer(**options: Any) -> Any:
    """A number of 64 bits."""
    return Field(sa_type=BigInteger, **options)


def json_object() -> Any:
    """An object as JSON, {} unless given."""
    return Field(default_factory=dict, sa_column=Column(JSONS, nullable=False))


def json_list() -> Any:
    """A list as JSON, [] unless given."""
    return Field(default_factory=list, sa_column=Column(JSONS, nullable=False))
