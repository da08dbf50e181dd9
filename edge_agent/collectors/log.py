"""Log lines as events: follows a file, or journald, with a pattern and a rate limit.

What matches beyond the limit is counted and told once a reading, never silently dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import msgspec

from edge_agent.config import CollectorTable, options
from shared.errors import ConfigError
from shared.messages import Event, Level, Metric

LONGEST_LINE = 2000
READ_BYTES = 1 << 20


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Either `path` of a text file or `unit` of journald; lines that match `pattern` become events."""

    path: str = ""
    unit: str = ""
    pattern: str = "."
    level: Literal["debug", "info", "warning", "error"] = "info"
    per_minute: int = 60


class FileTail:
    """New whole lines of a file; begins at its end, survives rotation and truncation.

    The file is held open, so that what was written before a rotation is still read after it.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._rest = path, b""
        self._file: IO[bytes] | None = None
        with contextlib.suppress(FileNotFoundError):
            self._file = path.open("rb")
            self._file.seek(0, os.SEEK_END)

    def lines(self) -> list[str]:
        """Lines that were completed since the last call."""
        try:
            fresh = self._read()
            if not fresh and self._moved():
                fresh = self._change_over()
        except OSError:
            return []
        *whole, self._rest = (self._rest + fresh).split(b"\n")
        self._rest = self._rest[:READ_BYTES]  # the beginning of an endless line says what it is
        return [line.decode("utf-8", "replace") for line in whole]

    def _read(self) -> bytes:
        if self._file is None:
            return b""
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)
            self._rest = b""
        return self._file.read(READ_BYTES)

    def _moved(self) -> bool:
        """Another file has the name now, and ours is read to its end."""
        if self._file is None:
            return True
        ours, named = os.fstat(self._file.fileno()), self._path.stat()
        return not os.path.samestat(ours, named)

    def _change_over(self) -> bytes:
        following = self._path.open("rb")
        self.close()
        self._file = following
        return (b"\n" if self._rest else b"") + self._read()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file = None


class JournalTail:
    """New messages of one journald unit, through `journalctl --follow`."""

    def __init__(self, unit: str) -> None:
        command = ["journalctl", "--follow", "--lines=0", "--output=json", f"--unit={unit}"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        self._out = self._process.stdout
        os.set_blocking(self._out.fileno(), False)
        self._rest = b""

    def lines(self) -> list[str]:
        """Messages that came since the last call."""
        fresh = self._out.read(READ_BYTES) or b""
        *whole, self._rest = (self._rest + fresh).split(b"\n")
        return [str(json.loads(line).get("MESSAGE", "")) for line in whole if line]

    def close(self) -> None:
        """End journalctl."""
        self._process.terminate()
        self._process.wait(5)
        self._out.close()


class LogCollector:
    """Matching lines as events, at most `per_minute` of them."""

    def __init__(self, name: str, period_s: float | None, chosen: Options, tail: FileTail | JournalTail) -> None:
        self.name, self.period_s = name, period_s
        self.metrics: list[Metric] = []
        self._tail, self._pattern = tail, re.compile(chosen.pattern)
        self._path = Path(chosen.path) if chosen.path else None
        self._level: Level = chosen.level
        self._rate, self._room, self._filled_us = chosen.per_minute, float(chosen.per_minute), 0

    def collect(self, now_us: int) -> Iterator[Event]:
        """An event for each matching line; what is over the rate is told as one event with its count."""
        elapsed = max(0, now_us - self._filled_us) if self._filled_us else 0
        self._room, self._filled_us = min(self._rate, self._room + elapsed * self._rate / 60e6), now_us
        dropped = 0
        for line in self._tail.lines():
            if not self._pattern.search(line):
                continue
            if self._room < 1:
                dropped += 1
                continue
            self._room -= 1
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
        """For `check`: a file that is not there is waited for, which may be a wrong path."""
        return (
            []
            if self._path is None or os.access(self._path, os.R_OK)
            else [
                f"{self._path} is not there or cannot be read, and is waited for. Correct `path`, or its owner and mode"
            ]
        )

    def close(self) -> None:
        """End following."""
        self._tail.close()


def open_collector(table: CollectorTable) -> LogCollector:
    """Entry point `log`."""
    chosen = options(Options, table)
    place = f"collector '{table.name}'"
    if bool(chosen.path) == bool(chosen.unit):
        raise ConfigError(place, "wants either `path` or `unit`", "Set just one of them")
    try:
        re.compile(chosen.pattern)
        tail = FileTail(Path(chosen.path)) if chosen.path else JournalTail(chosen.unit)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{place}.pattern", f"is no regular expression ({error})", "Mend it") from error
    except OSError as error:
        raise ConfigError(place, f"cannot be followed ({error})", "Check that it exists and may be read") from error
    return LogCollector(table.name, table.period_s, chosen, tail)
