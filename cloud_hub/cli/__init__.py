"""The subcommands of `tidegate-hub`, one file a group; each has `add(commands)`, which adds its parsers.

Imports that cost a second, or need an extra, stand inside the functions: `--help` must work without them.
"""

from __future__ import annotations

import argparse
import re
import time
from datetime import datetime, timezone
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `add_subparsers` returns."""

_AGO = {"h": 3600, "d": 86400}


def clean(text: str) -> str:
    """A device's text is data: nothing in it may steer the terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def instant(text: str) -> int:
    """Microseconds of a time as people write it: a date or time (UTC unless it says otherwise), or `7d` ago."""
    if ago := re.fullmatch(r"(\d{1,5})([hd])", text):
        return time.time_ns() // 1000 - int(ago[1]) * _AGO[ago[2]] * 1_000_000
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no time: write 2026-11-01, 2026-11-01T08:00:00Z or 7d") from None
    return int((found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp() * 1_000_000)
