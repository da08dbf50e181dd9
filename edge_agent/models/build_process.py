"""Builds engines in the background, one at a time, in a process of low priority; the model serves meanwhile."""

from __future__ import annotations

import subprocess
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_agent.models.child import command, exit_reason, read_messages
from edge_agent.models.wire import Building, Built, Failed, ModelSpec, WorkerMessage

Post = Callable[[Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class BuildJob:
    """A build of `runner`'s engine for `variant`. `progress(share, phase)` and `done(reason)`, '' when it was built,
    are called in the agent's thread."""

    spec: ModelSpec
    variant: str
    runner: str
    progress: Callable[[float, str], None]
    done: Callable[[str], None]


class BuildQueue:
    """Runs builds one after the other."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._jobs: deque[BuildJob] = deque()
        self._process: subprocess.Popen[bytes] | None = None
        self._outcome = ""

    def add(self, job: BuildJob) -> None:
        """Build when the jobs before it are done."""
        self._jobs.append(job)
        job.progress(0.0, "waiting")
        if self._process is None:
            self._start()

    def cancel(self, spec: ModelSpec) -> None:
        """Forget the waiting jobs of a model that is no longer used."""
        running = [self._jobs[0]] if self._process is not None and self._jobs else []
        waiting = [job for job in list(self._jobs)[len(running) :] if job.spec != spec]
        self._jobs = deque([*running, *waiting])

    def stop(self) -> None:
        """Kill the running build and forget the others."""
        self._jobs.clear()
        if self._process is not None:
            self._process.kill()
            self._process.wait(5)

    def _start(self) -> None:
        job, self._outcome = self._jobs[0], ""
        arguments = command(
            "edge_agent.models.builder", msgspec.json.encode(job.spec).decode(), job.variant, job.runner
        )
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=Path("/"))
        self._process = process
        threading.Thread(target=self._read, args=(process, job), name="build-reader", daemon=True).start()

    def _read(self, process: subprocess.Popen[bytes], job: BuildJob) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            read_messages(stream.fileno(), lambda found: self._post(lambda: self._received(job, found)))
        code = process.wait()
        self._post(lambda: self._ended(process, job, code))

    def _received(self, job: BuildJob, found: list[WorkerMessage]) -> None:
        for message in found:
            if isinstance(message, Building):
                job.progress(message.progress, message.phase)
            elif isinstance(message, Failed):
                self._outcome = message.reason
            elif isinstance(message, Built):
                self._outcome = "built"

    def _ended(self, process: subprocess.Popen[bytes], job: BuildJob, code: int) -> None:
        if process is not self._process:
            return
        self._process, outcome = None, self._outcome
        if not self._jobs:  # stopped
            return
        self._jobs.popleft()
        job.done("" if outcome == "built" else outcome or f"the build ended ({exit_reason(code)})")
        if self._jobs and self._process is None:
            self._start()
