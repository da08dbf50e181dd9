"""State machine of store-and-forward, without I/O: decides what to send, what to delete and when to resend.

Methods handle an event and return effects. Rows are sent only after the hub has answered the birth of this
connection, so that a broker without a hub gets no data. Urgent streams go before a backlog, and all streams
except alarms are rate limited, so that a backlog never delays alarms (invariant O9). Rows that are not acknowledged
within `resend_s` are sent again, with increasing intervals.

Only an answer from the hub proves that the link works in both directions: a session, an acknowledgement or a heartbeat
answer. After half of `heartbeat_s` without an answer the device sends a heartbeat, and it reconnects when none is
answered: the broker may be up while the hub is down. A hub that does not support heartbeats (its session has
`heartbeat` false) is only expected to answer births.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.link.core.stream_window import StreamWindow
from shared import PROTOCOL
from shared.protocol import versions
from shared.protocol.messages import STREAMS, Ack, Heartbeat, Session, Stream

BURST_S = 0.25
"""Burst of the rate limit, in seconds of the allowed rate."""

BIRTH_RETRY_S = 5.0
LONGEST_SILENCE_S = 600.0
"""While the hub does not answer, births and reconnects become less frequent, down to one every ten minutes. This delays
nothing: a returning hub reads all retained births."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishBirth:
    """Publish the birth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Read the next row of `stream` after sequence number `after`, publish it, then call `sent`."""

    stream: Stream
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Delete the rows of `stream` up to `upto`: the hub has stored them."""

    stream: Stream
    upto: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Fetch all twin documents; `restart`: the hub epoch has changed."""

    restart: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew:
    """Begin a new epoch, then call `renewed`. The hub has stored more of this epoch than the outbox ever accepted, so
    the outbox is an older copy (a restored disk image), and new rows must not get sequence numbers already in use.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class SendHeartbeat:
    """Publish a heartbeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnect:
    """Reconnect: the hub has not answered on this connection for `silent_s` seconds."""

    silent_s: float


Effect = PublishBirth | Send | Forget | Fetch | Renew | SendHeartbeat | Reconnect


