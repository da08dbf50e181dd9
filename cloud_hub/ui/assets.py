"""The files that pages load. They are read once; an address names the hash of its content, so browsers keep it.

`vendor/` holds the files of others with their licences. Their SHA-256 are in `VENDORED`, and a test compares them.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent / "assets"
TYPES = {".css": "text/css; charset=utf-8", ".mjs": "text/javascript; charset=utf-8",
         ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
         ".txt": "text/plain; charset=utf-8"}  # fmt: skip
VENDORED = {
    "vendor/htmx.min.js": (
        "htmx.org 4.0.1",
        "0BSD",
        "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130",
    ),
    "vendor/uplot.min.js": ("uplot 1.6.32", "MIT", "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"),
    "vendor/uplot.min.css": ("uplot 1.6.32", "MIT", "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"),
}
"""Files of others: name and version, licence, SHA-256 as in the npm packages `htmx.org` and `uplot`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A file: its content plain and compressed, its type, and the first digits of its SHA-256."""

    content: bytes
    packed: bytes
    media_type: str
    version: str


@cache
def load() -> dict[str, Asset]:
    """All files by their path below `assets`."""
    return {
        file.relative_to(HERE).as_posix(): _read(file)
        for file in sorted(HERE.rglob("*")) if file.is_file() and file.suffix in TYPES
    }  # fmt: skip


def _read(file: Path) -> Asset:
    content = file.read_bytes()
    packed = gzip.compress(content, 9, mtime=0)
    version = hashlib.sha256(content).hexdigest()[:12]
    return Asset(content=content, packed=packed, media_type=TYPES[file.suffix], version=version)


def address(name: str) -> str:
    """The address of a file relative to /ui/; a changed file has another one."""
    return f"assets/{name}?v={load()[name].version}"
