"""A device's text inside the markdown of chat robots. Pure.

The robots' dialects know no escape that all of them honour, so signs that could make a link, a mention, HTML or an
emphasis become their full-width twins: a reader sees the same, and nothing is steered.
"""

from __future__ import annotations

import re

_TWINS = str.maketrans({sign: chr(ord(sign) + 0xFEE0) for sign in "<>[]*_`#|~\\!@&"})

_INSIDE = re.compile(r"(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])")
"""Inside a word it is not markup, and names of metrics contain it."""


def strip_control(text: str) -> str:
    """One line without control signs or anything that steers what is shown."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def escape(text: str) -> str:
    """The same, without anything that markdown or HTML reads, and without an address that becomes a link."""
    kept = _INSIDE.sub("\0", strip_control(text))
    return kept.translate(_TWINS).replace("\0", "_").replace("://", ":／／").replace("www.", "www．")


def truncate(text: str, most: int) -> str:
    """Truncate text to `most` bytes of UTF-8, at a character and, with several lines, at a line."""
    raw = text.encode()
    if len(raw) <= most:
        return text
    kept = raw[: most - 3].decode("utf-8", "ignore")
    head, line, _ = kept.rpartition("\n")
    return (head if line and len(head.encode()) > most // 2 else kept) + "…"
