"""A model loaded in an inference process, shared by the streams that use it.

A process that ends is started again with backoff; one that hangs is killed first. A replacement warms up while the old
process serves, takes over when it is ready, and the old one answers what it was given: no input is lost. When a
replacement fails, the old process keeps serving.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

from edge_agent import clock
from edge_agent.collectors import ModelInput
from edge_agent.models.build_process import BuildJob, BuildQueue
from edge_agent.models.child import InferenceChild, InFlight, exit_reason
from edge_agent.models.wire import Failed, ModelSpec, Opening, Ready, Results, WorkerMessage
from shared.backoff import Backoff
from shared.models.gate import Result

log = logging.getLogger(__name__)

REPLACE_S = 60.0
"""A process that uses too much memory is replaced at most so often."""
END_S = 0.5
Post = Callable[[Callable[[], None]], None]
Submitted = Literal["sent", "full", "down"]


class Stream(Protocol):
    """What an engine calls, in the agent's thread."""

    def engine_changed(self) -> None:
        """The engine's state has changed."""
        ...

    def engine_event(self, level: str, text: str) -> None:
        """Something happened that a person should know."""
        ...

    def answered(self, flight: InFlight, result: Result | None, reason: str, run_s: float) -> None:
        """The result of an input, or None and why there is none."""
        ...


@dataclass(slots=True)
class _Process:
    """An inference process and what is known of it."""

    child: InferenceChild
    started_s: float
    heard_s: float
    opening: str = ""
    ready: bool = False
    reason: str = ""
    killed: str = field(default="")


