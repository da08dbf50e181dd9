"""A world for the link's session in virtual time: a device that crashes, a hub that crashes, a channel that lies.

One seed is one run. The real LinkSession decides; the device, the channel and the hub around it are played here.
Everything that must hold at every moment is asserted where it could break; `settled` asserts the rest after healing.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from edge_agent.link.core.session import (
    Effect,
    Fetch,
    Forget,
    LinkSession,
    PublishBirth,
    Reconnect,
    Send,
    SendHeartbeat,
)
from shared.protocol.messages import STREAMS, Ack, Birth, Heartbeat, Session, Stream


@dataclass(frozen=True)
class Parcel:
    """One row on the wire: items first..last, or the word that they are lost."""

    epoch: str
    stream: Stream
    first: int
    last: int
    lost: bool


@dataclass
class MemoryOutbox:
    """The outbox's promises in memory: rows first..last by stream; `lost` ranges keep their place."""

    epoch: str
    last: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    acked: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    rows: dict[Stream, list[Parcel]] = field(default_factory=lambda: {stream: [] for stream in STREAMS})

    def accept(self, stream: Stream, count: int) -> None:
        """One row of `count` items."""
        first = self.last[stream] + 1
        self.last[stream] += count
        self.rows[stream].append(Parcel(self.epoch, stream, first, self.last[stream], lost=False))

    def evict(self, stream: Stream) -> None:
        """The oldest row goes; its range stays."""
        for index, row in enumerate(self.rows[stream]):
            if not row.lost:
                self.rows[stream][index] = replace(row, lost=True)
                return

    def after(self, stream: Stream, seq: int) -> Parcel | None:
        """The next row beyond `seq`."""
        return next((row for row in self.rows[stream] if row.last > seq), None)

    def forget(self, stream: Stream, upto: int) -> None:
        """The hub holds it up to `upto`."""
        self.rows[stream] = [row for row in self.rows[stream] if row.last > upto]
        self.acked[stream] = max(self.acked[stream], upto)


class Hub:
    """High-water marks and what is stored, committed after a while; a crash loses what was not committed."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, Stream], list[int]] = {}
        self.lost: dict[tuple[str, Stream], set[int]] = {}
        self.mark: dict[tuple[str, Stream], int] = {}
        self.received: list[Parcel] = []
        self.up = self.heartbeat = True

    def crash(self) -> None:
        """Everything in memory is gone."""
        self.received, self.up = [], False

    def commit(self) -> list[Ack]:
        """Store what came, in order; the acknowledgements to publish."""
        acks: dict[tuple[str, Stream], int] = {}
        for parcel in self.received:
            key = (parcel.epoch, parcel.stream)
            mark = self.mark.get(key, 0)
            if parcel.first <= mark + 1 <= parcel.last:
                fresh = range(mark + 1, parcel.last + 1)
                if parcel.lost:
                    self.lost.setdefault(key, set()).update(fresh)
                else:
                    self.stored.setdefault(key, []).extend(fresh)
                self.mark[key] = parcel.last
            acks[key] = self.mark.get(key, 0)
        self.received = []
        return [Ack(epoch=epoch, stream=stream, upto=upto) for (epoch, stream), upto in acks.items()]

    def answer(self, birth: Birth) -> Session:
        """What it holds of the birth's epoch."""
        upto = {stream: self.mark.get((birth.epoch, stream), 0) for stream in STREAMS}
        return Session(
            hub_epoch="h1", protocol=1, session=birth.session, epoch=birth.epoch, upto=dict(upto),
            heartbeat=self.heartbeat, hub_link="l1",
        )  # fmt: skip


