"""A strict simulator of actions: rows in the hub's database, and effects in a world of its own that survives kills.

`SimulatedRunner` creates an action in the engine's transaction. `World.work` carries actions out as a worker does: the
effect first, then the note that it is done, so that a kill between them repeats the effect. The world dedupes by key,
as a device does, counts the effects that are new, and remembers every fault of its callers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import PlaybookRun
from cloud_hub.errors import HubError
from cloud_hub.playbooks.core.machine import Outcome
from cloud_hub.playbooks.core.plan import PlanStep
from cloud_hub.runtime.outgoing import OutgoingMessage

TABLE = sa.Table(
    "simulated_actions", sa.MetaData(), sa.Column("id", sa.String, primary_key=True), sa.Column("run", sa.String),
    sa.Column("step", sa.String), sa.Column("action", sa.String), sa.Column("attempt", sa.Integer),
    sa.Column("state", sa.String), sa.Column("text", sa.String),
)  # fmt: skip

Behaviour = Callable[[str, str, int], str]
"""(action, key, attempt) -> succeeded, failed, final, or never (it is under way until it is cancelled)."""


def install(db: Database) -> None:
    """Make the table of actions."""
    with db.engine.execution_options(writes=True).begin() as connection:
        TABLE.metadata.create_all(connection)


def remove(db: Database) -> None:
    """Drop the table again: a database of tests is used again only with the schema that it had."""
    with db.engine.execution_options(writes=True).begin() as connection:
        TABLE.metadata.drop_all(connection)


class SimulatedRunner:
    """Creates, reads and cancels simulated actions. The action `refused` is refused when it is created."""

    def start(self, session: Session, run: PlaybookRun, step: PlanStep, key: str, attempt: int, now_us: int) -> str:
        if step.action == "refused":
            raise HubError(409, "Forbidden", "the policy forbids it")
        return self._create(session, run.id, step.id, step.action, key, attempt)

    def undo(self, session: Session, run: PlaybookRun, step: PlanStep, ref: str, key: str, now_us: int) -> str:
        if step.action == "final":
            raise HubError(409, "Nothing to undo", "it has no undo")
        return self._create(session, run.id, step.id, "undo", key, 0)

    def _create(self, session: Session, run: str, step: str, action: str, key: str, attempt: int) -> str:
        ref = f"{key}#{attempt}"
        known = session.connection().execute(sa.select(TABLE.c.id).where(TABLE.c.id == ref)).first()
        assert known is None, f"{ref} is started twice"
        open_before = sa.select(TABLE.c.id).where(TABLE.c.id.startswith(f"{key}#"), TABLE.c.state == "running")
        assert session.connection().execute(open_before).first() is None, f"{key} is started while it runs"
        row = {
            "id": ref,
            "run": run,
            "step": step,
            "action": action,
            "attempt": attempt,
            "state": "running",
            "text": "",
        }
        session.connection().execute(sa.insert(TABLE), row)
        return ref

    def poll(self, session: Session, refs: Sequence[str]) -> Mapping[str, Outcome]:
        rows = session.connection().execute(sa.select(TABLE).where(TABLE.c.id.in_(refs))) if refs else ()
        return {row.id: _outcome(row.state, row.text) for row in rows}

    def cancel(self, session: Session, ref: str, reason: str, now_us: int) -> list[OutgoingMessage]:
        query = sa.update(TABLE).where(TABLE.c.id == ref, TABLE.c.state == "running")
        session.connection().execute(query.values(state="failed", text=f"cancelled: {reason}"))
        return []


def _outcome(state: str, text: str) -> Outcome:
    return Outcome(state="failed" if state == "final" else state, text=text, final=state == "final")  # type: ignore[arg-type]


def well(_action: str, _key: str, _attempt: int) -> str:
    """Every action succeeds."""
    return "succeeded"


def by_name(action: str, _key: str, attempt: int) -> str:
    """The action's name says how it goes: `fail`, `final`, `never`, `twice` (fails twice); others succeed."""
    if action == "twice":
        return "failed" if attempt < 2 else "succeeded"
    return {"fail": "failed", "final": "final", "never": "never"}.get(action, "succeeded")


class World:
    """What actions do, in a file beside the hub's."""

    def __init__(self, file: Path, behaviour: Behaviour = by_name) -> None:
        self._behaviour = behaviour
        self._file = sqlite3.connect(file, isolation_level=None, timeout=30, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode=WAL")
        columns = "n INTEGER PRIMARY KEY, key TEXT UNIQUE, asked INTEGER NOT NULL DEFAULT 1"
        self._file.execute(f"CREATE TABLE IF NOT EXISTS effects ({columns})")

    def work(self, db: Database, limit: int = 1000) -> int:
        """Carry out what is running, in the order of creation; returns how many ended."""
        with db.read() as session:
            query = sa.select(TABLE).where(TABLE.c.state == "running").order_by(TABLE.c.id).limit(limit)
            rows = [tuple(row) for row in session.connection().execute(query)]
        return sum(self._carry_out(db, *row[:1], row[3], row[4]) for row in rows)

    def _carry_out(self, db: Database, ref: str, action: str, attempt: int) -> bool:
        key = ref.partition("#")[0]
        state = self._behaviour(action, key, attempt)
        if state == "never":
            return False
        if state == "succeeded":
            self.effect(key)
        with db.write() as session:
            query = sa.update(TABLE).where(TABLE.c.id == ref, TABLE.c.state == "running")
            session.connection().execute(query.values(state=state, text=f"it {state}"))
        return True

    def work_together(self, db: Database) -> int:
        """`work` with one transaction for all, which costs no engine its time; for benchmarks."""
        with db.write() as session:
            rows = list(session.connection().execute(sa.select(TABLE).where(TABLE.c.state == "running")))
            for row in rows:
                self.effect(row.id.partition("#")[0])
            done = sa.update(TABLE).where(TABLE.c.state == "running").values(state="succeeded", text="it succeeded")
            session.connection().execute(done)
        return len(rows)

    def effect(self, key: str) -> None:
        """Do it, once for each key."""
        again = "ON CONFLICT (key) DO UPDATE SET asked = asked + 1"
        self._file.execute(f"INSERT INTO effects (key) VALUES (?) {again}", (key,))

    def effects(self) -> list[str]:
        """The keys of what was done, in order."""
        return [key for (key,) in self._file.execute("SELECT key FROM effects ORDER BY n")]

    def repeated(self) -> int:
        """How often an effect was asked for again."""
        return int(self._file.execute("SELECT coalesce(sum(asked - 1), 0) FROM effects").fetchone()[0])

    def close(self) -> None:
        self._file.close()
