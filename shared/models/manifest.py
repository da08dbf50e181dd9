"""The manifest of a model bundle: a folder with `manifest.json` and the files it names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from shared.errors import ModelError
from shared.protocol.codec import encode


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """Size in bytes and SHA-256 (hex) of one file of the bundle."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """The model's input tensor without the batch dimension; pixels are multiplied by `scale`."""

    name: str
    shape: tuple[int, int, int]
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A model bundle: `runner` is the entry point that can run it, `labels` name its outputs in order."""

    name: str
    version: str
    runner: str
    files: dict[str, FileEntry]
    input: ModelInput
    output: str
    labels: list[str]
    quantization: str = "none"

    def __post_init__(self) -> None:
        for path in self.files:
            if path.startswith(("/", "\\")) or ".." in path.split("/") or "\\" in path or ":" in path:
                raise ValueError(f"file '{path}' leaves the bundle")
        if len(self.labels) < 2:
            raise ValueError("a classifier has at least two labels")

    @property
    def digest(self) -> str:
        """`sha256:...` over names and hashes of all files: equal for two bundles of the same model."""
        entries = sorted((path, entry.sha256, entry.size) for path, entry in self.files.items())
        return "sha256:" + hashlib.sha256(encode(entries)).hexdigest()


def verify(manifest: Manifest, contents: Mapping[str, bytes]) -> None:
    """Raise ModelError unless every file of the manifest is present with the size and hash given there."""
    for path, entry in manifest.files.items():
        content = contents.get(path)
        if content is None:
            raise ModelError(f"{manifest.name}: file '{path}' is missing from the bundle")
        if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise ModelError(f"{manifest.name}: file '{path}' is not the one that its manifest names")
