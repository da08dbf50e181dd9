"""The Runner's contract, the agent's second door. Runners live in the inference child, never in the agent.

An entry point in group `tidegate.runners` names a function `open_runner(bundle)` that returns a Runner or
raises ModelError. Only verified bytes reach it.
"""

from __future__ import annotations

from typing import Protocol

from shared.gate import Result


class Runner(Protocol):
    """Runs one model on one frame at a time."""

    provider: str
    """What really executes it, such as CPUExecutionProvider: reported, because a silent fall-back costs dear."""

    def run(self, shape: tuple[int, int], data: bytes) -> Result:
        """Answer one frame of uint8 grey values; raises ModelError for a frame that does not fit the model."""
        ...
