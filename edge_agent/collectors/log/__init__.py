"""Collector `log`: lines of a file or of journald as events, with a pattern and a rate limit.

Lines over the rate limit are counted and reported as one event per reading, never silently dropped. The position is
stored with the events (`checkpoint`, `resume`), so that lines written while the agent is down are read at its next
start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from subprocess import SubprocessError
from typing import Literal

import msgspec

from edge_agent import clock
from edge_agent.collectors.log.journal import JournalTail
from edge_agent.collectors.log.tail import FileTail
from edge_agent.config import CollectorTable, options
from shared.errors import ConfigError
from shared.protocol.messages import Event, Level, Metric

LONGEST_LINE = 2000
HOLE = bytes(16)
"""Start of a line after truncation: if the writer did not open the file for appending, it leaves a hole of NULs."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Either `path` of a text file or `unit` of journald; lines that match `pattern` become events. `start` is where
    reading begins in a file for which there is no checkpoint.
    """

    path: str = ""
    unit: str = ""
    pattern: str = "."
    level: Literal["debug", "info", "warning", "error"] = "info"
    per_minute: int = 60
    start: Literal["end", "beginning"] = "end"


class LogCollector:
    """Yields matching lines as events, at most `per_minute`."""

    def __init__(self, name: str, period_s: float | None, chosen: Options, tail: FileTail | JournalTail) -> None:
        self.name, self.period_s = name, period_s
        self.metrics: list[Metric] = []
        self._tail, self._pattern = tail, re.compile(chosen.pattern)
        self._path = Path(chosen.path) if chosen.path else None
        self._level: Level = chosen.level
        self._rate, self._tokens, self._filled_us = chosen.per_minute, float(chosen.per_minute), 0

    def collect(self, now_us: int) -> Iterator[Event]:
        """Yield an event for each matching line, and one event with the number of lines over the rate limit."""
        elapsed = max(0, now_us - self._filled_us) if self._filled_us else 0
        self._tokens, self._filled_us = min(self._rate, self._tokens + elapsed * self._rate / 60e6), now_us
        dropped = 0
        for raw in self._tail.lines(now_us):
            line = (raw.lstrip(b"\0") if raw.startswith(HOLE) else raw).decode("utf-8", "replace")
            if not self._pattern.search(line):
                continue
            if self._tokens < 1:
                dropped += 1
                continue
            self._tokens -= 1
            yield Event(
                t_us=now_us,
                source=self.name,
                text=line[:LONGEST_LINE].replace("\0", "\N{REPLACEMENT CHARACTER}"),
                level=self._level,
            )
        if dropped:
            text = f"{dropped} more matching lines were over the rate of {self._rate} a minute"
            yield Event(t_us=now_us, source=self.name, text=text, level="warning", fields={"dropped": float(dropped)})

    def warnings(self) -> list[str]:
        """Warnings for `check`: a missing file, which the collector waits for, may be a wrong path."""
        if self._path is None or os.access(self._path, os.R_OK):
            return []
        return [
            f"{self._path} is not there or cannot be read, and is waited for. Correct `path`, or its owner and mode"
        ]

    def checkpoint(self) -> bytes:
        """The position after the last `collect`."""
        return self._tail.checkpoint()

    def resume(self, value: bytes) -> None:
        """Continue at the position of an earlier run."""
        self._tail.resume(value)

    def close(self) -> None:
        """Close the file or end journalctl."""
        self._tail.close()


def open_collector(table: CollectorTable) -> LogCollector:
    """Entry point `log`."""
    chosen = options(Options, table)
    place = f"collector '{table.name}'"
    if bool(chosen.path) == bool(chosen.unit):
        raise ConfigError(place, "wants either `path` or `unit`", "Set just one of them")
    try:
        re.compile(chosen.pattern)
        tail = _tail(chosen)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{place}.pattern", f"is no regular expression ({error})", "Mend it") from error
    except (OSError, SubprocessError) as error:
        raise ConfigError(place, f"cannot be followed ({error})", "Check that it exists and may be read") from error
    return LogCollector(table.name, table.period_s, chosen, tail)


def _tail(chosen: Options) -> FileTail | JournalTail:
    if chosen.unit:
        return JournalTail(chosen.unit)
    return FileTail(Path(chosen.path), clock.now_us(), beginning=chosen.start == "beginning")
