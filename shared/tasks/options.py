"""Reads `task_options` of a manifest, with errors that name the bundle, the option and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence

from shared.errors import ModelError
from shared.models.manifest import Manifest
from shared.suggestions import nearest


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


def optional_number(manifest: Manifest, name: str) -> float | None:
    """A numeric option that may be absent; raises ModelError."""
    return number(manifest, name, 0.0, -1e30, 1e30) if name in manifest.task_options else None


def choice(manifest: Manifest, name: str, allowed: Sequence[str]) -> str:
    """An option that is one of `allowed`, the first by default; raises ModelError."""
    value = manifest.task_options.get(name, allowed[0])
    if value not in allowed:
        raise ModelError(f"{manifest.name}: task_options.{name}: must be one of {', '.join(allowed)}, not {value!r}")
    return str(value)


def flag(manifest: Manifest, name: str, default: bool) -> bool:
    """An option that is true or false; raises ModelError."""
    value = manifest.task_options.get(name, default)
    if not isinstance(value, bool):
        raise ModelError(f"{manifest.name}: task_options.{name}: must be true or false, not {value!r}")
    return value
