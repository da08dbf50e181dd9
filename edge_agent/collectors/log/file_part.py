"""One part of a log: a file, how far it was read, and how to know it again.

A part is known by its inode and by bytes that were read from it: its first ones and those just before the offset. An
inode alone is not enough (it is reused, and a file may be emptied and written anew), and a device's number is not
remembered (it changes with a boot).
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from edge_agent.collectors.log.byte_source import Source

WINDOW = 256
"""Bytes of the beginning, and of what is just before the offset, that a part is known by."""
SURE = 64
"""A file of another inode is taken for the same one when so many bytes are alike."""
CUT = 8000
"""Bytes that are kept of a line that is longer than one reading."""


class Position(msgspec.Struct, frozen=True, array_like=True):
    """How far a file was read. `cut` is the beginning of a line that is longer than one reading."""

    inode: int
    offset: int
    head: bytes
    tail: bytes
    mtime_ns: int
    cut: bytes = b""


class Rewritten(Exception):
    """What was read is not there any more: the file was emptied, or written anew."""


@dataclass(slots=True)
class Part:
    """A file on its way to be read."""

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
        if self.mtime_ns < 0:  # what is unread counts as written since
            status = self.source.status
            self.mtime_ns = status.st_mtime_ns - (status.st_size > 0)

    @property
    def position(self) -> Position:
        """What there is to remember."""
        inode = self.source.status.st_ino
        return Position(inode, self.offset, self.head, self.tail, self.mtime_ns, self.cut)

    def look(self) -> None:
        """Take its size: it is read up to there."""
        self.size = self.source.look()

    def lines(self, budget: int, *, last: bool) -> tuple[list[bytes], int, bool]:
        """(whole lines, bytes read, whether all was read) of at most `budget` bytes. `last`: the writer has gone on to
        another file, so that a line without an end is whole too. Raises Rewritten, OSError.
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
            self.offset, self.head, self.tail, self.cut = 0, b"", b"", b""  # it is another one: rather twice than never
            return [], 0, False
        fresh, self.mtime_ns = data[len(self.tail) :], seen[1]
        done = len(fresh) < budget
        if done and self.source.grows:
            self._seen = seen
        return self._whole(data, fresh, done, last and done), len(fresh), done

    def _whole(self, data: bytes, fresh: bytes, done: bool, last: bool) -> list[bytes]:
        """The lines that end in `fresh`; what is after them is read again, unless it is too long or the last."""
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

    def pass_over(self, offset: int, before: bytes) -> None:
        """Begin at `offset`; `before` is what ends there."""
        self.offset, self.tail, self.mtime_ns = offset, before[-WINDOW:], self.source.status.st_mtime_ns
        self.head = self.source.read(0, min(WINDOW, offset)) or b""

    def quiet(self, now_us: int, *, active: bool) -> int:
        """Microseconds since something was read from it; one that cannot grow is quiet at once."""
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
    """Whether what was read at `position` stands in this file. Of a compressed one only the beginning is compared."""
    if position.head and source.read(0, len(position.head)) != position.head:
        return False
    if not source.grows or not position.tail:
        return True
    return source.read(position.offset - len(position.tail), len(position.tail)) == position.tail


def resumed(source: Source, position: Position) -> Part:
    """The part at `source`, from `position` on."""
    return Part(source, position.offset, position.head, position.tail, position.cut, position.mtime_ns)
