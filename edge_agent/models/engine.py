"""A model loaded in an inference process, shared by the streams that use it.

The process is kept running by its supervisor. A replacement warms up while the old process serves, takes over when it
is ready, and the old one answers what it was given: no input is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from edge_agent import clock
from edge_agent.collectors import ModelInput
from edge_agent.models.build_process import BuildQueue
from edge_agent.models.engine_builds import EngineBuilds
from edge_agent.models.engine_streams import EngineStreams, Stream
from edge_agent.models.process_supervisor import Post, ProcessSupervisor
from edge_agent.models.wire import ModelSpec, Ready

REPLACE_S = 60.0
"""A process that uses too much memory is replaced at most so often."""
END_S = 0.5
Submitted = Literal["sent", "full", "down"]


class Engine:
    """One model. `load` decides when it may be loaded; an engine that is not loaded loads at its first input."""

    def __init__(self, spec: ModelSpec, post: Post, builds: BuildQueue, may_load: Callable[[Engine], bool]) -> None:
        self.spec = spec
        self._may_load = may_load
        self._streams = EngineStreams()
        self._builds = EngineBuilds(spec, builds, self._streams, self.replace)
        self._supervisor = ProcessSupervisor(spec, post, self._streams, self._builds.start)
        self._processes = self._supervisor.processes
        self.used_s = self.loaded_s = 0.0
        self.rss_mb = self.known_mb = 0.0

    # -- streams -------------------------------------------------------------------------------------

    @property
    def state(self) -> dict[str, Any]:
        """The reported state."""
        return self._streams.state

    def attach(self, stream: Stream) -> int:
        """Add a stream; returns its number."""
        return self._streams.attach(stream)

    def detach(self, number: int) -> None:
        """Remove a stream, to which nothing is owed any more."""
        self._streams.detach(number)

    @property
    def ready(self) -> Ready | None:
        """What the process that serves said of its model; None before the first."""
        return self._supervisor.ready

    @property
    def unused(self) -> bool:
        """Whether no stream uses it and nothing is in flight."""
        return not self._streams and not self.in_flight

    @property
    def in_flight(self) -> int:
        """Number of inputs that wait for their results."""
        return self._processes.in_flight

    def in_flight_of(self, number: int) -> int:
        """Number of inputs of a stream that wait for their results."""
        return self._processes.in_flight_of(number)

    @property
    def loaded(self) -> bool:
        """Whether a process is running."""
        return bool(self._processes.all)

    def submit(self, number: int, item: ModelInput) -> Submitted:
        """Run the model on an input of stream `number`: `full` when it has to wait, `down` without a model."""
        self.used_s = clock.monotonic_s()
        if not self._processes.active and (self._supervisor.retry_s is not None or not self.load()):
            return "down"
        target = self._processes.serving or self._processes.next
        if target is None:
            return "down"
        if not target.child.in_flight:
            target.heard_s = self.used_s  # idle until now: its age starts here
        return "sent" if target.child.submit(number, item) else "full"

    def age_s(self, now: float) -> float:
        """Seconds since the last result; 0 while idle."""
        serving = self._processes.serving
        if serving is None:
            return now - self.used_s if self._supervisor.retry_s is not None and self.used_s else 0.0
        return now - serving.heard_s if serving.child.in_flight else 0.0

    # -- processes -----------------------------------------------------------------------------------

    def load(self) -> bool:
        """Start a process, if the memory budget allows it."""
        if self._processes.active:
            return True
        if not self._may_load(self):
            self._streams.report(state="waiting", reason="the models in use fill the memory budget")
            return False
        self._start()
        return True

    def _start(self) -> None:
        self._supervisor.start()
        self.loaded_s = clock.monotonic_s()

    def replace(self, reason: str) -> None:
        """Start another process, which takes over when it is ready."""
        if self._processes.next is None:
            self._streams.event("info", f"the model is loaded again: {reason}")
            self._start()

    def restart(self) -> None:
        """Load the model again, also what was given up: runners that failed, builds that failed."""
        self._supervisor.forgive()
        self._builds.forget()
        self._supervisor.stop(END_S)
        self.load()

    def unload(self, reason: str) -> None:
        """End the process; the next input loads the model again."""
        self._supervisor.stop(0.0)
        self._streams.report(state="unloaded", reason=reason)

    def stop(self) -> None:
        """End the process and wait for it; inputs in flight are answered with no result."""
        self._builds.cancel()
        self._supervisor.stop(END_S)

    # -- once a second -------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Check the watchdog and the memory limit; start again if it is due."""
        due = self._supervisor.due(now)
        self.rss_mb = self._processes.rss_mb
        self.known_mb = self.rss_mb or self.known_mb
        if due:
            self.load()
        self._check_memory(now)

    def _check_memory(self, now: float) -> None:
        limit, process = self.spec.memory_mb, self._processes.serving
        if limit and process is not None and self._processes.next is None and now - process.started_s > REPLACE_S:
            used = process.child.rss_mb
            if used > limit:
                self.replace(f"its process uses {used:.0f} MB, more than the {limit:g} MB of memory_mb")
