"""Reads bytes of a log file, plain or compressed, by offset. An open file stays readable after a rename or delete."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import IO, Protocol

from edge_agent.collectors.log.rotation import COMPRESSED

SKIP_BYTES = 16 << 20
"""Maximum bytes skipped in one call: a compressed file must be decompressed from its start."""


class Source(Protocol):
    """An open log file."""

    status: os.stat_result
    """Status at the last `refresh`."""
    grows: bool
    """Whether a writer may still have it open."""

    def refresh(self) -> int:
        """Update `status` and return the size; 1 for a compressed file."""
        ...

    def read(self, offset: int, length: int) -> bytes | None:
        """Up to `length` bytes; None: call again later. Raises OSError, also when it cannot be decompressed."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class PlainFile:
    """An uncompressed file. Raises OSError when it is missing, not readable or not a regular file."""

    grows = True

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self.status = os.fstat(self._handle)
        if not stat.S_ISREG(self.status.st_mode):
            os.close(self._handle)
            raise OSError(f"{path} is no regular file")

    def refresh(self) -> int:
        self.status = os.fstat(self._handle)
        return self.status.st_size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._handle, length, offset)

    def close(self) -> None:
        os.close(self._handle)


class CompressedFile:
    """A rotated file that was compressed. While it is still being written, `read` returns None at its end."""

    grows = False

    def __init__(self, path: Path) -> None:
        self._stream = _unpacker(path)
        self.status = path.stat()

    def refresh(self) -> int:
        return 1

    def read(self, offset: int, length: int) -> bytes | None:
        here = self._stream.tell()
        try:
            if here + SKIP_BYTES < offset:
                self._stream.seek(here + SKIP_BYTES)
                return None
            self._stream.seek(offset)
            return self._stream.read(length)
        except EOFError:
            return None
        except Exception as error:  # each library has its own error for damaged files
            raise OSError(f"it cannot be unpacked ({error})") from error

    def close(self) -> None:
        self._stream.close()


def _unpacker(path: Path) -> IO[bytes]:
    """Open a compressed file. The libraries are imported on demand, because few devices need them."""
    if path.suffix == ".gz":
        import gzip  # noqa: PLC0415

        return io.BufferedReader(gzip.open(path))
    if path.suffix == ".bz2":
        import bz2  # noqa: PLC0415

        return bz2.open(path)
    import lzma  # noqa: PLC0415

    return lzma.open(path)


def open_source(path: Path) -> PlainFile | CompressedFile:
    """Open the file at `path`; raises OSError."""
    return CompressedFile(path) if path.name.endswith(COMPRESSED) else PlainFile(path)
