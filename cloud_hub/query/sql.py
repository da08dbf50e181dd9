"""Compiles a query's tree to SQL: conditions, and joins of devices with the documents that they name.

Undefined is SQL's NULL, which has the wanted logic of AND, OR and NOT. A value is converted only after a test of its
type, so that no document can make a statement fail.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Boolean, FromClause, Select, and_, case, cast, false, func, not_, null, or_, select, true
from sqlmodel import Session

from cloud_hub.database import scopes
from cloud_hub.database.tables import Device, TwinRow
from cloud_hub.query.core import tree
from cloud_hub.query.core.tree import FIELDS, Literal, Operand, Path, Scalar
from cloud_hub.query.values import KINDS, Expr, Fixed, Postgres, Sqlite, Value, kind_of
from cloud_hub.security.core.roles import Scope

DEVICES: Any = Device.__table__  # type: ignore[attr-defined]
TWINS: Any = TwinRow.__table__  # type: ignore[attr-defined]
UNDEFINED: Expr = cast(null(), Boolean)
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class Statement:
    """Compiles conditions and values, and joins the documents that they name to the devices.

    What it selects lies within the session's scope, and within `scope` where one is given.
    """

    def __init__(self, session: Session, scope: Scope | list[str] = None) -> None:
        self._scopes = [paths for paths in (scopes.session_scope(session), scope) if paths is not None]
        self.dialect = Postgres if session.get_bind().dialect.name == "postgresql" else Sqlite
        self._twins: dict[str, Any] = {}

    def select(self, where: tree.Condition, *columns: Any) -> Select[Any]:
        """These columns of each device that meets the condition."""
        wanted = self.condition(where)
        return select(*columns).select_from(self._rows()).where(wanted, *map(scopes.scope_condition, self._scopes))

    @staticmethod
    def living(twin: Any) -> Expr:
        """Whether a row of twins is no tombstone."""
        result: Expr = twin.c.deleted.is_(False)
        return result

    def _rows(self) -> FromClause:
        """Devices with the documents that were named so far."""
        rows: FromClause = DEVICES
        for document, twin in self._twins.items():
            is_it = and_(twin.c.device == DEVICES.c.id, twin.c.name == document, self.living(twin))
            rows = rows.outerjoin(twin, is_it)
        return rows

    def value(self, operand: Operand) -> Value:
        """An operand in SQL."""
        if isinstance(operand, Literal):
            return Fixed(kind_of(operand.value), self.dialect.literal(operand.value))
        if operand.root == "device":
            (name,) = operand.names
            return Fixed(FIELDS[name], DEVICES.c[name])
        if operand.root == "tags":
            return self.dialect.json(DEVICES.c.tags, operand.names)
        twin = self._twins.setdefault(operand.document, TWINS.alias(f"twin_{len(self._twins)}"))
        return self.dialect.json(twin.c.state, operand.names)

    def condition(self, node: tree.Condition) -> Expr:
        """True, false, or NULL for undefined."""
        match node:
            case tree.And(parts):
                return and_(true(), *map(self.condition, parts))
            case tree.Or(parts):
                return or_(false(), *map(self.condition, parts))
            case tree.Not(inner):
                return not_(self.condition(inner))
            case tree.Is(kind, path):
                return self._is(kind, path)
            case tree.In(path, values):
                return self._in(path, values)
            case tree.TextTest(verb, path, part):
                return self._text(verb, path, part)
            case tree.Compare(op, left, right):
                return self._compare(_OPERATORS[op], self.value(left), self.value(right))

    def _is(self, kind: str, path: Path) -> Expr:
        value = self.value(path)
        return value.defined() if kind == "defined" else func.coalesce(value.has(kind), false(), type_=Boolean)

    @staticmethod
    def _compare(op: Callable[[Any, Any], Any], left: Value, right: Value) -> Expr:
        kinds = [kind for kind in KINDS if kind in left.kinds and kind in right.kinds]
        return _first([(and_(left.has(k), right.has(k)), op(left.read(k), right.read(k))) for k in kinds])

    def _in(self, path: Path, values: Sequence[Scalar]) -> Expr:
        value = self.value(path)
        by_kind: dict[str, list[Expr]] = {}
        for item in values:
            by_kind.setdefault(kind_of(item), []).append(self.dialect.literal(item))
        return or_(*[
            _first([(value.has(kind), value.read(kind).in_(listed))] if kind in value.kinds else [])
            for kind, listed in by_kind.items()
        ])  # fmt: skip

    def _text(self, verb: str, path: Path, part: str) -> Expr:
        value, wanted = self.value(path), self.dialect.literal(part)
        if "string" not in value.kinds:
            return UNDEFINED
        text = value.read("string")
        if verb == "contains":
            condition = self.dialect.contains(text, wanted)
        else:
            start = 1 if verb == "startswith" else func.length(text) - len(part) + 1
            condition = func.substr(text, start, len(part)) == wanted
        return _first([(value.has("string"), condition)])


def _first(whens: Sequence[tuple[Expr, Expr]]) -> Expr:
    """The result of the first test that holds, else undefined."""
    if not whens:
        return UNDEFINED
    test, result = whens[0]
    return result if test.compare(true()) else case(*whens)
