"""Logs as JSON lines: ts, level, event, device, trace_id and the fields of the call; readable on a terminal.

Use: `log.info("outbox.replayed", extra={"fields": {"rows": 12}, "trace": traceparent})`. The event is a
short dotted name, never a sentence with values in it, so that it can be searched for.
"""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import IO, Any

from shared.ids import trace_id
from shared.process.terminal import printable, printable_json, printable_lines


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = dict(getattr(record, "fields", {}))
    trace = trace_id(getattr(record, "trace", None))
    if trace:
        fields["trace_id"] = trace
    return fields


class JsonFormatter(logging.Formatter):
    """One JSON object per line; `device` is the id of this device or hub."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line = {"ts": when, "level": record.levelname.lower(), "event": record.getMessage(), "device": self._device}
        line |= _fields(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return printable_json(line, default=str)


class TerminalFormatter(logging.Formatter):
    """`12:03:44 INFO  event key=value` for a terminal. Control characters in values are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        pairs = " ".join(f"{key}={value}" for key, value in _fields(record).items())
        line = printable(f"{when} {record.levelname:<7} {record.getMessage()} {pairs}".rstrip())
        return f"{line}\n{printable_lines(self.formatException(record.exc_info))}" if record.exc_info else line


def setup(device: str, level: str, stream: IO[str]) -> None:
    """Send every log record of this process to `stream`: JSON lines, or readable lines on a terminal."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TerminalFormatter() if stream.isatty() else JsonFormatter(device))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
