"""References to desired content above 4 KB: the twin holds digest, size and path; the device downloads and verifies.

Used for limits; the same form is meant for gates and bundles.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

INLINE_BYTES = 4096
"""Content up to this size is stored in the twin itself."""
MAX_BYTES = 4 << 20
FILES = "/.well-known/tidegate/files/"
"""Path below which the hub's REST API serves referenced content."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_PATH = re.compile(re.escape(FILES) + r"[A-Za-z0-9_-]{1,100}\Z")


def digest(content: bytes) -> str:
    """`sha256:...` of these bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Reference to content on the hub: `size` in bytes, `path` below FILES of the hub's REST API."""

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
        """Whether `content` is what this reference names."""
        return len(content) == self.size and digest(content) == self.digest
