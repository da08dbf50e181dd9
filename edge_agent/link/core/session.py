"""The brain of store-and-forward, without I/O: what to send next, what to forget, when to send again.

Methods are named for what happened and return effects. Rows leave only after the hub has answered this
connection's birth (nothing is poured into a broker behind which no hub stands); an urgent stream goes
before a backlog, and all but alarms leave at a bounded rate, so that a backlog never fills the line in front of them
(invariant O9); what is not acknowledged within `resend_s` is sent again, ever more slowly.

Only what the hub says in answer to us proves the link both ways: a session, an acknowledgement, a heartbeat's
answer. A link without such a word for half of `heartbeat_s` asks for one, and is made anew when none comes: the
broker may be alive and the hub behind it dead or deaf. A hub that says that it answers no heartbeats (an older one
says nothing of them) is only held to what every hub answers, births.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.link.core.stream_window import StreamWindow
from shared import PROTOCOL, protocol_versions
from shared.messages import STREAMS, Ack, Heartbeat, Session, Stream

BURST_S = 0.25
"""After a pause, so many seconds of the allowed rate may leave at once."""

GREET_S = 5.0
LONGEST_SILENCE_S = 600.0
"""A hub that stays away is greeted, and looked for on a new connection, ever more seldom: at last every ten minutes.
When it comes back it reads every retained birth, so nobody waits for this; and its broker kept each of them for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishBirth:
    """Publish the birth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Read the next row of `stream` after sequence number `after` and publish it, then say `sent`."""

    stream: Stream
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """The hub holds `stream` up to `upto`."""

    stream: Stream
    upto: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Fetch all twin documents; `restart` when the hub has begun another life."""

    restart: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew:
    """The hub holds more of our epoch than was ever accepted here: this store is an older copy of itself (a restored
    disk image). Begin another epoch, so that nothing new is taken for what the hub already has; then say `renewed`.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class SendHeartbeat:
    """Publish a heartbeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnect:
    """Nobody behind this connection answers: make another one."""

    silent_s: float


Effect = PublishBirth | Send | Forget | Fetch | Renew | SendHeartbeat | Reconnect


class LinkSession:
    """State of the link of one device. `now` is monotonic seconds.

    `random` gives a number in 0..1 for each connection, so that a fleet does not give its hub up in one moment.
    """

    def __init__(
        self, epoch: str, acked: dict[Stream, int], hub_epoch: str = "", resend_s: float = 5.0,
        heartbeat_s: float = 30.0, random: Callable[[], float] = lambda: 1.0, replay_bytes_s: float = 1e12,
    ) -> None:  # fmt: skip
        self._epoch, self._resend_s = epoch, resend_s
        self._rate, self._room, self._filled_at = replay_bytes_s, replay_bytes_s * BURST_S, 0.0
        self._lanes = {stream: StreamWindow(resend_s, acked=acked.get(stream, 0)) for stream in STREAMS}
        self.hub_epoch = hub_epoch
        self.refused = ""
        self.connected = self.accepted = False
        self._session = ""
        self._greeted_at = 0.0
        self._heartbeat_s, self._random = heartbeat_s, random
        self._beats: bool | None = None  # whether the hub answers heartbeats; None before its first word
        self._patience_s = heartbeat_s
        self._share = 1.0
        self._heard_at = self._beat_at = 0.0
        self._asked_at: float | None = None  # since when a question waits for its answer
        self._greet_s = GREET_S
        self._hub_link = ""

    def up(self, session: str, now: float) -> list[Effect]:
        """A connection stands; `session` names it."""
        self.connected, self.accepted, self._session = True, False, session
        self._greeted_at = self._heard_at = self._asked_at = self._beat_at = now
        self._share = 0.75 + self._random() / 4
        return [PublishBirth()]

    def down(self) -> list[Effect]:
        """The connection is gone: whatever flew may be lost."""
        self.connected = self.accepted = False
        for lane in self._lanes.values():
            lane.rewind()
        return []

    def handle_session(self, word: Session, now: float) -> list[Effect]:
        """The hub answered a birth: it says what it holds. Also comes unasked when a hub has started anew."""
        if not self.connected or word.session != self._session:
            return []
        self._heard(now)
        self._greet_s = GREET_S
        self.refused, self._beats = (
            word.refused or protocol_versions.refusal(PROTOCOL, hub=word.protocol),
            word.heartbeat,
        )
        if self.refused:
            self.accepted = False
            return []
        if word.epoch == self._epoch and any(word.upto.get(s, 0) > lane.last for s, lane in self._lanes.items()):
            self.accepted = False
            return [Renew()]
        restart = bool(self.hub_epoch) and word.hub_epoch != self.hub_epoch
        effects = self._holds(word, now)
        for lane in self._lanes.values():
            if restart or not self.accepted:
                lane.begin()
            elif lane.lost:  # a hub that answers and stores nothing must not be hurried
                lane.rewind()
        if restart or not (self.accepted and word.hub_link and word.hub_link == self._hub_link):
            effects.append(Fetch(restart=restart))
        self.hub_epoch, self._hub_link, self.accepted = word.hub_epoch, word.hub_link, True
        return effects

    def _holds(self, word: Session, now: float) -> list[Effect]:
        """What the hub holds of this epoch and was not known to be there."""
        effects: list[Effect] = []
        for stream, lane in self._lanes.items():
            upto = word.upto.get(stream, 0) if word.epoch == self._epoch else 0
            if upto > lane.acked:
                lane.record_acked(upto, now)
                effects.append(Forget(stream=stream, upto=upto))
        return effects

    def renewed(self, epoch: str, last: dict[Stream, int], now: float) -> list[Effect]:
        """The store has begun another epoch; `last` is the highest sequence number of each stream in it."""
        self._epoch, self._greeted_at, self.accepted = epoch, now, False  # rows only after the hub knows of it
        self._lanes = {stream: StreamWindow(self._resend_s, last=last[stream]) for stream in STREAMS}
        return [PublishBirth()]

    def appended(self, last: dict[Stream, int]) -> None:
        """The outbox accepted rows; `last` is the highest sequence number of each stream."""
        for stream, seq in last.items():
            self._lanes[stream].last = seq

    def sent(self, stream: Stream, last: int, now: float, size: int = 0) -> None:
        """A row of `size` bytes ending at `last` was handed to the connection."""
        lane = self._lanes[stream]
        self._room -= size
        lane.record_sent(last, now)

    def handle_ack(self, ack: Ack, now: float) -> list[Effect]:
        """The hub's commit reached us; an acknowledgement of another epoch or of the past changes nothing."""
        lane = self._lanes[ack.stream]
        if ack.epoch == self._epoch:
            self._proven(now)
        if ack.epoch != self._epoch or ack.upto <= lane.acked or ack.upto > lane.last:
            return []
        lane.record_acked(ack.upto, now)
        return [Forget(stream=ack.stream, upto=ack.upto)]

    def handle_heartbeat(self, answer: Heartbeat, now: float) -> list[Effect]:
        """The hub answered a heartbeat; one of an older connection proves nothing about this one."""
        if self.connected and answer.session == self._session:
            self._proven(now)
        return []

    def _heard(self, now: float) -> None:
        self._heard_at, self._asked_at = now, None

    def _proven(self, now: float) -> None:
        """More than a welcome: what this connection carries reaches the hub, and its answer us."""
        self._heard(now)
        self._patience_s = self._heartbeat_s

    def next(self, now: float = 0.0) -> Send | None:
        """The most urgent thing that may be sent now."""
        if not self.accepted:
            return None
        self._refill(now)
        for stream, lane in self._lanes.items():
            if stream != "alarm" and self._room < 0:
                return None
            if lane.ready:
                return Send(stream=stream, after=lane.sent)
        return None

    def _refill(self, now: float) -> None:
        """A row may be larger than the room that is left; the debt is waited for."""
        self._room = min(self._room + (now - self._filled_at) * self._rate, self._rate * BURST_S)
        self._filled_at = now

    def tick(self, now: float) -> list[Effect]:
        """Time passed: greet again while unanswered, send again what is not acknowledged."""
        if not self.connected:
            return []
        silent_s = now - self._heard_at
        if self._given_up(now):
            return [Reconnect(silent_s=silent_s)]
        return [*self._heartbeats(now), *self._greetings(now)]

    def _given_up(self, now: float) -> bool:
        """Whether it was silent for too long, in spite of a question: `heartbeat_s`, and twice as long each time."""
        if self._asked_at is None or now - self._asked_at < self._heartbeat_s / 4:
            return False  # a process that was frozen asks before it judges
        if now - self._heard_at < self._patience_s * self._share:
            return False
        self._patience_s = min(self._patience_s * 2, max(LONGEST_SILENCE_S, self._heartbeat_s))
        self._heard_at = self._asked_at = now
        return True

    def _heartbeats(self, now: float) -> list[Effect]:
        """After half of `heartbeat_s` of silence one, and more while none is answered."""
        silent = self._asked_at is None and now - self._heard_at >= self._heartbeat_s / 2
        waiting = self._asked_at is not None and now - self._beat_at >= self._heartbeat_s / 6
        if self._beats is False or not (silent or waiting):
            return []
        self._asked_at, self._beat_at = now if self._asked_at is None else self._asked_at, now
        return [SendHeartbeat()]

    def _ask(self, now: float) -> list[Effect]:
        """A birth is a question: every hub answers it."""
        if self._asked_at is None:
            self._asked_at = self._beat_at = now
        return [PublishBirth()]

    def _greetings(self, now: float) -> list[Effect]:
        if not self.accepted:
            if now - self._greeted_at < self._greet_s:
                return []
            self._greeted_at, self._greet_s = now, min(self._greet_s * 2, LONGEST_SILENCE_S)
            return self._ask(now)
        # The hub's answer says what it holds, and only the rest is sent again: a lost
        # acknowledgement costs one small message, and a hub that is away is not flooded.
        return self._ask(now) if [lane for lane in self._lanes.values() if lane.should_query_hub(now)] else []
