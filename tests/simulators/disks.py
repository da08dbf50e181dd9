"""Small disks for one process, and harm for files. A tmpfs in a mount namespace of its own: nothing is left behind."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = (
    'kept=$(mktemp -d) && cp -a "$2/." "$kept" && mount -t tmpfs -o size="$1" tmpfs "$2" && cp -a "$kept/." "$2"'
    ' && rm -r "$kept" && shift 2 && exec "$@"'
)
"""What the folder holds goes onto the small disk."""


def on_small_disk(folder: Path, size: str) -> list[str]:
    """Words before a command: `folder` is then a disk of so many bytes, for that process alone."""
    folder.mkdir(parents=True, exist_ok=True)
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    words = ["unshare", "--mount", *as_root, "sh", "-c", SCRIPT, "sh", size, str(folder)]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespaces here: apt-get install util-linux, and allow unprivileged ones or be root")
    return words


def seen_by(pid: int, folder: Path) -> Path:
    """The folder as a process in another namespace sees it."""
    return Path(f"/proc/{pid}/root{folder}")


def beside(pid: int) -> list[str]:
    """Words before a command that is to see the disks of that process. (SQLite does not open files below /proc.)"""
    as_root = [] if os.geteuid() == 0 else ["--user"]
    return ["nsenter", f"--target={pid}", "--mount", *as_root]


def fill(folder: Path) -> Path:
    """Write until nothing more goes onto the disk; returns the file to be deleted."""
    file = folder / "filler"
    handle = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        for size in (1 << 20, 4096, 1):
            while True:
                try:
                    os.write(handle, b"x" * size)
                except OSError:
                    break
    finally:
        os.close(handle)
    return file


def flip_bits(path: Path, rng: random.Random) -> None:
    """One to eight bits of the file are others."""
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut_off(path: Path, rng: random.Random) -> None:
    """The file ends somewhere before its end."""
    size = path.stat().st_size
    os.truncate(path, rng.choice([0, rng.randrange(size), 4096 * rng.randrange(max(1, size // 4096))]))


def zero_page(path: Path, rng: random.Random) -> None:
    """A page holds nothing but zeros."""
    with path.open("r+b") as file:
        file.seek(4096 * rng.randrange(max(1, path.stat().st_size // 4096)))
        file.write(bytes(4096))


def noise(path: Path, rng: random.Random) -> None:
    """A page holds noise."""
    with path.open("r+b") as file:
        file.seek(4096 * rng.randrange(max(1, path.stat().st_size // 4096)))
        file.write(rng.randbytes(4096))


HARMS: list[Callable[[Path, random.Random], None]] = [flip_bits, flip_bits, flip_bits, cut_off, zero_page, noise]
