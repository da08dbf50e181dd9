"""Adds suggestions to msgspec's error messages: the allowed values of an enumerated field, the nearest known name for
an unknown field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

_WRONG = re.compile(r"(?:Invalid enum value|Object contains unknown field `(?P<name>.*?)`)")
_PLACE = re.compile(r" - at `\$([^`]*)`\Z")
_KEY = re.compile(r"\.([^.\[]+)|\[[^\]]*\]")


def explained(error: Exception, kind: Any) -> str:
    """The text of msgspec's error about a value read as `kind`, with the allowed values or the nearest name."""
    text = str(error)
    found = _WRONG.match(text)
    if found is None:
        return text
    place = _PLACE.search(text)
    kinds = _kinds(kind, re.sub(r"\[[^\]]*\]", "[]", place[1] if place else ""))
    if found["name"] is not None:
        return f"{text}{nearest(found['name'], [name for inner in kinds for name in _fields(inner)])}"
    values = dict.fromkeys(value for inner in kinds for value in _literals(inner))
    return f"{text}; allowed: {', '.join(map(str, values))}" if values else text


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """`; did you mean 'period_s'?`, or '' if none of `names` is similar. `prefix` is shown but not compared."""
    near = get_close_matches(name[:100], list(names), 1)
    return f"; did you mean '{prefix}{near[0]}'?" if near else ""


@cache
def _kinds(kind: Any, path: str) -> tuple[Any, ...]:
    """The types that are allowed at `path`."""
    kinds = _alternatives(kind)
    for key in _KEY.finditer(path):
        kinds = [found for outer in kinds for part in _below(outer, key[1]) for found in _alternatives(part)]
    return tuple(kinds)


def _alternatives(kind: Any) -> list[Any]:
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [found for part in get_args(kind) for found in _alternatives(part)]
    return [kind]


def _below(kind: Any, name: str | None) -> list[Any]:
    """The types of field `name`, or of the items if `name` is None."""
    return [part for part in get_args(kind) if part is not Ellipsis] if name is None else [_fields(kind).get(name, Any)]


def _fields(kind: Any) -> dict[str, Any]:
    known = is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, msgspec.Struct))
    return get_type_hints(kind) if known else {}


def _literals(kind: Any) -> list[Any]:
    return list(get_args(kind)) if get_origin(kind) is Literal else []
