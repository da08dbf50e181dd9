"""Recognizes the names of rotated log files and sorts them by age.

`app.log.1`, `app.log.2.gz`, `app.1.log`, `app.log-20260131`, `app.log.2026-01-31_10-00`, `app.log.old`: numbers count
from the newest, dates sort by time. A compressed file is skipped while the uncompressed one exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

COMPRESSED = (".gz", ".bz2", ".xz")
_MARK = re.compile(r"[.-](?:(\d{1,4})|(\d{4}[\d_.:T-]{2,20})|(old))")


def rotated(name: str, found: Iterable[str]) -> list[str]:
    """The names in `found` that are rotated parts of the log `name`, oldest first."""
    names = set(found)
    parts = []
    for part in names:
        plain = _plain(part)
        key = _age(name, plain)
        if key is not None and (plain == part or plain not in names):
            parts.append((key, part))
    return [part for _, part in sorted(parts)]


def _plain(name: str) -> str:
    return name.rpartition(".")[0] if name.endswith(COMPRESSED) else name


def _age(name: str, part: str) -> tuple[int, int, str] | None:
    """A sort key, oldest first; None for a file that is not part of the log."""
    stem, dot, ending = name.rpartition(".")
    for before, after in ((name, ""), (stem, dot + ending)):
        if before and part.startswith(before) and part.endswith(after):
            mark = _MARK.fullmatch(part[len(before) : len(part) - len(after)])
            if mark is not None:
                number, date, _ = mark.groups()
                return (0, 0, date) if date else (1, -int(number or 1), "")
    return None
