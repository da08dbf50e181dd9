"""The link's session in a simulated world (invariants O1, O3, O4, O7, O9); the same world catches seeded bugs."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pytest
from simulators.link import EMPTY, Device, MemoryOutbox, World, device_with, joined, play, send_all, welcome

from edge_agent.link.core.session import (
    BIRTH_RETRY_S,
    BURST_S,
    Effect,
    Fetch,
    Forget,
    LinkSession,
    PublishBirth,
    Renew,
    Send,
)
from edge_agent.link.core.stream_window import DOUBTS, FIRST_WINDOW, LONGEST_RESEND_S, WINDOW_ROWS
from shared.protocol.messages import Ack, Session, Stream

SEEDS = 200


# -- the world -----------------------------------------------------------------------------------------


def test_after_healing_all_is_at_the_hub_once_and_in_order() -> None:
    worlds = [play(seed) for seed in range(SEEDS)]
    assert sum(len(items) for world in worlds for items in world.hub.stored.values()) > 50 * SEEDS
    assert any(world.hub.lost for world in worlds)
    assert any(world.abandoned for world in worlds)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_after_healing_all_is_at_the_hub_in_ten_thousand_worlds() -> None:
    for seed in range(10_000):
        play(seed)


# -- seeded bugs ---------------------------------------------------------------------------------------


class ForgetsWhenSent(Device):
    """Takes the broker's PUBACK for the hub's word."""

    def send(self, send: Send) -> bool:
        done = super().send(send)
        if done:
            self.forget(send.stream, self.session._windows[send.stream].sent)
        return done


class AnyEpoch(LinkSession):
    def handle_ack(self, ack: Ack, now: float) -> list[Effect]:
        return super().handle_ack(replace(ack, epoch=self._epoch), now)


class AnyFuture(LinkSession):
    def handle_ack(self, ack: Ack, now: float) -> list[Effect]:
        return super().handle_ack(replace(ack, upto=ack.upto + 1), now)


class NeverRewinds(LinkSession):
    def down(self) -> list[Effect]:
        self.connected = self.accepted = False
        return []

    def handle_session(self, message: Session, now: float) -> list[Effect]:
        places = {stream: (lane.sent, lane.in_flight.copy()) for stream, lane in self._windows.items()}
        effects = super().handle_session(message, now)
        for stream, (sent, flying) in places.items():
            self._windows[stream].sent, self._windows[stream].in_flight = sent, flying
        return effects

    def tick(self, now: float) -> list[Effect]:
        return super().tick(now) if not self.accepted else []


class SendsBeforeWelcome(LinkSession):
    def next(self) -> Send | None:
        welcome, self.accepted = self.accepted, self.connected
        send = super().next()
        self.accepted = welcome
        return send


class NeverResends(LinkSession):
    def tick(self, now: float) -> list[Effect]:
        return super().tick(now) if not self.accepted else []


class NeverGivesUp(LinkSession):
    def _timed_out(self, now: float) -> bool:
        return False


@pytest.mark.parametrize(
    ("bug", "shows"),
    [
        (ForgetsWhenSent, "was forgotten up to"),
        (device_with(AnyEpoch), "was forgotten up to"),
        (device_with(AnyFuture), "was forgotten up to"),
        (device_with(NeverRewinds), "did not all arrive"),
        (device_with(SendsBeforeWelcome), "before the hub had answered"),
        (device_with(NeverResends), "did not all arrive"),
        (device_with(NeverGivesUp), "did not all arrive|still waits"),
    ],
    ids=[
        "forgets-when-sent",
        "any-epoch",
        "any-future",
        "never-rewinds",
        "sends-before-welcome",
        "never-resends",
        "never-gives-up",
    ],
)
def test_the_world_catches_a_seeded_bug(bug: type[Device], shows: str) -> None:
    def run() -> None:
        for seed in range(SEEDS):
            play(seed, bug)

    with pytest.raises(AssertionError, match=shows):
        run()


# -- one by one ----------------------------------------------------------------------------------------


def test_an_alarm_passes_a_backlog() -> None:
    world = World(1)
    for _ in range(500):
        world.outbox.accept("telemetry", 1)
    sent: list[Stream] = []

    class Watching(Device):
        def send(self, send: Send) -> bool:
            sent.append(send.stream)
            if len(sent) == 100:  # in the middle of a pump
                self.outbox.accept("alarm", 1)
                self.session.appended(self.outbox.last)
            return super().send(send)

    world.device = Watching(world, world.outbox)
    world.heal(60.0)
    world.settled()
    assert "alarm" not in sent[:100]
    assert "alarm" in sent[100 : 100 + WINDOW_ROWS + 1]
    assert sent.count("telemetry") == 500


def test_a_window_bounds_what_flies_and_each_stream_has_its_own() -> None:
    session = joined({"telemetry": 100, "event": 100})
    first = range(1, FIRST_WINDOW + 1)
    assert send_all(session) == [("event", n) for n in first] + [("telemetry", n) for n in first]
    session.handle_ack(Ack(epoch="e1", stream="event", upto=1), 0.1)
    assert send_all(session) == [("event", FIRST_WINDOW + 1), ("event", FIRST_WINDOW + 2)]


def test_a_row_that_the_broker_dropped_is_sent_again_while_other_streams_flow() -> None:
    session = joined({"event": 1, "telemetry": 1})
    send_all(session)
    again = []
    for now in range(1, 60):
        session.handle_ack(Ack(epoch="e1", stream="telemetry", upto=now), float(now))
        session.appended(EMPTY | {"event": 1, "telemetry": now + 1})
        if PublishBirth() in session.tick(float(now)):
            session.handle_session(welcome(upto={"telemetry": now}), float(now))
        again += [seq for stream, seq in send_all(session, float(now)) if stream == "event"]
    assert again[:1] == [1]


@pytest.mark.parametrize(
    "ack",
    [
        Ack(epoch="e0", stream="telemetry", upto=7),
        Ack(epoch="e1", stream="telemetry", upto=11),
        Ack(epoch="e1", stream="telemetry", upto=5),
        Ack(epoch="e1", stream="telemetry", upto=2),
        Ack(epoch="e1", stream="alarm", upto=1),
    ],
    ids=["another-epoch", "future", "same", "past", "future-of-an-empty-stream"],
)
def test_an_acknowledgement_that_cannot_be_changes_nothing(ack: Ack) -> None:
    session = joined({"telemetry": 10}, {"telemetry": 5})
    sent = send_all(session)
    assert session.handle_ack(ack, 1.0) == []
    assert session.next() is None
    session.down()
    session.up("c1", 2.0)
    session.handle_session(welcome(), 2.0)
    assert send_all(session) == sent


def test_a_hub_that_holds_more_than_was_ever_accepted_makes_the_store_begin_another_epoch() -> None:
    """The store is an older copy of itself: its new items would be taken for those that the hub has."""
    session = joined({"telemetry": 3})
    assert session.handle_session(welcome(upto={"telemetry": 900}), 0.0) == [Renew()]
    assert session.next() is None, "nothing leaves under the old epoch"
    assert session.renewed("e2", EMPTY | {"telemetry": 3}, 0.0) == [PublishBirth()]
    session.handle_session(welcome(epoch="e2"), 0.0)
    session.appended(EMPTY | {"telemetry": 4})
    assert [seq for _, seq in send_all(session)] == [1, 2]
    assert session.handle_ack(Ack(epoch="e1", stream="telemetry", upto=2), 1.0) == []
    assert session.handle_ack(Ack(epoch="e2", stream="telemetry", upto=2), 1.0) == [Forget(stream="telemetry", upto=2)]


def test_what_a_hub_holds_of_another_epoch_renews_nothing() -> None:
    session = joined({"telemetry": 3})
    assert Renew() not in session.handle_session(welcome(epoch="other", upto={"telemetry": 900}), 0.0)


def test_the_answer_to_a_birth_says_what_need_not_be_sent() -> None:
    session = LinkSession("e1", EMPTY)
    session.appended(EMPTY | {"telemetry": 10, "alarm": 2})
    session.up("c1", 0.0)
    effects = session.handle_session(welcome(upto={"telemetry": 8, "alarm": 2}), 0.0)
    assert Forget(stream="telemetry", upto=8) in effects
    assert Forget(stream="alarm", upto=2) in effects
    assert send_all(session) == [("telemetry", 9), ("telemetry", 10)]


def test_the_answer_of_another_epoch_tells_nothing_about_this_one() -> None:
    session = LinkSession("e1", EMPTY)
    session.appended(EMPTY | {"telemetry": 10})
    session.up("c1", 0.0)
    assert session.handle_session(welcome(epoch="e0", upto={"telemetry": 8}), 0.0) == [Fetch(restart=False)]
    assert send_all(session)[0] == ("telemetry", 1)


def test_the_answer_to_another_connection_is_no_welcome() -> None:
    session = LinkSession("e1", EMPTY)
    session.appended(EMPTY | {"alarm": 1})
    session.up("c2", 0.0)
    assert session.handle_session(welcome(), 0.0) == []
    assert session.next() is None


def test_another_life_of_the_hub_restarts_the_twin() -> None:
    session = joined()
    assert session.handle_session(welcome(hub_epoch="h2"), 1.0) == [Fetch(restart=True)]
    assert session.hub_epoch == "h2"
    assert session.handle_session(welcome(hub_epoch="h2"), 2.0) == [Fetch(restart=False)]


def refuse(session: LinkSession) -> None:
    session.handle_session(welcome(refused="protocol 1 is not served"), 1.0)


def cut(session: LinkSession) -> None:
    session.down()


@pytest.mark.parametrize("end", [refuse, cut])
def test_a_refused_or_broken_session_sends_nothing(end: Callable[[LinkSession], None]) -> None:
    session = joined({"alarm": 3, "telemetry": 50})
    end(session)
    assert session.next() is None
    assert [e for e in session.tick(100.0) if not isinstance(e, PublishBirth)] == []
    assert session.next() is None


def test_a_refused_session_asks_again_and_goes_on_when_it_is_let_in() -> None:
    session = joined({"alarm": 1})
    refuse(session)
    assert session.refused
    assert session.tick(BIRTH_RETRY_S) == [PublishBirth()]
    session.handle_session(welcome(), BIRTH_RETRY_S + 1)
    assert not session.refused
    assert send_all(session) == [("alarm", 1)]


def tries(session: LinkSession, seconds: int, answered: bool) -> list[int]:
    """Times at which the session asked the hub; its row is sent again just when the hub has `answered` often enough."""
    times = []
    for now in range(1, seconds):
        greeted = PublishBirth() in session.tick(float(now))
        if greeted:
            times.append(now)
            if answered:
                session.handle_session(welcome(), float(now))
        assert bool(send_all(session, float(now))) == (greeted and answered and len(times) >= DOUBTS)
    return times


@pytest.mark.parametrize("answered", [False, True], ids=["hub-silent", "hub-answers-births-only"])
def test_resending_backs_off_until_something_is_acknowledged(answered: bool) -> None:
    session = joined({"telemetry": 3})
    send_all(session)
    times = [0, *tries(session, 400, answered)]
    waits = [after - before for before, after in itertools.pairwise(times)]
    assert waits[:4] == [5, 10, 20, 40]
    assert set(waits[4:]) == {int(LONGEST_RESEND_S)}
    session.handle_ack(Ack(epoch="e1", stream="telemetry", upto=1), 400.0)
    assert session.tick(404.0) == []
    assert session.tick(405.0) == [PublishBirth()]


def test_an_unanswered_birth_is_repeated() -> None:
    session = LinkSession("e1", EMPTY)
    session.up("c1", 10.0)
    assert session.tick(10.0 + BIRTH_RETRY_S - 0.1) == []
    assert PublishBirth() in session.tick(10.0 + BIRTH_RETRY_S)
    assert session.tick(10.0 + BIRTH_RETRY_S + 1) == []


def test_nothing_happens_without_a_connection() -> None:
    session = LinkSession("e1", EMPTY)
    session.appended(EMPTY | {"alarm": 9})
    assert session.tick(1e6) == []
    assert session.next() is None
    assert MemoryOutbox("e1").after("alarm", 0) is None


# -- a backlog on a narrow line (O9) -----------------------------------------------------------------------

LINE_BYTES_S = 100_000
REPLAY_BYTES_S = 50_000
ROW = 8000


def alarm_latencies(seed: int, replay_bytes_s: float) -> tuple[list[float], float]:
    """Seconds from each alarm until the hub has it while a backlog drains over a line of LINE_BYTES_S, and the
    backlog's own rate in bytes a second. Virtual time in steps of 10 ms; the hub acknowledges what it has."""
    dice = random.Random(seed)
    session = LinkSession("e1", EMPTY, replay_bytes_s=replay_bytes_s)
    last = dict(EMPTY) | {"telemetry": 10_000}
    session.appended(last)
    session.up("c1", 0.0)
    session.handle_session(welcome(), 0.0)
    free_at, line, raised, latencies = 0.0, deque[tuple[float, Stream, int]](), dict[int, float](), list[float]()
    for step in range(6000):
        now = step / 100
        while line and line[0][0] <= now:
            _, stream, seq = line.popleft()
            session.handle_ack(Ack(epoch="e1", stream=stream, upto=seq), now)
            if stream == "alarm":
                latencies.append(now - raised[seq])
        if dice.random() < 0.01:
            last["alarm"] += 1
            raised[last["alarm"]] = now
        session.appended(last)
        while (send := session.next(now)) is not None:
            size = 300 if send.stream == "alarm" else dice.randint(ROW // 2, ROW)
            free_at = max(free_at, now) + size / LINE_BYTES_S
            line.append((free_at, send.stream, send.after + 1))
            session.sent(send.stream, send.after + 1, now, size)
    drained = session._windows["telemetry"].acked * ROW * 0.75 / 60
    return latencies, drained


WITHIN_S = (REPLAY_BYTES_S * BURST_S + ROW) / LINE_BYTES_S + 0.05
"""What may stand in front of an alarm: one burst, the row that passes it, and two steps of this clock."""


def test_a_backlog_that_drains_keeps_no_alarm_waiting() -> None:
    for seed in range(20):
        latencies, drained = alarm_latencies(seed, REPLAY_BYTES_S)
        assert len(latencies) > 20
        assert max(latencies) <= WITHIN_S, f"seed {seed}"
        assert 0.9 <= drained / REPLAY_BYTES_S <= 1.1, "and the backlog leaves at the rate that was set"


def test_without_the_rate_an_alarm_waits_behind_the_window() -> None:
    latencies, _ = alarm_latencies(1, 1e12)
    assert max(latencies) > 3 * WITHIN_S
