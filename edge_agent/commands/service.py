"""Executes commands from the hub. A command runs once, however often its request is received (invariant W1).

Requests are stored before they are executed, then run step by step in the agent's thread. Methods return the
CommandResult messages to publish. The final result of a command id never changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edge_agent.store.statestore import StateStore
from shared.protocol.codec import from_plain
from shared.protocol.messages import ClockQuality, CommandCancel, CommandRequest, CommandResult

log = logging.getLogger(__name__)

REMEMBERED = 200
MOST = 1000
"""Beyond REMEMBERED, results of expired commands are deleted. At MOST stored results, new commands are refused."""

PROGRESS_PERIOD_S = 0.5
Output = dict[str, str | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a running command: fraction 0..1, current activity, and seconds until it is resumed."""

    fraction: float
    text: str = ""
    wait_s: float = 0.0


Work = Generator[Progress, None, Output]
Verb = Callable[[CommandRequest], "Output | Work"]
"""Executes a command and returns its output; raises ValueError to refuse it, before it has any effect.

A long-running command is a generator: it yields Progress often and returns its output. When the command is cancelled,
the generator is closed at a yield, so that its `finally` runs.
"""


def take_args(request: CommandRequest, *known: str) -> dict[str, str | float]:
    """The arguments of `request`; raises ValueError for an argument that is not one of `known`."""
    unknown = sorted(set(request.args) - set(known))
    if unknown:
        takes = ", ".join(known) or "none"
        raise ValueError(f"'{request.verb} {request.target}' has no argument '{unknown[0]}'; it takes: {takes}")
    return request.args


@dataclass(slots=True)
class _Run:
    """An accepted command that has not ended; `due_s` and `published_s` are monotonic times."""

    request: CommandRequest
    result: CommandResult
    work: Work | None = None
    due_s: float = 0.0
    published_s: float = field(default=-PROGRESS_PERIOD_S)
    unpublished: bool = False


