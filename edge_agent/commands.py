"""Commands: verbs without a lasting state. One effect an id, however often the request comes (invariant W1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from edge_agent.keep import Keep
from shared.messages import ClockQuality, CommandRequest, CommandResult

log = logging.getLogger(__name__)

REMEMBERED = 200
Output = dict[str, str | float]
Verb = Callable[[CommandRequest], Output]
"""Carries out a command and returns its output; raises ValueError to refuse it."""


def top_processes(_request: CommandRequest) -> Output:
    """The five processes that use most CPU, measured over a third of a second. Dear: only when asked."""
    processes = [p for p in psutil.process_iter() if _primed(p)]
    psutil.cpu_percent(interval=0.3)
    rows: list[tuple[float, str]] = []
    for process in processes:
        try:
            rows.append((process.cpu_percent(), f"{process.name()} (pid {process.pid})"))
        except psutil.Error:
            continue
    return {name: load for load, name in sorted(rows, reverse=True)[:5]}


def _primed(process: psutil.Process) -> bool:
    try:
        process.cpu_percent()
    except psutil.Error:
        return False
    return True


class Commands:
    """The verbs of this device. `verbs` maps (verb, target) to what does it."""

    def __init__(self, keep: Keep, verbs: Mapping[tuple[str, str], Verb]) -> None:
        self._keep, self._verbs = keep, verbs
        self._done: dict[str, Any] = keep.get("commands", {})

    def run(self, request: CommandRequest, now_us: int, clock: ClockQuality) -> CommandResult:
        """Carry out `request` once; the same id again gets the first result again."""
        if request.id in self._done:
            return CommandResult(**self._done[request.id])
        result = self._run(request, now_us, clock)
        self._done[request.id] = {"id": result.id, "state": result.state, "t_us": result.t_us,
                                  "text": result.text, "output": result.output}  # fmt: skip
        for old in list(self._done)[:-REMEMBERED]:
            del self._done[old]
        self._keep.put("commands", self._done)
        return result

    def _run(self, request: CommandRequest, now_us: int, clock: ClockQuality) -> CommandResult:
        # A device whose clock was never set cannot tell that a command is old; the hub's own expiry still holds.
        if clock == "synced" and now_us > request.expires_us:
            return CommandResult(id=request.id, state="expired", t_us=now_us, text="came after its expiry")
        verb = self._verbs.get((request.verb, request.target))
        if verb is None:
            known = ", ".join(f"{v} {t}" for v, t in sorted(self._verbs)) or "none"
            text = f"this device has no '{request.verb} {request.target}'; it has: {known}"
            return CommandResult(id=request.id, state="refused", t_us=now_us, text=text)
        # Remembered before it is done: a crash in the middle must not do it twice.
        self._done[request.id] = {
            "id": request.id,
            "state": "failed",
            "t_us": now_us,
            "text": "interrupted by a restart",
        }
        self._keep.put("commands", self._done)
        try:
            return CommandResult(id=request.id, state="succeeded", t_us=now_us, output=verb(request))
        except ValueError as error:
            return CommandResult(id=request.id, state="refused", t_us=now_us, text=str(error))
        except Exception as error:  # the hub must hear of it now, not after the command's expiry
            log.exception("command.failed")
            return CommandResult(id=request.id, state="failed", t_us=now_us, text=f"{type(error).__name__}: {error}")
