"""Watches the disk and the stores: what changed there is reported as events and in the twin."""

from __future__ import annotations

from edge_agent.store.disk import Disk
from edge_agent.store.outbox import Outbox
from shared.messages import Event, Level


class StoreMonitor:
    """`state` is the reason by name of what is wrong; '' for what is well."""

    def __init__(self, disk: Disk, outbox: Outbox) -> None:
        self._disk, self._outbox = disk, outbox
        self.state = {"disk": "", "outbox.sqlite": "", "kept.sqlite": ""}

    def check(self, now_us: int) -> list[Event]:
        """About once a second: reserve disk space again when there is room. Returns an event for each change."""
        if self._disk.recovered():
            self._outbox.restore_page_limit()
        state = self.state | {"disk": "full" if self._disk.full else "", **self._disk.damaged}
        changed = {name: reason for name, reason in state.items() if self.state.get(name, "") != reason}
        self.state = state
        return [_event(now_us, name, reason) for name, reason in changed.items()]


def _event(now_us: int, name: str, reason: str) -> Event:
    level: Level = "error" if reason else "info"
    return Event(t_us=now_us, source="stores", text=f"{name}: {reason or 'well again'}", level=level)
