"""A hub of actions that is killed at any point: before and after each commit, and before and after each outer effect.

The world keeps its own account of who approved what, and checks at each effect that it was admitted. Nothing in it
asks the code under test whether something is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from simulators.births import born
from sqlmodel import Session, select

from cloud_hub.actions import worker
from cloud_hub.actions.catalogue import Catalogue, Parameters, Request, Tools
from cloud_hub.actions.core.policy import Policy, Risk, Rule
from cloud_hub.actions.service import ActionService, Proposal
from cloud_hub.actions.types.base import BaseAction
from cloud_hub.actions.types.twin import TwinAction
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Action, TwinChange
from cloud_hub.errors import HubError
from cloud_hub.twins.core.owners import ACTION
from shared.errors import NotReady
from shared.protocol.messages import Birth

NOW, SECOND = 1_800_000_000_000_000, 1_000_000
DEVICE = "press-3"
PEOPLE = {"anna": "operator", "bert": "viewer operator", "carl": "operator", "vera": "viewer", "hugo": "admin auditor"}
EVENTS = ("propose", "propose", "approve", "approve", "approve", "cancel", "policy", "run", "run")
DECISIONS: tuple[dict[str, tuple[str, int]], ...] = (
    {"outside": ("allow", 0), "twin": ("approve", 1)},
    {"outside": ("approve", 1), "twin": ("approve", 2)},
    {"outside": ("approve", 2), "twin": ("allow", 0)},
    {"outside": ("forbid", 0), "twin": ("forbid", 0)},
)


class Killed(BaseException):
    """The hub ends here, as by kill -9."""


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass
class CrashPoints:
    """Counts the points at which a hub can be killed; kills at point `at`, from 1 on."""

    at: int = 0
    count: int = 0

    def reach(self) -> None:
        """One more point."""
        self.count += 1
        if self.count == self.at:
            raise Killed


class CrashingDatabase(Database):
    """Kills the hub before a commit, which is then rolled back, or after it."""

    def __init__(self, url: str) -> None:
        self.points = CrashPoints()
        super().__init__(url)

    @contextmanager
    def write(self, *devices: str, scope: Any = None) -> Iterator[Session]:
        """A write session with two points."""
        with super().write(*devices, scope=scope) as session:
            yield session
            self.points.reach()
        self.points.reach()


class OutsideParameters(Parameters, frozen=True):
    """How often the call fails first."""

    failures: int = 0


class Outside(BaseAction):
    """Another system, which keeps idempotency keys."""

    name, schema, undoable, timeout_s = "outside", OutsideParameters, False, 10.0

    def __init__(self, world: ActionWorld) -> None:
        self.world = world

    def risk(self, parameters: Any) -> Risk:
        """Medium."""
        return "medium"

    def details(self, parameters: Any) -> tuple[str, ...]:
        """`post/x`."""
        return ("post/x",)

    def snapshot(self, session: Session, request: Request) -> dict[str, Any]:
        """The point of no return."""
        self.world.check_admitted(request, self.name)
        return {}

    def prepare(self, request: Request) -> dict[str, Any]:
        """Nothing."""
        return {}

    def call(self, request: Request, key: str, now_us: int) -> dict[str, Any]:
        """Two points around the effect."""
        self.world.check_call(request)
        self.world.db.points.reach()
        if self.world.calls.setdefault(request.id, 0) < request.parameters.failures:
            self.world.calls[request.id] += 1
            raise NotReady("it is busy")
        if key not in self.world.keys:
            self.world.keys.add(key)
            self.world.effects.append(request.id)
        self.world.db.points.reach()
        return {"done": True}


class CheckedTwin(TwinAction):
    """The real type, with the world's check."""

    def __init__(self, world: ActionWorld) -> None:
        super().__init__(Tools())
        self.world = world

    def snapshot(self, session: Session, request: Request) -> dict[str, Any]:
        """The point of no return."""
        self.world.check_admitted(request, "twin")
        return super().snapshot(session, request)


