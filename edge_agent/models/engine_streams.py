"""The streams of an engine: who gets its results, its state and its events."""

from __future__ import annotations

from typing import Any, Protocol

from edge_agent import clock
from edge_agent.models.child import InFlight
from edge_agent.models.wire import Ready
from shared.models.gate import Result

REFUSALS_S = 60.0
"""Refused inputs of a stream are told at most so often."""


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


class EngineStreams:
    """Streams by number, and the state that they were told."""

    def __init__(self) -> None:
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._refusals: dict[int, tuple[str, float]] = {}
        self.state: dict[str, Any] = {"state": "unloaded"}

    def __len__(self) -> int:
        return len(self._streams)

    def attach(self, stream: Stream) -> int:
        """Add a stream; returns its number."""
        self._last += 1
        self._streams[self._last] = stream
        return self._last

    def detach(self, number: int) -> None:
        """Remove a stream."""
        self._streams.pop(number, None)

    def report(self, **changes: Any) -> None:
        """Change the reported state."""
        before, self.state = self.state, self.state | changes
        if before != self.state:
            for stream in list(self._streams.values()):
                stream.engine_changed()

    def report_ready(self, ready: Ready, starts: int, pid: int) -> None:
        """A process serves; an event tells what could not be used, when that has changed."""
        before = self.state.get("refused")
        self.report(
            state="running", starts=starts, pid=pid, reason="", version=ready.version, variant=ready.variant,
            digest=ready.digest, runner=ready.runner, provider=ready.provider, precision=ready.precision,
            device=ready.device, refused=ready.refused,
        )  # fmt: skip
        if ready.refused and ready.refused != before:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in ready.refused.items())
            self.event("warning", f"runs on {ready.provider}. Not used: {reasons}")

    def event(self, level: str, text: str) -> None:
        """Tell every stream."""
        for stream in list(self._streams.values()):
            stream.engine_event(level, text)

    def answer(self, flight: InFlight, result: Result | None, reason: str, run_s: float = 0.0) -> None:
        """Give a stream the result of its input, or the reason why there is none."""
        stream = self._streams.get(flight.stream)
        if stream is not None:
            stream.answered(flight, result, reason, run_s)

    def refused(self, number: int, reason: str) -> None:
        """The model could not take an input: said once, and again when the reason changes, not for each frame."""
        now, (before, said_s) = clock.monotonic_s(), self._refusals.get(number, ("", -REFUSALS_S))
        if reason == before or now - said_s < REFUSALS_S:
            return
        self._refusals[number] = (reason, now)
        self.report(refused_input=reason[:500])
        if number in self._streams:
            self._streams[number].engine_event(
                "warning", f"the model cannot take an input, which is escalated: {reason}"
            )

    def forget_refusals(self) -> None:
        """Another process serves: what it cannot take is told anew."""
        self._refusals.clear()
        self.state = {key: value for key, value in self.state.items() if key != "refused_input"}
