"""What the hub's parts share, handed to each package when it builds its background workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cloud_hub.database.sessions import Database
from cloud_hub.runtime.worker import WorkerSpec
from cloud_hub.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class HubContext:
    """The database, the settings, and `connected`: whether the broker is connected now."""

    db: Database
    settings: Settings
    connected: Callable[[], bool]

    @property
    def max_twin_bytes(self) -> int:
        """The largest twin document that is stored."""
        return self.settings.twins.max_bytes


WorkerFactory = Callable[[HubContext], list[WorkerSpec]]
"""Each package with background workers has one; it returns no spec for a worker that the settings switch off."""
