"""A silent link: heartbeats, the connection that is given up, and how seldom it is made anew."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from simulators.link import EMPTY, joined, send_all, welcome

from edge_agent.link.core.session import (
    LONGEST_SILENCE_S,
    Effect,
    Fetch,
    LinkSession,
    PublishBirth,
    Reconnect,
    SendHeartbeat,
)
from shared.protocol.messages import Ack, Heartbeat

# -- silence -------------------------------------------------------------------------------------------

HEARTBEAT_S = 30


def living(random: float = 1.0, **word: object) -> LinkSession:
    """A session of a hub that answers heartbeats, welcomed at 0."""
    session = LinkSession("e1", EMPTY, "h1", heartbeat_s=HEARTBEAT_S, random=lambda: random)
    session.up("c1", 0.0)
    session.handle_session(welcome(heartbeat=True, hub_link="l1", **word), 0.0)
    return session


def silence(session: LinkSession, first: int, last: int) -> list[tuple[int, Effect]]:
    """(second, effect) of a time in which nothing is heard."""
    return [(now, effect) for now in range(first, last) for effect in session.tick(float(now))]


@pytest.mark.parametrize("random", [0.0, 0.5, 1.0])
def test_a_half_dead_link_is_noticed_within_heartbeat_s_and_made_anew(random: float) -> None:
    effects = silence(living(random), 1, HEARTBEAT_S + 1)
    beats = [now for now, effect in effects if effect == SendHeartbeat()]
    given_up = [now for now, effect in effects if isinstance(effect, Reconnect)]
    assert beats[0] == HEARTBEAT_S / 2
    assert len(beats) >= 2, "one lost heartbeat is no reason"
    assert given_up
    assert HEARTBEAT_S / 2 < given_up[0] <= HEARTBEAT_S


def test_a_link_that_hears_the_hub_sends_no_heartbeat() -> None:
    session = living()
    session.appended(EMPTY | {"telemetry": 1000})
    for now in range(1, 300):
        send_all(session, float(now))
        session.handle_ack(Ack(epoch="e1", stream="telemetry", upto=now), float(now))
        assert session.tick(float(now)) == []


def test_answered_heartbeats_keep_a_silent_link() -> None:
    session = living()
    beats = 0
    for now in range(1, 3600):
        effects = session.tick(float(now))
        assert all(effect == SendHeartbeat() for effect in effects)
        if effects:
            beats += 1
            session.handle_heartbeat(Heartbeat(session="c1"), float(now))
    assert beats == 3599 // (HEARTBEAT_S // 2)


def test_the_answer_to_another_connection_proves_nothing() -> None:
    session = living()
    for now in range(1, HEARTBEAT_S):
        session.tick(float(now))
        session.handle_heartbeat(Heartbeat(session="c0"), float(now))
    assert any(isinstance(effect, Reconnect) for effect in session.tick(float(HEARTBEAT_S)))


def test_a_hub_that_answers_no_heartbeats_is_not_asked_and_not_left() -> None:
    session = joined()
    assert silence(session, 1, 86_400) == []


def test_a_hub_that_welcomes_and_swallows_all_else_is_left_ever_more_seldom() -> None:
    """A broker's access list that forbids heartbeats must not cost a connection every half minute."""
    session = living()
    left: list[int] = []
    for now in range(1, 20_000):
        if any(isinstance(effect, Reconnect) for effect in session.tick(float(now))):
            left.append(now)
            session.down()
            session.up("c1", float(now))
            session.handle_session(welcome(heartbeat=True, hub_link="l1"), float(now))
    waits = [after - before for before, after in itertools.pairwise([0, *left])]
    assert waits[:4] == [30, 60, 120, 240]
    assert max(waits) <= LONGEST_SILENCE_S
    session.handle_heartbeat(Heartbeat(session="c1"), 20_000.0)
    assert any(isinstance(e, Reconnect) for _, e in silence(session, 20_001, 20_001 + HEARTBEAT_S + 1))


def test_a_birth_that_nobody_answers_is_tried_on_another_connection_ever_more_seldom() -> None:
    session = LinkSession("e1", EMPTY, heartbeat_s=HEARTBEAT_S)
    session.up("c1", 0.0)
    left, births = [], 0
    for now in range(1, 7200):
        effects = session.tick(float(now))
        births += PublishBirth() in effects
        if any(isinstance(effect, Reconnect) for effect in effects):
            left.append(now)
            session.down()
            session.up("c1", float(now))
    assert left[:5] == [30, 90, 210, 450, 930]
    assert len(left) < 20
    assert births < 7200 / 20


def test_a_stalled_agent_asks_before_it_gives_up() -> None:
    """The process was frozen for an hour: its own clock says silence, the link may be well."""
    session = living()
    assert session.tick(3600.0) == [SendHeartbeat()]
    session.handle_heartbeat(Heartbeat(session="c1"), 3600.1)
    assert silence(session, 3601, 3614) == []


def test_one_answer_is_one_fetch_until_the_hub_has_another_connection() -> None:
    session = living()
    again = welcome(heartbeat=True, hub_link="l1")
    assert session.handle_session(again, 5.0) == []
    assert session.handle_session(replace(again, hub_link="l2"), 6.0) == [Fetch(restart=False)]
    assert session.handle_session(replace(again, hub_link="l2"), 7.0) == []
    assert session.handle_session(replace(again, hub_link="l2", hub_epoch="h2"), 8.0) == [Fetch(restart=True)]
    session.down()
    session.up("c1", 9.0)
    assert session.handle_session(replace(again, hub_link="l2", hub_epoch="h2"), 9.0) == [Fetch(restart=False)]
