"""Commands over a world that drops, doubles and reorders, with crashes of both sides: the hub's and the device's cores.

Whatever happens: at most one effect an id, an end is final, and every command ends.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from simulators import databases
from simulators.births import born
from sqlalchemy import event
from sqlmodel import select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Command
from cloud_hub.devices import commands
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.runtime.outgoing import OutgoingMessage
from edge_agent.commands.service import Commands, Output, Progress, Work
from edge_agent.store.statestore import StateStore
from shared.protocol.codec import decode, encode
from shared.protocol.messages import ENDED, Birth, CommandCancel, CommandRequest, CommandResult

SECOND = 1_000_000
LIFE_S = 40.0
START = 1_800_000_000 * SECOND

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from(["direct", "queued"]), st.sampled_from(["short", "long"])),
        st.tuples(st.just("cancel"), st.integers(0, 5)),
        st.tuples(st.just("down"), st.integers(0, 9)),  # deliver the n-th message that is on its way down
        st.tuples(st.just("up"), st.integers(0, 9)),
        st.tuples(st.sampled_from(["lose", "double"]), st.sampled_from(["down", "up"]), st.integers(0, 9)),
        st.tuples(st.just("step"), st.sampled_from([0.1, 1.0, 15.0])),
        st.tuples(st.sampled_from(["crash", "crash while acting", "offline", "birth", "expire"])),
    ),
    max_size=40,
)


class PowerCut(BaseException):
    """Nothing catches it."""


class World:
    """One device and one hub, and what is on its way between them."""

    def __init__(self, db: Database, keep: StateStore, device: str) -> None:
        self.db, self.keep, self.device = db, keep, device
        self.now = START
        self.down: list[bytes] = []
        self.up: list[bytes] = []
        self.effects: Counter[str] = Counter()
        self.ends: dict[str, str] = {}
        self.sent: list[str] = []
        self.online = False
        self.cut = False
        self.boot()
        self.birth()

    # -- the device ----------------------------------------------------------------------------------

    def boot(self) -> None:
        verbs = {("diagnose", "short"): self._short, ("diagnose", "long"): self._long}
        self.edge = Commands(self.keep, verbs)  # type: ignore[arg-type]

    def _short(self, request: CommandRequest) -> Output:
        self.effects[request.id] += 1
        if self.cut:
            raise PowerCut
        return {"done": 1.0}

    def _long(self, request: CommandRequest) -> Work:
        yield Progress(fraction=0.0)
        self.effects[request.id] += 1
        if self.cut:
            raise PowerCut
        yield Progress(fraction=0.5, wait_s=10.0)
        return {"done": 1.0}

    def say(self, words: list[CommandResult]) -> None:
        if self.online:  # what is said into the void is gone, as with a connection that is away
            self.up += [encode(word) for word in words]

    def hear(self, payload: bytes) -> None:
        if b'"verb"' in payload:
            self.say([self.edge.handle_request(decode(CommandRequest, payload), self.now, "synced")])
        else:
            self.say([self.edge.handle_cancel(decode(CommandCancel, payload), self.now)])

    def step(self) -> None:
        try:
            self.say(self.edge.run_once(self.now, self.now / SECOND))
        except PowerCut:
            self.crash()

    def crash(self) -> None:
        self.cut = False
        self.offline()
        self.boot()

    # -- the hub -------------------------------------------------------------------------------------

    def publish(self, messages: list[OutgoingMessage]) -> None:
        if self.online:  # the broker keeps nothing for a device that is away
            self.down += [message.payload for message in messages]

    def send(self, mode: Any, target: str) -> None:
        with self.db.write() as session:
            if device_registry.get_device(session, self.device).state != "online" and mode == "direct":
                return
            row, messages = commands.create(
                session, self.device, "diagnose", target, self.now, actor="test", mode=mode, life_s=LIFE_S
            )
        self.sent.append(row.id)
        self.publish(messages)

    def cancel(self, number: int) -> None:
        if number >= len(self.sent):
            return
        with self.db.write() as session:
            row = commands.get(session, self.sent[number])
            if row.done_us is not None:
                with pytest.raises(HubError, match="already"):
                    commands.cancel(session, row.id, "test", self.now)
                return
            _, messages = commands.cancel(session, row.id, "test", self.now)
        self.publish(messages)

    def take_in(self, payload: bytes) -> None:
        with self.db.write() as session:
            commands.handle_result(session, self.device, decode(CommandResult, payload), self.now)

    def birth(self) -> None:
        self.online = True
        with self.db.write() as session:
            born(session, Birth(device=self.device, session="s", epoch="e"), self.now)
            messages = commands.pending_messages(session, self.device, self.now)
        self.publish(messages)

    def offline(self) -> None:
        self.online = False
        self.down.clear()
        with self.db.write() as session:
            born(session, Birth(device=self.device, session="s", epoch="e", state="offline"), self.now)

    def expire(self) -> None:
        with self.db.write() as session:
            messages = commands.expire(session, self.now)
        self.publish([m for m in messages if f"/{self.device}/" in m.topic])

    # -- what happens --------------------------------------------------------------------------------

    def happen(self, what: str, *more: Any) -> None:
        self.now += SECOND // 10
        if what in {"send", "cancel"}:
            getattr(self, what)(*more)
        elif what in {"down", "up"}:
            self._deliver(what, more[0])
        elif what in {"lose", "double"}:
            queue = getattr(self, more[0])
            if queue:
                one = queue.pop(more[1] % len(queue))
                queue.extend([one, one] if what == "double" else [])
        elif what == "step":
            self.now += int(more[0] * SECOND)
            self.step()
        elif what == "crash while acting":
            self.cut = True
        else:
            getattr(self, what)()
        self.check()

    def _deliver(self, way: str, number: int) -> None:
        queue = getattr(self, way)
        if queue and (way == "up" or self.online):
            (self.hear if way == "down" else self.take_in)(queue.pop(number % len(queue)))

    def check(self) -> None:
        assert not [cid for cid, count in self.effects.items() if count > 1], "more than one effect"
        with self.db.read() as session:
            rows = session.exec(select(Command).where(Command.device == self.device)).all()
        for row in rows:
            assert (row.state in ENDED) == (row.done_us is not None), "half an end"
            assert row.progress is None or 0 <= row.progress <= 1
            if row.done_us is not None:
                assert self.ends.setdefault(row.id, row.state) == row.state, "an end that did not last"
            if row.state == "cancelled" and row.text == "before it was delivered":
                assert not self.effects[row.id], "carried out although it was cancelled before it was delivered"

    def settle(self) -> None:
        """The faults end: all is delivered, the device is born again, and time passes."""
        self.cut = False
        for _ in range(3):
            self.birth()
            for _ in range(4):
                while self.down or self.up:
                    self._deliver("down", 0)
                    self._deliver("up", 0)
                self.now += 11 * SECOND
                self.step()
            self.check()
        self.now += int(LIFE_S * SECOND)
        self.expire()
        self.check()
        with self.db.read() as session:
            rows = session.exec(select(Command).where(Command.device == self.device)).all()
        assert {row.id: row.state for row in rows if row.done_us is None} == {}, "a command that never ended"
        for row in rows:
            if row.state == "succeeded":
                assert self.effects[row.id] == 1, "succeeded without an effect"
            elif row.state == "expired" and self.effects[row.id]:
                assert "later it said" in row.text, "an effect that the hub never heard of"


Run = Callable[[list[tuple[Any, ...]]], World]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Plays steps in a world of its own each time; crashes are of programs, so the disks need not be waited for."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    db = Database(databases.sqlite(tmp_path))
    db.engine.dispose()
    event.listen(db.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    count = iter(range(1_000_000))

    def play(steps: list[tuple[Any, ...]]) -> World:
        number = next(count)
        keep = StateStore(tmp_path / f"kept-{number}.sqlite")
        keep._db.execute("PRAGMA synchronous=OFF")
        try:
            world = World(db, keep, f"press-{number}")
            for step in steps:
                world.happen(*step)
            world.settle()
        finally:
            keep.close()
        return world

    yield play
    db.close()


# Done while nobody listens any more, and given up by the hub before the device is back.
UNHEARD = [
    ("send", "direct", "short"), ("down", 0), ("lose", "up", 0), ("offline",), ("step", 0.1), *[("step", 15.0)] * 3,
    ("expire",),
]  # fmt: skip


def explore(run: Run, examples: int) -> None:
    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
    )  # fmt: skip
    @given(STEPS)
    @example(UNHEARD)
    def explored(steps: list[tuple[Any, ...]]) -> None:
        run(steps)

    explored()


def test_at_most_one_effect_ends_are_final_and_every_command_ends(run: Run) -> None:
    explore(run, 150)


def test_a_result_that_nobody_heard_comes_with_the_next_birth_though_the_hub_gave_the_command_up(run: Run) -> None:
    world = run(UNHEARD)
    with world.db.read() as session:
        row = commands.get(session, world.sent[0])
    assert (row.state, row.text) == ("expired", "the device did not answer in time; later it said: succeeded")
    assert (row.output, world.effects[row.id]) == ({"done": 1.0}, 1)


def _forgets_before_acting(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Commands._remember

    def late(self: Any, asked: Any, word: Any, now_us: int) -> None:
        if word.text != "interrupted by a restart":
            real(self, asked, word, now_us)

    monkeypatch.setattr(Commands, "_remember", late)


def _result_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late word that undoes an end."""
    real = commands.handle_result

    def undo(session: Any, device: str, word: CommandResult, now_us: int) -> bool:
        row = session.get(Command, word.id)
        if row is not None:
            row.done_us = None
        return real(session, device, word, now_us)

    monkeypatch.setattr(commands, "handle_result", undo)


