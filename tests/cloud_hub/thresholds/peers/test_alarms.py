"""Evidence into alarms: one for a thing at a time, over after calm, deaf before its time; and who is beside whom."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cloud_hub.thresholds.monitoring import peer_alarms
from cloud_hub.thresholds.peers import alarms as peer_rules
from cloud_hub.thresholds.peers.alarms import CALM, MARGIN, Fleet, PeerAlarmTransition, fleet_of, warmup_start
from cloud_hub.thresholds.scores import alarms as score_alarms

SERVICE = (0, 0, 0, 1, 1, 1)
THINGS = len(SERVICE) + 2
LIMITS = (4.0,) * 6 + (3.0,) * 2
LIVE = 5


class Told:
    """Evidence as it is told, slot by slot."""

    def __init__(self, rows: Any) -> None:
        self._rows = iter(rows)

    def step(self, t_us: int, values: Any) -> Any:
        row = next(self._rows)
        return row[None, : len(SERVICE)], row[None, len(SERVICE) :]


def run(
    evidence: Any, here: Any, parts: tuple[int, ...] = (), limits: tuple[float, ...] = LIMITS
) -> list[PeerAlarmTransition]:
    """All changes, with a restart before each slot of `parts`."""
    values = np.where(here, 1.0, np.nan)
    standing: dict[int, int] = {}
    found: list[PeerAlarmTransition] = []
    bounds = [0, *sorted(parts), len(values)]
    for first, last in pairwise(bounds):
        told = Told(evidence[first:last][here[first:last].any(axis=1)])
        t_us = np.arange(first, last, dtype=np.int64)
        standing, changes = peer_rules.advance(told, SERVICE, t_us, values[first:last], limits, standing, LIVE)
        found += changes
    return found


def faults(evidence: Any, here: Any, changes: list[PeerAlarmTransition]) -> list[str]:
    """What is wrong with these changes, told from the evidence alone, a thing at a time."""
    wrong = []
    for thing in range(THINGS):
        limit = LIMITS[thing]
        mine = {change.t_us: change.state for change in changes if change.member == thing}
        stands, below = False, 0
        for t in range(len(evidence)):
            members = [thing] if thing < len(SERVICE) else [n for n in range(6) if SERVICE[n] == thing - len(SERVICE)]
            heard, e = here[t, members].any(), evidence[t, thing]
            below = below if not heard else below + 1 if e < limit - MARGIN else 0
            new = mine.get(t)
            if new == "raised":
                if stands or e < limit or t < LIVE:
                    wrong.append(f"{thing} raised at {t}")
                stands, below = True, 0
            elif new == "cleared":
                if not stands or below < CALM:
                    wrong.append(f"{thing} cleared at {t}")
                stands = False
            elif t >= LIVE and e >= limit and heard and not stands:
                wrong.append(f"{thing} not raised at {t}")
            elif stands and below >= CALM and heard:
                wrong.append(f"{thing} not cleared at {t}")
    return wrong


@st.composite
def courses(draw: st.DrawFn) -> tuple[Any, Any, tuple[int, ...]]:
    """Evidence [T, things] in stretches, who is heard, and where the hub is restarted."""
    stretches = draw(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 2**31)), min_size=2, max_size=6))
    rows, here = [], []
    for length, seed in stretches:
        dice = np.random.default_rng(seed)
        rows.append(
            np.repeat(dice.choice([0.0, 2.8, 3.8, 5.0], size=(1, THINGS), p=[0.6, 0.1, 0.1, 0.2]), length, axis=0)
        )
        here.append(np.repeat(dice.random((1, len(SERVICE))) < 0.8, length, axis=0))
    evidence, heard = np.concatenate(rows), np.concatenate(here)
    for thing in range(THINGS):  # who is not heard has no evidence, as of `Peers`
        members = [n for n in range(6) if thing in (n, 6 + SERVICE[n])]
        evidence[~heard[:, members].any(axis=1), thing] = 0.0
    parts = draw(st.lists(st.integers(1, len(evidence) - 1), max_size=3, unique=True))
    return evidence, heard, tuple(parts)


def check() -> None:
    @settings(max_examples=100, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(courses())
    def holds(course: tuple[Any, Any, tuple[int, ...]]) -> None:
        evidence, here, parts = course
        changes = run(evidence, here, parts)
        assert faults(evidence, here, changes) == []
        assert changes == run(evidence, here)

    holds()


def test_one_alarm_for_an_episode_wherever_the_hub_is_restarted() -> None:
    check()


def deaf(step: Callable[..., Any]) -> Callable[..., Any]:
    """Judges from the first slot on."""
    return lambda *given: step(*given[:-1], 0)


def forgetful(step: Callable[..., Any]) -> Callable[..., Any]:
    """Loses at a restart what stands."""
    return lambda *given: step(*given[:5], {}, given[6])


def generous(step: Callable[..., Any]) -> Callable[..., Any]:
    """Takes the threshold of services for servers."""
    return lambda *given: step(*given[:4], (LIMITS[-1],) * THINGS, *given[5:])


@pytest.mark.parametrize("bug", [deaf, forgetful, generous])
def test_the_property_catches(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_rules, "advance", bug(peer_rules.advance))
    with pytest.raises(AssertionError):
        check()


def test_silence_taken_for_calm_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = peer_rules._ended
    monkeypatch.setattr(
        peer_rules,
        "_ended",
        lambda left, t_us, evidence, heard, *rest: ended(left, t_us, evidence, heard | True, *rest),
    )
    with pytest.raises(AssertionError):
        check()


# -- verdicts --------------------------------------------------------------------------------------

FLEET = Fleet(("a", "b", "c", "d", "e", "f"), SERVICE, ("web", "db"), {})
FALSE = st.dictionaries(
    st.tuples(st.just("m"), st.sampled_from(FLEET.devices), st.sampled_from(["peers", "service"])), st.integers(0, 7)
)  # fmt: skip


def stood(changes: list[PeerAlarmTransition]) -> set[tuple[int, int]]:
    """(slot, thing) wherever an alarm stands; slots as of `courses`, which have no more than 200."""
    found, since = set(), dict[int, int]()
    for change in changes:
        if change.state == "raised":
            since[change.member] = change.t_us
        else:
            found |= {(t, change.member) for t in range(since.pop(change.member), change.t_us)}
    return found | {(t, thing) for thing, begin in since.items() for t in range(begin, 200)}


def check_verdicts() -> None:
    @settings(max_examples=100, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(courses(), FALSE, FALSE)
    def holds(course: tuple[Any, Any, tuple[int, ...]], false: Any, more: Any) -> None:
        evidence, here, _ = course
        later = {key: false.get(key, 0) + more.get(key, 0) for key in false.keys() | more.keys()}
        few, many = (peer_alarms.alarm_thresholds("m", FLEET, (3.5, 2.5), counts) for counts in (false, later))
        assert stood(run(evidence, here, limits=many)) <= stood(run(evidence, here, limits=few))

    holds()


def test_more_alarms_judged_false_never_make_one_sooner() -> None:
    check_verdicts()


def test_a_verdict_that_lowers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_alarms, "HIGHER", -0.3)
    with pytest.raises(AssertionError):
        check_verdicts()


def test_an_alarm_judged_false_asks_for_twice_the_rarity_of_its_own_thing_alone() -> None:
    false = {("m", "b", "peers"): 2, ("m", "d", "service"): 1, ("m", "f", "service"): 2, ("other", "a", "peers"): 3,
             ("m", "gone", "peers"): 1, ("m", "c", "peers"): 99}  # fmt: skip
    found = peer_alarms.alarm_thresholds("m", FLEET, (4.0, 3.0), false)
    assert found == pytest.approx((4.0, 4.6, 5.5, 4.0, 4.0, 4.0, 3.0, 3.9))


# -- telling ---------------------------------------------------------------------------------------


def test_a_service_is_told_on_its_strangest_server() -> None:
    evidence = np.zeros((10, THINGS))
    evidence[7:, 7], evidence[7:, 4] = 6.0, 2.0
    (change,) = run(evidence, np.ones((10, 6), bool))
    assert (change.member, change.server, change.t_us) == (7, 4, 7)


def test_without_evidence_no_budget_raises() -> None:
    standing, changes = peer_rules.advance(
        Told(np.zeros((3, THINGS))), SERVICE, np.arange(3), np.ones((3, 6)), (0.0,) * THINGS, {}, 0
    )  # fmt: skip
    assert (standing, changes) == ({}, [])


def test_services_are_made_of_tags_and_who_is_left_out_is_told() -> None:
    tags: dict[str, Any] = {f"a-{n}": {"service": {"name": "web"}} for n in (2, 0, 1)}
    tags |= {"b-0": {"service": {"name": 7}}, "b-1": {"service": {"name": 7}}, "c": {"service": "web"}, "d": {}}
    tags["e"] = {"service": {"name": ["web"]}}
    fleet = fleet_of(tags, "tags.service.name")
    assert (fleet.devices, fleet.service, fleet.names) == (("a-0", "a-1", "a-2"), (0, 0, 0), ("web",))
    assert fleet.left_out == {
        "b-0": "only 2 of service '7': 3 are the least", "b-1": "only 2 of service '7': 3 are the least",
        "c": "has no tags.service.name", "d": "has no tags.service.name", "e": "has no tags.service.name",
    }  # fmt: skip
    assert fleet_of(dict(reversed(tags.items())), "tags.service.name") == fleet


def test_a_fresh_fleet_begins_where_half_of_it_is_heard() -> None:
    values = np.full((5, 4), np.nan)
    assert warmup_start(values) == 5
    values[1:, 0] = values[3:, 1] = 1.0
    assert warmup_start(values) == 3
