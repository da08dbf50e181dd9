"""Stores what a run does: each entry of the journal with the state that it leads to, in one transaction."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import insert
from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.database.tables import PlaybookEntry, PlaybookRun
from cloud_hub.playbooks.core import machine
from cloud_hub.playbooks.core.machine import Entry, RunState
from cloud_hub.playbooks.core.plan import Plan

AUDITED = ("run.",)
"""Entries that also go into the audit trail; those of steps are audited as actions."""
CACHED = 1000
_INSERT = insert(PlaybookEntry)


class RunJournal:
    """The open run of one row: `plan`, `state`, and `record`, which changes both the state and the journal."""

    def __init__(self, session: Session, row: PlaybookRun) -> None:
        self._session, self.row = session, row
        self.plan = plan_of(row.id, row.plan)
        self.state = state_of(row)
        self._new: list[Entry] = []

    def record(self, kind: str, now_us: int, *, step: str = "", actor: str = "hub", **data: Any) -> None:
        """Apply one entry; `save` writes it down."""
        entry = Entry(kind=kind, step=step, t_us=now_us, data=data)
        machine.apply(self.state, entry)
        self._new.append(entry)
        if kind.startswith(AUDITED):
            trail.add(self._session, now_us, actor, f"playbook-{kind}", self.row.playbook, trace=self.row.traceparent,
                      run=self.row.id, **data)  # fmt: skip

    def save(self, now_us: int, *, waits: bool = False) -> None:
        """Write the new entries and the state. The engine looks at the run at once, or if it `waits`, when its next
        timer ends.
        """
        row, state = self.row, self.state
        new = [{"run": row.id, "seq": row.entries + number, **msgspec.to_builtins(entry)}
               for number, entry in enumerate(self._new, 1)]  # fmt: skip
        if new:
            self._session.connection().execute(_INSERT, new)
        row.entries, self._new = row.entries + len(new), []
        row.progress = msgspec.to_builtins(state)
        row.state, row.reason, row.deadline_us = state.state, state.reason, state.deadline_us
        row.awaits = bool(machine.refs(state))
        row.next_us = machine.next_us(self.plan, state, now_us) if waits else now_us
        row.ended_us = (row.ended_us or now_us) if state.state in (*machine.FINAL, "refused") else None
        self._session.add(row)


def state_of(row: PlaybookRun) -> RunState:
    """The state in a run's row."""
    return msgspec.convert(row.progress, RunState)


def entries(session: Session, run: str) -> list[PlaybookEntry]:
    """The journal of a run, from its beginning."""
    return list(session.exec(select(PlaybookEntry).where(PlaybookEntry.run == run).order_by(col(PlaybookEntry.seq))))


def plan_of(run: str, stored: dict[str, Any]) -> Plan:
    """The plan in a run's row; it never changes, so it is decoded once."""
    return _decoded(run, _Stored(stored))


class _Stored:
    """A stored plan that counts as equal to any other of the same run."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Stored)

    def __hash__(self) -> int:
        return 0


@lru_cache(CACHED)
def _decoded(_run: str, stored: _Stored) -> Plan:
    return msgspec.convert(stored.value, Plan)
