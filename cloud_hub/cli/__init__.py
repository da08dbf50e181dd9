"""The subcommands of `tidegate-hub`, one module for each group; `add(commands)` of a module adds its parsers.

Imports that are slow or need an extra are inside the functions: `--help` must work without them.
"""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""The type that `add_subparsers` returns."""


def clean(text: str) -> str:
    """Replace control characters, so that text from devices cannot control the terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in text)
