"""Reads and verifies model bundles on disk. Unverified bytes are never returned (invariant M3).

Agent and hub use the same code to read a bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from shared.errors import ModelError
from shared.models.manifest import Manifest, verify
from shared.suggestions import explained

MAX_FILE = 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A verified model bundle: the manifest and the content of each file that it names."""

    manifest: Manifest
    files: dict[str, bytes]

    def only(self, ending: str) -> bytes:
        """Content of the only file with this ending; raises ModelError when there is none or more than one."""
        found = [content for name, content in self.files.items() if name.endswith(ending)]
        if len(found) != 1:
            raise ModelError(f"{self.manifest.name}: wanted just one {ending} file, found {len(found)}")
        return found[0]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`; raises ModelError."""
    try:
        return msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    except OSError as error:
        raise ModelError(f"{folder}: manifest.json cannot be read ({error})") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{folder}/manifest.json: {explained(error, Manifest)}") from error


def load(folder: Path) -> Bundle:
    """The bundle in `folder`, verified byte for byte; raises ModelError."""
    manifest = read_manifest(folder)
    root = folder.resolve()
    contents: dict[str, bytes] = {}
    for name in manifest.files:
        try:
            path = (folder / name).resolve()
            if not path.is_relative_to(root):
                raise ModelError(f"{manifest.name}: file '{name}' leads out of the bundle")
            if path.is_file() and path.stat().st_size <= MAX_FILE:
                contents[name] = path.read_bytes()
        except (OSError, ValueError, RuntimeError) as error:  # unreadable, not a file name, a cycle of links
            raise ModelError(f"{manifest.name}: file '{name}' cannot be read ({error})") from error
    verify(manifest, contents)
    return Bundle(manifest=manifest, files=contents)
