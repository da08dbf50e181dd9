"""Windows of metrics as model inputs: float32 [samples, metrics], normalised per metric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.errors import ModelError
from shared.models.manifest import FREE, Manifest, TensorSpec
from shared.tasks import Array, Tensors
from shared.tasks.images import per_channel, to_dtype

LAYOUTS = ("NTC", "NCT", "NT", "NC")
"""Samples and metrics; NT: one metric; NC: one sample, or the flattened window of a model without a time axis."""
BLANK_SAMPLES = 16
"""Samples of the warm-up input when the model takes any number."""


def check_window(name: str, window: Array) -> None:
    """Raise ModelError unless `window` is float [samples, metrics]."""
    if window.ndim != 2 or window.dtype.kind != "f" or not window.size:
        raise ModelError(f"{name}: window is {window.dtype} {list(window.shape)}, not float32 [samples, metrics]")


def stacked(name: str, windows: Sequence[Array]) -> Array:
    """The windows as a batch; raises ModelError when they differ in shape."""
    if len({window.shape for window in windows}) > 1:
        raise ModelError(f"{name}: the windows of one batch differ in length")
    return np.stack(windows)


def in_layout(spec: TensorSpec, batch: Array) -> Array:
    """Windows [n, samples, metrics], or [n, values] of layout NC, as the tensor `spec`."""
    if spec.layout == "NT":
        batch = batch[..., 0]
    elif spec.layout == "NCT":
        batch = batch.transpose(0, 2, 1)
    return np.ascontiguousarray(to_dtype(batch, spec.dtype))


def window_features(values: Array, newest: Array) -> dict[str, float]:
    """Level and spread of normalised values, level of the newest ones."""
    return {"mean": float(values.mean()), "std": float(values.std()), "last": float(newest.mean())}


class WindowInput:
    """Turns windows into the input tensor of one model."""

    def __init__(self, manifest: Manifest, spec: TensorSpec) -> None:
        self.name, self.spec = manifest.name, spec
        self._samples = spec.side("T") if "T" in spec.layout else FREE
        self._metrics = spec.side("C") if "T" in spec.layout and "C" in spec.layout else 1
        self._values = spec.side("C") if spec.layout == "NC" else FREE
        channels = self._values if spec.layout == "NC" else self._metrics
        self._gain, self._offset = per_channel(manifest, max(channels, 1))

    def blank(self) -> Array:
        """A window of zeros that fits the model."""
        if self.spec.layout == "NC":
            return np.zeros((1, max(self._values, 1)), np.float32)
        samples = BLANK_SAMPLES if self._samples == FREE else self._samples
        return np.zeros((samples, max(self._metrics, 1)), np.float32)

    def tensor(self, windows: Sequence[Array]) -> Array:
        """The input tensor of a batch; raises ModelError when a window does not fit."""
        fitted = [self._fitted(window) for window in windows]
        return in_layout(self.spec, stacked(self.name, fitted))

    def tensors(self, windows: Sequence[Array]) -> Tensors:
        """The input tensor by name."""
        return {self.spec.name: self.tensor(windows)}

    def features(self, window: Array) -> dict[str, float]:
        """Level and spread of the normalised window."""
        values = self._fitted(window)
        return window_features(values.ravel(), values[-1])

    def _fitted(self, window: Array) -> Array:
        """The window normalised; [samples, metrics], or [values] of a model without a time axis."""
        check_window(self.name, window)
        values = window.reshape(-1) if self.spec.layout == "NC" else window
        shape = (self._values,) if self.spec.layout == "NC" else (self._samples, self._metrics)
        if any(side not in (FREE, length) for side, length in zip(shape, values.shape, strict=True)):
            raise ModelError(f"{self.name}: window is {list(window.shape)}, the model takes {list(shape)}")
        scaled = values * self._gain
        return scaled if self._offset is None else scaled + self._offset
