"""Commands: verbs without a lasting state. One effect an id, however often the request comes (invariant W1).

Requests are remembered before anything is done, then carried out step by step in the agent's one thread. Methods
are named for what happened and return the device's words on it. What an id ended with is its answer for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edge_agent.store.statestore import StateStore
from shared.codec import from_plain
from shared.messages import ClockQuality, CommandCancel, CommandRequest, CommandResult

log = logging.getLogger(__name__)

REMEMBERED = 200
MOST = 1000
"""Old results are forgotten beyond REMEMBERED when nobody can ask for them any more; MOST is the end in any case."""

SAID_EVERY_S = 0.5
Output = dict[str, str | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a verb is (0..1), what it does, and after how many seconds it wants to go on."""

    fraction: float
    text: str = ""
    wait_s: float = 0.0


Work = Generator[Progress, None, Output]
Verb = Callable[[CommandRequest], "Output | Work"]
"""Carries out a command and returns its output; raises ValueError to refuse it, before anything is done.

A long one is a generator: it yields its Progress often and returns its output. When the command is cancelled it is
closed at a yield: its `finally` runs.
"""


def take_args(request: CommandRequest, *known: str) -> dict[str, str | float]:
    """The arguments, when each is one of `known`; else ValueError."""
    unknown = sorted(set(request.args) - set(known))
    if unknown:
        takes = ", ".join(known) or "none"
        raise ValueError(f"'{request.verb} {request.target}' has no argument '{unknown[0]}'; it takes: {takes}")
    return request.args


@dataclass(slots=True)
class _Run:
    """A command that was accepted and has not ended; `due_s` and `said_s` are monotonic."""

    request: CommandRequest
    word: CommandResult
    work: Work | None = None
    due_s: float = 0.0
    said_s: float = field(default=-SAID_EVERY_S)
    unsaid: bool = False


class Commands:
    """The verbs of this device. `verbs` maps (verb, target) to what does it."""

    def __init__(self, keep: StateStore, verbs: Mapping[tuple[str, str], Verb]) -> None:
        self._keep, self._verbs = keep, verbs
        self._done: dict[str, Any] = keep.get("commands", {})
        self._running: dict[str, _Run] = {}

    @property
    def names(self) -> list[str]:
        """What this device can do: 'verb target', sorted."""
        return [f"{verb} {target}" for verb, target in sorted(self._verbs)]

    def handle_request(self, request: CommandRequest, now_us: int, clock: ClockQuality) -> CommandResult:
        """A request came: it is accepted, or has ended, or ends here and now. `run_once` carries out what was accepted."""
        if request.id in self._running:
            return self._running[request.id].word
        if request.id in self._done:
            return from_plain(CommandResult, self._done[request.id])
        # A device whose clock was never set cannot tell that a command is old; the hub's own expiry still holds.
        if clock == "synced" and now_us > request.expires_us:
            return self._end(request, _word(request.id, "expired", now_us, "came after its expiry"), now_us)
        if (request.verb, request.target) not in self._verbs:
            text = f"this device has no '{request.verb} {request.target}'; it has: {', '.join(self.names) or 'none'}"
            return self._end(request, _word(request.id, "refused", now_us, text), now_us)
        self._forget(now_us)
        if len(self._done) >= MOST:
            text = f"this device remembers {MOST} commands that still hold, and no more"
            return _word(request.id, "refused", now_us, text)
        # Remembered before it is done: a crash in the middle must not do it twice.
        self._remember(request, _word(request.id, "failed", now_us, "interrupted by a restart"), now_us)
        run = _Run(request, _word(request.id, "accepted", now_us))
        self._running[request.id] = run
        return run.word

    def handle_cancel(self, cancel: CommandCancel, now_us: int) -> CommandResult:
        """The hub wants it no more: it ends now, if it has not yet."""
        run = self._running.get(cancel.id)
        if run is not None:
            return self._close(run, now_us)
        if cancel.id in self._done:
            return from_plain(CommandResult, self._done[cancel.id])
        return self._end(cancel, _word(cancel.id, "cancelled", now_us, "before it was heard of"), now_us)

    def run_once(self, now_us: int, now_s: float) -> list[CommandResult]:
        """Let each command that is due go one step; returns what is to be said of them."""
        words = []
        for run in list(self._running.values()):
            if run.due_s <= now_s:
                self._advance(run, now_us, now_s)
            if run.request.id not in self._running:
                words.append(run.word)
            elif run.unsaid and now_s - run.said_s >= SAID_EVERY_S:
                run.unsaid, run.said_s = False, now_s
                words.append(run.word)
        return words

    def stopped(self) -> list[CommandResult]:
        """The agent ends: so do the commands under way, with the word that a crash would have left."""
        words = []
        for run in list(self._running.values()):
            interrupted = from_plain(CommandResult, self._done[run.request.id])
            word = self._close(run, interrupted.t_us)
            words.append(word if word.state == "failed" else self._end(run.request, interrupted, word.t_us))
        return words

    # -- inside ------------------------------------------------------------------------------------

    def _advance(self, run: _Run, now_us: int, now_s: float) -> None:
        cid, verb = run.request.id, self._verbs[run.request.verb, run.request.target]
        try:
            done = _begin(run, verb(run.request)) if run.work is None else _go_on(run.work)
            if isinstance(done, Progress):
                run.due_s, run.unsaid = now_s + done.wait_s, True
                fraction = min(max(done.fraction, 0.0), 1.0)
                run.word = CommandResult(id=cid, state="running", t_us=now_us, text=done.text, progress=fraction)
                return
            run.word = CommandResult(id=cid, state="succeeded", t_us=now_us, output=done)
        except Exception as error:  # the hub must hear of it now, not after the command's expiry
            if isinstance(error, ValueError) and run.word.state == "accepted":
                run.word = _word(cid, "refused", now_us, str(error))
            else:
                log.exception("command.failed")
                run.word = _word(cid, "failed", now_us, f"{type(error).__name__}: {error}")
        self._end(run.request, run.word, now_us)

    def _close(self, run: _Run, now_us: int) -> CommandResult:
        run.word = _word(run.request.id, "cancelled", now_us, run.word.text)
        try:
            if run.work is not None:
                run.work.close()
        except Exception as error:  # what it had to put back, it could not
            log.exception("command.failed")
            run.word = _word(run.request.id, "failed", now_us, f"when cancelled: {type(error).__name__}: {error}")
        return self._end(run.request, run.word, now_us)

    def _end(self, asked: CommandRequest | CommandCancel, word: CommandResult, now_us: int) -> CommandResult:
        self._running.pop(word.id, None)
        self._remember(asked, word, now_us)
        return word

    def _remember(self, asked: CommandRequest | CommandCancel, word: CommandResult, now_us: int) -> None:
        self._done[word.id] = {**msgspec.to_builtins(word), "expires_us": asked.expires_us}
        self._forget(now_us)
        self._keep.put("commands", self._done)

    def _forget(self, now_us: int) -> None:
        for cid, old in list(self._done.items())[:-REMEMBERED]:
            # One that still holds may come again: forgotten, it would be done again.
            if old.get("expires_us", 0) < now_us and cid not in self._running:
                del self._done[cid]


def _word(cid: str, state: Any, now_us: int, text: str = "") -> CommandResult:
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
