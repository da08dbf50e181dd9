"""Background workers: each calls its `run_once` in a thread of its own, which reads the database, so that a restart
loses nothing. What one run leaves to do (publish, wake others) comes back as a `WorkResult`.

A run that fails as a whole is logged and repeated with back-off; the worker counts as failing until a run succeeds.
One bad item must not fail a run: `runtime.items` keeps items apart.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cloud_hub.clock import now_us
from cloud_hub.runtime.outgoing import OutgoingMessage
from shared.errors import NotReady

log = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
STOP_S = 10.0
BURST_S = 0.05
"""`linger_s` of workers for which a burst of notifications should be one run."""
HUNG_S, HUNG_PERIODS = 600.0, 10
"""A run that takes longer than this, and than so many periods, counts as failing while it lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkResult:
    """What a run leaves to do after its commits.

    `again`: more work waits, so run again at once. `messages` are published, `changed` are devices whose
    configurations are checked, `wake` are other workers that have work now. `not_ready` broke the run off: what was
    committed before is still carried out.
    """

    again: bool = False
    messages: Sequence[OutgoingMessage] = ()
    changed: Collection[str] = ()
    wake: Collection[str] = ()
    not_ready: NotReady | None = None


NOTHING = WorkResult()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """One line of the table of workers. It runs when notified, `linger_s` later so that a burst of notifications is one
    run, and at least every `period_s`.
    """

    name: str
    run_once: Callable[[], WorkResult]
    period_s: float = 1.0
    linger_s: float = 0.0


State = Literal["idle", "running", "failing", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """How a worker does. `failing_since_us` is the first failed run since the last good one, `failures` counts those;
    `error` is what the last of them raised.
    """

    name: str
    state: State = "idle"
    runs: int = 0
    failed_runs: int = 0
    failures: int = 0
    failing_since_us: int | None = None
    error: str = ""
    succeeded_us: int | None = None
    started_us: int | None = None


class BackgroundWorker:
    """Runs one worker. `finish` carries out what a run leaves to do."""

    def __init__(
        self, spec: WorkerSpec, finish: Callable[[WorkResult], None], clock: Callable[[], int] = now_us
    ) -> None:  # fmt: skip
        self.name = spec.name
        self._spec, self._finish, self._clock = spec, finish, clock
        self._status = WorkerStatus(name=spec.name)
        self._notified, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"worker-{spec.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def notify(self) -> None:
        """There is work: do not wait for the period. From any thread."""
        self._notified.set()

    def stop(self) -> None:
        """End after the run that is under way."""
        self._stopping.set()
        self._notified.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    def status(self) -> WorkerStatus:
        """How it does now. From any thread."""
        status = self._status
        if self._thread.ident is not None and not self._thread.is_alive():
            return replace(status, state="stopped")
        running_s = (self._clock() - (status.started_us or 0)) / 1e6
        if status.state == "running" and running_s > max(HUNG_S, HUNG_PERIODS * self._spec.period_s):
            error = f"its run has not ended for {running_s:.0f} s"
            return replace(
                status, state="failing", failing_since_us=status.failing_since_us or status.started_us, error=error
            )
        return status

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._notified.wait(self._spec.period_s)
            self._stopping.wait(self._spec.linger_s)
            self._notified.clear()
            if self._stopping.is_set():
                return
            self._stopping.wait(self.run())

    def run(self) -> float:
        """One run, with what it leaves to do: seconds to wait before the next one may begin."""
        self._status = replace(self._status, state="running", started_us=self._clock(), runs=self._status.runs + 1)
        try:
            result = self._spec.run_once()
            self._finish(result)
            if result.not_ready is not None:
                raise result.not_ready
        except NotReady as error:
            log.warning("worker.not_ready", extra={"fields": {"worker": self.name, "reason": error.reason}})
            return self._failed(error.reason, error.wait_s)
        except Exception as error:
            log.exception("worker.failed", extra={"fields": {"worker": self.name}})
            return self._failed(f"{type(error).__name__}: {error}", FIRST_WAIT_S)
        self._succeeded()
        if result.again:
            self.notify()
        return 0.0

    def _succeeded(self) -> None:
        if self._status.failing_since_us is not None:
            log.info("worker.recovered", extra={"fields": {"worker": self.name}})
        self._status = replace(
            self._status, state="idle", failures=0, failing_since_us=None, error="", succeeded_us=self._clock()
        )

    def _failed(self, error: str, wait_s: float) -> float:
        status = self._status
        self._status = replace(
            status, state="failing", failures=status.failures + 1, failed_runs=status.failed_runs + 1,
            error=error[:500], failing_since_us=status.failing_since_us or self._clock(),
        )  # fmt: skip
        return max(wait_s, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(status.failures, 10)))
