"""Collector `folder`: images that are put into a folder, each once, oldest first; also across restarts.

What was processed is stored as hashes of name, time and size, in one commit with the readings. So neither a clock that
was set back nor a copied old file is missed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.collectors import Reading
from edge_agent.collectors.sources.collector import BackgroundCollector
from edge_agent.collectors.sources.options import ImageOptions, absolute, needs_decoder
from edge_agent.collectors.sources.process import Arrived, BackgroundSource
from edge_agent.collectors.sources.protocol import Note, Produced, Skipped, State
from edge_agent.config import CollectorTable, options
from shared.errors import NotReady

PRODUCER = "edge_agent.collectors.folder:produce"
MAX_FILES = 20_000
"""Most files in the folder: the list of those processed must stay small."""
HASH_BYTES = 8


class Options(ImageOptions, frozen=True, forbid_unknown_fields=True):
    """`path` of the folder; files that match `pattern` are used when they have not changed for `settle_s`."""

    path: str = ""
    pattern: str = "*"
    settle_s: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path or not 0.05 <= self.settle_s <= 3600:
            raise ValueError("path must be set, and settle_s within 0.05..3600")


def digest(token: str) -> bytes:
    """Hash of a file's name, time and size."""
    return hashlib.blake2b(token.encode("utf-8", "surrogateescape"), digest_size=HASH_BYTES).digest()


class FolderCollector(BackgroundCollector):
    """Frames of one folder."""

    def __init__(self, table: CollectorTable, chosen: Options) -> None:
        self._done: set[bytes] = set()
        self._tried, self._checkpoint = "", b""
        source = BackgroundSource(PRODUCER, lambda: self._task(chosen), "all", stall_s=max(20.0, 3 * chosen.settle_s))
        super().__init__(table, source, table.period_s or 0.2)
        self._options = chosen

    def _task(self, chosen: Options) -> dict[str, Any]:
        return {"options": msgspec.to_builtins(chosen), "done": b"".join(self._done.copy())}

    def _arrived(self, item: Arrived, now_us: int) -> Iterator[Reading]:
        if isinstance(item, Note):
            self._note(item)
            return
        if isinstance(item, State):
            yield from self._state(item, now_us)
            return
        if (key := digest(item.token)) in self._done:
            return
        self._tried = ""
        self._remember(self._done | {key})
        if isinstance(item, Skipped):
            item = Skipped(token=item.token.rpartition("/")[2], reason=item.reason)
        yield from super()._arrived(item, now_us)

    def _note(self, note: Note) -> None:
        if note.kind == "try":
            self._tried = note.data.decode("utf-8", "surrogateescape")
        else:  # those of the processed files that are gone
            self._remember(self._done - set(_hashes(note.data)))

    def _remember(self, done: set[bytes]) -> None:
        self._done, self._checkpoint = done, b""

    def _state(self, state: State, now_us: int) -> Iterator[Reading]:
        yield from super()._state(state, now_us)
        if state.state == "lost" and self._tried:  # one file, one try: it may have crashed the decoder
            self._remember(self._done | {digest(self._tried)})
            yield from self._unusable(Skipped(token=self._tried.rpartition("/")[2], reason=state.text), now_us)
            self._tried = ""

    def checkpoint(self) -> bytes:
        """Hashes of the processed files that are still there."""
        self._checkpoint = self._checkpoint or b"".join(sorted(self._done))
        return self._checkpoint

    def resume(self, value: bytes) -> None:
        """Leave out what an earlier run has processed."""
        self._remember(set(_hashes(value)))

    def warnings(self) -> list[str]:
        """Warnings for `check`."""
        return _nothing_yet(self._options)


def _nothing_yet(chosen: Options) -> list[str]:
    if not Path(chosen.path).is_dir():
        return [f"{chosen.path} is no folder, and is waited for"]
    try:
        found = _files(chosen)
    except NotReady as error:
        return [str(error)]
    if found:
        return []
    return [f"no file in {chosen.path} matches '{chosen.pattern}' yet. Files in its subfolders are not used"]


def _hashes(joined: bytes) -> Iterator[bytes]:
    return (joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES))


def produce(given: dict[str, Any]) -> Iterator[Produced]:
    """The images of the folder, in the source process."""
    from edge_agent.collectors.sources.decoding import Converter, decode_image  # noqa: PLC0415 - PyAV is 30 MB

    chosen = msgspec.convert(given["options"], Options)
    done, converter = set(_hashes(given["done"])), Converter(chosen)
    before: dict[str, bytes] = {}
    while True:
        found = _files(chosen)
        keys = {token: digest(token) for token in found}
        if gone := done - set(keys.values()):
            done -= gone
            yield Note(kind="gone", data=b"".join(gone))
        fresh = [token for token, key in keys.items() if token in before and key not in done]
        for token in sorted(fresh, key=lambda token: found[token]):
            yield Note(kind="try", data=token.encode("utf-8", "surrogateescape"))
            done.add(keys[token])
            try:
                yield decode_image(Path(chosen.path) / token.rpartition("/")[2], converter, found[token][0], token)
            except ValueError as error:
                yield Skipped(token=token, reason=str(error))
        before = keys
        yield None
        time.sleep(chosen.settle_s)


def _files(chosen: Options) -> dict[str, tuple[int, str]]:
    """`mtime/size/name` of each file -> (mtime in us, name), the order of processing; raises NotReady."""
    import fnmatch  # noqa: PLC0415

    found = {}
    try:
        with os.scandir(chosen.path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not fnmatch.fnmatch(entry.name, chosen.pattern) or not entry.is_file():
                    continue
                status = entry.stat()
                token = f"{status.st_mtime_ns}/{status.st_size}/{entry.name}"
                found[token] = (max(0, status.st_mtime_ns // 1000), entry.name)
    except OSError as error:
        raise NotReady(f"{chosen.path} cannot be read ({error})") from error
    if len(found) > MAX_FILES:
        raise NotReady(f"{chosen.path} holds {len(found)} files, at most {MAX_FILES} can be followed; remove old ones")
    return found


def open_collector(table: CollectorTable) -> FolderCollector:
    """Entry point `folder`."""
    chosen = options(Options, table)
    needs_decoder(table)
    return FolderCollector(table, msgspec.structs.replace(chosen, path=absolute(chosen.path)))
