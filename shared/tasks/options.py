"""Reads `task_options` and the tensors of a manifest, with errors that name the bundle and the cure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared.errors import ModelError
from shared.manifest import Manifest, TensorSpec
from shared.suggestions import nearest
from shared.tasks import Array


def only_input(manifest: Manifest) -> TensorSpec:
    """The model's input; raises ModelError when it has several."""
    if len(manifest.inputs) != 1:
        names = ", ".join(one.name for one in manifest.inputs)
        raise ModelError(
            f"{manifest.name}: it has {len(manifest.inputs)} inputs ({names}), a task feeds one. "
            "Export the model with the others as constants"
        )
    return manifest.inputs[0]


def check_known(manifest: Manifest, known: Sequence[str]) -> None:
    """Raise ModelError for a task option that the task does not have."""
    for name in manifest.task_options:
        if name not in known:
            raise ModelError(
                f"{manifest.name}: task_options.{name}: task '{manifest.task}' has no such option{nearest(name, known)}"
            )


def number(manifest: Manifest, name: str, default: float, low: float, high: float) -> float:
    """A numeric option within `low`..`high`; raises ModelError."""
    value = manifest.task_options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ModelError(f"{manifest.name}: task_options.{name}: must be a number in {low:g}..{high:g}, not {value!r}")
    return float(value)


def choice(manifest: Manifest, name: str, allowed: Sequence[str]) -> str:
    """An option that is one of `allowed`, the first by default; raises ModelError."""
    value = manifest.task_options.get(name, allowed[0])
    if value not in allowed:
        raise ModelError(f"{manifest.name}: task_options.{name}: must be one of {', '.join(allowed)}, not {value!r}")
    return str(value)


def output(manifest: Manifest, outputs: Mapping[str, Array], name: str, count: int) -> Array:
    """The output `name` of a batch of `count` inputs; raises ModelError when the model did not give it."""
    if name not in outputs:
        raise ModelError(f"{manifest.name}: the model gave no output '{name}'. It gave: {', '.join(outputs)}")
    found = outputs[name]
    if found.ndim == 0 or len(found) != count:
        raise ModelError(f"{manifest.name}: output '{name}' is {list(found.shape)} for a batch of {count}")
    return found