class LinkSession:
    """State of the link of one device. `now` is monotonic seconds.

    `random` returns a number in 0..1 for each connection, so that the devices of a fleet do not all reconnect at once.
    """

    def __init__(
        self, epoch: str, acked: dict[Stream, int], hub_epoch: str = "", resend_s: float = 5.0,
        heartbeat_s: float = 30.0, random: Callable[[], float] = lambda: 1.0, replay_bytes_s: float = 1e12,
    ) -> None:  # fmt: skip
        self._epoch, self._resend_s = epoch, resend_s
        self._rate, self._tokens, self._filled_at = replay_bytes_s, replay_bytes_s * BURST_S, 0.0
        self._windows = {stream: StreamWindow(resend_s, acked=acked.get(stream, 0)) for stream in STREAMS}
        self.hub_epoch = hub_epoch
        self.refused = ""
        self.connected = self.accepted = False
        self._session = ""
        self._birth_at = 0.0
        self._heartbeat_s, self._random = heartbeat_s, random
        self._heartbeats_supported: bool | None = (
            None  # whether the hub answers heartbeats; None before its first session
        )
        self._timeout_s = heartbeat_s
        self._share = 1.0
        self._heard_at = self._heartbeat_at = 0.0
        self._unanswered_since: float | None = None  # time of the oldest unanswered birth or heartbeat
        self._birth_retry_s = BIRTH_RETRY_S
        self._hub_link = ""

    def up(self, session: str, now: float) -> list[Effect]:
        """Handle a new connection; `session` identifies it."""
        self.connected, self.accepted, self._session = True, False, session
        self._birth_at = self._heard_at = self._unanswered_since = self._heartbeat_at = now
        self._share = 0.75 + self._random() / 4
        return [PublishBirth()]

    def down(self) -> list[Effect]:
        """Handle a lost connection: rows in flight may be lost."""
        self.connected = self.accepted = False
        for window in self._windows.values():
            window.rewind()
        return []

    def handle_session(self, message: Session, now: float) -> list[Effect]:
        """Handle the hub's answer to a birth. A hub that has restarted also sends it unasked."""
        if not self.connected or message.session != self._session:
            return []
        self._heard(now)
        self._birth_retry_s = BIRTH_RETRY_S
        self.refused, self._heartbeats_supported = (
            message.refused or versions.refusal(PROTOCOL, hub=message.protocol),
            message.heartbeat,
        )
        if self.refused:
            self.accepted = False
            return []
        if message.epoch == self._epoch and any(
            message.upto.get(s, 0) > window.last for s, window in self._windows.items()
        ):
            self.accepted = False
            return [Renew()]
        restart = bool(self.hub_epoch) and message.hub_epoch != self.hub_epoch
        effects = self._record_stored(message, now)
        for window in self._windows.values():
            if restart or not self.accepted:
                window.begin()
            elif window.lost:  # do not resend to a hub that answers but is slow to store
                window.rewind()
        if restart or not (self.accepted and message.hub_link and message.hub_link == self._hub_link):
            effects.append(Fetch(restart=restart))
        self.hub_epoch, self._hub_link, self.accepted = message.hub_epoch, message.hub_link, True
        return effects

    def _record_stored(self, message: Session, now: float) -> list[Effect]:
        """Record what the hub has stored of this epoch; the session counts as an acknowledgement."""
        effects: list[Effect] = []
        for stream, window in self._windows.items():
            upto = message.upto.get(stream, 0) if message.epoch == self._epoch else 0
            if upto > window.acked:
                window.record_acked(upto, now)
                effects.append(Forget(stream=stream, upto=upto))
        return effects

    def renewed(self, epoch: str, last: dict[Stream, int], now: float) -> list[Effect]:
        """Handle a new epoch of the outbox; `last` is the highest sequence number of each stream in it."""
        self._epoch, self._birth_at, self.accepted = epoch, now, False  # send no rows before the hub knows the epoch
        self._windows = {stream: StreamWindow(self._resend_s, last=last[stream]) for stream in STREAMS}
        return [PublishBirth()]

    def appended(self, last: dict[Stream, int]) -> None:
        """Handle new rows in the outbox; `last` is the highest sequence number of each stream."""
        for stream, seq in last.items():
            self._windows[stream].last = seq

    def sent(self, stream: Stream, last: int, now: float, size: int = 0) -> None:
        """Record that a row of `size` bytes ending at `last` was published."""
        window = self._windows[stream]
        self._tokens -= size
        window.record_sent(last, now)

    def handle_ack(self, ack: Ack, now: float) -> list[Effect]:
        """Handle an acknowledgement; one of another epoch, or an older one, changes nothing."""
        window = self._windows[ack.stream]
        if ack.epoch == self._epoch:
            self._confirm_link(now)
        if ack.epoch != self._epoch or ack.upto <= window.acked or ack.upto > window.last:
            return []
        window.record_acked(ack.upto, now)
        return [Forget(stream=ack.stream, upto=ack.upto)]

    def handle_heartbeat(self, answer: Heartbeat, now: float) -> list[Effect]:
        """Handle the answer to a heartbeat; one of an older connection is ignored."""
        if self.connected and answer.session == self._session:
            self._confirm_link(now)
        return []

    def _heard(self, now: float) -> None:
        self._heard_at, self._unanswered_since = now, None

    def _confirm_link(self, now: float) -> None:
        """The connection works in both directions: reset the timeout."""
        self._heard(now)
        self._timeout_s = self._heartbeat_s

    def next(self, now: float = 0.0) -> Send | None:
        """The most urgent row that may be sent now, or None."""
        if not self.accepted:
            return None
        self._refill(now)
        for stream, window in self._windows.items():
            if stream != "alarm" and self._tokens < 0:
                return None
            if window.ready:
                return Send(stream=stream, after=window.sent)
        return None

    def _refill(self, now: float) -> None:
        """Refill the token bucket. A row may overdraw it; the next row then waits until it is positive again."""
        self._tokens = min(self._tokens + (now - self._filled_at) * self._rate, self._rate * BURST_S)
        self._filled_at = now

    def tick(self, now: float) -> list[Effect]:
        """Send another birth or heartbeat if one is due; reconnect if the hub does not answer."""
        if not self.connected:
            return []
        silent_s = now - self._heard_at
        if self._timed_out(now):
            return [Reconnect(silent_s=silent_s)]
        return [*self._heartbeats(now), *self._births(now)]

    def _timed_out(self, now: float) -> bool:
        """Whether a birth or heartbeat was not answered in time: within `heartbeat_s`, doubled after each timeout."""
        if self._unanswered_since is None or now - self._unanswered_since < self._heartbeat_s / 4:
            return False  # a process that was suspended first sends another heartbeat
        if now - self._heard_at < self._timeout_s * self._share:
            return False
        self._timeout_s = min(self._timeout_s * 2, max(LONGEST_SILENCE_S, self._heartbeat_s))
        self._heard_at = self._unanswered_since = now
        return True

    def _heartbeats(self, now: float) -> list[Effect]:
        """A heartbeat after half of `heartbeat_s` without an answer, then further ones until one is answered."""
        silent = self._unanswered_since is None and now - self._heard_at >= self._heartbeat_s / 2
        waiting = self._unanswered_since is not None and now - self._heartbeat_at >= self._heartbeat_s / 6
        if self._heartbeats_supported is False or not (silent or waiting):
            return []
        self._unanswered_since, self._heartbeat_at = (
            now if self._unanswered_since is None else self._unanswered_since,
            now,
        )
        return [SendHeartbeat()]

    def _request_session(self, now: float) -> list[Effect]:
        """Publish a birth, which every hub answers with its session."""
        if self._unanswered_since is None:
            self._unanswered_since = self._heartbeat_at = now
        return [PublishBirth()]

    def _births(self, now: float) -> list[Effect]:
        if not self.accepted:
            if now - self._birth_at < self._birth_retry_s:
                return []
            self._birth_at, self._birth_retry_s = now, min(self._birth_retry_s * 2, LONGEST_SILENCE_S)
            return self._request_session(now)
        # The session contains what the hub has stored, and only the rest is resent: a lost
        # acknowledgement costs one small message, and an absent hub is not flooded.
        return (
            self._request_session(now)
            if [window for window in self._windows.values() if window.should_query_hub(now)]
            else []
        )
