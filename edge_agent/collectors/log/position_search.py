"""Finds a stored position in a log and its rotated files."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from edge_agent.collectors.log.byte_source import Source, open_source
from edge_agent.collectors.log.file_part import SURE, Part, Position, holds
from edge_agent.collectors.log.rotation import rotated


class LogFile:
    """A file that may be a part of the log; opened on demand."""

    def __init__(self, path: Path) -> None:
        self.path, self.status = path, path.stat()
        self._source: Source | None = None

    @property
    def source(self) -> Source:
        """The open file; raises OSError."""
        if self._source is None:
            self._source = open_source(self.path)
            self.status = self._source.status
        return self._source

    def holds(self, position: Position) -> bool:
        """Whether the file contains what was read at `position`."""
        try:
            return holds(self.source, position)
        except OSError:
            return False

    def unread(self, position: Position) -> bool:
        """Whether this is the file of a position at offset 0, by its inode or, if it was compressed, its time."""
        return self.status.st_ino == position.inode or self.status.st_mtime_ns == position.mtime_ns + 1

    def among(self, parts: list[Part]) -> bool:
        """Whether it is one of the parts."""
        return any(os.path.samestat(self.status, part.source.status) for part in parts)

    def release(self, parts: list[Part]) -> None:
        """Close it unless it has become one of the parts."""
        if self._source is not None and not any(part.source is self._source for part in parts):
            self._source.close()


def rotated_files(path: Path) -> list[LogFile]:
    """The existing rotated files of the log at `path`, oldest first, and the log itself."""
    try:
        names = rotated(path.name, [file.name for file in path.parent.iterdir()])
    except OSError:
        names = []
    files = []
    for name in [*names, path.name]:
        with suppress(OSError):
            files.append(LogFile(path.with_name(name)))
    return files


def find_position(files: list[LogFile], position: Position | None, path: Path) -> int | None:
    """Index of the file that contains `position`: the renamed file, else the oldest file that contains what was read
    and was written later, else the log itself. None if there is none.
    """
    if position is None:
        return None
    for number, file in enumerate(files):
        if position.offset and file.path != path and file.status.st_ino == position.inode and file.holds(position):
            return number
    for number, file in enumerate(files):
        if _may_contain(file, position, path) and file.holds(position):
            return number
    return None


def _may_contain(file: LogFile, position: Position, path: Path) -> bool:
    """Whether the file may contain the position. A file last written before the position is an earlier part."""
    if file.path == path:
        return file.status.st_ino == position.inode or position.offset >= SURE
    since = file.status.st_mtime_ns - position.mtime_ns
    return since > 0 or (since == 0 and position.offset > 0)
