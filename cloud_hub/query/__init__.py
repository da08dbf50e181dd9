"""Finds devices with the query language over twins and tags. The grammar is in `query.core.parser`.

An invalid query raises HubError 400, whose detail gives the position.
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
from cloud_hub.query.core.tree import Compare, Condition, Literal, Path, Query
from cloud_hub.query.results import Page
from cloud_hub.query.sql import DEVICES, Statement
from cloud_hub.security.core.roles import Scope
from shared.protocol.codec import encode

__all__ = ["Condition", "Page", "Query", "condition", "count", "devices", "matching", "parse", "run", "view"]

ID = Path("device", ("id",))
_T = TypeVar("_T")


def parse(text: str) -> Query:
    """Parse a full query: `SELECT ... FROM devices ...`."""
    return _read(parser.parse, text)


def condition(text: str) -> Condition:
    """Parse a condition, `*` for every device, or the condition of a full query without aggregates."""
    return _read(parser.condition, text)


def _read(reader: Callable[[str], _T], text: str) -> _T:
    try:
        return reader(text)
    except QueryError as error:
        raise HubError(400, "The query cannot be read", str(error)) from error


def matching(session: Session, text: str, scope: Scope | list[str] = None) -> Select[Any]:
    """A SELECT of the ids of matching devices, for use in another statement; limited to `scope` and the session's."""
    return Statement(session, scope).select(condition(text), DEVICES.c.id)


def devices(
    session: Session, text: str, *, only: Collection[str] | None = None, after: str = "", limit: int | None = None,
    scope: Scope | list[str] = None,
) -> list[str]:  # fmt: skip
    """Ids of matching devices in order: of those in `only`, after `after`, at most `limit`."""
    chosen = matching(session, text, scope).order_by(DEVICES.c.id).limit(limit)
    if after:
        chosen = chosen.where(DEVICES.c.id > after)
    if only is not None:
        listed = Statement(session).dialect.listed(encode(sorted(only)).decode())
        chosen = chosen.where(DEVICES.c.id.in_(select(listed.c.value)))
    return list(session.connection().execute(chosen).scalars())


def view(session: Session, device: str) -> dict[str, Any]:
    """A device as `SELECT *` shows it; {} if there is none in the session's scope."""
    return next(iter(results.devices(session, Query((), Compare("=", ID, Literal(device))), 1, "").rows), {})


def count(session: Session, text: str) -> int:
    """The number of matching devices."""
    counted = select(func.count()).select_from(matching(session, text).subquery())
    return int(session.connection().execute(counted).scalar_one())


def run(session: Session, text: str, *, limit: int, after: str = "") -> Page:
    """One page of the result: at most `limit` rows; `after` is `next` of the previous page."""
    query = parse(text)
    rows = results.groups if query.grouped else results.devices
    return rows(session, query, limit, after)
