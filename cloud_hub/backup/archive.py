"""Writes and reads backup archives: a tar file with `manifest.json`, the files that it lists, and the manifest's hash.

The same content gives the same archive. Reading does not trust the archive: it extracts only regular files that the
manifest lists, below the given directory, and compares each with its SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO

from cloud_hub.errors import BackupError
from shared import VERSION
from shared.errors import ConfigError, WireError
from shared.protocol.codec import decode, encode

FORMAT = 1
MANIFEST = "manifest.json"
SEAL = "manifest.sha256"
CHUNK = 1 << 20
MAX_MANIFEST = 16 << 20

ReportProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One member: bytes, SHA-256 in hex, and the permission bits it is restored with."""

    size: int
    sha256: str
    mode: int = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup holds. `kind` is `sqlite` or `postgresql`, `schema` the Alembic revision of its database."""

    format: int = FORMAT
    version: str = VERSION
    kind: str
    schema: str
    hub_epoch: str
    taken_us: int
    files: dict[str, File] = field(default_factory=dict)


def file_digest(path: Path) -> File:
    """Size, hash and mode of one file, read in chunks."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return File(size=size, sha256=digest.hexdigest(), mode=path.stat().st_mode & 0o777)


def pack(target: Path, manifest: Manifest, sources: Mapping[str, Path], report: ReportProgress) -> None:
    """Write the archive, sync and verify it, then give it its name; never overwrites. Raises BackupError."""
    part = target.with_name(f".{target.name}.part")
    try:
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as out:
            _write(out, manifest, sources)
            out.flush()
            os.fsync(out.fileno())
        report("reading it back")
        with _opened(part) as archive_file:
            for _ in archive_file.contents():
                pass
        os.link(part, target)
        _sync(target.parent)
    except FileExistsError as error:
        raise BackupError(f"{error.filename2 or error.filename} is already there: give another name") from error
    except OSError as error:
        raise BackupError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def unpack(source: Path, folder: Path, report: ReportProgress) -> Manifest:
    """Verify the archive while extracting it below the new directory `folder`; raises BackupError."""
    with _opened(source) as archive_file:
        for name, content in archive_file.contents():
            report(f"unpacking {name}")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, archive_file.manifest.files[name].mode & 0o700)
            with os.fdopen(handle, "wb") as out:
                for chunk in content:
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            path.chmod(archive_file.manifest.files[name].mode)
        return archive_file.manifest


def verify(source: Path) -> Manifest:
    """Read the archive and compare every hash; raises BackupError."""
    with _opened(source) as archive_file:
        for _ in archive_file.contents():
            pass
        return archive_file.manifest


def _write(out: IO[bytes], manifest: Manifest, sources: Mapping[str, Path]) -> None:
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        text = encode(manifest)
        tar.addfile(_member(MANIFEST, len(text)), BytesIO(text))
        for name in sorted(manifest.files):
            with sources[name].open("rb") as file:
                tar.addfile(_member(name, manifest.files[name].size), file)
        seal = hashlib.sha256(text).hexdigest().encode()
        tar.addfile(_member(SEAL, len(seal)), BytesIO(seal))


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, 0
    return member


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _Opened:
    """An archive whose manifest has been read."""

    def __init__(self, tar: tarfile.TarFile, name: str) -> None:
        self._tar, self._name, self._seal = tar, name, File(size=64, sha256="")
        self.manifest = self._manifest()

    def contents(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Each file with its content in chunks; the hash is checked after the last chunk."""
        wanted = self.manifest.files | {SEAL: self._seal}
        while (member := self._tar.next()) is not None:
            known = wanted.pop(member.name, None)
            if known is None or not member.isreg() or member.size != known.size:
                raise BackupError(f"{self._name}: '{member.name[:200]}' is not what its manifest says")
            pieces = self._pieces(member, known)
            if member.name != SEAL:
                yield member.name, pieces
            for _ in pieces:  # what the caller left
                pass
        if wanted:
            raise BackupError(f"{self._name}: {min(wanted)} is missing, the file is cut short")

    def _pieces(self, member: tarfile.TarInfo, known: File) -> Iterator[bytes]:
        digest, size = hashlib.sha256(), 0
        content = self._tar.extractfile(member)
        while content is not None and (chunk := content.read(CHUNK)):
            digest.update(chunk)
            size += len(chunk)
            yield chunk
        if (size, digest.hexdigest()) != (known.size, known.sha256):
            raise BackupError(f"{self._name}: {member.name} is damaged (its SHA-256 is another). Take another backup")

    def _manifest(self) -> Manifest:
        member = self._tar.next()
        content = self._tar.extractfile(member) if member is not None and member.isreg() else None
        if member is None or member.name != MANIFEST or member.size > MAX_MANIFEST or content is None:
            raise BackupError(f"{self._name}: is no backup of a hub (its first member is not {MANIFEST})")
        text = content.read()
        seal = hashlib.sha256(text).hexdigest().encode()
        self._seal = File(size=len(seal), sha256=hashlib.sha256(seal).hexdigest())
        try:
            form = decode(dict[str, object], text).get("format")
            if isinstance(form, int) and form > FORMAT:
                cure = "Install that version, and restore with it"
                raise ConfigError(self._name, f"was written by a newer hub (format {form})", cure)
            manifest = decode(Manifest, text)
        except WireError as error:
            raise BackupError(f"{self._name}: its manifest cannot be read ({error})") from error
        for name, file in manifest.files.items():
            if not _harmless(name) or file.mode & ~0o777:
                raise BackupError(f"{self._name}: '{name[:200]}' is no name that a backup holds")
        return manifest


@contextmanager
def _opened(source: Path) -> Iterator[_Opened]:
    try:
        with tarfile.open(source, "r:") as tar:
            yield _Opened(tar, source.name)
    except tarfile.TarError as error:
        raise BackupError(f"{source}: is no backup of a hub, or damaged ({error})") from error
    except OSError as error:
        raise BackupError(f"{source}: {error.strerror or error}") from error


def _harmless(name: str) -> bool:
    """Whether a name is a normalized relative path that stays inside its directory."""
    path = PurePosixPath(name)
    return (
        bool(path.parts)
        and not path.is_absolute()
        and ".." not in path.parts
        and str(path) == name
        and name not in {MANIFEST, SEAL}
    )
