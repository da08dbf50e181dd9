"""Safe output to a terminal: escapes control characters of foreign text, and ends quietly on a closed pipe."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

EXIT_PIPE = 141
"""128 + SIGPIPE: the exit code that a shell reports when the reader of a pipe has ended, such as `| head`."""


def printable(text: str) -> str:
    """`text` with control characters, bidirectional overrides and the like escaped as `\\x1b`, `\\u202e`."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def printable_lines(text: str) -> str:
    """Like `printable`, but keeps line breaks."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(value: Any, **options: Any) -> str:
    """JSON with readable non-ASCII text; control characters are `\\u` escapes, which are valid JSON."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return text if text.isprintable() else "".join(map(_json_escaped, text))


def _json_escaped(character: str) -> str:
    plain = character.isprintable() or character == "\n"  # a line feed occurs only between values
    return character if plain else json.dumps(character)[1:-1].replace("\x7f", "\\u007f")


def handle_broken_pipe(program: Callable[[], int]) -> int:
    """Run `program` and return its exit code; 141, without a message, when the reader of its output has ended."""
    try:
        try:
            return program()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # else Python flushes once more at exit and prints an error
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, sys.stdout.fileno())
        return EXIT_PIPE
