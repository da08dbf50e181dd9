"""Which runners and providers a model is not tried with any more, because its process died with them. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

CRASHES = 3
"""A runner whose process dies so often in a row while it runs inputs is left out."""
CPU = "CPUExecutionProvider"
WITH_PROVIDERS = "onnx"
"""This runner has several providers: the one in use is left out, not the runner."""


class Exclusions:
    """`reasons` of runners and providers by name. `given` are those left out from the start."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = dict(given)
        self.reasons = dict(given)
        self._crashes = 0

    def answered(self) -> None:
        """The model has answered an input: earlier crashes no longer count."""
        self._crashes = 0

    def died_opening(self, runner: str) -> None:
        """Its process died, or hung, while it opened this runner."""
        self.reasons[runner] = "its process died while it was opened"

    def died_running(self, runner: str, provider: str, reason: str) -> str:
        """Its process died with inputs that it had not answered; returns what is left out from now on, or ''."""
        self._crashes += 1
        if self._crashes < CRASHES:
            return ""
        self._crashes = 0
        name = provider if runner == WITH_PROVIDERS and provider != CPU else runner
        self.reasons[name] = f"it died {CRASHES} times in a row while it ran inputs: {reason}"[:300]
        return name

    def reset(self) -> None:
        """Try everything again."""
        self._crashes, self.reasons = 0, dict(self._given)
