"""Singular JSON paths (RFC 9535, 2.3.5.1): `$.press[0]['oil temp']` leads to one value, or to none.

Filters, slices and wildcards are left out on purpose: a tag is one value, and a foreign message costs bounded work.
"""

from __future__ import annotations

import re
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]
MAX_STEPS = 32
_STEP = re.compile(
    r"""\.([A-Za-z_\u0080-\U0010FFFF][\w\u0080-\U0010FFFF]*)|\[(-?\d{1,9})\]|\['([^']*)'\]|\["([^"]*)"\]"""
)


def parse_path(text: str) -> Path:
    """The steps of a path; raises ValueError. `$` alone is the whole document."""
    cure = "write for example $.press.temperature or $.values[0]['oil temp']"
    if not text.startswith("$"):
        raise ValueError(f"path '{text[:80]}' does not begin with $: {cure}")
    steps: list[str | int] = []
    at = 1
    while at < len(text):
        found = _STEP.match(text, at)
        if found is None:
            raise ValueError(f"path '{text[:80]}' cannot be read from character {at + 1} on: {cure}")
        name = next((group for group in (found[1], found[3], found[4]) if group is not None), None)
        steps.append(int(found[2]) if name is None else name)
        at = found.end()
    if len(steps) > MAX_STEPS:
        raise ValueError(f"path '{text[:80]}' has {len(steps)} steps, at most {MAX_STEPS} are allowed")
    return tuple(steps)


def follow(document: object, path: Path) -> object:
    """The value at `path`; raises ValueError if there is none."""
    for step in path:
        try:
            if not isinstance(document, dict if isinstance(step, str) else list):
                raise KeyError(step)
            document = document[step]  # type: ignore[index]
        except (KeyError, IndexError) as error:
            raise ValueError(f"the message has no {show(path)}") from error
    return document


def show(path: Path) -> str:
    """The path as text."""
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f"['{step}']" for step in path)
