"""The subcommands of `tidegate-hub`, one file a group; each has `add(commands)`, which adds its parsers.

Imports that cost a second, or need an extra, stand inside the functions: `--help` must work without them.
"""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `add_subparsers` returns."""


def clean(text: str) -> str:
    """A device's text is data: nothing in it may steer the terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in text)
