"""The manifest of a model bundle: a folder with `manifest.json` and the files it names.

A bundle holds one model in several variants: the same graph at another precision or for another runner. Shapes are
given without the batch dimension.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from shared.errors import ModelError
from shared.protocol.codec import encode

DType = Literal["uint8", "int8", "int32", "int64", "float16", "float32", "bool"]
Color = Literal["gray", "rgb", "bgr"]
CHANNELS: dict[Color, int] = {"gray": 1, "rgb": 3, "bgr": 3}
FREE = -1
"""A dimension of any length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """Size in bytes and SHA-256 (hex) of one file of the bundle."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output tensor. `shape` has no batch dimension; -1 is a free length.

    `layout` names the dimensions, the batch included: NCHW or NHWC of an image, NTC or NCT of a time window.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType = "float32"
    layout: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a tensor has no name")
        if any(side != FREE and side < 1 for side in self.shape):
            raise ValueError(f"shape {list(self.shape)} of '{self.name}': a side is 1 or more, or -1 for a free length")
        if self.layout and (len(self.layout) != len(self.shape) + 1 or len(set(self.layout)) != len(self.layout)):
            raise ValueError(
                f"layout '{self.layout}' of '{self.name}' does not name the batch and its {len(self.shape)} dimensions"
            )

    def axis(self, letter: str) -> int | None:
        """Index in `shape` of the dimension that the layout calls `letter`; None if the layout has none."""
        at = self.layout.find(letter)
        return at - 1 if at > 0 else None

    def side(self, letter: str) -> int:
        """Length of the dimension that the layout calls `letter`; -1 when free or absent."""
        at = self.axis(letter)
        return FREE if at is None else self.shape[at]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """How a frame becomes the input: colour order and size, then per channel `(value * scale - mean) / std`.

    `mean` and `std` are empty, or hold one number, or one for each channel.
    """

    color: Color = "rgb"
    resize: Literal["none", "stretch", "letterbox"] = "none"
    scale: float = 1.0
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))):
            raise ValueError("scale, mean and std must be finite numbers")
        if 0.0 in self.std:
            raise ValueError("std must not be 0: it divides")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One file of the model. `runners` are the entry points that can run it, best first; `metrics` were measured by
    the build."""

    file: str
    format: Literal["onnx", "tflite"]
    precision: Literal["fp32", "fp16", "int8"]
    runners: list[str]
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.runners:
            raise ValueError(f"no runner is named for '{self.file}'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Two npz files: `inputs` holds the array `inputs`, `outputs` an array `<variant>/<output>` for each variant."""

    inputs: str
    outputs: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A model bundle. `task` is the plug-in that reads its outputs, `labels` name the classes in order.

    `batch` is how many inputs the graph takes at once; 0 means any number.
    """

    name: str
    version: str
    task: str
    labels: list[str]
    files: dict[str, FileEntry]
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    variants: dict[str, Variant]
    preprocess: Preprocess = field(default_factory=Preprocess)
    task_options: dict[str, float | str | bool] = field(default_factory=dict)
    batch: int = 0
    golden: Golden | None = None
    provenance: dict[str, str] = field(default_factory=dict)
    licence: str = ""

    def __post_init__(self) -> None:
        for reason in _problems(self):
            raise ValueError(reason)

    @property
    def digest(self) -> str:
        """`sha256:...` over names and hashes of all files: equal for two bundles of the same model."""
        entries = sorted((path, entry.sha256, entry.size) for path, entry in self.files.items())
        return "sha256:" + hashlib.sha256(encode(entries)).hexdigest()

    def variant(self, key: str) -> Variant:
        """The variant `key`; raises ModelError that lists the keys there are."""
        if key not in self.variants:
            raise ModelError(f"{self.name}: there is no variant '{key}'. It has: {', '.join(self.variants)}")
        return self.variants[key]

    def variant_digest(self, key: str) -> str:
        """`sha256:...` of the variant's file: what results, gates and escalations carry. Raises ModelError."""
        return f"sha256:{self.files[self.variant(key).file].sha256}"

    def variants_for(self, runner: str) -> list[str]:
        """Keys of the variants that `runner` can run, in the manifest's order."""
        return [key for key, variant in self.variants.items() if runner in variant.runners]


def _problems(manifest: Manifest) -> Iterator[str]:
    """What contradicts itself in a manifest."""
    for path in manifest.files:
        if path.startswith(("/", "\\")) or ".." in path.split("/") or "\\" in path or ":" in path:
            yield f"file '{path}' leaves the bundle"
    yield from (f"{what} is empty" for what in ("name", "version", "task") if not getattr(manifest, what))
    if manifest.batch < 0:
        yield f"batch is {manifest.batch}: it is 0 (any number) or above"
    for what in ("inputs", "outputs", "variants"):
        if not getattr(manifest, what):
            yield f"{what} is empty: a model has at least one"
    for what, names in (("label", manifest.labels), ("tensor", [spec.name for spec in _tensors(manifest)])):
        yield from (f"{what} '{name}' is listed {count} times" for name, count in Counter(names).items() if count > 1)
    for where, path in _named_files(manifest):
        if path not in manifest.files:
            yield f"{where} names '{path}', which is not among the files"


def _tensors(manifest: Manifest) -> list[TensorSpec]:
    return [*manifest.inputs, *manifest.outputs]


def _named_files(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for key, variant in manifest.variants.items():
        yield f"variant '{key}'", variant.file
    if manifest.golden is not None:
        yield from (("golden", path) for path in (manifest.golden.inputs, manifest.golden.outputs))


def verify(manifest: Manifest, contents: Mapping[str, bytes]) -> None:
    """Raise ModelError unless every file of the manifest is present with the size and hash given there."""
    for path in manifest.files:
        verify_file(manifest, path, contents.get(path))


def verify_file(manifest: Manifest, path: str, content: bytes | None) -> None:
    """Raise ModelError unless `content` is the file `path` of the manifest."""
    entry = manifest.files[path]
    if content is None:
        raise ModelError(f"{manifest.name}: file '{path}' is missing from the bundle")
    if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise ModelError(f"{manifest.name}: file '{path}' is not the one that its manifest names")
