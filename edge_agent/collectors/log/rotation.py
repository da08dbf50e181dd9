"""Names of rotated log files: which files beside a log are older parts of it, and in which order they were written.

`app.log.1`, `app.log.2.gz`, `app.1.log`, `app.log-20260131`, `app.log.2026-01-31_10-00`, `app.log.old`: a number counts
from the newest, a date goes by its time. What is compressed is passed over while its uncompressed self is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

COMPRESSED = (".gz", ".bz2", ".xz")
_MARK = re.compile(r"[.-](?:(\d{1,4})|(\d{4}[\d_.:T-]{2,20})|(old))")


def rotated(name: str, found: Iterable[str]) -> list[str]:
    """Those of `found` that are rotated parts of the log `name`, oldest first."""
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
    """A key that sorts the oldest first; None for a file that is no part of the log."""
    stem, dot, ending = name.rpartition(".")
    for before, after in ((name, ""), (stem, dot + ending)):
        if before and part.startswith(before) and part.endswith(after):
            mark = _MARK.fullmatch(part[len(before) : len(part) - len(after)])
            if mark is not None:
                number, date, _ = mark.groups()
                return (0, 0, date) if date else (1, -int(number or 1), "")
    return None
