"""The interface of model runner plug-ins. Runners run in the inference process, never in the agent's process.

An entry point in group `tidegate.runners` names a function `open_runner(bundle)` that returns a Runner or
raises ModelError. The bundle has been verified.
"""

from __future__ import annotations

from typing import Protocol

from shared.models.gate import Result


class Runner(Protocol):
    """Runs a model on one frame at a time."""

    provider: str
    """The execution provider in use, such as CPUExecutionProvider; reported, because fall-backs are silent and slow."""

    def run(self, shape: tuple[int, int], data: bytes) -> Result:
        """Run the model on a frame of uint8 grey values; raises ModelError for a frame that does not fit the model."""
        ...
