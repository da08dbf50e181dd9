"""Monitors disk and stores; reports changes as events and in the twin."""

from __future__ import annotations

from edge_agent.store.disk import Disk
from edge_agent.store.outbox import Outbox
from shared.protocol.messages import Event, Level


class StoreMonitor:
    """`state` maps each store to what is wrong with it, or ''."""

    def __init__(self, disk: Disk, outbox: Outbox) -> None:
        self._disk, self._outbox = disk, outbox
        self.state = {"disk": "", "outbox.sqlite": "", "kept.sqlite": ""}

    def check(self, now_us: int) -> list[Event]:
        """Restore the disk reserve if possible; returns an event for each change. Called about once a second."""
        if self._disk.recovered():
            self._outbox.restore_page_limit()
        state = self.state | {"disk": "full" if self._disk.full else "", **self._disk.damaged}
        changed = {name: reason for name, reason in state.items() if self.state.get(name, "") != reason}
        self.state = state
        return [_event(now_us, name, reason) for name, reason in changed.items()]


def _event(now_us: int, name: str, reason: str) -> Event:
    level: Level = "error" if reason else "info"
    return Event(t_us=now_us, source="stores", text=f"{name}: {reason or 'well again'}", level=level)
