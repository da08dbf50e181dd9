"""Finds the character NUL in JSON texts. PostgreSQL cannot store it, so it is rejected for both databases."""

from __future__ import annotations

import re

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def holds_nul(payload: bytes) -> bool:
    """Whether a string in this JSON contains NUL. `\\\\u0000`, an escaped backslash and `u0000`, is allowed."""
    return b"\\u0000" in payload and _NUL.search(payload) is not None
