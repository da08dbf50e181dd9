"""Frames as model inputs: colour, size, normalisation and layout, in numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from shared.errors import ModelError
from shared.models.manifest import CHANNELS, FREE, Manifest, TensorSpec
from shared.tasks import Array, Tensors

GRAY = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601 luma of red, green and blue."""
PAD = 114
"""The grey around a letterboxed frame, as YOLO's training pads it."""
LAYOUTS = ("NCHW", "NHWC", "NHW")
MAX_FEATURE_SIDE = 32
"""Drift features are computed from at most so many rows and columns."""


def in_color(image: Array, name: str, color: str, channels: int) -> Array:
    """`image` (uint8 [height, width, channels], gray or RGB) in the model's colour order and number of channels."""
    present = image.shape[2]
    if color in CHANNELS and channels == CHANNELS[color]:  # type: ignore[index, unused-ignore]
        if present == 3 and channels == 1:
            return np.rint(image @ GRAY).astype(np.uint8)[..., None]
        if present == 1 and channels == 3:
            return np.broadcast_to(image, (*image.shape[:2], 3))
        if present == channels:
            return image[..., ::-1] if color == "bgr" else image
    if present != channels:
        raise ModelError(f"{name}: frame has {present} channels, the model takes {channels}")
    return image


@lru_cache(maxsize=64)
def _interpolation(old: int, new: int) -> tuple[Array, Array, Array]:
    """Left index, right index and weight of the right one for each of `new` samples of `old` (pixel centres)."""
    at = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    left = at.astype(np.intp)
    return left, np.minimum(left + 1, old - 1), (at - left).astype(np.float32)


def resized(image: Array, height: int, width: int) -> Array:
    """`image` (uint8 [height, width, channels]) at another size, bilinear."""
    if image.shape[:2] == (height, width):
        return image
    top, bottom, down = _interpolation(image.shape[0], height)
    left, right, across = _interpolation(image.shape[1], width)
    upper, lower = image[top].astype(np.float32), image[bottom].astype(np.float32)
    rows = upper + (lower - upper) * down[:, None, None]
    mixed = rows[:, left] + (rows[:, right] - rows[:, left]) * across[:, None]
    return np.asarray(np.rint(mixed), np.uint8)


