"""A log file that is followed through restarts and rotations: every whole line once, in order.

The log is a row of parts, oldest first: files that were rotated away and are not read to their end, then the file of
that name. Found again by `parts.Position` are: a file that was renamed, copied and emptied (copytruncate), emptied and
written anew, replaced, compressed, deleted and made again. A reading takes at most READ_BYTES.
What cannot be found: lines that were emptied away before they were read, or whose file was deleted; a file that was
emptied and begins with the very bytes that were there before. When in doubt lines are sent twice.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from edge_agent.collectors.log.byte_source import PlainFile
from edge_agent.collectors.log.file_part import Part, Position, Rewritten, holds, resumed
from edge_agent.collectors.log.position_search import LogFile, placed, rotated_files

log = logging.getLogger(__name__)

READ_BYTES = 1 << 20
RETIRE_US = 30_000_000
"""A file that was rotated away is looked at for so long, because not every process that writes it opens the new one at
once."""
MAX_PARTS = 64
"""Parts that are open at one time; what is older is given up."""


class Saved(msgspec.Struct, frozen=True, array_like=True):
    """What a restart needs. `since_ns`: without any part, files that were written after it are news."""

    path: str
    since_ns: int
    parts: list[Position]


class FileTail:
    """Lines of the file at `path`: those written from now on, or with `beginning` all; or from where `resume` says."""

    def __init__(self, path: Path, now_us: int, *, beginning: bool = False) -> None:
        self._path, self._since_ns = path, now_us * 1000
        self._parts: list[Part] = []
        with suppress(FileNotFoundError):
            self._parts = [Part(PlainFile(path))]
            if not beginning:
                _to_end(self._parts[0])

    def checkpoint(self) -> bytes:
        """Where it stands, for `resume`."""
        parts = [part.position for part in self._parts]
        return msgspec.msgpack.encode(Saved(str(self._path), self._since_ns, parts))

    def resume(self, value: bytes) -> None:
        """Go on where another run of the agent stood. What is no checkpoint, or of another path, is none."""
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
        """Lines that were completed since the last call."""
        if self._moved():
            self._follow(self._parts[-1].position if self._parts else None, self._parts)
        found, rewritten = self._read(now_us)
        if rewritten:
            self._follow_rewritten()
            found += self._read(now_us)[0]
        return found

    def close(self) -> None:
        """Close its files."""
        for part in self._parts:
            part.source.close()
        self._parts = []

    # -- reading -----------------------------------------------------------------------------------

    def _read(self, now_us: int) -> tuple[list[bytes], bool]:
        """(lines, whether a part is not any more what it was)."""
        for part in reversed(self._parts):  # the newest first: what is in it was written after all that is before it
            part.look()
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
            if done and last and part.quiet(now_us, active=bool(count)) >= RETIRE_US:
                part.source.close()
                self._parts.remove(part)
            if not done or budget <= 0:
                break
        return found, False

    def _moved(self) -> bool:
        """Whether another file has the name now."""
        try:
            named = self._path.stat()
        except OSError:
            return False
        return not self._parts or not os.path.samestat(named, self._parts[-1].source.status)

    # -- finding the parts -------------------------------------------------------------------------

    def _follow_rewritten(self) -> None:
        """A part is not what it was: look for a copy that holds what was read, and begin anew where there is none."""
        *before, current = self._parts
        kept = [part for part in before if _still(part)]
        for part in before:
            if part not in kept:
                part.source.close()
        current.source.close()
        self._follow(current.position, kept, intact=False)

    def _follow(self, position: Position | None, held: list[Part], *, intact: bool = True) -> None:
        """Open what was written after `position`; `held` are parts that are open already, of which the last one is
        where `position` is when it is `intact`.
        """
        parts, known = list(held), held[:-1] if intact else held
        files = [file for file in rotated_files(self._path) if not file.among(known)]
        place = placed(files, position, self._path)
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
        """A part that was rotated away before the restart: perhaps a slow writer has added to it."""
        files = [file for file in rotated_files(self._path) if not file.among(self._parts)]
        found = files
        if not position.offset:  # nothing is known of it but its inode, or that it was written at the same time
            found = [file for file in files if file.unread(position)]
        place = placed(found, position, self._path)
        if place is not None and found[place].path != self._path:
            self._add(self._parts, found[place], position)
        for file in files:
            file.release(self._parts)

    def _add(self, parts: list[Part], file: LogFile, position: Position | None) -> None:
        """Open one more part, unless it is open or cannot be."""
        if file.among(parts):
            return
        try:
            parts.append(resumed(file.source, position) if position else Part(file.source))
        except OSError as error:
            log.warning("log.unreadable", extra={"fields": {"path": str(file.path), "reason": str(error)}})


def _still(part: Part) -> bool:
    try:
        return holds(part.source, part.position)
    except OSError:
        return False


def _to_end(part: Part) -> None:
    """Pass over what is there, up to the end of its last whole line."""
    part.look()
    start = max(0, part.size - READ_BYTES)
    there = part.source.read(start, READ_BYTES) or b""
    end = there.rfind(b"\n") + 1 or len(there)
    part.pass_over(start + end, there[:end])
