"""Checks environment variables against the settings: unknown ones, and which one gave a wrong value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from shared.suggestions import nearest

PREFIX, NESTED = "TIDEGATE_", "__"
OF_THE_CLI = frozenset({"TIDEGATE_URL", "TIDEGATE_TOKEN"})
"""Variables of the command-line client, which are no settings."""

_KUBERNETES = re.compile(r"TIDEGATE_(?:.*_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.*)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_.*)?)\Z")
_KUBERNETES_URL = re.compile(r"(?:tcp|udp|sctp)://")


def unknown_variables(environ: Mapping[str, str], settings: type[BaseModel]) -> dict[str, str]:
    """Variables with the prefix that are no settings, each with `; did you mean ...?`, or '' if none is similar.

    Variables that Kubernetes sets for a Service named tidegate are skipped.
    """
    names = [NESTED.join(path).upper() for path in _paths(settings)]
    strange = [name for name in environ if name.upper().startswith(PREFIX) and name.upper() not in OF_THE_CLI]
    return {
        name: nearest(name.upper().removeprefix(PREFIX), names, PREFIX)
        for name in sorted(strange)
        if name.upper().removeprefix(PREFIX).partition(NESTED)[0].lower() not in settings.model_fields
        and not _KUBERNETES.match(name) and not _KUBERNETES_URL.match(environ[name])
    }  # fmt: skip


def variables_of(environ: Mapping[str, str], tables: Iterable[str]) -> dict[str, str]:
    """Variables that set one of these tables, or a key in it; each with its table."""
    return {
        name: table for table in tables for name in sorted(environ)
        if name.upper() == PREFIX + table.upper() or name.upper().startswith(PREFIX + table.upper() + NESTED)
    }  # fmt: skip


def source_variable(environ: Mapping[str, str], place: Sequence[str | int]) -> str:
    """The variable that set the value at `place`, or ''. A variable for a table holds JSON."""
    there = {name.upper(): name for name in environ}
    keys = [str(part) for part in place]
    for length in range(len(keys), 0, -1):
        name = there.get(PREFIX + NESTED.join(keys[:length]).upper())
        if name is not None and (length == len(keys) or _holds(environ[name], keys[length:])):
            return name
    return ""


def sibling_variable(environ: Mapping[str, str], place: Sequence[str | int]) -> str:
    """A variable that set another value of the same table as `place`, or ''."""
    table = PREFIX + NESTED.join([*(str(part) for part in place[:-1]), ""]).upper()
    return next((name for name in sorted(environ) if len(place) > 1 and name.upper().startswith(table)), "")


def invalid_variables(environ: Mapping[str, str], field: str) -> str:
    """The variables of a table that hold invalid JSON, separated by commas."""
    name = PREFIX + field.upper()
    matching = [key for key in sorted(environ) if key.upper() == name or key.upper().startswith(name + NESTED)]
    return ", ".join([key for key in matching if not _is_json(environ[key])] or matching)


def did_you_mean(settings: type[BaseModel], place: Sequence[str | int]) -> str:
    """A suggestion for an unknown key at `place`."""
    table: type[BaseModel] | None = settings
    for part in place[:-1]:
        table = table and _table(table, str(part))
    return nearest(str(place[-1]), table.model_fields) if table else ""


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _holds(text: str, keys: Sequence[str]) -> bool:
    try:
        value: Any = json.loads(text)
    except ValueError:
        return False
    for key in keys:
        if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            return isinstance(value, dict)  # what the table lacks is its own fault
    return True


def _table(settings: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The table that a key stands for."""
    field = settings.model_fields.get(name)
    types = (field.annotation, *get_args(field.annotation)) if field else ()
    return next(
        (candidate for candidate in types if isinstance(candidate, type) and issubclass(candidate, BaseModel)), None
    )


def _paths(settings: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name in settings.model_fields:
        yield (name,)
        if (table := _table(settings, name)) is not None:
            yield from ((name, *below) for below in _paths(table))
