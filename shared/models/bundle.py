"""Reads and verifies model bundles on disk. Unverified bytes are never returned (invariant M3).

Agent and hub use the same code to read a bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from shared.errors import ModelError
from shared.models.manifest import Manifest, verify_file
from shared.suggestions import explained

MANIFEST = "manifest.json"
MAX_FILE = 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A verified model bundle: the manifest and the content of the files that were read."""

    manifest: Manifest
    files: dict[str, bytes]

    def model(self, variant: str) -> bytes:
        """The model file of a variant; raises ModelError when there is none or it was not read."""
        return self.file(self.manifest.variant(variant).file)

    def file(self, path: str) -> bytes:
        """The content of a file of the bundle; raises ModelError when it was not read."""
        if path not in self.files:
            raise ModelError(f"{self.manifest.name}: file '{path}' was not read from the bundle")
        return self.files[path]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`; raises ModelError."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except OSError as error:
        raise ModelError(f"{folder}: {MANIFEST} cannot be read ({error})") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{folder}/{MANIFEST}: {explained(error, Manifest)}") from error


def load(folder: Path, variant: str = "") -> Bundle:
    """The bundle in `folder`, verified byte for byte; raises ModelError.

    With `variant` only the model file of that variant is read: a device needs no other one in memory.
    """
    manifest = read_manifest(folder)
    wanted = [manifest.variant(variant).file] if variant else list(manifest.files)
    contents = {name: _read(folder, manifest, name) for name in wanted}
    return Bundle(manifest=manifest, files=contents)


def _read(folder: Path, manifest: Manifest, name: str) -> bytes:
    """A verified file."""
    content = None
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ModelError(f"{manifest.name}: file '{name}' leads out of the bundle")
        if path.is_file() and path.stat().st_size <= MAX_FILE:
            content = path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # unreadable, not a file name, a cycle of links
        raise ModelError(f"{manifest.name}: file '{name}' cannot be read ({error})") from error
    verify_file(manifest, name, content)
    assert content is not None
    return content
