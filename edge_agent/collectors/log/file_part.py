"""One part of a log: a file, how far it was read, and how to recognize it again.

A part is identified by its inode and by bytes read from it: its first bytes and those just before the offset. An
inode alone is not enough: it is reused, and a file may be truncated and rewritten. The device number is not used,
because it may change at boot.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from edge_agent.collectors.log.byte_source import Source

WINDOW = 256
"""Number of bytes at the beginning, and before the offset, by which a part is recognized."""
SURE = 64
"""A file with another inode is the same log when at least so many bytes are equal."""
CUT = 8000
"""Bytes kept of a line that is longer than one reading."""


class Position(msgspec.Struct, frozen=True, array_like=True):
    """How far a file was read. `cut` is the beginning of an incomplete line that is longer than one reading."""

    inode: int
    offset: int
    head: bytes
    tail: bytes
    mtime_ns: int
    cut: bytes = b""


class Rewritten(Exception):
    """The file was truncated or rewritten: the bytes read before are no longer there."""


@dataclass(slots=True)
class Part:
    """A file that is being read."""

    source: Source
    offset: int = 0
    head: bytes = b""
    tail: bytes = b""
    cut: bytes = b""
    mtime_ns: int = -1
    size: int = 0
    _seen: tuple[int, int] = (-1, -1)
    _active_us: int = 0

    def __post_init__(self) -> None:
        if self.mtime_ns < 0:  # unread content counts as written later
            status = self.source.status
            self.mtime_ns = status.st_mtime_ns - (status.st_size > 0)

    @property
    def position(self) -> Position:
        """The position to store."""
        inode = self.source.status.st_ino
        return Position(inode, self.offset, self.head, self.tail, self.mtime_ns, self.cut)

    def refresh(self) -> None:
        """Update the size, up to which the file is read."""
        self.size = self.source.refresh()

    def lines(self, budget: int, *, last: bool) -> tuple[list[bytes], int, bool]:
        """Read at most `budget` bytes: (complete lines, bytes read, whether everything was read). `last`: the writer
        uses another file now, so a line without a line feed is complete too. Raises Rewritten, OSError.
        """
        seen = (self.size, self.source.status.st_mtime_ns)
        if seen == self._seen and not (last and (self.size > self.offset or self.cut)):
            return [], 0, True
        length = min(budget, max(0, self.size - self.offset)) if self.source.grows else budget
        data = self.source.read(self.offset - len(self.tail), len(self.tail) + length)
        if data is None:
            return [], 0, False
        if not data.startswith(self.tail):
            if self.source.grows:
                raise Rewritten
            self.offset, self.head, self.tail, self.cut = (
                0,
                b"",
                b"",
                b"",
            )  # another file: read it from the start, duplicates are better than gaps
            return [], 0, False
        fresh, self.mtime_ns = data[len(self.tail) :], seen[1]
        done = len(fresh) < budget
        if done and self.source.grows:
            self._seen = seen
        return self._complete_lines(data, fresh, done, last and done), len(fresh), done

    def _complete_lines(self, data: bytes, fresh: bytes, done: bool, last: bool) -> list[bytes]:
        """The lines that end in `fresh`. The rest is read again next time, unless it is too long or the last line."""
        end = len(fresh) if last else fresh.rfind(b"\n") + 1
        if not end and not done:
            self.cut = (self.cut + fresh).lstrip(b"\0")[:CUT]
            self._advance(data, len(fresh))
            return []
        text = self.cut + fresh[:end]
        if end or last:
            self.cut = b""
            self._advance(data, end)
        *lines, rest = text.split(b"\n")
        return [*lines, rest] if rest and (end or last) else lines

    def skip_to(self, offset: int, before: bytes) -> None:
        """Start reading at `offset`; `before` are the bytes before it."""
        self.offset, self.tail, self.mtime_ns = offset, before[-WINDOW:], self.source.status.st_mtime_ns
        self.head = self.source.read(0, min(WINDOW, offset)) or b""

    def idle_us(self, now_us: int, *, active: bool) -> int:
        """Microseconds since something was read; a file that cannot grow counts as idle at once."""
        if active or not 0 < self._active_us <= now_us:
            self._active_us = now_us
        return now_us - self._active_us if self.source.grows else now_us

    def _advance(self, data: bytes, passed: int) -> None:
        known = data[: len(self.tail) + passed]
        if len(self.head) < WINDOW and self.offset == len(self.head):
            self.head = (self.head + known[len(self.tail) :])[:WINDOW]
        self.offset += passed
        self.tail = known[-WINDOW:]


def holds(source: Source, position: Position) -> bool:
    """Whether the file contains what was read at `position`. Of a compressed file only the beginning is compared."""
    if position.head and source.read(0, len(position.head)) != position.head:
        return False
    if not source.grows or not position.tail:
        return True
    return source.read(position.offset - len(position.tail), len(position.tail)) == position.tail


def resumed(source: Source, position: Position) -> Part:
    """A part that continues at `position` of `source`."""
    return Part(source, position.offset, position.head, position.tail, position.cut, position.mtime_ns)
