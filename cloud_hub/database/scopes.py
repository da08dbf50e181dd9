"""Restricts queries to a session's scope: devices whose assigned asset path is one of its paths or below one.

`Database.read(scope=...)` and `write(scope=...)` open such sessions. Workers and ingest have no scope and see all
devices. Only the path that a person assigned counts, not the one that the device reports. A device without an assigned
path is visible only without a scope.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, false, func, or_, select
from sqlmodel import Session

from cloud_hub.database.tables import Device
from cloud_hub.security.core.roles import Scope

_DEVICES: Any = Device.__table__  # type: ignore[attr-defined]
_PATH = re.compile(r"[^/\s]([^/]{0,62}[^/\s])?(/[^/\s]([^/]{0,62}[^/\s])?){0,4}\Z")
_S = TypeVar("_S", bound=Select[Any])


def validate_path(text: str) -> str:
    """Return the asset path, `enterprise/site/area/line/cell` or a prefix of it; raises ValueError if it is invalid."""
    if not _PATH.match(text) or not text.isprintable():
        raise ValueError(f"'{text[:80]}' is no asset path: 1 to 5 names with '/' between, such as acme/site-a/hall-2")
    return text


def session_scope(session: Session) -> Scope:
    """The session's scope; None means all devices."""
    scope: Scope = session.info.get("scope")
    return scope


def covers(scope: Scope, inner: Scope | list[str]) -> bool:
    """Whether all paths of `inner` are within `scope`."""
    if scope is None or inner is None:
        return scope is None
    return all(any(is_below(path, top) for top in scope) for path in inner)


def is_below(path: str, top: str) -> bool:
    """Whether a path is `top` or below it; whole segments are compared."""
    return path == top or path.startswith(f"{top}/")


def scope_condition(scope: Scope | list[str]) -> ColumnElement[bool]:
    """The SQL condition on the devices table, for a scope that is not None."""
    column = _DEVICES.c.assigned_path
    tests = [or_(column == top, func.substr(column, 1, len(top) + 1) == f"{top}/") for top in scope or ()]
    return or_(false(), *tests)


def restrict(session: Session, query: _S, column: Any) -> _S:
    """Restrict the query to rows whose device, in `column`, is visible to the session."""
    scope = session_scope(session)
    return query if scope is None else query.where(column.in_(select(_DEVICES.c.id).where(scope_condition(scope))))


def visible(session: Session, devices: Collection[str]) -> set[str]:
    """Those of the devices that the session sees. With a scope, unknown ones are not among them."""
    scope = session_scope(session)
    if scope is None or not devices:
        return set(devices)
    query = select(_DEVICES.c.id).where(_DEVICES.c.id.in_(set(devices)), scope_condition(scope))
    return set(session.connection().execute(query).scalars())


def sees(session: Session, devices: Sequence[str]) -> bool:
    """Whether all of these devices are visible to the session. With a scope, unknown devices are not."""
    scope = session_scope(session)
    return scope is None or (bool(devices) and visible(session, devices) == set(devices))
