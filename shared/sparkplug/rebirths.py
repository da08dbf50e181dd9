"""Limits of rebirth requests to one node: exponential backoff. `rebirth_queue` limits those to all nodes together."""

from __future__ import annotations

from dataclasses import dataclass

QUIET_MS = 60_000
"""The backoff of a node starts again when it needed no request for this time, and for four times its last wait."""


@dataclass(slots=True)
class NodeBackoff:
    """When one node may be asked again: `first_ms` after the first request, then twice as long each time."""

    first_ms: int
    limit_ms: int
    wait_ms: int = 0
    asked_ms: int | None = None
    requests: int = 0

    def due(self, now_ms: int) -> bool:
        """Whether the node may be asked now. A clock that stepped back does not block it."""
        return self.asked_ms is None or not 0 <= now_ms - self.asked_ms < self.wait_ms

    def asked(self, now_ms: int) -> None:
        """The node was asked now."""
        since = None if self.asked_ms is None else now_ms - self.asked_ms
        quiet = since is None or since > max(QUIET_MS, 4 * self.wait_ms)
        self.wait_ms = self.first_ms if quiet else min(2 * self.wait_ms, self.limit_ms)
        self.asked_ms = now_ms
        self.requests += 1
