"""Golden files of a bundle: some inputs, and what each variant made of them on the machine of the build."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np

from cloud_hub.models.session import open_session
from shared.models.manifest import Golden, Manifest
from shared.tasks import Array, Task
from shared.tasks.base import open_input
from shared.tasks.images import ImageInput, letterboxed, resized

GOLDEN = Golden(inputs="golden/inputs.npz", outputs="golden/outputs.npz")
COUNT = 8


def golden_files(
    manifest: Manifest, task: Task, models: Mapping[str, bytes], inputs: Sequence[Array]
) -> dict[str, bytes]:  # fmt: skip
    """The two npz files by path, for the first inputs of those given; `models` are the files of the variants."""
    count = manifest.batch or COUNT
    sized = [_sized(manifest, value) for value in inputs[:count]]
    same = [value for value in sized if value.shape == sized[0].shape]
    chosen = same + same[-1:] * (manifest.batch - len(same))
    batch = task.preprocess(chosen)
    outputs = {
        f"{key}/{name}": value
        for key, content in models.items()
        for name, value in open_session(content, manifest, key).run(batch).items()
    }
    return {GOLDEN.inputs: _npz({"inputs": np.stack(chosen)}), GOLDEN.outputs: _npz(outputs)}


def _sized(manifest: Manifest, value: Array) -> Array:
    """A frame at the size of the model's input, so that all can stand in one array."""
    model_input = open_input(manifest)
    if not isinstance(model_input, ImageInput) or manifest.preprocess.resize == "none":
        return value
    resize = letterboxed if manifest.preprocess.resize == "letterbox" else resized
    return resize(value, model_input.height, model_input.width)


def _npz(arrays: dict[str, Array]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()
