"""The query language over twins and tags: what other rooms ask for. The grammar is in `language`.

A text that cannot be read raises HubError 400, whose detail points at the place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from sqlalchemy import Select, func, select
from sqlmodel import Session

from cloud_hub.errors import HubError
from cloud_hub.query import results
from cloud_hub.query.core import parser
from cloud_hub.query.core.lexer import QueryError
from cloud_hub.query.core.tree import Condition, Query
from cloud_hub.query.results import Page
from cloud_hub.query.sql import DEVICES, Statement
from cloud_hub.security.core.roles import Scope
from shared.codec import encode

__all__ = ["Condition", "Page", "Query", "condition", "count", "devices", "matching", "parse", "run"]

_T = TypeVar("_T")


def parse(text: str) -> Query:
    """A whole query: `SELECT ... FROM devices ...`."""
    return _read(parser.parse, text)


def condition(text: str) -> Condition:
    """A bare condition, `*` for every device, or the condition of a whole query that counts nothing."""
    return _read(parser.condition, text)


def _read(reader: Callable[[str], _T], text: str) -> _T:
    try:
        return reader(text)
    except QueryError as error:
        raise HubError(400, "The query cannot be read", str(error)) from error


def matching(session: Session, text: str, scope: Scope | list[str] = None) -> Select[Any]:
    """A select of the ids of the devices that meet the condition, to stand inside another statement.

    They lie within `scope`, and within the session's own.
    """
    return Statement(session, scope).select(condition(text), DEVICES.c.id)


def devices(
    session: Session, text: str, *, only: Collection[str] | None = None, after: str = "", limit: int | None = None,
    scope: Scope | list[str] = None,
) -> list[str]:  # fmt: skip
    """Ids of the devices that meet the condition, in order: those of `only`, above `after`, at most `limit`."""
    chosen = matching(session, text, scope).order_by(DEVICES.c.id).limit(limit)
    if after:
        chosen = chosen.where(DEVICES.c.id > after)
    if only is not None:
        listed = Statement(session).dialect.listed(encode(sorted(only)).decode())
        chosen = chosen.where(DEVICES.c.id.in_(select(listed.c.value)))
    return list(session.connection().execute(chosen).scalars())


def count(session: Session, text: str) -> int:
    """How many devices meet the condition."""
    found = select(func.count()).select_from(matching(session, text).subquery())
    return int(session.connection().execute(found).scalar_one())


def run(session: Session, text: str, *, limit: int, after: str = "") -> Page:
    """One page of the answer to a whole query: at most `limit` rows after what the page before gave as `next`."""
    query = parse(text)
    rows = results.groups if query.grouped else results.devices
    return rows(session, query, limit, after)