class Engine:
    """One model. `load` decides when it may be loaded; an engine that is not loaded loads at its first input."""

    def __init__(self, spec: ModelSpec, post: Post, builds: BuildQueue, may_load: Callable[[Engine], bool]) -> None:
        self.spec = spec
        self._post, self._builds, self._may_load = post, builds, may_load
        self._streams: dict[int, Stream] = {}
        self._last_stream = 0
        self._backoff = Backoff(1.0, 60.0, random.random)
        self._serving: _Process | None = None
        self._next: _Process | None = None
        self._retiring: list[_Process] = []
        self._retry_s: float | None = None
        self._skip: set[str] = set(spec.skip)
        self._built: set[str] = set()
        self._starts = 0
        self.used_s = self.loaded_s = 0.0
        self.rss_mb = self.known_mb = 0.0
        self.ready: Ready | None = None
        self.state: dict[str, Any] = {"state": "unloaded"}

    # -- streams -------------------------------------------------------------------------------------

    def attach(self, stream: Stream) -> int:
        """Add a stream; returns its number."""
        self._last_stream += 1
        self._streams[self._last_stream] = stream
        return self._last_stream

    def detach(self, number: int) -> None:
        """Remove a stream; it still gets the answers to what it has submitted."""
        self._streams.pop(number, None)

    @property
    def unused(self) -> bool:
        """Whether no stream uses it and nothing is in flight."""
        return not self._streams and not self.in_flight

    @property
    def in_flight(self) -> int:
        """Number of inputs that wait for their results."""
        return sum(len(process.child.in_flight) for process in self._processes)

    def in_flight_of(self, number: int) -> int:
        """Number of inputs of a stream that wait for their results."""
        flights = (flight for process in self._processes for flight in process.child.in_flight.values())
        return sum(flight.stream == number for flight in flights)

    @property
    def loaded(self) -> bool:
        """Whether a process is running."""
        return bool(self._processes)

    @property
    def _processes(self) -> list[_Process]:
        return [process for process in (self._serving, self._next, *self._retiring) if process is not None]

    def submit(self, number: int, item: ModelInput) -> Submitted:
        """Run the model on an input of stream `number`: `full` when it has to wait, `down` without a model."""
        self.used_s = clock.monotonic_s()
        target = self._serving or self._next
        if target is None:
            if self._retry_s is not None or not self.load():
                return "down"
            target = self._next
        if target is None:
            return "down"
        if not target.child.in_flight:
            target.heard_s = self.used_s  # idle until now: its age starts here
        return "sent" if target.child.submit(number, item) else "full"

    def age_s(self, now: float) -> float:
        """Seconds since the last result; 0 while idle."""
        if self._serving is None:
            return now - self.used_s if self._retry_s is not None and self.used_s else 0.0
        return now - self._serving.heard_s if self._serving.child.in_flight else 0.0

    # -- processes -----------------------------------------------------------------------------------

    def load(self) -> bool:
        """Start a process, if the memory budget allows it."""
        if self._next is not None or self._serving is not None:
            return True
        if not self._may_load(self):
            self._report(state="waiting", reason="the models in use fill the memory budget")
            return False
        self._start()
        return True

    def _start(self) -> None:
        self._starts += 1
        spec = msgspec.structs.replace(self.spec, skip=tuple(sorted(self._skip)))
        child = InferenceChild(
            spec,
            on_messages=lambda found: self._post(lambda: self._handle(process, found)),
            on_end=lambda code: self._post(lambda: self._ended(process, code)),
        )
        now = clock.monotonic_s()
        process = self._next = _Process(child, now, now)
        self._retry_s, self.loaded_s = None, now
        if self._serving is None:
            self._report(state="starting", starts=self._starts, pid=child.pid)

    def replace(self, reason: str) -> None:
        """Start another process, which takes over when it is ready."""
        if self._next is None:
            self._event("info", f"the model is loaded again: {reason}")
            self._start()

    def restart(self) -> None:
        """Load the model again, also what was given up: runners that failed, builds that failed."""
        self._skip, self._built = set(self.spec.skip), set()
        self._backoff.reset()
        self._stop_processes(END_S)
        self.load()

    def unload(self, reason: str) -> None:
        """End the process; the next input loads the model again."""
        self._stop_processes(0.0)
        self._report(state="unloaded", reason=reason)

    def stop(self) -> None:
        """End the process and wait for it; inputs in flight are answered with no result."""
        self._builds.cancel(self.spec)
        self._stop_processes(END_S)

    def _stop_processes(self, wait_s: float) -> None:
        processes, self._serving, self._next, self._retiring = self._processes, None, None, []
        self._retry_s = None
        for process in processes:
            process.child.end(wait_s)
            self._give_up(process, "the model was stopped")

    # -- once a second -------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Check the watchdog and the memory limit; start again if it is due."""
        for process in self._processes:
            self._watch(process, now)
        self.rss_mb = sum(process.child.rss_mb for process in self._processes)
        self.known_mb = self.rss_mb or self.known_mb
        if self._retry_s is not None and now >= self._retry_s:
            self._retry_s = None
            self.load()
        self._check_memory(now)

    def _watch(self, process: _Process, now: float) -> None:
        if process.killed:
            return
        if not process.ready:
            late, what = now - process.started_s > self.spec.load_s, f"was not ready within {self.spec.load_s:g} s"
        else:
            late = bool(process.child.in_flight) and now - process.heard_s > self.spec.watchdog_s
            what = f"gave no result for {self.spec.watchdog_s:g} s"
        if late:
            process.killed = f"the model {what} and was killed"
            process.child.kill()

    def _check_memory(self, now: float) -> None:
        limit, process = self.spec.memory_mb, self._serving
        if limit and process is not None and self._next is None and now - process.started_s > REPLACE_S:
            used = process.child.rss_mb
            if used > limit:
                self.replace(f"its process uses {used:.0f} MB, more than the {limit:g} MB of memory_mb")

    # -- messages of the processes -------------------------------------------------------------------

    def _handle(self, process: _Process, found: list[WorkerMessage]) -> None:
        process.heard_s = clock.monotonic_s()
        for message in found:
            if isinstance(message, Results):
                self._results(process, message)
            elif isinstance(message, Opening):
                process.opening = message.runner
            elif isinstance(message, Ready):
                self._take_over(process, message)
            elif isinstance(message, Failed):
                process.reason = message.reason

    def _results(self, process: _Process, message: Results) -> None:
        if message.answers:
            self._backoff.reset()  # not on Ready: a model that crashes on its first input needs the backoff too
        for answer in message.answers:
            flight = process.child.answered(answer.id)
            if flight is not None:
                self._answer(flight, answer.result, answer.reason, message.run_us / 1e6)
        if process in self._retiring:
            self._end_retired()

    def _answer(self, flight: InFlight, result: Result | None, reason: str, run_s: float = 0.0) -> None:
        stream = self._streams.get(flight.stream)
        if stream is not None:
            stream.answered(flight, result, reason, run_s)

    def _take_over(self, process: _Process, ready: Ready) -> None:
        """The process is ready: it serves from now on, the old one only answers what it was given."""
        if process is not self._next:
            return
        old, self._serving, self._next = self._serving, process, None
        process.ready, process.opening = True, ""
        self.ready = ready
        if old is not None:
            self._retiring.append(old)
            self._end_retired()
        self._report_ready(ready, process)
        self._build(ready)

    def _report_ready(self, ready: Ready, process: _Process) -> None:
        before = self.state.get("refused")
        self._report(
            state="running", starts=self._starts, pid=process.child.pid, reason="", version=ready.version,
            variant=ready.variant, digest=ready.digest, runner=ready.runner, provider=ready.provider,
            precision=ready.precision, device=ready.device, refused=ready.refused,
        )  # fmt: skip
        if ready.refused and ready.refused != before:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in ready.refused.items())
            self._event("warning", f"runs on {ready.provider}. Not used: {reasons}")

    def _end_retired(self) -> None:
        for process in [process for process in self._retiring if not process.child.in_flight]:
            self._retiring.remove(process)
            process.child.end()

    def _ended(self, process: _Process, code: int) -> None:
        """A process has ended by itself, or was killed by the watchdog."""
        if process not in self._processes:
            return
        died = f"the inference process ended ({exit_reason(code)})"
        reason = process.killed or process.reason or died
        if process.opening and not process.reason:
            self._skip.add(process.opening)  # it died, or hung, while it opened this runner
            reason = f"{reason} while it opened runner '{process.opening}'"
        elif process.reason:
            self._skip = set(self.spec.skip)  # nothing else is left: try again what died
        self._forget(process)
        if self._serving is None and self._next is None:
            self._fail(reason)
        elif process.ready is False:
            self._event("error", f"the replacement cannot be used, the model before it keeps serving: {reason}")
        process.child.end()
        self._give_up(process, reason)

    def _forget(self, process: _Process) -> None:
        self._serving = None if process is self._serving else self._serving
        self._next = None if process is self._next else self._next
        self._retiring = [one for one in self._retiring if one is not process]

    def _fail(self, reason: str) -> None:
        wait_s = self._backoff.wait()
        self._retry_s = clock.monotonic_s() + wait_s
        new = reason[:500] != self.state.get("reason")
        self._report(state="failed", reason=reason[:500])
        if new:
            self._event("error", f"{reason}; restart in {wait_s:.0f} s")

    def _give_up(self, process: _Process, reason: str) -> None:
        for flight in process.child.take_all():
            self._answer(flight, None, reason)

    # -- builds --------------------------------------------------------------------------------------

    def _build(self, ready: Ready) -> None:
        """Build the engine that a better runner lacks; afterwards the model is loaded again."""
        if not ready.build or ready.build in self._built:
            return
        self._built.add(ready.build)

        def progress(share: float, phase: str) -> None:
            self._report(build={"runner": ready.build, "progress": share, "phase": phase})

        job = BuildJob(
            self.spec, ready.variant, ready.build, progress, done=lambda reason: self._build_done(ready.build, reason)
        )
        self._event("info", f"an engine for '{ready.build}' is built in the background; {ready.provider} serves")
        self._builds.add(job)

    def _build_done(self, runner: str, reason: str) -> None:
        if reason:
            self._report(build={"runner": runner, "failed": reason[:500]})
            self._event("error", f"the engine for '{runner}' cannot be built: {reason}")
            return
        self._report(build={"runner": runner, "progress": 1.0, "phase": "done"})
        self.replace(f"its engine for '{runner}' was built")

    # -- reports -------------------------------------------------------------------------------------

    def _report(self, **changes: Any) -> None:
        before, self.state = self.state, self.state | changes
        if before != self.state:
            for stream in list(self._streams.values()):
                stream.engine_changed()

    def _event(self, level: str, text: str) -> None:
        for stream in list(self._streams.values()):
            stream.engine_event(level, text)
