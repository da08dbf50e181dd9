"""An engine over a real database with simulated actions, and a clock that tests move."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from simulators import step_runner

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import PlaybookRun
from cloud_hub.playbooks import journal, service
from cloud_hub.playbooks.core import machine, plan, spec
from cloud_hub.playbooks.core.machine import RunState
from cloud_hub.playbooks.core.verdicts import StepVerdict
from cloud_hub.playbooks.engine import Engine

SECOND = 1_000_000
START = 1_700_000_000 * SECOND


def plan_of(steps: str, name: str = "it", deadline: str = "1h") -> plan.Plan:
    """The plan of a playbook with these steps, written as YAML without the indent."""
    lines = "\n".join(f"  {line}" for line in steps.strip("\n").splitlines())
    return plan.make(spec.read(f"deadline: {deadline}\nsteps:\n{lines}\n", name), {}, lambda _: None)  # type: ignore[arg-type, return-value]


class PlaybookWorld:
    """Runs of playbooks on `db`; `now` is the time of the engine."""

    def __init__(self, db: Database, file: Path, behaviour: step_runner.Behaviour = step_runner.by_name) -> None:
        self.db, self.now = db, START
        step_runner.install(db)
        self.effects = step_runner.World(file, behaviour)
        self.runner = step_runner.SimulatedRunner()
        self.engine = Engine(db, self.runner, clock=lambda: self.now, wall=lambda: self.now)

    def propose(self, made: plan.Plan, verdicts: Sequence[StepVerdict] = (), **more: Any) -> str:
        with self.db.write() as session:
            return service.propose(session, made, verdicts, self.now, actor="anna", **more).id

    def turn(self, seconds: float = 0.0) -> None:
        """The engine looks, then actions are carried out, then time passes."""
        while self.engine.run_once().again:
            pass
        self.effects.work(self.db)
        self.now += int(seconds * SECOND)

    def finish(self, run: str, seconds: float = 1.0, turns: int = 400) -> PlaybookRun:
        """Let time pass until the run has ended."""
        for _ in range(turns):
            row = self.row(run)
            if row.state in machine.FINAL:
                return row
            self.turn(seconds)
        raise AssertionError(f"not ended: {row.progress}")

    def row(self, run: str) -> PlaybookRun:
        with self.db.read() as session:
            return service.get(session, run)

    def steps(self, run: str) -> dict[str, str]:
        return {name: step.state for name, step in journal.state_of(self.row(run)).steps.items()}

    def kinds(self, run: str) -> list[str]:
        """The journal as `kind step`."""
        with self.db.read() as session:
            return [f"{entry.kind} {entry.step}".strip() for entry in journal.entries(session, run)]

    def check_replay(self, run: str) -> None:
        """W6: the journal, applied from the beginning, gives the stored state."""
        row = self.row(run)
        with self.db.read() as session:
            entries = [machine.Entry(kind=e.kind, step=e.step, t_us=e.t_us, data=e.data)
                       for e in journal.entries(session, run)]  # fmt: skip
        replayed = machine.replay(msgspec.convert(row.plan, plan.Plan), entries)
        assert msgspec.to_builtins(replayed) == msgspec.to_builtins(msgspec.convert(row.progress, RunState))

    def close(self) -> None:
        self.effects.close()
        step_runner.remove(self.db)
