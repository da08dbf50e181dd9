"""What holds for actions whatever happens, with seeded bugs that must be found.

No effect without an allow or the approvals that the policy asks for; no effect twice for a key, wherever the hub is
killed; a cancel wins over retries; what is forbidden never executes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from simulators import databases
from simulators.action_world import DECISIONS, ActionWorld, CrashingDatabase, CrashPoints, Killed, Violation
from sqlmodel import select

from cloud_hub.actions import service, worker
from cloud_hub.actions.core import approvals
from cloud_hub.actions.core.policy import Verdict
from cloud_hub.clock import new_id
from cloud_hub.database.tables import Action, FailedItem

EVENTS = 50
Kind = str


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ActionWorld]:
    db = CrashingDatabase(databases.sqlite(tmp_path))
    yield ActionWorld(db)
    db.close()


def hidden(world: ActionWorld) -> list[str]:
    """Violations that the worker caught as failures of an item."""
    with world.db.read() as session:
        return [row.error for row in session.exec(select(FailedItem)) if "Violation" in row.error]


def live(world: ActionWorld, seed: int, events: int = EVENTS) -> None:
    """A random life, and its invariants."""
    random = Random(seed)
    for number in range(events):
        world.advance(random, number if random.random() < 0.8 else max(0, number - 1))
        if found := hidden(world):
            raise Violation(found[0])
    world.finish()
    if found := hidden(world):
        raise Violation(found[0])
    world.check()


@pytest.mark.parametrize("seed", range(4))
def test_a_random_life_with_kills(world: ActionWorld, seed: int) -> None:
    live(world, seed)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(4, 104))
def test_many_random_lives_with_kills(world: ActionWorld, seed: int) -> None:
    live(world, seed, 150)


def one_life(world: ActionWorld, kind: Kind, at: int, failures: int = 1) -> bool:
    """An action from its proposal to its end, killed at one point; False if there are fewer points."""
    world.decisions = DECISIONS[1] if kind == "outside" else DECISIONS[0]
    world.restart()
    world.db.points = CrashPoints(at=at)
    steps: list[Callable[[], Any]] = [
        lambda: world.propose(kind, "hugo", f"{kind}-{at}", at, failures),
        lambda: world.approve(newest(world), "anna"),
        *[lambda: world.run(25.0)] * 4,
    ]
    killed = False
    for step in steps:
        try:
            step()
        except Killed:
            killed = True
            world._book()
            world.restart()
            step()  # the caller tries again
    world.finish()
    return killed


def newest(world: ActionWorld) -> str:
    with world.db.read() as session:
        return session.exec(select(Action).order_by(Action.id.desc())).first().id  # type: ignore[attr-defined,union-attr]


def every_point(world: ActionWorld, kind: Kind) -> int:
    """Kills at each point in turn; returns how many there are."""
    at = 1
    while one_life(world, kind, at):
        at += 1
    if found := hidden(world):
        raise Violation(found[0])
    world.check()
    return at - 1


@pytest.mark.parametrize("kind", ["outside", "twin"])
def test_a_kill_between_any_two_steps_loses_and_doubles_nothing(world: ActionWorld, kind: Kind) -> None:
    points = every_point(world, kind)
    with world.db.read() as session:
        rows = session.exec(select(Action).where(Action.type == kind)).all()
    assert points >= (10 if kind == "outside" else 6)
    assert len(rows) == points + 1
    if kind == "outside":
        assert [row.state for row in rows] == ["verified"] * len(rows)
        assert len(world.effects) == len(rows), "one effect a key"
    else:  # no device reports in this world, so the twin cannot show it
        assert {row.state for row in rows} == {"failed"}
        assert all(row.effect["version"] for row in rows)


# -- seeded bugs -----------------------------------------------------------------------------------


def same_person_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(approvals, "counted", lambda verdict, proposer, given: len(given) * 2)


def own_proposal(patch: pytest.MonkeyPatch) -> None:
    real = approvals.refusal

    def refusal(verdict: Verdict, proposer: str, *rest: Any) -> str:
        return real(verdict, "nobody", *rest)

    patch.setattr(approvals, "refusal", refusal)


def any_role(patch: pytest.MonkeyPatch) -> None:
    real = approvals.refusal

    def refusal(verdict: Verdict, proposer: str, given: Any, actor: str, roles: str) -> str:
        return real(verdict, proposer, given, actor, "operator")

    patch.setattr(approvals, "refusal", refusal)


def judged_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(worker, "_admitted", lambda *_: True)


def key_of_each_attempt(patch: pytest.MonkeyPatch) -> None:
    real = worker._claim

    def claim(*arguments: Any) -> Any:
        found = real(*arguments)
        return None if found is None else (found[0], found[1], new_id(), found[3])

    patch.setattr(worker, "_claim", claim)


def cancel_loses(patch: pytest.MonkeyPatch) -> None:
    real = service.ActionService.end

    def end(self: Any, session: Any, row: Action, state: str, *rest: Any) -> None:
        real(self, session, row, state, *rest)
        if state == "cancelled":
            row.state = "executing"

    patch.setattr(service.ActionService, "end", end)


@pytest.mark.parametrize("bug", [same_person_twice, own_proposal, any_role, judged_once, cancel_loses])
def test_a_random_life_finds_a_seeded_bug(tmp_path: Path, bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    for seed in range(10):
        (tmp_path / str(seed)).mkdir()
        db = CrashingDatabase(databases.sqlite(tmp_path / str(seed)))
        try:
            live(ActionWorld(db), seed, 150)
        except Violation:
            return
        finally:
            db.close()
    pytest.fail("no seed found the bug")


def test_the_kills_find_a_key_that_changes(world: ActionWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    key_of_each_attempt(monkeypatch)
    with pytest.raises(Violation, match="twice"):
        every_point(world, "outside")
