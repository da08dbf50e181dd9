"""Writes bundles: into a temporary folder beside the target, renamed when complete. No half bundle is ever left."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from cloud_hub.models.errors import BuildError
from shared.models.manifest import FileEntry, Manifest
from shared.protocol.codec import plain


def make_manifest(files: Mapping[str, bytes], **fields: Any) -> Manifest:
    """A manifest of `files` by path, with their sizes and hashes."""
    entries = {
        path: FileEntry(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        for path, content in files.items()
    }
    return Manifest(files=entries, **fields)


def check_absent(out: Path) -> None:
    """Raise BuildError when there is something at `out`."""
    if out.exists() or out.is_symlink():
        raise BuildError(str(out), "already exists", "Give a new folder, or remove this one")


def write_bundle(out: Path, manifest: Manifest, files: Mapping[str, bytes], *, replace: bool = False) -> None:
    """Write a bundle into the new folder `out`; raises BuildError when it exists or cannot be written."""
    if not replace:
        check_absent(out)
    half: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        _fill(half, manifest, files)
        if out.exists():
            shutil.rmtree(out)
        half.rename(out)
    except OSError as error:
        cure = "Free space or change the permissions, then build again: nothing was left behind"
        raise BuildError(str(out), f"cannot be written ({error.strerror or error})", cure) from error
    finally:
        if half is not None and half.exists():
            shutil.rmtree(half, ignore_errors=True)


def _fill(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    folder.chmod(0o755)
    text = msgspec.json.format(msgspec.json.encode(plain(manifest)), indent=2) + b"\n"
    for name, content in {**files, "manifest.json": text}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
