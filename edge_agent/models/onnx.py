"""Runner `onnx`: ONNX Runtime with the first provider that takes the model. It reports why the better ones did not.

One thread that does not spin by default: spinning costs 21 ms of CPU a call at 50 Hz. ONNX Runtime falls back to the
CPU with no more than a line in the log; here each provider is tried by itself and what really runs is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from edge_agent.models import DeviceLost, RunnerInfo, RunnerOptions, Tensors
from shared.errors import ModelError
from shared.models.bundle import Bundle

CPU = "CPUExecutionProvider"
RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"


class ProviderRefused(Exception):
    """A provider cannot be used."""


def _session_options(options: RunnerOptions) -> Any:
    choices = ort.SessionOptions()
    choices.intra_op_num_threads = options.threads
    choices.inter_op_num_threads = 1
    choices.log_severity_level = 3
    choices.add_session_config_entry("session.intra_op.allow_spinning", "0")
    choices.add_session_config_entry(RECORD_ASSIGNMENT, "1")
    return choices


def _plugin_devices(provider: str, library: str) -> list[Any]:
    """The devices of a plug-in provider after its library was registered; raises ProviderRefused."""
    if not Path(library).is_file():
        raise ProviderRefused(f"its library {library} is not there")
    try:
        ort.register_execution_provider_library(provider, library)
    except Exception as error:
        if "already registered" not in str(error):
            raise ProviderRefused(f"{library} cannot be loaded: {_short(error)}") from error
    devices = [device for device in ort.get_ep_devices() if device.ep_name == provider]
    if not devices:
        raise ProviderRefused(f"{library} finds no device for it")
    return devices


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _open_with(model: bytes, provider: str, options: RunnerOptions) -> Any:
    """A session whose first provider is `provider`; raises ProviderRefused."""
    choices = _session_options(options)
    library = options.libraries.get(provider)
    try:
        if library is not None:
            choices.add_provider_for_devices(_plugin_devices(provider, library), {})
            session = ort.InferenceSession(model, choices)
        elif provider in ort.get_available_providers():
            session = ort.InferenceSession(model, choices, providers=_with_fallbacks(provider, options.providers))
        else:
            found = ", ".join(ort.get_available_providers())
            raise ProviderRefused(f"this ONNX Runtime was built without it (it has {found})")
    except ProviderRefused:
        raise
    except Exception as error:
        raise ProviderRefused(_short(error)) from error
    session.disable_fallback()  # a GPU that is lost is an error, not a slow CPU
    _verify(session, provider)
    return session


def _with_fallbacks(provider: str, providers: Sequence[str]) -> list[str]:
    """`provider`, those after it in the order of `providers`, and the CPU, for nodes that it cannot run."""
    after = [name for name in providers[providers.index(provider) + 1 :] if name in ort.get_available_providers()]
    return list(dict.fromkeys([provider, *after, CPU]))


def _verify(session: Any, provider: str) -> None:
    """Raise ProviderRefused unless the session has the provider and gave it at least one node."""
    actual = session.get_providers()
    if provider not in actual:
        raise ProviderRefused(f"ONNX Runtime opened {', '.join(actual)} in place of it; its log says why")
    shares = assigned_nodes(session)
    if shares and provider not in shares:
        raise ProviderRefused(f"it took none of the model's nodes; they run on {', '.join(shares)}")


def assigned_nodes(session: Any) -> dict[str, int]:
    """Number of nodes by the provider that runs them; empty where ONNX Runtime (before 1.24) cannot tell."""
    try:
        parts = session.get_provider_graph_assignment_info()
        counts: dict[str, int] = {}
        for part in parts:
            counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    except Exception:  # noqa: BLE001 - older versions raise AttributeError or an exception of their own
        return {}
    return counts


class OnnxRunner:
    """Runs one variant of a bundle."""

    def __init__(self, bundle: Bundle, variant: str, options: RunnerOptions) -> None:
        self._manifest = bundle.manifest
        self._precision = bundle.manifest.variant(variant).precision
        self._refused: dict[str, str] = {}
        self._session, self._provider = self._open(bundle.model(variant), options)
        self._outputs = self._checked()

    def _open(self, model: bytes, options: RunnerOptions) -> tuple[Any, str]:
        for provider in options.providers:
            try:
                return _open_with(model, provider, options), provider
            except ProviderRefused as error:
                self._refused[provider] = str(error)
        reasons = "; ".join(f"{provider}: {reason}" for provider, reason in self._refused.items())
        raise ModelError(f"{self._manifest.name}: ONNX Runtime cannot load it: {reasons}")

    def _checked(self) -> list[str]:
        """Names of the outputs; raises ModelError when inputs or outputs are not those of the manifest."""
        for what, specs, found in (
            ("inputs", self._manifest.inputs, self._session.get_inputs()),
            ("outputs", self._manifest.outputs, self._session.get_outputs()),
        ):
            names = {tensor.name for tensor in found}
            if missing := [spec.name for spec in specs if spec.name not in names]:
                raise ModelError(
                    f"{self._manifest.name}: the model has no {what} {', '.join(missing)}, as its manifest says; "
                    f"it has {', '.join(sorted(names))}"
                )
        return [spec.name for spec in self._manifest.outputs]

    def describe(self) -> RunnerInfo:
        shares = assigned_nodes(self._session)
        detail = ", ".join(f"{count} nodes on {provider}" for provider, count in sorted(shares.items()))
        return RunnerInfo(
            provider=self._provider, precision=self._precision, device=detail, batch=self._batch(),
            refused=self._refused,
        )  # fmt: skip

    def _batch(self) -> int:
        """The only batch size of the model; 0 when it is free."""
        shapes: Sequence[Any] = [tensor.shape for tensor in self._session.get_inputs() if tensor.shape]
        fixed = [shape[0] for shape in shapes if isinstance(shape[0], int)]
        return fixed[0] if fixed else 0

    def warm_up(self) -> None:
        """Nothing to do: the task's blank input has the right shape also where it is free."""

    def run(self, batch: Tensors) -> dict[str, Any]:
        try:
            found = self._session.run(self._outputs, dict(batch))
        except Exception as error:
            lost = self._provider != CPU and not isinstance(error, (InvalidArgument, ValueError, TypeError))
            kind = DeviceLost if lost else ModelError
            raise kind(f"{self._manifest.name}: {_short(error)}") from error
        return {name: np.asarray(value) for name, value in zip(self._outputs, found, strict=True)}

    def close(self) -> None:
        self._session = None


def open_runner(bundle: Bundle, variant: str, options: RunnerOptions) -> OnnxRunner:
    """Entry point `onnx`."""
    return OnnxRunner(bundle, variant, options)
