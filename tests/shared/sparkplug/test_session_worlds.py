"""Worlds of edge nodes and a host over a broker that loses, doubles and delays: the host always gets it right again.

Each rule that the worlds check has a seeded bug below, which makes a world fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from simulators.sparkplug_broker import Faults
from simulators.sparkplug_world import HostActor, World

from shared.sparkplug import definitions, host_node, host_receiver, rebirths, sequence
from shared.sparkplug.edge_session import EdgeOptions, EdgeSession
from shared.sparkplug.host_session import HostOptions, HostSession
from shared.sparkplug.topics import NodeId

FAULTS = Faults(lost=0.05, doubled=0.05, late=0.05)
NONE = Faults()
HOST = HostOptions(host_id="hub", rebirth_first_ms=1_000, rebirth_limit_ms=20_000)
STORM_MS = 120_000


def world(seed: int, nodes: int = 3, faults: Faults = FAULTS) -> World:
    """Nodes with and without aliases, with and without primary host."""
    made = World(seed)
    made.host = HostActor(made, HOST)
    made.broker.faults = faults
    for number in range(nodes):
        options = EdgeOptions(
            node=NodeId("plant", f"n{number}"), aliases=number % 2 == 0, primary_host="hub" if number % 3 == 2 else "",
            mqtt5=number % 2 == 1,
        )  # fmt: skip
        made.add_edge(options)
    return made


def disturb(made: World) -> None:
    """Something happens: mostly new values, sometimes a misfortune."""
    random, edge = made.random, made.random.choice(list(made.edges.values()))
    assert made.host is not None
    misfortunes: list[tuple[float, Callable[[], Any]]] = [
        (0.70, edge.change),
        (0.05, edge.toggle_device),
        (0.02, edge.crash),
        (0.02, lambda: made.broker.cut(str(edge.options.node))),
        (0.02, lambda: made.broker.cut("host")),
        (0.01, made.host.restart),
        (0.01, lambda: made.broker.restart(keep_retained=random.random() < 0.5)),
        (0.01, lambda: edge.act(edge.session.disconnecting(made.now_ms))),
    ]
    draw = random.random()
    for share, happen in misfortunes:
        draw -= share
        if draw < 0:
            happen()
            return


def settle(made: World) -> list[str]:
    """Without faults, and after one more value of each device (a loss shows by what follows it): what still differs."""
    made.broker.faults = NONE
    made.run(30_000)
    for edge in made.edges.values():
        edge.change()
    made.run(120_000)
    return made.differences()


def end_unseen(made: World) -> list[str]:
    """A node ends for good while the host is away: what differs then."""
    first = made.edges[NodeId("plant", "n0")]
    made.broker.cut("host")
    made.broker.cut(str(first.options.node))
    first.connect_at_ms = made.now_ms + 10**9
    made.run(120_000)
    return made.differences()


def run(seed: int, steps_ms: int = STORM_MS, nodes: int = 3) -> World:
    made = world(seed, nodes)
    made.run(steps_ms, each=lambda: disturb(made))
    assert settle(made) == []
    assert end_unseen(made) == []
    return made


def bounded(made: World) -> bool:
    """Whether no node was asked for births more often than the backoff allows: twice a wait that doubles from 1 s.

    The backoff starts again after a minute without a request, so a minute may see the first six waits (63 s) at most.
    """
    assert made.host is not None
    return all(
        sum(first <= one < first + 60_000 for one in times) <= 7
        for times in made.host.requests.values()
        for first in times
    )


@pytest.mark.parametrize("seed", range(8))
def test_after_any_misfortune_the_host_knows_what_the_nodes_know(seed: int) -> None:
    made = run(seed)
    assert bounded(made)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1000, 1060))
def test_after_long_misfortune_the_host_knows_what_the_nodes_know(seed: int) -> None:
    assert bounded(run(seed, 1_200_000, nodes=5))


@pytest.mark.parametrize("nodes", [100, pytest.param(1_000, marks=pytest.mark.nightly)])
def test_a_broker_restart_with_many_nodes_is_absorbed_without_a_rebirth_loop(nodes: int) -> None:
    """Nodes that come back before the host are asked once each; their values are all there in the end."""
    made = world(1, nodes, NONE)
    made.run(20_000, 1_000)
    assert made.differences() == []
    assert made.host is not None
    made.host.requests.clear()
    made.broker.restart(keep_retained=False)
    made.host.connect_at_ms = made.now_ms + 4_000
    made.run(10_000, 500, each=lambda: [edge.change() for edge in made.edges.values() if made.random.random() < 0.2])
    made.run(100_000, 2_000)
    assert made.differences() == []
    counts = [len(times) for times in made.host.requests.values()]
    assert len(counts) > nodes / 2, "those without a primary host were born before the host was back"
    assert max(counts) <= 2
    start = min(time for times in made.host.requests.values() for time in times)
    total = [time - start for times in made.host.requests.values() for time in times]
    assert all(sum(one <= ms for one in total) <= 50 + 20 * ms / 1_000 for ms in total)


# -- seeded bugs ---------------------------------------------------------------------------------------


def _always_next(self: sequence.Sequence, seq: int, message: sequence.Message) -> sequence.Place:
    self._advance(seq, message.payload)
    return sequence.Place.NEXT


def _lose_early(self: sequence.Sequence, seq: int, message: sequence.Message) -> sequence.Place:
    if seq == self._expected:
        self._advance(seq, message.payload)
        return sequence.Place.NEXT
    return sequence.Place.DUPLICATE


def _trusting(
    defined: definitions.Definitions, metrics: Iterable[Any], *, trust_aliases: bool, real: Any = definitions.read_data
) -> Any:
    return real(defined, metrics, trust_aliases=True)


def _immortal(self: host_node.Node, liveness: host_node.Liveness) -> tuple[str, ...]:
    return self.devices  # reported as dead, but its data still counts


def _always_due(_self: rebirths.NodeBackoff, _now_ms: int) -> bool:
    return True


def _forgetful_death(self: EdgeSession, device: str, now_ms: int) -> list[Any]:
    self._metrics.died(device)
    return []


def _counting_births(self: EdgeSession, now_ms: int, real: Any = EdgeSession._births) -> Any:
    before, self._rebirth_due = self._rebirth_due, False
    births = real(self, now_ms)
    return births[:1] if before else births  # a rebirth without the devices


def _same_bd_seq(self: EdgeSession, now_ms: int, server: str = "", real: Any = EdgeSession.connecting) -> Any:
    self._bd_seq -= self._bd_seq >= 0
    return real(self, now_ms, server)


def _no_gap(self: host_receiver.Receiver, node: Any, now_ms: int, real: Any = host_receiver.Receiver._give_up) -> Any:
    return [one for one in real(self, node, now_ms) if not self._queue.forget(node)][:0]


def _no_proof(_self: Any, _now_ms: int) -> list[Any]:
    return []


BUGS: dict[str, tuple[Any, str, Any]] = {
    "gaps are not noticed": (sequence.Sequence, "offer", _always_next),
    "early messages are dropped": (sequence.Sequence, "offer", _lose_early),
    "aliases are trusted after a gap": (host_receiver, "read_data", _trusting),
    "data of the dead counts": (host_node.Node, "died", _immortal),
    "rebirths without backoff": (rebirths.NodeBackoff, "due", _always_due),
    "no DDEATH": (EdgeSession, "device_died", _forgetful_death),
    "a rebirth leaves out the devices": (EdgeSession, "_births", _counting_births),
    "bdSeq does not count": (EdgeSession, "connecting", _same_bd_seq),
    "nodes need not prove that they live": (HostSession, "_ask_for_proof", _no_proof),
    "a gap asks for nothing": (host_receiver.Receiver, "_give_up", _no_gap),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_seeded_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BUGS[bug])
    assert not all(_holds(seed) for seed in range(40)), "no world noticed it"


def _holds(seed: int) -> bool:
    try:
        return bounded(run(seed))
    except AssertionError:
        return False