@dataclass
class ActionWorld:
    """One hub, its database and the other system."""

    db: CrashingDatabase
    now: int = NOW
    decisions: dict[str, tuple[str, int]] = field(default_factory=lambda: DECISIONS[0])
    proposers: dict[str, str] = field(default_factory=dict)
    granted: dict[str, set[str]] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    calls: dict[str, int] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    effects: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        with self.db.write() as session:
            born(session, Birth(device=DEVICE, session="s", epoch="e"), NOW)
        self.restart()

    def restart(self) -> None:
        """A hub that was killed comes back."""
        self.db.points = CrashPoints()
        catalogue = Catalogue({"outside": Outside(self), "twin": CheckedTwin(self)})
        self.service = ActionService(policy=self._policy(), catalogue=catalogue)

    def _policy(self) -> Policy:
        rules = [
            Rule(name=kind, actions=(kind,), decision=decision, approvals=count or 1)  # type: ignore[arg-type]
            for kind, (decision, count) in self.decisions.items()
        ]
        return Policy(rules=tuple(rules))

    # -- what happens ----------------------------------------------------------------------------------

    def propose(self, kind: str, proposer: str, key: str, number: int, failures: int = 0) -> str:
        """Propose an action; returns its id, '' if it was refused as a request."""
        parameters = {"failures": failures} if kind == "outside" else {"patch": {f"n{number}": number}}
        wanted = Proposal(type=kind, parameters=parameters, device=DEVICE, proposer=proposer, key=key)
        with self.db.write() as session:
            row = self.service.propose(session, wanted, self.now)
        self.proposers.setdefault(row.id, proposer)
        return row.id

    def approve(self, number: str, actor: str) -> None:
        """A person tries to approve; the world books what was accepted and should count."""
        with suppress(HubError):
            with self.db.write() as session:
                self.service.approve(session, number, actor, PEOPLE[actor], self.now)
            self.granted.setdefault(number, set()).add(actor)

    def cancel(self, number: str) -> None:
        """A person cancels."""
        with suppress(HubError):
            with self.db.write() as session:
                self.service.cancel(session, number, "anna", self.now)
            self.cancelled.add(number)  # a kill before the commit cancels nothing

    def run(self, seconds: float = 1.0) -> None:
        """One run of each worker."""
        self.now += int(seconds * SECOND)
        worker.run_once(self.db, self.service, self.now)
        worker.make_calls(self.db, self.service, lambda: self.now)

    def finish(self) -> None:
        """Run until nothing goes on; the device reports what is desired."""
        self.restart()
        for _ in range(12):
            self.run(25.0)

    def advance(self, random: Random, number: int) -> None:
        """One random event; a kill may end it."""
        known = sorted(self.proposers)
        self.db.points = CrashPoints(at=random.choice([0, 0, 0, *range(1, 9)]))
        try:
            match random.choice(EVENTS):
                case "propose":
                    kind, proposer = random.choice(["outside", "twin"]), random.choice(sorted(PEOPLE))
                    with suppress(HubError):  # the key belongs to another action
                        self.propose(kind, proposer, f"key-{number}", number, random.choice([0, 0, 1, 2]))
                case "approve" if known:
                    self.approve(random.choice(known), random.choice(sorted(PEOPLE)))
                case "cancel" if known and random.random() < 0.5:
                    self.cancel(random.choice(known))
                case "policy":
                    self.decisions = random.choice(DECISIONS)
                    self.restart()
                case _:
                    self.run(random.choice([0.5, 12.0, 30.0]))
        except Killed:
            self._book()
            self.restart()

    def _book(self) -> None:
        """A kill after the commit leaves what was decided: read it, as a person would find it."""
        with self.db.read() as session:
            for row in session.exec(select(Action)):
                self.proposers.setdefault(row.id, row.proposer)
                self.granted.setdefault(row.id, set()).update(one["actor"] for one in row.approvals)
                if row.state == "cancelled":
                    self.cancelled.add(row.id)

    # -- invariants ------------------------------------------------------------------------------------

    def check_admitted(self, request: Request, kind: str) -> None:
        """No effect without an allow or the approvals that the policy asks for."""
        decision, needed = self.decisions[kind]
        good = {
            actor
            for actor in self.granted.get(request.id, set())
            if "operator" in PEOPLE[actor].split() and actor != self.proposers[request.id]
        }
        if decision == "forbid":
            raise Violation(f"{request.id} is forbidden and was executed")
        if decision == "approve" and len(good) < needed:
            raise Violation(f"{request.id} has {len(good)} of {needed} approvals and was executed")

    def check_call(self, request: Request) -> None:
        """A cancelled action is not called again."""
        if request.id in self.cancelled:
            raise Violation(f"{request.id} was cancelled and is called")

    def check(self) -> None:
        """No effect twice; cancelled stays cancelled; nothing that failed a check was hidden."""
        with self.db.read() as session:
            rows = {row.id: row for row in session.exec(select(Action))}
            changes = [row.actor.removeprefix(ACTION) for row in session.exec(select(TwinChange))]
        changed = [actor for actor in changes if actor in rows]
        for effects in (self.effects, changed):
            if len(effects) != len(set(effects)):
                raise Violation("an effect happened twice")
        keys = [row.idempotency_key for row in rows.values()]
        if len(keys) != len(set(keys)):
            raise Violation("a key has two actions")
        for number in self.cancelled:
            if rows[number].state != "cancelled":
                raise Violation(f"{number} was cancelled and is {rows[number].state}")
        left = [row.id for row in rows.values() if row.state in {"approved", "executing", "executed"}]
        if left:
            raise Violation(f"{left} do not end")
