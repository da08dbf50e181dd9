"""The environment as a source of settings: variables that nobody reads, and the one that gave a wrong value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from shared.suggestions import nearest

PREFIX, NESTED = "TIDEGATE_", "__"
OF_THE_CLI = frozenset({"TIDEGATE_URL", "TIDEGATE_TOKEN"})
"""No settings: they tell the subcommands where a hub is."""

_KUBERNETES = re.compile(r"TIDEGATE_(?:.*_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.*)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_.*)?)\Z")
_KUBERNETES_URL = re.compile(r"(?:tcp|udp|sctp)://")


def unknown(environ: Mapping[str, str], settings: type[BaseModel]) -> dict[str, str]:
    """Variables that look like settings and are none, each with `; did you mean ...?`, or '' where none is near.

    What Kubernetes sets for a Service named tidegate is passed over.
    """
    names = [NESTED.join(path).upper() for path in _paths(settings)]
    strange = [name for name in environ if name.upper().startswith(PREFIX) and name.upper() not in OF_THE_CLI]
    return {
        name: nearest(name.upper().removeprefix(PREFIX), names, PREFIX)
        for name in sorted(strange)
        if name.upper().removeprefix(PREFIX).partition(NESTED)[0].lower() not in settings.model_fields
        and not _KUBERNETES.match(name) and not _KUBERNETES_URL.match(environ[name])
    }  # fmt: skip


def culprit(environ: Mapping[str, str], place: Sequence[str | int]) -> str:
    """The variable that gave the value at `place`, or ''. One that stands for a table is JSON."""
    there = {name.upper(): name for name in environ}
    keys = [str(part) for part in place]
    for length in range(len(keys), 0, -1):
        name = there.get(PREFIX + NESTED.join(keys[:length]).upper())
        if name is not None and (length == len(keys) or _holds(environ[name], keys[length:])):
            return name
    return ""


def beside(environ: Mapping[str, str], place: Sequence[str | int]) -> str:
    """A variable that gave another value of the table in which the one at `place` is missing, or ''."""
    table = PREFIX + NESTED.join([*(str(part) for part in place[:-1]), ""]).upper()
    return next((name for name in sorted(environ) if len(place) > 1 and name.upper().startswith(table)), "")


def unreadable(environ: Mapping[str, str], field: str) -> str:
    """The variables of a table that hold no JSON, with commas between."""
    name = PREFIX + field.upper()
    ours = [one for one in sorted(environ) if one.upper() == name or one.upper().startswith(name + NESTED)]
    return ", ".join([one for one in ours if not _is_json(environ[one])] or ours)


def did_you_mean(settings: type[BaseModel], place: Sequence[str | int]) -> str:
    """The nearest name to an unknown key at `place`."""
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
    found = (field.annotation, *get_args(field.annotation)) if field else ()
    return next((one for one in found if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _paths(settings: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name in settings.model_fields:
        yield (name,)
        if (table := _table(settings, name)) is not None:
            yield from ((name, *below) for below in _paths(table))
