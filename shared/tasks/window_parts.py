"""A window of metrics for a model with several inputs.

Its columns are shared out among the inputs in the manifest's order: the first input takes as many as it has metrics,
the next one those after them. Of its columns an input takes the newest samples, as many as it is long; one without a
time axis (NC) takes the newest sample alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shared.errors import ModelError
from shared.models.manifest import FREE, Manifest, TensorSpec
from shared.tasks import Array, Tensors
from shared.tasks.images import per_channel
from shared.tasks.windows import BLANK_SAMPLES, LAYOUTS, check_window, in_layout, stacked, window_features


@dataclass(frozen=True, slots=True)
class Part:
    """What an input takes of a window: columns `first` to `end`, the newest `samples` rows (-1: all)."""

    spec: TensorSpec
    first: int
    end: int
    samples: int

    def of(self, window: Array) -> Array:
        """Its share of a window [samples, metrics]; [metrics] without a time axis."""
        rows = window if self.samples == FREE else window[-self.samples :]
        return rows[-1, self.first : self.end] if self.spec.layout == "NC" else rows[:, self.first : self.end]


def parts(name: str, specs: Sequence[TensorSpec]) -> list[Part]:
    """The parts of the inputs; raises ModelError when one of them cannot be cut from a window."""
    made: list[Part] = []
    for spec in specs:
        if spec.layout not in LAYOUTS:
            raise ModelError(
                f"{name}: it has {len(specs)} inputs, and '{spec.name}' has layout '{spec.layout}'. Several inputs are "
                f"cut from a window of metrics ({', '.join(LAYOUTS)}); beside an image build it with the others as "
                "--constant"
            )
        columns = 1 if spec.layout == "NT" else spec.side("C")
        if columns == FREE:
            raise ModelError(f"{name}: input '{spec.name}' takes any number of metrics: none of several inputs can")
        first = made[-1].end if made else 0
        made.append(Part(spec, first, first + columns, 1 if spec.layout == "NC" else spec.side("T")))
    return made


class WindowParts:
    """Turns windows into the input tensors of one model with several inputs."""

    def __init__(self, manifest: Manifest) -> None:
        self.name, self._parts = manifest.name, parts(manifest.name, manifest.inputs)
        self._metrics = self._parts[-1].end
        self._samples = max(part.samples for part in self._parts)
        self._free = any(part.samples == FREE for part in self._parts)
        self._gain, self._offset = per_channel(manifest, self._metrics)

    def blank(self) -> Array:
        """A window of zeros that fits the model."""
        return np.zeros((max(self._samples, BLANK_SAMPLES) if self._free else self._samples, self._metrics), np.float32)

    def tensors(self, windows: Sequence[Array]) -> Tensors:
        """The input tensors of a batch by name; raises ModelError when a window does not fit."""
        fitted = [self._fitted(window) for window in windows]
        return {
            part.spec.name: in_layout(part.spec, stacked(self.name, [part.of(window) for window in fitted]))
            for part in self._parts
        }

    def features(self, window: Array) -> dict[str, float]:
        """Level and spread of the normalised values that the model is given."""
        fitted = self._fitted(window)
        values = [part.of(fitted).ravel() for part in self._parts]
        return window_features(np.concatenate(values), fitted[-1])

    def _fitted(self, window: Array) -> Array:
        """The window normalised; raises ModelError."""
        check_window(self.name, window)
        rows = max(self._samples, 1)
        fits = window.shape[0] >= rows if self._free else window.shape[0] == rows
        if not fits or window.shape[1] != self._metrics:
            takes = f"[{f'{rows} or more' if self._free else rows}, {self._metrics}]: {self._described()}"
            raise ModelError(f"{self.name}: window is {list(window.shape)}, the model takes {takes}")
        scaled = window * self._gain
        return scaled if self._offset is None else scaled + self._offset

    def _described(self) -> str:
        return ", ".join(f"'{part.spec.name}' metrics {part.first + 1} to {part.end}" for part in self._parts)


def joined(specs: Sequence[TensorSpec], arrays: Mapping[str, Array]) -> Array:
    """Windows [n, samples, metrics] of arrays [n, ...] in the shapes of the inputs: what `tensors` cuts apart.

    Inputs with fewer samples are filled up with their oldest one. Raises ValueError when an array does not fit.
    """
    columns = [_columns(part, np.asarray(arrays[part.spec.name], np.float32)) for part in parts("", specs)]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"the arrays have {', '.join(str(len(column)) for column in columns)} inputs")
    rows = max(column.shape[1] for column in columns)
    filled = [np.pad(column, ((0, 0), (rows - column.shape[1], 0), (0, 0)), mode="edge") for column in columns]
    return np.concatenate(filled, axis=2)


def _columns(part: Part, array: Array) -> Array:
    """[n, samples, metrics] of an input's array."""
    spec = part.spec
    sides = zip(spec.shape, array.shape[1:], strict=False)
    if array.ndim != len(spec.shape) + 1 or not array.size or any(side not in (FREE, s) for side, s in sides):
        shape = ", ".join(["n", *map(str, spec.shape)])
        raise ValueError(f"array '{spec.name}' is {list(array.shape)}, the input is [{shape}]")
    if spec.layout == "NCT":
        return np.asarray(array.transpose(0, 2, 1))
    return array[:, None, :] if spec.layout == "NC" else array.reshape(len(array), array.shape[1], -1)
