"""Model bundles on the device's disk: read, verify, hand over. Nothing unverified goes further (invariant M3)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_agent.models import Bundle
from shared.errors import ModelError
from shared.manifest import Manifest, verify

MAX_FILE = 512 << 20


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`; raises ModelError."""
    try:
        return msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    except OSError as error:
        raise ModelError(f"{folder}: manifest.json cannot be read ({error})") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelError(f"{folder}/manifest.json: {error}") from error


def load(folder: Path) -> Bundle:
    """The bundle in `folder`, verified byte for byte; raises ModelError."""
    manifest = read_manifest(folder)
    root = folder.resolve()
    contents: dict[str, bytes] = {}
    for name in manifest.files:
        path = (folder / name).resolve()
        if not path.is_relative_to(root):
            raise ModelError(f"{manifest.name}: file '{name}' leads out of the bundle")
        if path.is_file() and path.stat().st_size <= MAX_FILE:
            contents[name] = path.read_bytes()
    verify(manifest, contents)
    return Bundle(manifest=manifest, files=contents)
