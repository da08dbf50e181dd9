"""Which variant of a bundle is tried with which runner, in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared.errors import ModelError
from shared.models.manifest import Manifest

NEEDS = {"tensorrt": ("TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")}
"""Runners that are tried only where the device's providers include one of these."""


def attempts(
    manifest: Manifest, variant: str, preferred: Sequence[str], providers: Sequence[str],
    skip: Mapping[str, str] | None = None,
) -> list[tuple[str, str]]:  # fmt: skip
    """(variant, runner) to try, best first; raises ModelError when nothing is left to try.

    `variant` is the one that was asked for; without, those of `preferred` that the bundle has, or else all it has.
    `skip` are runners and providers that are not tried, with the reason of each.
    """
    skip = skip or {}
    allowed = [provider for provider in providers if provider not in skip]
    found = [
        (key, runner)
        for key in _variants(manifest, variant, preferred)
        for runner in manifest.variant(key).runners
        if runner not in skip and _allowed(runner, allowed)
    ]
    if not found:
        raise ModelError(
            f"{manifest.name}: none of its variants ({', '.join(manifest.variants)}) can run here with the providers "
            f"{', '.join(providers)}{_skipped(skip)}. Build the bundle for this device, or set `variant`"
        )
    return found


def _skipped(skip: Mapping[str, str]) -> str:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in skip.items())
    return f" (not tried again: {reasons})" if skip else ""


def _variants(manifest: Manifest, variant: str, preferred: Sequence[str]) -> list[str]:
    if variant:
        manifest.variant(variant)
        return [variant]
    return [key for key in preferred if key in manifest.variants] or list(manifest.variants)


def _allowed(runner: str, providers: Sequence[str]) -> bool:
    return runner not in NEEDS or any(provider in providers for provider in NEEDS[runner])
