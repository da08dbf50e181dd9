"""What no text may hold: the character NUL. PostgreSQL stores it nowhere, so neither database is given it."""

from __future__ import annotations

import re

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def holds_nul(payload: bytes) -> bool:
    """Whether a text in this JSON holds NUL; `\\\\u0000`, an escaped backslash and five letters, is none."""
    return b"\\u0000" in payload and _NUL.search(payload) is not None
