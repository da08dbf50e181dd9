"""Hubs that are killed (SIGKILL) in the middle of playbooks, at a chosen commit or effect, and what is left of it.

    python -m simulators.playbook_kills URL FOLDER [--kills 20] [--hubs 1] [--seed 7] [--hasty]

Prints one line of JSON. The process forks a hub for each kill, so that none pays for its imports. Hubs are killed just
before a commit, just after one, and before and after an effect in the world, which dedupes by key as a device does.
`--hasty` is the negative control: hubs that act before their transaction is committed, without a key.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from simulators import step_runner
from simulators.playbook_world import plan_of
from sqlalchemy import event
from sqlmodel import Session, select

from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import PlaybookRun
from cloud_hub.playbooks import journal, service
from cloud_hub.playbooks.core import machine, plan
from cloud_hub.playbooks.engine import Engine

WELL = """
a: {action: note}
b1: {action: twice, needs: [a], retry: {wait: 20ms}}
b2: {action: note, needs: [a], repeat: {times: 2, every: 20ms}}
b3: {wait: 30ms, needs: [a]}
c: {action: note, needs: [b1, b2, b3]}
"""
UNDONE = """
a: {action: note}
b: {action: note, needs: [a]}
c: {action: fail, needs: [b], retry: {times: 1, wait: 20ms}, on_failure: undo}
"""
EFFECTS = {"well": 5, "undone": 4}
"""Effects of a whole run."""
BATCH = 4


@dataclass(frozen=True, slots=True)
class Report:
    """`lost` are effects that a run says it had and the world does not know, `doubled` those beyond one for each."""

    kills: int
    runs: int
    effects: int
    lost: int
    doubled: int
    repeated: int
    unfinished: int
    diverged: int


class Killer:
    """Kills this process at the `at`-th point it comes to; 0 for never."""

    def __init__(self, at: int) -> None:
        self._left = at

    def __call__(self, *_: object) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class FatalWorld(step_runner.World):
    """A world before and after whose effects the hub may be killed."""

    def __init__(self, file: Path, killer: Killer) -> None:
        super().__init__(file)
        self._killer = killer

    def effect(self, key: str) -> None:
        self._killer()
        super().effect(key)
        self._killer()

    def act_without_key(self, key: str) -> None:
        """An effect that nothing recognises when it comes again."""
        again = "~again" * self.effects().count(key)
        super().effect(key + again)
        self._killer()


class HastyRunner(step_runner.SimulatedRunner):
    """Acts when an action is created, before the transaction is committed."""

    def __init__(self, world: FatalWorld) -> None:
        self._world = world

    def start(self, session: Session, run: PlaybookRun, step: plan.PlanStep, key: str, attempt: int, now: int) -> str:
        ref = super().start(session, run, step, key, attempt, now)
        if step.action == "note":
            self._world.act_without_key(key)
        return ref


def hub(url: str, file: Path, at: int, hasty: bool) -> None:
    """A hub's workers, until every run has ended or the hub is killed."""
    killer, db = Killer(at), Database(url)
    event.listen(db.engine, "commit", killer)
    event.listen(Session, "after_commit", killer)
    world = FatalWorld(file, killer)
    engine = Engine(db, HastyRunner(world) if hasty else step_runner.SimulatedRunner())
    while _open(db):
        engine.run_once()
        world.work(db)
        time.sleep(0.005)
    world.close()
    db.close()


def _open(db: Database) -> bool:
    with db.read() as session:
        active = select(PlaybookRun.id).where(PlaybookRun.state.in_(machine.ACTIVE)).limit(1)  # type: ignore[attr-defined]
        return session.exec(active).first() is not None


def forked(url: str, file: Path, at: int, hasty: bool = False) -> int:
    """The process id of a hub."""
    process = os.fork()
    if process == 0:
        try:
            hub(url, file, at, hasty)
        except BaseException as error:  # noqa: BLE001 - reported by the exit code, and never returns to the caller
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    return process


def campaign(url: str, folder: Path, kills: int, hubs: int, seed: int, hasty: bool = False) -> Report:
    """Propose runs and kill hubs until there were so many kills; then let one hub finish."""
    chance, file, count, runs = random.Random(seed), folder / "world.sqlite", 0, 0
    prepare(url, file)
    while count < kills:
        runs += _fill(url)
        processes = [forked(url, file, chance.randint(1, 60), hasty) for _ in range(hubs)]
        for process in processes:
            status = os.waitpid(process, 0)[1]
            count += os.WIFSIGNALED(status)
            if os.WIFEXITED(status) and os.WEXITSTATUS(status):
                raise RuntimeError("a hub failed; its error is above")
    os.waitpid(forked(url, file, 0), 0)
    return examine(url, file, count)


def prepare(url: str, file: Path) -> None:
    db = Database(url)
    step_runner.install(db)
    db.close()
    step_runner.World(file).close()


def _fill(url: str) -> int:
    """Propose runs if fewer than BATCH are open."""
    db = Database(url)
    with db.write() as session:
        query = select(PlaybookRun.id).where(PlaybookRun.state.in_(machine.ACTIVE))  # type: ignore[attr-defined]
        missing = BATCH - len(session.exec(query).all())
        for number in range(max(0, missing)):
            made = plan_of(UNDONE, "undone") if number % 4 == 3 else plan_of(WELL, "well")
            service.propose(session, made, (), now_us(), actor="test")
    db.close()
    return max(0, missing)


def examine(url: str, file: Path, kills: int) -> Report:
    """Compare what the runs say with what the world knows."""
    db, world = Database(url), step_runner.World(file)
    done = world.effects()
    with db.read() as session:
        rows = list(session.exec(select(PlaybookRun)))
        expected = [key for row in rows for key in _expected(row)]
        diverged = sum(_diverged(session, row) for row in rows)
    repeated = world.repeated()
    world.close()
    db.close()
    ends = {"well": "succeeded", "undone": "failed"}
    return Report(
        kills=kills, runs=len(rows), effects=len(done), lost=len(set(expected) - set(done)),
        doubled=len(done) - len(set(done)) + len(set(done) - set(expected)), repeated=repeated, diverged=diverged,
        unfinished=sum(row.state != ends[row.playbook] for row in rows)
        + (len(expected) != sum(EFFECTS[row.playbook] for row in rows)),
    )  # fmt: skip


def _expected(row: PlaybookRun) -> list[str]:
    """The keys of the effects that a run says it had."""
    keys, state = [], journal.state_of(row)
    for step in journal.plan_of(row.id, row.plan).steps:
        stands = state.steps[step.id]
        if step.kind == "action" and stands.state in {"succeeded", "undone"}:
            keys += [f"{row.id}/{step.id}/{stands.epoch}.{number}" for number in range(stands.round + 1)]
            keys += [f"{keys[-1]}/undo"] if stands.state == "undone" else []
    return keys


def _diverged(session: Session, row: PlaybookRun) -> bool:
    """W6: whether the journal gives another state than the row."""
    entries = [machine.Entry(kind=e.kind, step=e.step, t_us=e.t_us, data=e.data)
               for e in journal.entries(session, row.id)]  # fmt: skip
    state = machine.replay(msgspec.convert(row.plan, plan.Plan), entries)
    return msgspec.to_builtins(state) != msgspec.to_builtins(journal.state_of(row))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    for name, default in (("kills", 20), ("hubs", 1), ("seed", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--hasty", action="store_true")
    asked = parser.parse_args()
    found = campaign(asked.url, asked.folder, asked.kills, asked.hubs, asked.seed, asked.hasty)
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
