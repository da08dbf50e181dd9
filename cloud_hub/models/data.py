"""Calibration data: pictures in a folder, or arrays in an npz file; split into a part for calibration and one for
evaluation, so that no variant is judged by what it was calibrated on.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloud_hub.models.errors import BuildError
from shared.models.manifest import TensorSpec
from shared.tasks import Array, Tensors
from shared.tasks.window_parts import joined

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
MIN_INPUTS = 20
"""Fewer inputs give no range to quantize with, and no figure to judge by."""
MAX_CALIBRATION, MAX_EVALUATION = 300, 1000
SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One input: read from `source` (a picture or .npy file) when it is needed, or held as `array`."""

    name: str
    source: Path | None = None
    array: Array | None = None
    truth: str = ""
    target: float | None = None

    def load(self, color: str) -> Array:
        """uint8 [height, width, channels] in gray or RGB order, or float32 [samples, metrics]; raises BuildError."""
        if self.array is not None:
            return self.array
        assert self.source is not None
        return _read_array(self.source) if self.source.suffix == ".npy" else _read_picture(self.source, color)


def _read_picture(path: Path, color: str) -> Array:
    from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415 - extra `build`

    try:
        with Image.open(path) as picture:
            return _pixels(np.asarray(ImageOps.exif_transpose(picture).convert("L" if color == "gray" else "RGB")))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BuildError(str(path), f"cannot be read as a picture ({error})", "Remove or replace this file") from error


def _read_array(path: Path) -> Array:
    try:
        return _pixels(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise BuildError(str(path), f"cannot be read ({error})", "Remove or replace this file") from error


def _pixels(array: Array) -> Array:
    """Grey pixels get their channel."""
    return array[..., None] if array.dtype == np.uint8 and array.ndim == 2 else array


def read_items(path: Path, labels: Sequence[str], inputs: Sequence[TensorSpec] = ()) -> list[Item]:
    """All inputs in a folder or npz file; raises BuildError.

    For a model with several `inputs` the npz has an array of each name, or one of the windows that they are cut from.
    In a folder whose subfolders are named like labels a picture's truth is its folder's name.
    """
    if path.is_dir():
        items = _folder(path, labels)
    elif path.suffix == ".npz":
        items = _npz(path, labels, inputs)
    else:
        cure = "Give a folder of pictures, or an npz file with an array 'inputs'"
        raise BuildError(str(path), "is neither a folder nor an npz file", cure)
    return items


def _folder(path: Path, labels: Sequence[str]) -> list[Item]:
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURES | {".npy"})
    if not files:
        kinds = " ".join(sorted(PICTURES))
        raise BuildError(str(path), "holds no pictures", f"Put some there ({kinds}), or .npy arrays")
    tops = _subfolders(path, files)
    known = bool(tops) and tops <= set(labels)
    return [
        Item(name=str(file.relative_to(path)), source=file, truth=file.relative_to(path).parts[0] if known else "")
        for file in files
    ]


def _subfolders(path: Path, files: Sequence[Path]) -> set[str]:
    return {file.relative_to(path).parts[0] for file in files if file.parent != path}


def unknown_subfolders(path: Path, items: Sequence[Item], labels: Sequence[str]) -> list[str]:
    """Names of the subfolders with items of folder `path` that are no label, so that no item has a truth."""
    files = [item.source for item in items if item.source is not None]
    return sorted(_subfolders(path, files) - set(labels))


def _npz(path: Path, labels: Sequence[str], specs: Sequence[TensorSpec]) -> list[Item]:
    arrays = _npz_arrays(path)
    if len(specs) > 1 and "inputs" not in arrays:
        arrays["inputs"] = _joined(path, arrays, specs)
    key = "inputs" if "inputs" in arrays else next(iter(arrays), "")
    inputs = arrays.get(key, np.zeros(0))
    if inputs.ndim < 2 or (inputs.dtype != np.uint8 and inputs.dtype.kind != "f"):
        cure = "Give an array 'inputs': uint8 [n, height, width, channels], or float32 [n, samples, metrics]"
        raise BuildError(str(path), f"its array '{key}' is {inputs.dtype} {list(inputs.shape)}", cure)
    for other in ("labels", "targets"):
        if other in arrays and len(arrays[other]) != len(inputs):
            reason = f"has {len(inputs)} inputs and {len(arrays[other])} {other}"
            raise BuildError(str(path), reason, f"Give one of the {other} for each input")
    truths, targets = arrays.get("labels"), arrays.get("targets")
    return [
        Item(
            name=str(i), array=_window(_pixels(row)), truth="" if truths is None else _truth(path, truths[i], labels),
            target=None if targets is None else float(np.ravel(targets[i])[0]),
        )
        for i, row in enumerate(inputs)
    ]  # fmt: skip


def _joined(path: Path, arrays: Tensors, specs: Sequence[TensorSpec]) -> Array:
    """The windows that hold the arrays of all inputs."""
    if missing := [spec.name for spec in specs if spec.name not in arrays]:
        names = ", ".join(spec.name for spec in specs)
        raise BuildError(str(path), f"has no array '{missing[0]}'", f"Give an array for each input: {names}")
    try:
        return joined(specs, arrays)
    except ValueError as error:
        raise BuildError(str(path), str(error), "Give each array in the shape of its input") from error


def _npz_arrays(path: Path) -> Tensors:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        cure = "Write it with numpy.savez, without objects"
        raise BuildError(str(path), f"cannot be read ({error})", cure) from error


def _window(array: Array) -> Array:
    """Windows as float32 [samples, metrics]."""
    if array.dtype == np.uint8:
        return array
    return (array if array.ndim > 1 else array[:, None]).astype(np.float32)


def _truth(path: Path, value: object, labels: Sequence[str]) -> str:
    """A label by name or by number."""
    name = str(value)
    if name in labels:
        return name
    if isinstance(value, np.integer) and 0 <= int(value) < len(labels):
        return labels[int(value)]
    raise BuildError(str(path), f"its array 'labels' holds '{name}'", f"Known labels: {', '.join(labels)[:200]}")


def split(items: Sequence[Item], place: str) -> tuple[list[Item], list[Item]]:
    """(for calibration, for evaluation): halves of each label, shuffled the same way each time. Raises BuildError."""
    calibration, evaluation = _halves(items, place)
    return _some(calibration, MAX_CALIBRATION), _some(evaluation, MAX_EVALUATION)


def calibration_part(items: Sequence[Item], place: str) -> list[Item]:
    """All items, or an even choice of them, for calibration alone. Raises BuildError."""
    calibration, evaluation = _halves(items, place)
    return _some([*calibration, *evaluation], MAX_CALIBRATION)


def _halves(items: Sequence[Item], place: str) -> tuple[list[Item], list[Item]]:
    if len(items) < MIN_INPUTS:
        cure = f"Give {MIN_INPUTS} at least; 100 to 500 that show what the device will see are good"
        raise BuildError(place, f"has only {len(items)} inputs", cure)
    order = np.random.RandomState(SEED).permutation(len(items))
    seen: Counter[str] = Counter()
    calibration: list[Item] = []
    evaluation: list[Item] = []
    for item in (items[i] for i in order):
        (evaluation if seen[item.truth] % 2 else calibration).append(item)
        seen[item.truth] += 1
    return calibration, evaluation


def _some(items: list[Item], count: int) -> list[Item]:
    """At most `count` items, evenly from all."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else items


def batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive parts of at most `size` items."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
