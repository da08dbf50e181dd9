"""An inference process of an engine, and its watchdog."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.models.child import InferenceChild
from edge_agent.models.wire import ModelSpec, Ready


@dataclass(slots=True)
class InferenceProcess:
    """An inference process and what is known of it. `opening` is the runner that it is opening, `ready` what runs
    in it, `reason` why it gave up, `killed` why it was killed."""

    child: InferenceChild
    started_s: float
    heard_s: float
    opening: str = ""
    ready: Ready | None = None
    reason: str = ""
    killed: str = ""

    def watch(self, now: float, spec: ModelSpec) -> None:
        """Kill it when it is not ready in time, or has inputs and gives no result."""
        if self.killed:
            return
        if self.ready is None:
            late, what = now - self.started_s > spec.load_s, f"was not ready within {spec.load_s:g} s"
        else:
            late = bool(self.child.in_flight) and now - self.heard_s > spec.watchdog_s
            what = f"gave no result for {spec.watchdog_s:g} s"
        if late:
            self.killed = f"the model {what} and was killed"
            self.child.kill()