class Commands:
    """The commands of this device. `verbs` maps (verb, target) to a function; `store` keeps the results."""

    def __init__(self, store: StateStore, verbs: Mapping[tuple[str, str], Verb]) -> None:
        self._store, self._verbs = store, verbs
        self._done: dict[str, Any] = store.get("commands", {})
        self._running: dict[str, _Run] = {}

    @property
    def names(self) -> list[str]:
        """The commands of this device as 'verb target', sorted."""
        return [f"{verb} {target}" for verb, target in sorted(self._verbs)]

    def handle_request(self, request: CommandRequest, now_us: int, clock: ClockQuality) -> CommandResult:
        """Handle a request; returns its current state. `run_once` executes accepted commands."""
        if request.id in self._running:
            return self._running[request.id].result
        if request.id in self._done:
            return from_plain(CommandResult, self._done[request.id])
        # Without a synchronized clock the device cannot check the expiry; the hub still does.
        if clock == "synced" and now_us > request.expires_us:
            return self._end(request, _result(request.id, "expired", now_us, "came after its expiry"), now_us)
        if (request.verb, request.target) not in self._verbs:
            text = f"this device has no '{request.verb} {request.target}'; it has: {', '.join(self.names) or 'none'}"
            return self._end(request, _result(request.id, "refused", now_us, text), now_us)
        self._forget(now_us)
        if len(self._done) >= MOST:
            text = f"this device remembers {MOST} commands that have not expired; try again later"
            return _result(request.id, "refused", now_us, text)
        # Stored before it is executed: a crash in the middle must not execute it twice.
        self._remember(request, _result(request.id, "failed", now_us, "interrupted by a restart"), now_us)
        run = _Run(request, _result(request.id, "accepted", now_us))
        self._running[request.id] = run
        return run.result

    def handle_cancel(self, cancel: CommandCancel, now_us: int) -> CommandResult:
        """Cancel a command unless it has already ended; returns its final state."""
        run = self._running.get(cancel.id)
        if run is not None:
            return self._close(run, now_us)
        if cancel.id in self._done:
            return from_plain(CommandResult, self._done[cancel.id])
        return self._end(
            cancel, _result(cancel.id, "cancelled", now_us, "cancelled before the request was received"), now_us
        )

    def run_once(self, now_us: int, now_s: float) -> list[CommandResult]:
        """Advance each command that is due; returns the results to publish."""
        results = []
        for run in list(self._running.values()):
            if run.due_s <= now_s:
                self._advance(run, now_us, now_s)
            if run.request.id not in self._running:
                results.append(run.result)
            elif run.unpublished and now_s - run.published_s >= PROGRESS_PERIOD_S:
                run.unpublished, run.published_s = False, now_s
                results.append(run.result)
        return results

    def stopped(self) -> list[CommandResult]:
        """End all running commands because the agent stops; their result is the same as after a crash."""
        results = []
        for run in list(self._running.values()):
            interrupted = from_plain(CommandResult, self._done[run.request.id])
            result = self._close(run, interrupted.t_us)
            results.append(result if result.state == "failed" else self._end(run.request, interrupted, result.t_us))
        return results

    # -- inside ------------------------------------------------------------------------------------

    def _advance(self, run: _Run, now_us: int, now_s: float) -> None:
        cid, verb = run.request.id, self._verbs[run.request.verb, run.request.target]
        try:
            done = _begin(run, verb(run.request)) if run.work is None else _go_on(run.work)
            if isinstance(done, Progress):
                run.due_s, run.unpublished = now_s + done.wait_s, True
                fraction = min(max(done.fraction, 0.0), 1.0)
                run.result = CommandResult(id=cid, state="running", t_us=now_us, text=done.text, progress=fraction)
                return
            run.result = CommandResult(id=cid, state="succeeded", t_us=now_us, output=done)
        except Exception as error:  # report it to the hub now, not after the command's expiry
            if isinstance(error, ValueError) and run.result.state == "accepted":
                run.result = _result(cid, "refused", now_us, str(error))
            else:
                log.exception("command.failed")
                run.result = _result(cid, "failed", now_us, f"{type(error).__name__}: {error}")
        self._end(run.request, run.result, now_us)

    def _close(self, run: _Run, now_us: int) -> CommandResult:
        run.result = _result(run.request.id, "cancelled", now_us, run.result.text)
        try:
            if run.work is not None:
                run.work.close()
        except Exception as error:  # the command's clean-up failed
            log.exception("command.failed")
            run.result = _result(run.request.id, "failed", now_us, f"when cancelled: {type(error).__name__}: {error}")
        return self._end(run.request, run.result, now_us)

    def _end(self, request: CommandRequest | CommandCancel, result: CommandResult, now_us: int) -> CommandResult:
        self._running.pop(result.id, None)
        self._remember(request, result, now_us)
        return result

    def _remember(self, request: CommandRequest | CommandCancel, result: CommandResult, now_us: int) -> None:
        self._done[result.id] = {**msgspec.to_builtins(result), "expires_us": request.expires_us}
        self._forget(now_us)
        self._store.put("commands", self._done)

    def _forget(self, now_us: int) -> None:
        for cid, old in list(self._done.items())[:-REMEMBERED]:
            # A request that has not expired may be received again: without its result it would run again.
            if old.get("expires_us", 0) < now_us and cid not in self._running:
                del self._done[cid]


def _result(cid: str, state: Any, now_us: int, text: str = "") -> CommandResult:
    return CommandResult(id=cid, state=state, t_us=now_us, text=text)


def _begin(run: _Run, made: Output | Work) -> Output | Progress:
    if not isinstance(made, Generator):
        return made
    run.work = made
    return _go_on(made)


def _go_on(work: Work) -> Output | Progress:
    try:
        return next(work)
    except StopIteration as end:
        output: Output = end.value
        return output
