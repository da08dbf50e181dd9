"""Why the gateway does not answer a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Code = Literal[
    "queue_full", "deadline", "budget", "site", "model", "class", "context", "unavailable", "engine_refused", "invalid",
    "replaced", "stopping", "tool_loop", "bad_answer",
]  # fmt: skip
STATUS: dict[Code, int] = {
    "queue_full": 429, "deadline": 504, "budget": 429, "site": 403, "model": 404, "class": 404, "context": 400,
    "unavailable": 503, "engine_refused": 400, "invalid": 400, "replaced": 429, "stopping": 503, "tool_loop": 400,
    "bad_answer": 502,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A refused request: `reason` names the cause and the cure, `retry_after_s` is when to try again, if ever."""

    code: Code
    reason: str
    retry_after_s: float | None = None

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.code]
