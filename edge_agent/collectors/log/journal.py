"""Follows the messages of a journald unit with `journalctl --follow`.

The position is journald's cursor. Without one it starts after the newest message of the journal.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from typing import Any

READ_BYTES = 1 << 20
START = "start"
"""Used instead of a cursor if the journal was empty: all messages are new."""


class JournalTail:
    """Follows one unit. Raises OSError without journalctl. When journalctl ends, it is restarted at the cursor."""

    def __init__(self, unit: str) -> None:
        self._unit, self._cursor = unit, _newest()
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def checkpoint(self) -> bytes:
        """The position, for `resume`."""
        return json.dumps([self._unit, self._cursor]).encode()

    def resume(self, value: bytes) -> None:
        """Continue at a checkpoint of an earlier run; an invalid one, or one of another unit, is ignored."""
        with contextlib.suppress(ValueError):
            saved = json.loads(value)
            if isinstance(saved, list) and saved[:1] == [self._unit] and isinstance(saved[-1], str):
                self._cursor = saved[-1]

    def lines(self, _now_us: int) -> list[bytes]:
        """New messages since the last call."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = self._start()
        out = self._process.stdout
        fresh = (out.read(READ_BYTES) if out is not None else None) or b""
        *complete, self._rest = (self._rest + fresh).split(b"\n")
        return [message for line in complete if (message := self._message(line)) is not None]

    def close(self) -> None:
        """End journalctl."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(5)
            if self._process.stdout is not None:
                self._process.stdout.close()
        self._process, self._rest = None, b""

    def _start(self) -> subprocess.Popen[bytes]:
        place = "--lines=all" if self._cursor == START else f"--after-cursor={self._cursor}"
        command = ["journalctl", "--follow", "--all", place, "--output=json", f"--unit={self._unit}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if process.stdout is not None:
            os.set_blocking(process.stdout.fileno(), False)
        return process

    def _message(self, line: bytes) -> bytes | None:
        entry = _entry(line)
        if entry is None:
            return None
        if isinstance(cursor := entry.get("__CURSOR"), str):
            self._cursor = cursor
        text = entry.get("MESSAGE", "")
        if isinstance(text, list):  # journald's format for text that is not UTF-8
            return bytes(byte for byte in text if isinstance(byte, int) and 0 <= byte < 256)
        return str(text).encode("utf-8", "replace")


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _newest() -> str:
    """The cursor of the newest message of any unit."""
    command = ["journalctl", "--lines=1", "--output=json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10, check=False)
    entry = _entry(done.stdout.strip()) or {}
    return str(entry.get("__CURSOR", START))
