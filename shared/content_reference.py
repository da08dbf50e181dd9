"""Desired content above 4 KB travels by reference: the twin says digest, size and path, the device fetches and checks.

One form for all of it: limits today, gates and bundles when they grow.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

INLINE_BYTES = 4096
"""Up to here content stands in the twin itself."""
MAX_BYTES = 4 << 20
FILES = "/.well-known/tidegate/files/"
"""Where the hub's REST serves what is referred to."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_PATH = re.compile(re.escape(FILES) + r"[A-Za-z0-9_-]{1,100}\Z")


def digest(content: bytes) -> str:
    """`sha256:...` of these bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Content that stands elsewhere: `size` in bytes, `path` below FILES at the hub's REST."""

    digest: str
    size: int
    path: str

    def __post_init__(self) -> None:
        if not _DIGEST.match(self.digest):
            raise ValueError("a digest is sha256: and 64 hexadecimal digits")
        if not 0 < self.size <= MAX_BYTES:
            raise ValueError(f"what is referred to has 1 to {MAX_BYTES} bytes, not {self.size}")
        if not _PATH.match(self.path):
            raise ValueError(f"a path lies below {FILES}")

    def names(self, content: bytes) -> bool:
        """Whether these are the very bytes."""
        return len(content) == self.size and digest(content) == self.digest