def _births_bring_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = commands.pending_messages

    def only_requests_never_heard(session: Any, device: str, now_us: int) -> list[OutgoingMessage]:
        return [m for m in real(session, device, now_us) if m.topic.endswith("/request")]

    monkeypatch.setattr(commands, "pending_messages", only_requests_never_heard)


def _published_while_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queued command is sent at once and yet counts as not delivered."""
    real = commands.create

    def create(session: Any, device: str, *more: Any, **named: Any) -> Any:
        row, messages = real(session, device, *more, **named)
        if named["mode"] == "queued":
            row.state = "queued"
        return row, messages

    monkeypatch.setattr(commands, "create", create)


def _running_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle_request(self: Any, request: CommandRequest, now_us: int, clock: Any) -> CommandResult:
        self._done.pop(request.id, None)
        self._running.pop(request.id, None)
        return real(self, request, now_us, clock)

    real = Commands.handle_request
    monkeypatch.setattr(Commands, "handle_request", handle_request)


@pytest.mark.parametrize(
    ("bug", "seen"),
    [
        pytest.param(_forgets_before_acting, "more than one effect", marks=pytest.mark.nightly),
        (_running_is_not_known, "more than one effect"),
        (_result_again, "did not last|half an end|never ended"),
        (_births_bring_nothing, "never heard of"),
        pytest.param(_published_while_queued, "carried out although", marks=pytest.mark.nightly),
    ],
)
def test_seeded_bugs_are_caught(
    run: Run, monkeypatch: pytest.MonkeyPatch, bug: Callable[[pytest.MonkeyPatch], None], seen: str
) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError, match=seen):
        explore(run, 400)
