"""Parses and formats times for the command line."""

from __future__ import annotations

import argparse
import re
import time
from datetime import datetime, timezone

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """Seconds of a duration such as 90s, 2h or 3d."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not a time: write 90s, 15m, 2h or 3d")
    return float(match[1]) * _UNITS[match[2] or "s"]


def instant(text: str) -> int:
    """UTC microseconds of a date, a time (UTC without an offset), or an age such as `7d`."""
    if ago := re.fullmatch(r"(\d{1,5})([hd])", text):
        return time.time_ns() // 1000 - int(ago[1]) * _UNITS[ago[2]] * 1_000_000
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a time: write 2026-11-01, 2026-11-01T08:00:00Z or 7d"
        ) from None
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp() * 1_000_000)


def shown(t_us: int) -> str:
    """A time as text, in UTC."""
    return datetime.fromtimestamp(t_us / 1e6, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
