"""Inputs in memory shared by the agent and one inference process; only headers go through the pipe.

An anonymous file in memory (`memfd_create`), passed by its descriptor: nothing to name, to unlink or to leak when a
process is killed. `multiprocessing.shared_memory` copies at the same speed, but starts a process of 9 MB on each side,
and removes the memory when a child ends. The file is sparse: a slot takes as much memory as the largest input in it.
"""

from __future__ import annotations

import mmap
import os
import tempfile

SLOTS = 16
SLOT_BYTES = 32 << 20
"""The largest input: 3840 x 2160 pixels in colour take 24.9 MB."""
_SIZE = SLOTS * SLOT_BYTES


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("tidegate-inputs")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class FrameWriter:
    """The agent's side: a few slots, of which the one used last is used first, because it is in the cache."""

    def __init__(self) -> None:
        self.fd = _anonymous_file()
        os.ftruncate(self.fd, _SIZE)
        self._memory = mmap.mmap(self.fd, _SIZE)
        self._view = memoryview(self._memory)
        self._free = [slot * SLOT_BYTES for slot in range(SLOTS)]

    def put(self, data: bytes | memoryview) -> int | None:
        """Copy an input into a free slot and return its offset; None when every slot is in use."""
        if not self._free:
            return None
        offset = self._free.pop()
        flat = data if isinstance(data, bytes) else data.cast("B")
        self._view[offset : offset + len(flat)] = flat
        return offset

    def release(self, offset: int) -> None:
        """Make the slot at `offset` free."""
        self._free.append(offset)

    def close(self) -> None:
        """Unmap and close; the memory is freed when the other side has done so too."""
        if self._memory.closed:
            return
        self._view.release()
        self._memory.close()
        os.close(self.fd)


class FrameReader:
    """The inference process's side."""

    def __init__(self, fd: int) -> None:
        self._view = memoryview(mmap.mmap(fd, _SIZE, prot=mmap.PROT_READ))

    def get(self, offset: int, size: int) -> memoryview:
        """The input at `offset`, not copied: it is valid until the answer has been sent."""
        return self._view[offset : offset + size]
