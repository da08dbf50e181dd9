"""Rollouts in simulated fleets: who is touched before a confirmation, and what every device ends with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from cloud_hub.thresholds.limits.core.entries import place
from cloud_hub.thresholds.rollouts.core import rules as rollout_rules
from cloud_hub.thresholds.rollouts.core.rules import PATIENCE, Bounds, RolloutStatus, Stage, choose_canaries, decide

OLD, NEW, HAND = "old", "new", "by hand"
SECOND = 1_000_000


@dataclass
class Device:
    """What the hub desires of it, what is in force, and what befalls it."""

    name: str
    stage: int
    refuses: bool = False
    alarms: int = 0
    desired: str = OLD
    in_force: str = OLD
    told: str = "waiting"
    online: bool = True

    def sync(self) -> None:
        """Connected: it takes the set that is desired, whole, or refuses it, whole."""
        if not self.online or self.in_force == self.desired:
            return
        if self.desired == NEW and self.refuses:
            self.told = "refused"
            return
        self.in_force = self.desired
        if self.desired == NEW and self.told == "pushed":
            self.told = "verified"


@dataclass
class Fleet:
    """The shell of a rollout over simulated devices; `together` are moved in one step."""

    devices: list[Device]
    bounds: Bounds
    together: int = 2
    stage: Stage = field(default_factory=lambda: Stage(number=0, pushed_us=0, watch_us=None))
    state: str = "watching"
    now_us: int = 0
    log: list[str] = field(default_factory=list)

    def seen(self) -> RolloutStatus:
        mine = [one for one in self.devices if one.stage == self.stage.number]
        holding = [one for one in self.devices if one.told in {"pushed", "verified", "refused"}]
        count = [one.told for one in mine].count
        return RolloutStatus(
            waiting=count("waiting"), asked=count("pushed"), verified=count("verified"), touched=len(holding),
            later=sum(one.stage > self.stage.number for one in self.devices), left=len(holding),
            alarms=sum(one.alarms for one in holding if one.in_force == NEW),
            refused=next((one.name for one in holding if one.told == "refused"), ""),
        )  # fmt: skip

    def move(self) -> None:
        number, pushed, watch = self.stage.number, self.stage.pushed_us, self.stage.watch_us
        move, _ = rollout_rules.decide(self.bounds, self.stage, self.seen(), self.now_us)
        self.log.append(move)
        if move == "push":
            for one in [one for one in self.devices if one.stage == number and one.told == "waiting"][: self.together]:
                one.told = "left" if one.desired == HAND else "pushed"
                one.desired = one.desired if one.desired == HAND else NEW
            pushed = self.now_us
        elif move == "watch":
            watch = self.now_us
        elif move == "widen":
            number, pushed, watch = number + 1, self.now_us, None
        elif move == "confirm":
            self.state = "confirmed"
        elif move == "roll back":
            self.state = "taking-back"
        elif move == "restore":
            holding = [one for one in self.devices if one.told in {"pushed", "verified", "refused"}]
            for one in holding[: self.together]:
                one.told = "kept" if one.desired == HAND else "restored"
                one.desired = one.desired if one.desired == HAND else OLD
        elif move == "end":
            self.state = "rolled-back"
        self.stage = Stage(number=number, pushed_us=pushed, watch_us=watch, rolling_back=self.state == "taking-back")


happenings = st.lists(st.sampled_from(["away", "back", "alarm", "hand", "pass", "long"]), max_size=30)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Fleet, list[tuple[str, int]]]:
    names = [f"d{n}" for n in range(draw(st.integers(1, 12)))]
    share = draw(st.floats(0.0, 1.0))
    first = choose_canaries(names, share, str(draw(st.integers(0, 5))))
    bounds = Bounds(watch_s=60, max_alarms=draw(st.integers(0, 2)), max_false_alarms=None, canaries=len(first))
    refusing = draw(st.sampled_from([*names, "", ""]))
    devices = [Device(name, 0 if name in first else 1, refuses=name == refusing) for name in names]
    events = [(what, draw(st.integers(0, len(names) - 1))) for what in draw(happenings)]
    return Fleet(devices, bounds), events


def befall(fleet: Fleet, what: str, device: Device) -> None:
    if what in {"away", "back"}:
        device.online = what == "back"
    elif what == "alarm":
        device.alarms += device.in_force == NEW
    elif what == "hand":
        device.desired = HAND
    fleet.now_us += {"pass": 61, "long": 61 * PATIENCE}.get(what, 1) * SECOND


def play(fleet: Fleet, events: list[tuple[str, int]]) -> Iterator[None]:
    """What happens, one after another; the hub moves after each."""
    for what, number in events:
        befall(fleet, what, fleet.devices[number])
        for one in fleet.devices:
            one.sync()
        if fleet.state not in {"confirmed", "rolled-back"}:
            fleet.move()
        yield


def check(run: tuple[Fleet, list[tuple[str, int]]]) -> str:
    """Play it to its end; what is wrong, or ''."""
    fleet, events = run
    for _ in play(fleet, events):
        beyond = [one.name for one in fleet.devices if one.stage == 1 and NEW in {one.desired, one.in_force}]
        if beyond and "widen" not in fleet.log:
            return f"{beyond} were touched before the canaries had done well"
    for _ in range(60):  # all come back, and time goes on
        fleet.now_us += 61 * SECOND
        for one in fleet.devices:
            one.online = True
            one.sync()
        if fleet.state not in {"confirmed", "rolled-back"}:
            fleet.move()
    for one in fleet.devices:
        one.sync()
    if fleet.state not in {"confirmed", "rolled-back"}:
        return f"it never ended: {fleet.log}"
    for one in fleet.devices:
        if one.in_force != one.desired and not (one.refuses and one.desired == NEW):
            return f"{one.name} has {one.in_force}, desired is {one.desired}"
        if fleet.state == "rolled-back" and NEW in {one.desired, one.in_force}:
            return f"{one.name} keeps what was taken back"
    return ""


@given(run=fleets())
@settings(max_examples=400)
def test_no_fleet_ends_half_changed_and_none_is_touched_early(run: tuple[Fleet, list[tuple[str, int]]]) -> None:
    assert check(run) == ""


def early(bounds: Bounds, stage: Stage, seen: RolloutStatus, now_us: int) -> tuple[Any, str]:
    """Seeded bug: goes on to the rest when the time is over, whoever has put it in force."""
    if not seen.waiting and seen.later and not seen.refused:
        return "widen", ""
    return decide(bounds, stage, seen, now_us)


def forgetful(bounds: Bounds, stage: Stage, seen: RolloutStatus, now_us: int) -> tuple[Any, str]:
    """Seeded bug: takes back one step's worth of devices and believes that it was all."""
    move, why = decide(bounds, stage, seen, now_us)
    return ("end" if move == "restore" and seen.left < seen.touched + 1 else move), why


