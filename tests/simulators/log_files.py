"""A program that writes a log, and what is done to its files: every way in which logs are rotated, emptied or replaced.

Lines are numbered in the order they are written. Times of files are set by hand, so that no run hangs on a clock.
"""

from __future__ import annotations

import gzip
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path


class LogWorld:
    """The log `app.log` in `folder`. `lost` are lines that nobody can have read; `repeated` ones may come twice."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.path, self._chance = folder / "app.log", chance
        self.written: list[str] = []
        self.read: set[str] = set()
        self.lost: set[str] = set()
        self.repeated = False
        self._half = ""
        self._now_ns = 1_700_000_000 * 10**9
        self._rotated = False

    def act(self) -> None:
        """One thing that happens."""
        acts: list[Callable[[], None]] = [self.rename_and_create, self.rename, self.copy_and_empty, self.compress]
        acts += [self.empty, self.replace, self.delete, self.half, self.late]
        before = self._rotated
        self._chance.choice([self.write] * 8 + acts)()
        self._rotated = self._rotated and not before

    def write(self) -> None:
        """Some lines, the half one before them ended."""
        for _ in range(self._chance.randint(1, 4)):
            text = f"{len(self.written):06d}" + self._chance.choice(["", " ok", " " + "x" * 90])
            line = self._half + text
            self._append(text + "\n")
            self._half = ""
            self.written.append(line)

    def half(self) -> None:
        """The beginning of a line."""
        if not self._half:
            self._half = f"half {len(self.written)} "
            self._append(self._half)

    def late(self) -> None:
        """A process that has not opened the new file yet writes to the old one, whose end no line is cut at."""
        old = self._numbered(1)
        if self._rotated and old.exists() and self.path.exists() and old.read_bytes()[-1:] == b"\n":
            line = f"late {len(self.written)}"
            self._append(line + "\n", old)
            self.written.append(line)

    def rename_and_create(self) -> None:
        """logrotate's `create`."""
        self.rename()
        self._append("")

    def rename(self) -> None:
        """The writer makes its new file when it has something to write."""
        self._end_half()
        if self.path.exists():
            self._shift()
            self.path.rename(self._numbered(1))
            self._rotated = True

    def copy_and_empty(self) -> None:
        """logrotate's `copytruncate`."""
        if self.path.exists() and not self._half:
            self._shift()
            shutil.copyfile(self.path, self._numbered(1))
            self._stamp(self._numbered(1))
            self._empty()

    def compress(self) -> None:
        """The rotated file that is not compressed yet, with its time."""
        for number in range(2, 9):
            plain = self._numbered(number)
            if plain.exists():
                packed = plain.with_name(plain.name + ".gz")
                packed.write_bytes(gzip.compress(plain.read_bytes()))
                os.utime(packed, ns=(plain.stat().st_atime_ns, plain.stat().st_mtime_ns))
                plain.unlink()
                return

    def empty(self) -> None:
        """Emptied in place, no copy kept; then it grows beyond what it was, or not."""
        if self.path.exists():
            size = self.path.stat().st_size
            self._end_half()
            self._unread_is_lost()
            self._empty()
            while self._chance.random() < 0.9 and self.path.stat().st_size <= size:
                self.write()

    def replace(self) -> None:
        """An editor saves it as another file without its first lines."""
        if self.path.exists() and not self._half:
            lines, cut = self.path.read_text().splitlines(keepends=True), self._chance.randint(0, 2)
            self.lost |= {line.rstrip("\n") for line in lines[:cut]} - self.read
            fresh = self.path.with_name("fresh")
            fresh.write_text("".join(lines[cut:]))
            fresh.replace(self.path)
            self._stamp(self.path)
            self.repeated = True

    def delete(self) -> None:
        """Deleted; a file of the same inode may come."""
        if self.path.exists():
            self._end_half()
            self._unread_is_lost()
            self.path.unlink()

    def _unread_is_lost(self) -> None:
        self.lost |= set(self.written) - self.read

    def _end_half(self) -> None:
        if self._half:
            self.write()

    def _append(self, text: str, path: Path | None = None) -> None:
        path = path or self.path
        with path.open("a") as stream:
            stream.write(text)
        self._stamp(path)

    def _empty(self) -> None:
        os.truncate(self.path, 0)
        self._stamp(self.path)

    def _stamp(self, path: Path) -> None:
        self._now_ns += self._chance.choice([1, 10**9])
        os.utime(path, ns=(self._now_ns, self._now_ns))

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"app.log.{number}")

    def _shift(self) -> None:
        """What was 1 becomes 2, and so on; nine are kept."""
        for number in range(99, 0, -1):
            for ending in ("", ".gz"):
                old = self._numbered(number)
                old = old.with_name(old.name + ending)
                if old.exists():
                    new = self._numbered(number + 1)
                    old.rename(new.with_name(new.name + ending))
