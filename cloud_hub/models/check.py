"""Runs the golden inputs of a bundle through its variants, and compares with what the build stored."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cloud_hub.models.session import open_session
from shared.errors import ModelError
from shared.models.bundle import Bundle
from shared.tasks import Array, Tensors, open_task

MIN_AGREEMENT = 0.95
"""Another processor rounds INT8 otherwise: so much must agree nevertheless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The outcome for one variant: `problem` is '' when it answers as at the build, `skipped` when it was run."""

    variant: str
    agreement: float = 0.0
    difference: float = 0.0
    problem: str = ""
    skipped: str = ""


def check_bundle(bundle: Bundle) -> list[Check]:
    """A check for each variant; raises ModelError when the bundle has no golden files or they are unreadable."""
    golden = bundle.manifest.golden
    if golden is None:
        raise ModelError(f"{bundle.manifest.name}: it has no golden files. Build it with `tidegate-hub model build`")
    inputs = _arrays(bundle, golden.inputs).get("inputs")
    outputs = _arrays(bundle, golden.outputs)
    if inputs is None or not len(inputs):
        raise ModelError(f"{bundle.manifest.name}: '{golden.inputs}' holds no array 'inputs'")
    return list(_checks(bundle, list(inputs), outputs))


def _arrays(bundle: Bundle, path: str) -> Tensors:
    try:
        with np.load(io.BytesIO(bundle.file(path)), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{bundle.manifest.name}: '{path}' cannot be read ({error})") from error


def _checks(bundle: Bundle, inputs: list[Array], outputs: Tensors) -> Iterator[Check]:
    for key, variant in bundle.manifest.variants.items():
        try:
            yield _check(bundle, key, inputs, outputs)
        except ModuleNotFoundError as error:
            yield Check(variant=key, skipped=f"it is {variant.format}, and {error.name} is not installed")
        except ModelError as error:
            yield Check(variant=key, problem=str(error))


def _check(bundle: Bundle, key: str, inputs: list[Array], outputs: Tensors) -> Check:
    manifest = bundle.manifest
    stored = {spec.name: outputs.get(f"{key}/{spec.name}") for spec in manifest.outputs}
    known = {name: value for name, value in stored.items() if value is not None}
    if len(known) < len(stored):
        return Check(variant=key, problem="its golden outputs are missing")
    task = open_task(manifest, key)
    measured = open_session(bundle.model(key), manifest, key).run(task.preprocess(inputs))
    if any(measured[name].shape != value.shape for name, value in known.items()):
        return Check(variant=key, problem="its outputs have other shapes than at the build")
    pairs = zip(task.postprocess(measured, inputs), task.postprocess(known, inputs), strict=True)
    agreement = float(np.mean([task.agreement(result, reference) for result, reference in pairs]))
    difference = max(
        float(np.abs(measured[n].astype(np.float64) - value).max(initial=0.0)) for n, value in known.items()
    )
    problem = "" if agreement >= MIN_AGREEMENT and np.isfinite(difference) else "it answers otherwise than at the build"
    return Check(variant=key, agreement=agreement, difference=difference, problem=problem)
