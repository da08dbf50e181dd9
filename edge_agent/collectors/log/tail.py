"""Follows a log file through restarts and rotations: every complete line once, in order.

The log is a list of parts, oldest first: rotated files that are not read to their end, then the current file. With
`file_part.Position` these files are recognized: renamed, copied and truncated (copytruncate), truncated and rewritten,
replaced, compressed, deleted and created again. One reading covers at most READ_BYTES.
Not recovered: lines that were truncated or deleted before they were read, and a truncated file that begins with the
same bytes as before. When in doubt, lines are sent twice.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from edge_agent.collectors.log.byte_source import PlainFile
from edge_agent.collectors.log.file_part import Part, Position, Rewritten, holds, resumed
from edge_agent.collectors.log.position_search import LogFile, find_position, rotated_files

log = logging.getLogger(__name__)

READ_BYTES = 1 << 20
RETIRE_US = 30_000_000
"""A rotated file is still read for this long, because some processes open the new file late."""
MAX_PARTS = 64
"""Maximum number of open parts; older ones are dropped."""


class Saved(msgspec.Struct, frozen=True, array_like=True):
    """A checkpoint. `since_ns`: if there are no parts, files written later are new."""

    path: str
    since_ns: int
    parts: list[Position]


class FileTail:
    """Reads lines of the file at `path`: new ones, all with `beginning`, or those after the position of `resume`."""

    def __init__(self, path: Path, now_us: int, *, beginning: bool = False) -> None:
        self._path, self._since_ns = path, now_us * 1000
        self._parts: list[Part] = []
        with suppress(FileNotFoundError):
            self._parts = [Part(PlainFile(path))]
            if not beginning:
                _to_end(self._parts[0])

    def checkpoint(self) -> bytes:
        """The position, for `resume`."""
        parts = [part.position for part in self._parts]
        return msgspec.msgpack.encode(Saved(str(self._path), self._since_ns, parts))

    def resume(self, value: bytes) -> None:
        """Continue at a checkpoint of an earlier run; an invalid one, or one of another path, is ignored."""
        try:
            saved = msgspec.msgpack.decode(value, type=Saved)
        except msgspec.MsgspecError:
            log.warning("log.position_damaged", extra={"fields": {"path": str(self._path)}})
            return
        if saved.path != str(self._path):
            return
        self.close()
        self._since_ns = saved.since_ns
        for position in saved.parts[:-1]:
            self._reopen(position)
        self._follow(saved.parts[-1] if saved.parts else None, self._parts, intact=False)

    def lines(self, now_us: int) -> list[bytes]:
        """Lines completed since the last call."""
        if self._rotated():
            self._follow(self._parts[-1].position if self._parts else None, self._parts)
        found, rewritten = self._read(now_us)
        if rewritten:
            self._follow_rewritten()
            found += self._read(now_us)[0]
        return found

    def close(self) -> None:
        """Close all files."""
        for part in self._parts:
            part.source.close()
        self._parts = []

    # -- reading -----------------------------------------------------------------------------------

    def _read(self, now_us: int) -> tuple[list[bytes], bool]:
        """(lines, whether a part was rewritten)."""
        for part in reversed(self._parts):  # newest first, so that older parts are read at least up to the same time
            part.refresh()
        found: list[bytes] = []
        budget, parts = READ_BYTES, list(self._parts)
        for number, part in enumerate(parts):
            last = any(later.size for later in parts[number + 1 :])
            try:
                lines, count, done = part.lines(budget, last=last)
            except Rewritten:
                return found, True
            except OSError as error:
                log.warning("log.unreadable", extra={"fields": {"path": str(self._path), "reason": str(error)}})
                lines, count, done = [], 0, True
            found += lines
            budget -= count
            if done and last and part.idle_us(now_us, active=bool(count)) >= RETIRE_US:
                part.source.close()
                self._parts.remove(part)
            if not done or budget <= 0:
                break
        return found, False

    def _rotated(self) -> bool:
        """Whether the path is another file now."""
        try:
            named = self._path.stat()
        except OSError:
            return False
        return not self._parts or not os.path.samestat(named, self._parts[-1].source.status)

    # -- finding the parts -------------------------------------------------------------------------

    def _follow_rewritten(self) -> None:
        """After a part was rewritten: continue in a copy that contains what was read, or start from the beginning."""
        *before, current = self._parts
        kept = [part for part in before if _unchanged(part)]
        for part in before:
            if part not in kept:
                part.source.close()
        current.source.close()
        self._follow(current.position, kept, intact=False)

    def _follow(self, position: Position | None, held: list[Part], *, intact: bool = True) -> None:
        """Open the files written after `position`. `held` are the open parts; if `intact`, the last of them contains
        `position`.
        """
        parts, known = list(held), held[:-1] if intact else held
        files = [file for file in rotated_files(self._path) if not file.among(known)]
        place = find_position(files, position, self._path)
        if place is None or position is None:
            since = position.mtime_ns if position else self._since_ns
            fresh = [file for file in files if file.path == self._path or file.status.st_mtime_ns > since]
        else:
            found, fresh = files[place], files[place + 1 :]
            if found.path == self._path or not (held and intact):
                self._add(parts, found, position)
        for file in fresh:
            self._add(parts, file, None)
        for part in parts[:-MAX_PARTS]:
            part.source.close()
        self._parts = parts[-MAX_PARTS:]
        for file in files:
            file.release(self._parts)

    def _reopen(self, position: Position) -> None:
        """Reopen a part that was rotated before the restart; a slow writer may have appended to it."""
        files = [file for file in rotated_files(self._path) if not file.among(self._parts)]
        found = files
        if not position.offset:  # only its inode and its modification time are known
            found = [file for file in files if file.unread(position)]
        place = find_position(found, position, self._path)
        if place is not None and found[place].path != self._path:
            self._add(self._parts, found[place], position)
        for file in files:
            file.release(self._parts)

    def _add(self, parts: list[Part], file: LogFile, position: Position | None) -> None:
        """Add a part, unless it is already open or cannot be opened."""
        if file.among(parts):
            return
        try:
            parts.append(resumed(file.source, position) if position else Part(file.source))
        except OSError as error:
            log.warning("log.unreadable", extra={"fields": {"path": str(file.path), "reason": str(error)}})


def _unchanged(part: Part) -> bool:
    try:
        return holds(part.source, part.position)
    except OSError:
        return False


def _to_end(part: Part) -> None:
    """Skip the existing content, up to the end of its last complete line."""
    part.refresh()
    start = max(0, part.size - READ_BYTES)
    content = part.source.read(start, READ_BYTES) or b""
    end = content.rfind(b"\n") + 1 or len(content)
    part.skip_to(start + end, content[:end])