def letterbox(size: tuple[int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a frame of `size` (height, width) scaled to fit and centred in height x width."""
    scale = min(height / size[0], width / size[1])
    inner_h, inner_w = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return (height - inner_h) // 2, (width - inner_w) // 2, inner_h, inner_w


def letterboxed(image: Array, height: int, width: int) -> Array:
    """`image` scaled to fit and centred, with grey around it."""
    if image.shape[:2] == (height, width):
        return image
    top, left, inner_h, inner_w = letterbox((image.shape[0], image.shape[1]), height, width)
    padded = np.full((height, width, image.shape[2]), PAD, np.uint8)
    padded[top : top + inner_h, left : left + inner_w] = resized(image, inner_h, inner_w)
    return padded


class ImageInput:
    """Turns frames into the input tensor of one model."""

    def __init__(self, manifest: Manifest, spec: TensorSpec) -> None:
        if spec.layout not in LAYOUTS:
            raise ModelError(
                f"{manifest.name}: input '{spec.name}' has layout '{spec.layout}', an image has {' or '.join(LAYOUTS)}"
            )
        self.name, self.spec, self._how = manifest.name, spec, manifest.preprocess
        self.height, self.width = spec.side("H"), spec.side("W")
        self.channels = spec.side("C") if "C" in spec.layout else 1
        if self.channels == FREE:
            self.channels = CHANNELS[self._how.color]
        self._gain, self._offset = per_channel(manifest, self.channels)

    def blank(self) -> Array:
        """A black frame that fits the model."""
        sides = [side if side != FREE else 64 for side in (self.height, self.width)]
        return np.zeros((*sides, self.channels), np.uint8)

    def tensor(self, frames: Sequence[Array]) -> Array:
        """The input tensor of a batch; raises ModelError when a frame does not fit."""
        fitted = [self._fitted(frame) for frame in frames]
        if len({frame.shape for frame in fitted}) > 1:
            raise ModelError(f"{self.name}: the frames of one batch differ in size. Set preprocess.resize")
        batch = np.stack(fitted) if len(fitted) > 1 else fitted[0][None]
        if self.spec.layout == "NCHW":
            batch = batch.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(self._normalised(np.ascontiguousarray(batch)).reshape(self._shape(batch)))

    def tensors(self, frames: Sequence[Array]) -> Tensors:
        """The input tensor by name."""
        return {self.spec.name: self.tensor(frames)}

    def _shape(self, batch: Array) -> tuple[int, ...]:
        return batch.shape[:-1] if self.spec.layout == "NHW" else batch.shape

    def features(self, frame: Array) -> dict[str, float]:
        """Brightness, contrast and sharpness of the frame."""
        return features(frame)

    def _fitted(self, frame: Array) -> Array:
        if frame.ndim != 3 or frame.dtype != np.uint8 or not frame.size:
            raise ModelError(
                f"{self.name}: frame is {frame.dtype} {list(frame.shape)}, not uint8 [height, width, channels]"
            )
        image = in_color(frame, self.name, self._how.color, self.channels)
        height = frame.shape[0] if self.height == FREE else self.height
        width = frame.shape[1] if self.width == FREE else self.width
        if self._how.resize == "none" and frame.shape[:2] != (height, width):
            raise ModelError(f"{self.name}: frame is {frame.shape[:2]}, the model takes {(height, width)}")
        return letterboxed(image, height, width) if self._how.resize == "letterbox" else resized(image, height, width)

    def _normalised(self, batch: Array) -> Array:
        """`batch` in the model's dtype. Long inner loops: numpy is ten times slower over three channels in the last
        dimension."""
        if self.spec.dtype == "uint8" and self._offset is None and (self._gain == 1.0).all():
            return batch
        rows = batch if self.spec.layout == "NCHW" else batch.reshape(len(batch), batch.shape[1], -1)
        values = rows * self._per_axis(self._gain, rows)
        if self._offset is not None:
            values += self._per_axis(self._offset, rows)
        return to_dtype(values, self.spec.dtype)

    def _per_axis(self, numbers: Array, rows: Array) -> Array:
        """One number for each channel, in the shape that multiplies `rows`."""
        if len(numbers) == 1:
            return numbers
        return (
            numbers[:, None, None] if self.spec.layout == "NCHW" else np.tile(numbers, rows.shape[-1] // len(numbers))
        )


def to_dtype(values: Array, dtype: str) -> Array:
    """Float values in the dtype of a tensor; integers are rounded and clipped."""
    if not dtype.startswith(("int", "uint")):
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def per_channel(manifest: Manifest, channels: int) -> tuple[Array, Array | None]:
    """(gain, offset): `(value * scale - mean) / std` is `value * gain + offset`; offset is None when it is 0."""
    preprocess = manifest.preprocess
    for what, numbers in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(numbers) not in (0, 1, channels):
            raise ModelError(f"{manifest.name}: preprocess.{what} has {len(numbers)} numbers for {channels} channels")
    std = np.array(preprocess.std or [1.0], np.float32)
    gain = np.float32(preprocess.scale) / std
    offset = -np.array(preprocess.mean, np.float32) / std if any(preprocess.mean) else None
    return gain, offset


def features(frame: Array) -> dict[str, float]:
    """Brightness, contrast and sharpness of a frame, in 0..1, for the gate's drift tests."""
    rows, columns = (1 + (side - 1) // MAX_FEATURE_SIDE for side in frame.shape[:2])
    weights = np.full(frame.shape[2], 1 / (255 * frame.shape[2]), np.float32)
    image = frame[::rows, ::columns].astype(np.float32) @ weights
    flat = image.ravel()
    size, mean = flat.size, float(np.add.reduce(flat)) / flat.size
    off = flat - np.float32(mean)
    low, high = int(0.05 * size), int(0.95 * size)
    ranked = np.partition(flat, (low, high))  # nearest rank: np.quantile alone takes as long as a small model
    return {
        "mean": mean, "std": math.sqrt(float(off.dot(off)) / size), "laplacian": _laplacian(image),
        "q05": float(ranked[low]), "q95": float(ranked[high]),
    }  # fmt: skip


def _laplacian(image: Array) -> float:
    """Mean absolute second difference, a measure of sharpness; 0 when the image has no inner pixel."""
    if min(image.shape) < 3:
        return 0.0
    width, flat = image.shape[1], image.ravel()  # one long row is faster; what wraps around is cut off at the end
    differences = 4 * flat[width:-width]
    for start in (0, 2 * width, width - 1, width + 1):
        differences -= flat[start : start + differences.size]
    inner = np.abs(differences, out=differences).reshape(-1, width)[:, 1:-1]
    return float(np.add.reduce(inner, axis=None) / inner.size)
