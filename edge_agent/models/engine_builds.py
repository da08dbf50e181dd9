"""The engines of better runners that a model needs built on this device; built in the background, once each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from edge_agent.models.build_process import BuildJob, BuildQueue
from edge_agent.models.engine_streams import EngineStreams
from edge_agent.models.wire import ModelSpec, Ready


class EngineBuilds:
    """`replace(reason)` loads the model again after a build."""

    def __init__(
        self, spec: ModelSpec, queue: BuildQueue, streams: EngineStreams, replace: Callable[[str], None]
    ) -> None:
        self._spec, self._queue, self._streams, self._replace = spec, queue, streams, replace
        self._started: set[str] = set()

    def start(self, ready: Ready) -> None:
        """Build what a better runner lacks, if it was not tried yet."""
        runner = ready.build
        if not runner or runner in self._started:
            return
        self._started.add(runner)

        def progress(share: float, phase: str) -> None:
            self._streams.report(build={"runner": runner, "progress": share, "phase": phase})

        text = f"an engine for '{runner}' is built in the background; {ready.provider} serves"
        self._streams.event("info", text)
        done = partial(self._done, runner)
        self._queue.add(BuildJob(self._spec, ready.variant, runner, progress, done))

    def _done(self, runner: str, reason: str) -> None:
        if reason:
            self._streams.report(build={"runner": runner, "failed": reason[:500]})
            self._streams.event("error", f"the engine for '{runner}' cannot be built: {reason}")
            return
        self._streams.report(build={"runner": runner, "progress": 1.0, "phase": "done"})
        self._replace(f"its engine for '{runner}' was built")

    def forget(self) -> None:
        """Builds that failed are tried again."""
        self._started.clear()

    def cancel(self) -> None:
        """Forget what waits for its turn."""
        self._queue.cancel(self._spec)
