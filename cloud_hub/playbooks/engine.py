"""Runs playbooks: a worker of the hub that takes every run as far as it can go, the earliest deadline first.

What a run does and that it has done so are one transaction: the entry of the journal, the state, and the row of the
action that it starts. A hub that is killed anywhere has either done all of it or nothing, and any hub of the same
database goes on: the database is the lock, the fence and the memory (ADR 0023). A run that fails to advance is retried
by `runtime.items` and then parked; others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import or_, tuple_
from sqlmodel import Session, col, select

from cloud_hub import query
from cloud_hub.clock import now_us as wall_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import PlaybookRun
from cloud_hub.errors import HubError
from cloud_hub.playbooks.clock import steady
from cloud_hub.playbooks.core import machine
from cloud_hub.playbooks.core.conditions import holds
from cloud_hub.playbooks.core.machine import ACTIVE, Decision, Outcome, RunState
from cloud_hub.playbooks.core.plan import Plan, PlanStep
from cloud_hub.playbooks.journal import RunJournal, plan_of, state_of
from cloud_hub.playbooks.runner import StepRunner
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.runtime.worker import WorkResult

log = logging.getLogger(__name__)

PAGE = 200
BATCH = 20
"""Runs that advance in one transaction."""
ROUNDS = 50
"""Times that one run is decided anew in one transaction: a step that ends at once lets the next begin."""
RUNNING = Outcome(state="running")
Outcomes = Mapping[str, Outcome]
EndListener = Callable[[Session, PlaybookRun, int], None]
"""Called in the transaction in which a run ends."""


@dataclass(slots=True)
class Advanced:
    """What one transaction has done: how many runs advanced, and messages to publish after its commit."""

    runs: int = 0
    messages: list[OutgoingMessage] = field(default_factory=list)


class Engine:
    """Advances runs in `db` by `runner`. `clock` is that of timers, `wall` the one that actions and listeners get."""

    def __init__(
        self, db: Database, runner: StepRunner, clock: Callable[[], int] = steady.now_us,
        wall: Callable[[], int] = wall_us, on_end: EndListener = lambda session, run, now_us: None,
    ) -> None:  # fmt: skip
        self._db, self._runner, self._clock, self._wall, self._on_end = db, runner, clock, wall, on_end

    def run_once(self) -> WorkResult:
        """Look at every run that is due or awaits an action, and advance those that can."""
        items, done = WorkItems(self._db, "playbooks", self._wall()), list[Advanced]()
        for able in self._pages(items):
            for first in range(0, len(able), BATCH):
                done += items.batch("run", able[first : first + BATCH], self._advance_all)
        messages = [message for batch in done for message in batch.messages]
        again = any(batch.runs for batch in done)
        return items.result(again=again, messages=messages, wake=["actions"] if again else ())

    # -- which

    def _pages(self, items: WorkItems) -> Iterator[list[str]]:
        """Runs that can advance, page by page, the earliest deadline first. Nothing is locked or written."""
        after: tuple[int, str] | None = None
        while True:
            now = self._clock()
            with self._db.read() as session:
                rows = self._due(session, items, now, after)
                outcomes = self._runner.poll(session, [ref for row in rows for ref in _refs(row)])
                able = [row.id for row in rows if self._able(session, row, outcomes, now)]
            yield able
            if len(rows) < PAGE:
                return
            after = (rows[-1].deadline_us, rows[-1].id)

    def _able(self, session: Session, row: PlaybookRun, outcomes: Outcomes, now_us: int) -> bool:
        """Whether the run can advance. One that cannot even be read can: it fails on its own, and is parked."""
        try:
            plan, state = plan_of(row.id, row.plan), state_of(row)
            return bool(self._decide(session, row.id, plan, state, outcomes, now_us))
        except Exception:  # noqa: BLE001 - logged with its trace when it advances
            return True

    def _due(self, session: Session, items: WorkItems, now_us: int, after: tuple[int, str] | None) -> list[PlaybookRun]:
        place = (col(PlaybookRun.deadline_us), col(PlaybookRun.id))
        chosen = select(PlaybookRun).where(
            col(PlaybookRun.state).in_(ACTIVE), items.ready("run", PlaybookRun.id),
            or_(col(PlaybookRun.awaits), col(PlaybookRun.next_us) <= now_us),
        )  # fmt: skip
        if after is not None:
            chosen = chosen.where(tuple_(*place) > after)
        return list(session.exec(chosen.order_by(*place).limit(PAGE)))

    # -- what

    def _decide(
        self, session: Session, run: str, plan: Plan, state: RunState, outcomes: Outcomes, now_us: int
    ) -> list[Decision]:
        views: dict[str, dict[str, Any]] = {}

        def judge(step: PlanStep, text: str, current: RunState) -> bool:
            if step.subject not in views:
                views[step.subject] = query.view(session, step.subject) if step.subject else {}
            return holds(text, machine.view(plan, step, current, views[step.subject]))

        return machine.decide(run, plan, state, lambda ref: outcomes.get(ref, RUNNING), judge, now_us)

    def _advance_all(self, numbers: Sequence[str]) -> Advanced:
        """Advance these runs in one transaction."""
        done = Advanced()
        with self._db.write() as session:
            active = (col(PlaybookRun.id).in_(numbers), col(PlaybookRun.state).in_(ACTIVE))
            rows = {row.id: row for row in session.exec(select(PlaybookRun).where(*active).with_for_update())}
            outcomes = self._runner.poll(session, [ref for row in rows.values() for ref in _refs(row)])
            for number in numbers:
                if number in rows:
                    self._advance(session, rows[number], outcomes, done)
        return done

    def _advance(self, session: Session, row: PlaybookRun, outcomes: Outcomes, done: Advanced) -> None:
        now, journal = self._clock(), RunJournal(session, row)
        decisions: list[Decision] = []
        for _ in range(ROUNDS):
            decisions = self._decide(session, row.id, journal.plan, journal.state, outcomes, now)
            for decision in decisions:
                self._carry_out(session, journal, decision, now, done)
            if not decisions:
                break
        journal.save(now, waits=not decisions)
        if journal.state.state in machine.FINAL:
            self._on_end(session, row, self._wall())
            fields = {"run": row.id, "playbook": row.playbook, "state": row.state, "reason": row.reason}
            log.info("playbook.ended", extra={"fields": fields, "trace": row.traceparent})
        done.runs += 1

    def _carry_out(
        self, session: Session, journal: RunJournal, decision: Decision, now_us: int, done: Advanced
    ) -> None:  # fmt: skip
        """The effect of a decision with its entry; a refused action is a failed step."""
        data = dict(decision.data)
        step = next((step for step in journal.plan.steps if step.id == decision.step), None)
        try:
            if decision.effect and step is not None:
                with session.begin_nested():
                    data |= self._effect(session, journal, step, decision, done)
        except HubError as error:
            self._refused(journal, decision, step, str(error), now_us)
            return
        journal.record(decision.kind, now_us, step=decision.step, **data)

    def _effect(
        self, session: Session, journal: RunJournal, step: PlanStep, decision: Decision, done: Advanced
    ) -> dict[str, str]:  # fmt: skip
        now, row, ref = self._wall(), journal.row, str(decision.data.get("ref", ""))
        if decision.effect == "start":
            attempt = int(decision.data["attempt"])
            return {"ref": self._runner.start(session, row, step, decision.key, attempt, now)}
        if decision.effect == "undo":
            return {"ref": self._runner.undo(session, row, step, ref, decision.key, now)}
        done.messages += self._runner.cancel(session, ref, journal.state.reason, now)
        return {}

    def _refused(
        self, journal: RunJournal, decision: Decision, step: PlanStep | None, reason: str, now_us: int
    ) -> None:
        if decision.effect == "undo":
            outcome = f"could not be undone: {reason}"
            journal.record("step.undone", now_us, step=decision.step, outcome=outcome)
            return
        if decision.effect == "cancel":  # it cannot be cancelled: its own end is awaited
            journal.record(decision.kind, now_us, step=decision.step, outcome=reason)
            return
        on_failure = step.on_failure if step is not None else "stop"
        journal.record("step.failed", now_us, step=decision.step, outcome=reason, on_failure=on_failure)


def _refs(row: PlaybookRun) -> list[str]:
    """The actions that a run awaits; none if its state cannot be read."""
    try:
        return machine.refs(state_of(row)) if row.awaits else []
    except msgspec.ValidationError:
        return []
