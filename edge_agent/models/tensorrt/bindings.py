"""The Python bindings of TensorRT: one small adapter for each difference between 10, 11 and TensorRT-RTX."""

from __future__ import annotations

import importlib
from typing import Any

from shared.errors import ModelError

MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
"""Tried in this order. The wheel of TensorRT-RTX brings the last one."""
OLDEST = 10


class Bindings:
    """TensorRT 11: networks are always strongly typed."""

    def __init__(self, module: Any) -> None:
        self.trt = module
        self.rtx = "rtx" in module.__name__
        self.name = f"TensorRT{'-RTX' if self.rtx else ''} {module.__version__}"
        self.errors: list[str] = []
        self.logger = self._make_logger()

    def _make_logger(self) -> Any:
        """A logger that keeps errors, because TensorRT returns None where it fails."""
        trt, errors = self.trt, self.errors

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                    errors.append(str(msg))

        return Logger()

    def failure(self, what: str) -> ModelError:
        """An error with what TensorRT logged since the last one."""
        reasons, self.errors[:] = "; ".join(self.errors[-3:]), []
        return ModelError(f"{self.name} {what}: {reasons[:600] or 'it gave no reason'}")

    def network_flags(self) -> int:
        """Flags of a new network."""
        return 0

    def supports(self, flag: str) -> bool:
        """Whether the builder has a flag."""
        return hasattr(self.trt.BuilderFlag, flag)

    def monitor(self, progress: Any) -> Any:
        """A progress monitor that calls `progress(share, phase)`."""
        return _make_monitor(self.trt, progress)


class Bindings10(Bindings):
    """TensorRT 10: strong typing is asked for, so that both versions read the types from the model."""

    def network_flags(self) -> int:
        return 1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _make_monitor(trt: Any, progress: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined, unused-ignore]
        """Phases are nested; only the outermost ones count, and the bar never goes back."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._best = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._steps[phase_name] = max(num_steps, 1)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                self._report(min((step + 1) / self._steps[phase_name], 1.0), phase_name)
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def _report(self, share: float, phase: str) -> None:
            self._best = max(self._best, share)
            progress(0.05 + 0.9 * self._best, phase)

    return Monitor()


def load_bindings() -> Bindings:
    """The bindings that are installed; raises ModelError with the reason of each that is not."""
    reasons = []
    for name in MODULES:
        try:
            module = importlib.import_module(name)
            version = str(module.__version__)
        except Exception as error:  # noqa: BLE001 - a stub from an index raises what it likes
            reasons.append(f"{name}: {error}")
            continue
        return _adapter(module, version)
    raise ModelError(f"TensorRT's Python bindings cannot be imported ({'; '.join(reasons)[:400]})")


def _adapter(module: Any, version: str) -> Bindings:
    if "rtx" in module.__name__:
        return Bindings10(module) if _has_strong_flag(module) else Bindings(module)
    major = int(version.partition(".")[0])
    if major < OLDEST:
        raise ModelError(f"TensorRT {version} is installed, {OLDEST} or later is needed")
    return Bindings10(module) if major == OLDEST else Bindings(module)


def _has_strong_flag(module: Any) -> bool:
    return hasattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