class Device:
    """What `uplink.py` does around the session, without a network. A subclass may be a seeded bug."""

    session_kind: type[LinkSession] = LinkSession

    def __init__(self, world: World, outbox: MemoryOutbox) -> None:
        self.world, self.outbox = world, outbox
        self.session = self.session_kind(outbox.epoch, dict(outbox.acked), random=world.random.random)
        self.session.appended(outbox.last)
        self.connection = ""
        self.welcomed_by_hub = False

    def up(self, connection: str) -> None:
        """Connected."""
        self.connection, self.welcomed_by_hub = connection, False
        self.carry_out(self.session.up(connection, self.world.now))

    def down(self) -> None:
        """The connection is gone."""
        self.connection = ""
        self.carry_out(self.session.down())

    def received(self, word: Ack | Session | Heartbeat) -> None:
        """A message from the hub."""
        if isinstance(word, Heartbeat):
            self.carry_out(self.session.handle_heartbeat(word, self.world.now))
        elif isinstance(word, Ack):
            self.carry_out(self.session.handle_ack(word, self.world.now))
        else:
            self.welcomed_by_hub |= word.session == self.connection
            self.carry_out(self.session.handle_session(word, self.world.now))
        self.pump()

    def tick(self) -> None:
        """Once a second."""
        self.carry_out(self.session.tick(self.world.now))
        self.pump()

    def pump(self) -> None:
        """Send all that may be sent."""
        self.session.appended(self.outbox.last)
        while (send := self.session.next()) is not None and self.send(send):
            pass

    def send(self, send: Send) -> bool:
        """Publish the next row of a stream."""
        row = self.outbox.after(send.stream, send.after)
        if row is None or not self.connection:
            return False
        assert self.welcomed_by_hub, "a row was sent before the hub had answered this connection"
        self.world.to_hub(row)
        self.session.sent(row.stream, row.last, self.world.now)
        return True

    def carry_out(self, effects: list[Effect]) -> None:
        """The session's effects on the world."""
        for effect in effects:
            if isinstance(effect, PublishBirth):
                self.world.to_hub(Birth(device="d", session=self.connection, epoch=self.outbox.epoch))
            elif isinstance(effect, Forget):
                self.forget(effect.stream, effect.upto)
            elif isinstance(effect, SendHeartbeat):
                self.world.to_hub(Heartbeat(session=self.connection))
            elif isinstance(effect, Reconnect):
                self.world.reconnects.append(self.world.now)
                self.world.cut()
            else:
                assert isinstance(effect, (Fetch, Send))

    def forget(self, stream: Stream, upto: int) -> None:
        """Delete, which only what the hub has committed allows."""
        held = self.world.hub.mark.get((self.outbox.epoch, stream), 0)
        assert upto <= held, f"{stream} was forgotten up to {upto}, the hub holds {held}"
        self.outbox.forget(stream, upto)


