"""Reads the result of a query in pages: rows of devices, or rows of aggregates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, case, cast, func, null, select
from sqlalchemy.types import Numeric
from sqlmodel import Session

from cloud_hub.errors import HubError
from cloud_hub.query.core.tree import FIELDS, Aggregate, Path, Query
from cloud_hub.query.sql import DEVICES, TWINS, Statement
from cloud_hub.query.values import Expr, Value, kind_in_sql

_MISSING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows of the result; `next` is the `after` of the next page, '' at the end."""

    rows: list[dict[str, Any]]
    next: str = ""


def devices(session: Session, query: Query, limit: int, after: str) -> Page:
    """Rows of devices after the id `after`; none is missed or repeated while the fleet changes.

    The database evaluates the condition; columns are picked here from the documents of one page.
    """
    key = DEVICES.c.id
    chosen = Statement(session).select(query.where, key).order_by(key.desc() if query.descending else key)
    if after:
        chosen = chosen.where(key < after if query.descending else key > after)
    ids = list(session.connection().execute(chosen.limit(limit + 1)).scalars())
    views = _views(session, ids[:limit])
    rows = [_row(query, views[device]) for device in ids[:limit] if device in views]
    return Page(rows=rows, next=ids[limit - 1] if len(ids) > limit else "")


def _views(session: Session, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Each device as `SELECT *` shows it: under the names that a query asks for."""
    connection = session.connection()
    fields = select(*[DEVICES.c[name] for name in (*FIELDS, "tags")]).where(DEVICES.c.id.in_(ids))
    views = {row.id: dict(row._mapping) | {"shadow": {}} for row in connection.execute(fields)}
    documents = select(TWINS.c.device, TWINS.c.name, TWINS.c.state).where(
        TWINS.c.device.in_(ids), Statement.living(TWINS)
    )
    for device, name, state in connection.execute(documents):
        if name:
            views[device]["shadow"][name] = state
        else:
            views[device].update(state)
    return views


def _row(query: Query, view: dict[str, Any]) -> dict[str, Any]:
    """The columns that were asked for; what is not there is left out."""
    if not query.items:
        return view
    row = {item.name: _at(view, item.value) for item in query.items if isinstance(item.value, Path)}
    return {name: value for name, value in row.items() if value is not _MISSING}


def _at(view: dict[str, Any], path: Path) -> Any:
    value: Any = view
    above = ("shadow", path.document) if path.document else ("tags",) if path.root == "tags" else ()
    for name in (*above, *path.names):
        if not isinstance(value, dict) or name not in value:
            return _MISSING
        value = value[name]
    return value


def groups(session: Session, query: Query, limit: int, after: str) -> Page:
    """Rows that count, after so many: each page counts afresh. Groups come in the order of type and value."""
    if not after.isascii() or not (after or "0").isdecimal() or len(after) > 9:
        raise HubError(400, "No such page", "give as `after` what the page before gave as `next`")
    start = int(after or 0)
    found = session.connection().execute(grouped(session, query).offset(start).limit(limit + 1)).all()
    rows = [_counted(query, dict(row._mapping)) for row in found[:limit]]
    return Page(rows=rows, next=str(start + limit) if len(found) > limit else "")


def grouped(session: Session, query: Query) -> Select[Any]:
    """Groups by type and value; the inner select makes the columns, so that the outer one repeats no parameter."""
    statement = Statement(session)
    keys: list[Any] = []
    for number, value in enumerate(map(statement.value, query.group)):
        keys += [kind_in_sql(value).label(f"kind_{number}"), value.primitive().label(f"value_{number}")]
    numbers = [
        _number(statement, item.value.verb, statement.value(item.value.path)).label(f"number_{place}")
        for place, item in enumerate(query.items)
        if isinstance(item.value, Aggregate) and item.value.path
    ]
    inner = statement.select(query.where, DEVICES.c.id, *keys, *numbers).subquery()
    grouping = [inner.c[key.name] for key in keys]
    aggregates = [
        (getattr(func, item.value.verb)(inner.c[f"number_{place}"]) if item.value.path else func.count())
        .label(f"aggregate_{place}")
        for place, item in enumerate(query.items)
        if isinstance(item.value, Aggregate)
    ]  # fmt: skip
    return select(*grouping, *aggregates).select_from(inner).group_by(*grouping).order_by(*grouping)


def _number(statement: Statement, verb: str, value: Value) -> Expr:
    """The value where it is a number, else NULL, which aggregates pass over."""
    if "number" not in value.kinds:
        return cast(null(), Numeric)
    number = value.read("number")
    return case((value.has("number"), statement.dialect.summable(number) if verb in {"sum", "avg"} else number))


def _counted(query: Query, found: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for place, item in enumerate(query.items):
        if isinstance(item.value, Aggregate):
            value = _plain(found[f"aggregate_{place}"])
        else:
            value = _key(found, query.group.index(item.value))
        if value is not _MISSING:
            row[item.name] = value
    return row


def _key(row: dict[str, Any], number: int) -> Any:
    kind, value = row[f"kind_{number}"], row[f"value_{number}"]
    if kind in {"bool", "null"}:
        return bool(value) if kind == "bool" else None
    return _MISSING if kind is None else value


def _plain(value: Any) -> Any:
    """An aggregate as JSON: whole numbers without a fraction; nothing where there was no number."""
    if value is None or not math.isfinite(value):
        return _MISSING
    whole = abs(value) < 1 << 53 and value == int(value)
    return int(value) if whole or isinstance(value, int) else float(value)
