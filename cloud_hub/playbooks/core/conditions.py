"""Conditions of steps: those of the query language over twins, with two more roots.

`steps.<name>.state` and `.outcome` are those of another step of the same playbook, `parameters.<name>` are the run's
parameters; `reported.x`, `desired.x`, `tags.x`, `shadow.<document>.reported.x` and the device's own fields belong to
the device of the step, or to the parameter `device`. A comparison with a missing value, or of different types, is
undefined; so is NOT of it, and what is undefined does not hold. The parser bounds a text: 8 KiB, 64 fields, 32 levels.
"""

from __future__ import annotations

import operator
from collections.abc import Container, Iterator
from typing import Any

from cloud_hub.query.core.lexer import QueryError
from cloud_hub.query.core.parser import condition
from cloud_hub.query.core.tree import And, Compare, Condition, In, Is, Literal, Not, Operand, Or, Path, TextTest

ROOTS = ("steps", "parameters")
FIELDS = ("state", "outcome")
"""What a condition may read of a step."""

_MISSING = object()
_KINDS: dict[type, str] = {
    bool: "bool", int: "number", float: "number", str: "string", dict: "object", list: "array", type(None): "null",
}  # fmt: skip
_COMPARE = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
            ">=": operator.ge}  # fmt: skip
_TEXT = {"startswith": str.startswith, "endswith": str.endswith, "contains": str.__contains__}


def parse(text: str) -> Condition:
    """The condition's tree; raises QueryError, which points at the place."""
    return condition(text, ROOTS)


def check(text: str, steps: Container[str], parameters: Container[str]) -> list[str]:
    """What is wrong with a condition, in words; [] if nothing is."""
    try:
        paths = list(_paths(parse(text)))
    except QueryError as error:
        return [str(error)]
    wrong = []
    for path in paths:
        name = path.names[0] if path.names else ""
        if path.root == "steps" and (name not in steps or len(path.names) != 2 or path.names[1] not in FIELDS):
            wrong.append(f"steps.{'.'.join(path.names)[:80]} is neither state nor outcome of a step here")
        if path.root == "parameters" and (name not in parameters or len(path.names) != 1):
            wrong.append(f"parameters.{'.'.join(path.names)[:80]} is no parameter of this playbook")
    return wrong


def needs_device(text: str) -> bool:
    """Whether the condition reads something of a device."""
    return any(path.root not in ROOTS for path in _paths(parse(text)))


def holds(text: str, view: dict[str, Any]) -> bool:
    """Whether the condition holds. `view` is a device as `SELECT *` shows it, with `steps` and `parameters`."""
    return _judge(view, parse(text)) is True


def _paths(node: Condition) -> Iterator[Path]:
    match node:
        case And(parts) | Or(parts):
            for part in parts:
                yield from _paths(part)
        case Not(inner):
            yield from _paths(inner)
        case Compare(_, left, right):
            yield from (side for side in (left, right) if isinstance(side, Path))
        case In(path, _) | Is(_, path) | TextTest(_, path, _):
            yield path


def _judge(view: dict[str, Any], node: Condition) -> bool | None:
    """True, False, or None for undefined (SQL's three-valued logic)."""
    match node:
        case And(parts):
            return _opposite(_any([_opposite(_judge(view, part)) for part in parts]))
        case Or(parts):
            return _any([_judge(view, part) for part in parts])
        case Not(inner):
            return _opposite(_judge(view, inner))
        case Compare(op, left, right):
            return _compared(op, _at(view, left), _at(view, right))
        case In(path, values):
            return _any([_compared("=", _at(view, path), value) for value in values])
        case Is(kind, path):
            value = _at(view, path)
            return value is not _MISSING if kind == "defined" else _KINDS.get(type(value)) == kind
        case TextTest(verb, path, part):
            text = _at(view, path)
            return bool(_TEXT[verb](text, part)) if isinstance(text, str) else None


def _any(values: list[bool | None]) -> bool | None:
    return True if True in values else None if None in values else False


def _opposite(value: bool | None) -> bool | None:
    return None if value is None else not value


def _compared(op: str, left: Any, right: Any) -> bool | None:
    kind = _KINDS.get(type(left))
    if kind != _KINDS.get(type(right)) or kind not in {"null", "bool", "number", "string"}:
        return None
    return op in {"=", "<=", ">="} if left is None else bool(_COMPARE[op](left, right))


def _at(view: dict[str, Any], operand: Operand) -> Any:
    if isinstance(operand, Literal):
        return operand.value
    above: tuple[str, ...] = ()
    if operand.root in {"tags", *ROOTS}:
        above = (operand.root,)
    elif operand.document:
        above = ("shadow", operand.document)
    value: Any = view
    for name in (*above, *operand.names):
        if not isinstance(value, dict) or name not in value:
            return _MISSING
        value = value[name]
    return value