@pytest.mark.parametrize("bug", [early, forgetful])
def test_the_worlds_would_find_a_bug(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_rules, "decide", bug)
    wrong = check_early if bug is early else lambda run: bool(check(run))
    try:
        found = find(fleets(), wrong, settings=settings(max_examples=2000, database=None))
    except NoSuchExample:
        pytest.fail("the seeded bug was not found")
    assert found


def check_early(run: tuple[Fleet, list[tuple[str, int]]]) -> bool:
    """Whether the rest was touched although no canary ever had the new set in force."""
    fleet, events = run
    for _ in play(fleet, events):
        if fleet.log[-1:] == ["widen"] and not any(one.told == "verified" for one in fleet.devices if one.stage == 0):
            return True
    return False


@given(run=fleets())
def test_nothing_is_widened_that_no_canary_has_tried(run: tuple[Fleet, list[tuple[str, int]]]) -> None:
    assert not check_early(run)


# -- canaries --------------------------------------------------------------------------------------


@given(count=st.integers(1, 200), share=st.floats(0, 1), salt=st.text(max_size=5))
def test_canaries_are_the_share_and_at_least_one(count: int, share: float, salt: str) -> None:
    names = [f"d{n}" for n in range(count)]
    chosen = choose_canaries(names, share, salt)
    assert len(chosen) == max(1, int(share * count))
    assert chosen == choose_canaries(names[::-1], share, salt)


def test_other_rollouts_have_other_canaries() -> None:
    names = [f"d{n}" for n in range(100)]
    assert len({choose_canaries(names, 0.05, str(salt)) for salt in range(20)}) > 15


def test_alarms_that_are_allowed_grow_with_the_devices() -> None:
    bounds = Bounds(watch_s=60, max_alarms=2, max_false_alarms=0, canaries=10)
    assert rollout_rules.alarm_allowance(2, bounds, RolloutStatus(touched=10)) == 2
    assert rollout_rules.alarm_allowance(2, bounds, RolloutStatus(touched=100)) == 20
    stage = Stage(number=0, pushed_us=0, watch_us=0)
    assert decide(bounds, stage, RolloutStatus(touched=10, alarms=1, false=1), 1)[0] == "roll back"


# -- whose limits ----------------------------------------------------------------------------------

LEARNED = {"metric": "cpu.load", "high": 70.0, "source": "learned"}
NEWER = LEARNED | {"high": 72.0}
HANDS = {"metric": "cpu.load", "high": 99.0}
OTHER = {"metric": "disk.used", "high": 90.0}


@pytest.mark.parametrize(
    ("desired", "own", "mine", "owner", "after"),
    [
        (None, [HANDS, OTHER], None, "", [OTHER, NEWER]),
        ([OTHER], [], None, "anna", [OTHER, NEWER]),
        ([OTHER, LEARNED], [], LEARNED, "learning:all", [OTHER, NEWER]),
        ([HANDS], [], LEARNED, "anna", None),
        ([HANDS], [], None, "anna", None),
        ([OTHER], [], LEARNED, "anna", None),
        (None, [], LEARNED, "", None),
        ([HANDS], [], LEARNED, "released:anna", [NEWER]),
        ([OTHER], [], None, "configuration:x", None),
        ([OTHER], [], None, "job:x", None),
    ],
)
def test_learned_limits_take_only_the_place_that_is_theirs(
    desired: Any, own: Any, mine: Any, owner: str, after: Any
) -> None:
    found, held = place(desired, own, [NEWER], {"cpu.load": mine}, owner)
    assert found == after
    assert bool(held) == (after is None)


def test_a_limit_by_hand_stays_beside_a_learned_one() -> None:
    found, held = place([HANDS, OTHER], [], [NEWER, {"metric": "a", "high": 1.0}], {}, "anna")
    assert found == [HANDS, OTHER, {"metric": "a", "high": 1.0}]
    assert held == {"cpu.load": "anna changed this limit"}
