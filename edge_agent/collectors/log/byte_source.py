"""The bytes of one log file, plain or compressed, by their offset. A file that is open outlives its name."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import IO, Protocol

from edge_agent.collectors.log.rotation import COMPRESSED

SKIP_BYTES = 16 << 20
"""A compressed file is unpacked from its start; at most so much of it is passed over in one call."""


class Source(Protocol):
    """One open file."""

    status: os.stat_result
    """As it was at the last `look`."""
    grows: bool
    """Whether a writer may still have it open."""

    def look(self) -> int:
        """Its size now; 1 for a compressed one."""
        ...

    def read(self, offset: int, length: int) -> bytes | None:
        """Up to `length` bytes; None: not now, ask again. Raises OSError, also for what cannot be unpacked."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class PlainFile:
    """A file as it is. Raises OSError when it is not there, may not be read or is no regular file."""

    grows = True

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self.status = os.fstat(self._handle)
        if not stat.S_ISREG(self.status.st_mode):
            os.close(self._handle)
            raise OSError(f"{path} is no regular file")

    def look(self) -> int:
        self.status = os.fstat(self._handle)
        return self.status.st_size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._handle, length, offset)

    def close(self) -> None:
        os.close(self._handle)


class CompressedFile:
    """A file that a rotation has compressed. One that is still being written ends early: `read` says None."""

    grows = False

    def __init__(self, path: Path) -> None:
        self._stream = _unpacker(path)
        self.status = path.stat()

    def look(self) -> int:
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
        except Exception as error:  # each library has its own for what is damaged
            raise OSError(f"it cannot be unpacked ({error})") from error

    def close(self) -> None:
        self._stream.close()


def _unpacker(path: Path) -> IO[bytes]:
    """The libraries are loaded when they are needed: few devices ever do."""
    if path.suffix == ".gz":
        import gzip  # noqa: PLC0415

        return io.BufferedReader(gzip.open(path))
    if path.suffix == ".bz2":
        import bz2  # noqa: PLC0415

        return bz2.open(path)
    import lzma  # noqa: PLC0415

    return lzma.open(path)


def open_source(path: Path) -> PlainFile | CompressedFile:
    """The file at `path`; raises OSError."""
    return CompressedFile(path) if path.name.endswith(COMPRESSED) else PlainFile(path)
