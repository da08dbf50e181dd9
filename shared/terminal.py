"""Text for a terminal: what others wrote is shown and never obeyed, and a pipe whose reader went ends quietly."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

EXIT_PIPE = 141
"""128 + SIGPIPE: what a shell reports of a program whose reader went away, as `| head` does."""


def printable(text: str) -> str:
    """`text` with control characters, bidirectional overrides and the like as `\\x1b`, `\\u202e`: none is obeyed."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def printable_lines(text: str) -> str:
    """As `printable`, line by line."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(value: Any, **options: Any) -> str:
    """JSON for people and machines alike: readable in every language, the rest as `\\u` escapes, which JSON knows."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return text if text.isprintable() else "".join(map(_json_escaped, text))


def _json_escaped(character: str) -> str:
    plain = character.isprintable() or character == "\n"  # a line feed stands between values only
    return character if plain else json.dumps(character)[1:-1].replace("\x7f", "\\u007f")


def until_the_reader_goes(program: Callable[[], int]) -> int:
    """Run `program` to its exit code; 141 and silence when nobody reads its output any more."""
    try:
        try:
            return program()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # else Python would flush once more at exit, and complain
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
        return EXIT_PIPE
