"""Manifests without files, and functions that stand for their models, for tests of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shared.models.manifest import FileEntry, Manifest, Preprocess, TensorSpec, Variant
from shared.tasks import Tensors

Shapes = Sequence[tuple[str, tuple[int, ...]]]


def manifest(
    task: str, outputs: Shapes, labels: list[str], *, shape: tuple[int, ...], layout: str, dtype: Any = "float32",
    preprocess: Preprocess | None = None, **options: Any,
) -> Manifest:  # fmt: skip
    """A manifest with one input, `in`, and one variant, `fp32`."""
    return Manifest(
        name="m", version="1", task=task, labels=labels, files={"m.onnx": FileEntry(sha256="0" * 64, size=1)},
        inputs=[TensorSpec(name="in", shape=shape, dtype=dtype, layout=layout)],
        outputs=[TensorSpec(name=name, shape=sides) for name, sides in outputs],
        preprocess=preprocess or Preprocess(), task_options=options,
        variants={"fp32": Variant(file="m.onnx", format="onnx", precision="fp32", runners=["onnx"])},
    )  # fmt: skip


def weighted(made: Manifest) -> Callable[[Tensors], Tensors]:
    """A model whose outputs depend on its input: fixed random projections of each input, as values in 0..1."""

    def run(inputs: Tensors) -> Tensors:
        flat = inputs["in"].astype(np.float64).reshape(len(inputs["in"]), -1)
        return {spec.name: _project(flat, spec, at) for at, spec in enumerate(made.outputs)}

    return run


def _project(flat: Any, spec: TensorSpec, seed: int) -> Any:
    phases = np.random.default_rng(seed).normal(size=int(np.prod(spec.shape)))
    values = np.stack([np.abs(np.sin(phases + row.sum() / (1 + np.abs(row).max()))) for row in flat])
    values = values.reshape(len(flat), *spec.shape).astype(np.float32)
    if spec.name == "classes":
        return np.floor(values * 2.99)
    if spec.shape[-1:] == (6,):  # head end2end: the last column is a class
        values[..., 5] = np.floor(values[..., 5] * 2.99)
    return values
