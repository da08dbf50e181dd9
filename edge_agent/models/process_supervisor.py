"""Keeps the inference process of a model running: starts it, takes what it sends, and acts when it ends.

A process that ends is started again with backoff. A replacement takes over when it is ready; one that fails changes
nothing. A runner with which the process dies again and again is left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from edge_agent import clock
from edge_agent.models.child import InferenceChild, exit_reason
from edge_agent.models.core.exclusion import Exclusions
from edge_agent.models.engine_processes import EngineProcesses
from edge_agent.models.engine_streams import EngineStreams
from edge_agent.models.inference_process import InferenceProcess
from edge_agent.models.wire import Failed, ModelSpec, Opening, Ready, Results, WorkerMessage
from shared.backoff import Backoff

Post = Callable[[Callable[[], None]], None]


class ProcessSupervisor:
    """`on_ready` is called when a process begins to serve. `retry_s` is when the next start is due after a failure."""

    def __init__(self, spec: ModelSpec, post: Post, streams: EngineStreams, on_ready: Callable[[Ready], None]) -> None:
        self._spec, self._post, self._streams, self._on_ready = spec, post, streams, on_ready
        self.ready: Ready | None = None
        self.processes = EngineProcesses()
        self.backoff = Backoff(1.0, 60.0, random.random)
        self._exclusions = Exclusions(dict(spec.skip))
        self.retry_s: float | None = None
        self.starts = 0

    def start(self) -> None:
        """Start a process, which serves when it is ready."""
        self.starts += 1
        child = InferenceChild(
            msgspec.structs.replace(self._spec, skip=tuple(sorted(self._exclusions.reasons.items()))),
            on_messages=lambda found: self._post(lambda: self._handle(process, found)),
            on_end=lambda code: self._post(lambda: self._ended(process, code)),
        )
        now = clock.monotonic_s()
        process = self.processes.next = InferenceProcess(child, now, now)
        self.retry_s = None
        if self.processes.serving is None:
            self._streams.report(state="starting", starts=self.starts, pid=child.pid)

    def stop(self, wait_s: float) -> None:
        """End all processes; what is in flight is answered with no result."""
        self.retry_s = None
        for process in self.processes.take_all():
            process.child.end(wait_s)
            self._give_up(process, "the model was stopped")

    def forgive(self) -> None:
        """Forget failures: try everything again, and at once."""
        self._exclusions.reset()
        self.backoff.reset()

    def due(self, now: float) -> bool:
        """Kill what hangs; whether a start is due."""
        for process in self.processes.all:
            process.watch(now, self._spec)
        if self.retry_s is None or now < self.retry_s:
            return False
        self.retry_s = None
        return True

    # -- what a process sends ------------------------------------------------------------------------

    def _handle(self, process: InferenceProcess, found: list[WorkerMessage]) -> None:
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

    def _results(self, process: InferenceProcess, message: Results) -> None:
        if message.answers:  # not on Ready: a model that crashes on its first input needs the backoff too
            self.backoff.reset()
            self._exclusions.answered()
        for answer in message.answers:
            flight = process.child.answered(answer.id)
            if flight is not None:
                if answer.result is None:
                    self._streams.refused(flight.stream, answer.reason)
                self._streams.answer(flight, answer.result, answer.reason, message.run_us / 1e6)
        if process is not self.processes.serving:
            self.processes.end_retired()

    def _take_over(self, process: InferenceProcess, ready: Ready) -> None:
        """The process is ready: it serves from now on."""
        if process is not self.processes.next:
            return
        process.ready, process.opening = ready, ""
        self._streams.forget_refusals()
        self.processes.take_over()
        self.ready = ready  # before the report: who is told reads it
        self._streams.report_ready(ready, self.starts, process.child.pid)
        self._on_ready(ready)

    # -- its end -------------------------------------------------------------------------------------

    def _ended(self, process: InferenceProcess, code: int) -> None:
        """A process has ended by itself, or was killed by the watchdog."""
        if process not in self.processes.all:
            return
        reason = self._blame(process, f"the inference process ended ({exit_reason(code)})")
        self.processes.forget(process)
        if not self.processes.active:
            self._fail(reason)
        elif process.ready is None:
            self._streams.event("error", f"the replacement cannot be used, the model before it keeps serving: {reason}")
        process.child.end()
        self._give_up(process, reason)

    def _blame(self, process: InferenceProcess, died: str) -> str:
        """Why the process ended; leaves out the runner that is to blame."""
        reason = process.killed or process.reason or died
        if process.ready is not None:
            if process.child.in_flight:
                left_out = self._exclusions.died_running(process.ready.runner, process.ready.provider, reason)
                if left_out:
                    self.backoff.reset()
                    return f"{reason}; '{left_out}' is left out from now on, it died so several times in a row"
        elif process.opening and not process.reason:
            self._exclusions.died_opening(process.opening)
            return f"{reason} while it opened runner '{process.opening}'"
        elif process.reason:
            self._exclusions.reset()  # nothing else is left: try again what died
        return reason

    def _fail(self, reason: str) -> None:
        wait_s = self.backoff.wait()
        self.retry_s = clock.monotonic_s() + wait_s
        new = reason[:500] != self._streams.state.get("reason")
        self._streams.report(state="failed", reason=reason[:500])
        if new:
            self._streams.event("error", f"{reason}; restart in {wait_s:.0f} s")

    def _give_up(self, process: InferenceProcess, reason: str) -> None:
        for flight in process.child.take_all():
            self._streams.answer(flight, None, reason)
