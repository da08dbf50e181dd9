"""Opens a model in the inference process: verifies the bundle, tries its variants and runners, warms the model up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_agent.models import DeviceLost, EngineMissing, Progress, Runner, RunnerInfo, RunnerOptions
from edge_agent.models.core.selection import attempts
from edge_agent.models.wire import ModelSpec, Ready
from shared import plugins
from shared.errors import ConfigError, ModelError
from shared.models.bundle import Bundle, load, read_manifest
from shared.models.gate import Result
from shared.tasks import Array, Task, open_task

log = logging.getLogger(__name__)


def runner_options(spec: ModelSpec, build: Progress | None = None) -> RunnerOptions:
    """The options of the spec's runners."""
    return RunnerOptions(
        providers=tuple(name for name in spec.providers if name not in dict(spec.skip)),
        threads=spec.threads, batch=spec.batch, cache_dir=spec.cache_dir,
        libraries=dict(spec.libraries), version_compatible=spec.version_compatible, build=build,
    )  # fmt: skip


def open_one(bundle: Bundle, variant: str, runner: str, options: RunnerOptions) -> Runner:
    """Open a runner by its entry point; raises ModelError, whatever the plug-in raises."""
    try:
        opened: Runner = plugins.load(plugins.RUNNERS, runner, f"variant '{variant}'")(bundle, variant, options)
    except ModelError:
        raise
    except ConfigError as error:
        raise ModelError(str(error)) from error
    except Exception as error:
        raise ModelError(f"runner '{runner}' cannot take it ({type(error).__name__}: {error})") from error
    return opened


class LoadedModel:
    """A runner with its task. `build` names a better runner that waits for an engine to be built."""

    def __init__(self, spec: ModelSpec, opening: Callable[[str], None]) -> None:
        self._folder = Path(spec.bundle)
        self.manifest = read_manifest(self._folder)
        self.build = ""
        refused = dict(spec.skip)
        self.variant, self.runner_name, self._runner = self._open(spec, opening, refused)
        self.info = info = self._runner.describe()
        self.refused = refused | dict(info.refused)
        self._task: Task = open_task(self.manifest, self.variant)
        self._batch = info.batch or self.manifest.batch
        self._runner.warm_up()
        self.blank_result = self.run([self._task.blank()])[0]

    def _open(
        self, spec: ModelSpec, opening: Callable[[str], None], refused: dict[str, str]
    ) -> tuple[str, str, Runner]:
        """The first variant and runner that can be opened; the reasons of the others are put into `refused`.

        Of the bundle only the variant's file is read: the others may be large. A damaged one ends the search.
        """
        for variant, runner in attempts(self.manifest, spec.variant, spec.variants, spec.providers, dict(spec.skip)):
            bundle = load(self._folder, variant)
            opening(runner)
            try:
                return variant, runner, open_one(bundle, variant, runner, runner_options(spec))
            except EngineMissing as error:
                self.build = self.build or runner
                refused[runner] = str(error)
            except ModelError as error:
                refused.setdefault(runner, f"{variant}: {error}")
        raise ModelError("; ".join(refused.values()))

    def ready(self) -> Ready:
        """The message that the model is loaded."""
        manifest, info = self.manifest, self.info
        return Ready(
            name=manifest.name, version=manifest.version, variant=self.variant,
            digest=manifest.variant_digest(self.variant), runner=self.runner_name, provider=info.provider,
            precision=info.precision, device=info.device, refused=self.refused, build=self.build,
            labels=list(manifest.labels), values=sorted(self.blank_result.values),
        )  # fmt: skip

    def run(self, inputs: Sequence[Array]) -> list[Result]:
        """A result for each input, in batches of the size that the model takes; raises ModelError."""
        if not self._batch or len(inputs) == self._batch:
            return self._run(inputs)
        results: list[Result] = []
        for start in range(0, len(inputs), self._batch):
            part = list(inputs[start : start + self._batch])
            padded = part + part[-1:] * (self._batch - len(part))
            results += self._run(padded)[: len(part)]
        return results

    def _run(self, inputs: Sequence[Array]) -> list[Result]:
        outputs: dict[str, Any] = self._runner.run(self._task.preprocess(inputs))
        return self._task.postprocess(outputs, inputs)

    def run_each(self, inputs: Sequence[Array | ModelError]) -> tuple[list[tuple[Result | None, str]], int]:
        """((result, '') or (None, reason) of each input, microseconds): an input that is refused costs no other."""
        began = time.perf_counter_ns()
        sound = [one for one in inputs if not isinstance(one, ModelError)]
        try:
            found = iter(self._run_together(sound))
        except DeviceLost:
            raise
        except ModelError:
            found = iter([self._run_alone(one) for one in sound])
        answers: list[tuple[Result | None, str]] = [
            (None, str(one)) if isinstance(one, ModelError) else next(found) for one in inputs
        ]
        return answers, (time.perf_counter_ns() - began) // 1000

    def _run_together(self, inputs: Sequence[Array]) -> list[tuple[Result | None, str]]:
        return [(result, "") for result in self.run(inputs)] if inputs else []

    def _run_alone(self, one: Array) -> tuple[Result | None, str]:
        try:
            return self.run([one])[0], ""
        except DeviceLost:
            raise
        except ModelError as error:
            return None, str(error)

    def close(self) -> None:
        """Release the runner."""
        self._runner.close()


__all__ = ["LoadedModel", "RunnerInfo", "open_one", "runner_options"]