class World:
    """A heap of things that will happen. `device_kind` may be a seeded bug."""

    def __init__(self, seed: int, device_kind: type[Device] = Device) -> None:
        self.random = random.Random(seed)
        self.now, self._order, self._heap = 0.0, 0, list[tuple[float, int, Callable[[], None]]]()
        self._kind, self._epochs, self._connections = device_kind, 0, 0
        self.hub = Hub()
        self.retained: Birth | None = None
        self.abandoned: list[MemoryOutbox] = []
        self.drop = self.twice = 0.0
        self.deaf: set[str] = set()  # directions, `up` and `down`, in which this connection swallows everything
        self.reconnects: list[float] = []
        self.slowest = 0.1
        self.outbox = self._new_outbox()
        self.device: Device = device_kind(self, self.outbox)
        self.at(0.0, self._ticks)

    def _new_outbox(self) -> MemoryOutbox:
        self._epochs += 1
        return MemoryOutbox(f"e{self._epochs}")

    def at(self, after: float, what: Callable[[], None]) -> None:
        """`what` happens `after` seconds from now."""
        self._order += 1
        heapq.heappush(self._heap, (self.now + after, self._order, what))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, what = heapq.heappop(self._heap)
            what()
        self.now = until

    # -- the channel -------------------------------------------------------------------------------

    def _carry(self, arrive: Callable[[], None]) -> None:
        copies = 0 if self.random.random() < self.drop else 2 if self.random.random() < self.twice else 1
        for _ in range(copies):
            self.at(self.random.uniform(0.001, self.slowest), arrive)

    def to_hub(self, message: Parcel | Birth | Heartbeat) -> None:
        """Published by the device; may arrive late, twice or never, also after the connection has gone."""
        if "up" in self.deaf:
            return
        if isinstance(message, Birth):
            self.retained = message
        self._carry(lambda: self._hub_gets(message))

    def to_device(self, message: Ack | Session | Heartbeat) -> None:
        """Published by the hub; arrives at whatever connection the device has by then."""
        if "down" in self.deaf:
            return
        self._carry(lambda: self.device.received(message) if self.device.connection else None)

    def _hub_gets(self, message: Parcel | Birth | Heartbeat) -> None:
        if not self.hub.up:
            return
        if isinstance(message, Heartbeat):
            if self.hub.heartbeat:
                self.to_device(message)
            return
        if isinstance(message, Birth):
            self.to_device(self.hub.answer(message))
            return
        if not self.hub.received:
            self.at(self.random.uniform(0.0, 0.3), self._hub_commits)
        self.hub.received.append(message)

    def _hub_commits(self) -> None:
        if self.hub.up and self.hub.received:
            for ack in self.hub.commit():
                self.to_device(ack)

    # -- what goes wrong ---------------------------------------------------------------------------

    def accept(self) -> None:
        """The device has something to say."""
        self.outbox.accept(self.random.choice(STREAMS), self.random.randint(1, 3))
        self.device.pump()

    def burst(self) -> None:
        """More rows than a window holds."""
        for _ in range(40):
            self.outbox.accept("telemetry", 1)
        self.device.pump()

    def evict(self) -> None:
        """The store was full."""
        self.outbox.evict(self.random.choice(STREAMS[1:]))

    def cut(self) -> None:
        """The connection breaks, and may stand again."""
        if self.device.connection:
            self.device.down()
        self.at(self.random.uniform(0.1, 3.0), self.connect)

    def connect(self) -> None:
        """A new connection."""
        if not self.device.connection:
            self.deaf = set()
            self._connections += 1
            self.device.up(f"c{self._connections}")

    def half_dead(self) -> None:
        """This connection stands and swallows everything, one way or both; only another one is better."""
        self.deaf = set(self.random.choice([["up"], ["down"], ["up", "down"]]))

    def device_crash(self) -> None:
        """Only the outbox survives."""
        self.device = self._kind(self, self.outbox)
        self.at(self.random.uniform(0.1, 3.0), self.connect)

    def disk_loss(self) -> None:
        """Not even the outbox survives: a new epoch begins."""
        self.abandoned.append(self.outbox)
        self.outbox = self._new_outbox()
        self.device_crash()

    def hub_crash(self) -> None:
        """What it had not committed is gone; it comes back and answers the retained birth unasked."""
        self.hub.crash()
        self.at(self.random.uniform(0.1, 8.0), self.hub_start)

    def hub_start(self) -> None:
        """The hub is there again."""
        if not self.hub.up:
            self.hub.up = True
            if self.retained is not None:
                self.to_device(self.hub.answer(self.retained))

    def _ticks(self) -> None:
        self.device.tick()
        self.at(1.0, self._ticks)

    # -- one run -----------------------------------------------------------------------------------

    def storm(self, seconds: float = 40.0) -> None:
        """Anything may happen."""
        self.drop, self.twice, self.slowest = self.random.choice([0.0, 0.1, 0.4]), 0.2, self.random.choice([0.1, 2.0])
        self.at(0.1, self.connect)
        chances: list[tuple[Callable[[], None], int]] = [
            (self.accept, 40), (self.burst, 1), (self.evict, 2), (self.cut, 4), (self.device_crash, 2),
            (self.hub_crash, 2), (self.disk_loss, 1), (self.half_dead, 1),
        ]  # fmt: skip
        things, weights = zip(*chances, strict=True)
        while self.now < seconds:
            self.random.choices(things, weights)[0]()
            self.run(self.now + self.random.expovariate(2.0))

    def heal(self, seconds: float = 400.0) -> None:
        """Nothing goes wrong any more; a half-dead connection stays so until the device makes another."""
        self.drop = self.twice = 0.0
        self.slowest = 0.001  # all take the same time: nothing overtakes
        self.hub_start()
        self.connect()
        self.run(self.now + seconds)

    def settled(self) -> None:
        """Everything accepted is at the hub, exactly once and in order, or told as lost; nothing waits."""
        for outbox in (*self.abandoned, self.outbox):
            for stream in STREAMS:
                key = (outbox.epoch, stream)
                stored, lost = self.hub.stored.get(key, []), self.hub.lost.get(key, set())
                assert stored == sorted(set(stored)), f"{key} is out of order or twice"
                assert not lost & set(stored), f"{key} is told lost and is there"
                whole = sorted({*stored, *lost})
                assert whole == list(range(1, self.hub.mark.get(key, 0) + 1)), f"{key} has a gap"
                if outbox is self.outbox:
                    assert self.hub.mark.get(key, 0) == outbox.last[stream], f"{key} did not all arrive"
                    assert not outbox.rows[stream], f"{key} still waits"


def play(seed: int, device_kind: type[Device] = Device) -> World:
    """One whole run; an assertion that fails names the seed."""
    world = World(seed, device_kind)
    try:
        world.storm()
        world.heal()
        world.settled()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    return world


def device_with(session_kind: type[LinkSession]) -> type[Device]:
    """A device whose session is of another kind: for seeded bugs."""
    return type("OtherDevice", (Device,), {"session_kind": session_kind})


# -- a session by itself

EMPTY: dict[Stream, int] = dict.fromkeys(STREAMS, 0)


def welcome(**changes: object) -> Session:
    word = Session(hub_epoch="h1", protocol=1, session="c1", epoch="e1", upto={})
    return replace(word, **changes)  # type: ignore[arg-type]


def joined(last: dict[Stream, int] | None = None, acked: dict[Stream, int] | None = None) -> LinkSession:
    """A session that the hub has welcomed."""
    session = LinkSession("e1", EMPTY | (acked or {}), "h1")
    session.appended(EMPTY | (last or {}))
    assert session.up("c1", 0.0) == [PublishBirth()]
    assert session.handle_session(welcome(), 0.0) == [Fetch(restart=False)]
    return session


def send_all(session: LinkSession, now: float = 0.0) -> list[tuple[Stream, int]]:
    """Rows of one item each, sent until the session has no more to send."""
    done: list[tuple[Stream, int]] = []
    while (send := session.next()) is not None:
        session.sent(send.stream, send.after + 1, now)
        done.append((send.stream, send.after + 1))
    return done
