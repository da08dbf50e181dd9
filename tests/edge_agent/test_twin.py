"""The device's side of the twin: rule by rule, and against the hub's own twin rules over a lying channel (T1-T8)."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from edge_agent.twin import Effect, LocalDocument, Remember, Report, Twin
from shared import twin as rules
from shared.messages import Applied

Json = Any


class Thing:
    """Something with values in force; refuses what is above 9 or not in the right shape."""

    def __init__(self, *keys: str) -> None:
        self.in_force: dict[str, Json] = {}
        self.calls: list[str] = []
        self.keys = keys

    def attach(self, twin: Twin, name: str = "") -> None:
        for key in self.keys:
            twin.handle(name, key, lambda value, key=key: self.act(key, value))  # type: ignore[misc]

    def act(self, key: str, value: Json) -> Json:
        self.calls.append(key)
        if max(leaves(value), default=0) > 9:
            raise ValueError(f"{key} must be at most 9")
        self.in_force[key] = value
        return value


def leaves(value: Json) -> list[Json]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if inner is None else [leaf for one in inner for leaf in leaves(one)]


def attached(*keys: str, **documents: LocalDocument) -> tuple[Twin, Thing]:
    twin, thing = Twin(dict(documents)), Thing(*(keys or ("speed", "list", "nest")))
    thing.attach(twin)
    return twin, thing


def delta(version: int, **state: Json) -> dict[str, Json]:
    return {"version": version, "state": state}


def document(version: int, desired: Json, reported: Json) -> dict[str, Json]:
    return {"version": version, "state": {"desired": desired, "reported": reported}}


def progress(effects: list[Effect]) -> list[tuple[str, str, str, int]]:
    return [(e.path, e.state, e.reason, e.version) for e in effects if isinstance(e, Applied)]


def reports(effects: list[Effect]) -> list[Json]:
    return [e.reported for e in effects if isinstance(e, Report)]


# -- rule by rule --------------------------------------------------------------------------------------


def test_a_delta_is_put_in_force_remembered_and_then_reported() -> None:
    twin, thing = attached()
    effects = twin.delta("", delta(3, speed=5))
    assert thing.in_force == {"speed": 5}
    assert effects == [
        Remember(name=""),
        Report(name="", reported={"speed": 5}),
        Applied(shadow="", version=3, path="speed", state="received"),
        Applied(shadow="", version=3, path="speed", state="verified"),
    ]
    assert (twin.documents[""].version, twin.documents[""].desired) == (3, {"speed": 5})


def test_what_is_older_than_seen_is_ignored() -> None:
    twin, thing = attached()
    twin.delta("", delta(5, speed=5))
    assert twin.delta("", delta(4, speed=1)) == []
    assert twin.fetched("", document(4, {"speed": 1}, {})) == []
    assert twin.delta("", {"state": {"speed": 1}}) == [], "without a version nothing can be said of its age"
    assert (thing.in_force, thing.calls) == ({"speed": 5}, ["speed"])
    assert twin.documents[""].desired == {"speed": 5}


def test_the_same_version_again_changes_nothing_that_is_reported() -> None:
    twin, _ = attached()
    twin.delta("", delta(5, speed=5))
    assert reports(twin.delta("", delta(5, speed=5))) == []


def test_after_another_life_of_the_hub_lower_versions_count_again() -> None:
    twin, thing = attached()
    twin.delta("", delta(50, speed=5))
    twin.hub_changed()
    effects = twin.fetched("", document(2, {"speed": 7}, {"speed": 1}))
    assert thing.in_force == {"speed": 7}
    assert {"speed": 7} in reports(effects)
    assert twin.documents[""].version == 2


def test_a_refusal_leaves_reported_untouched_and_says_why() -> None:
    twin, thing = attached()
    twin.delta("", delta(1, speed=5))
    effects = twin.delta("", delta(2, speed=10))
    assert reports(effects) == []
    assert progress(effects) == [("speed", "received", "", 2), ("speed", "refused", "speed must be at most 9", 2)]
    assert twin.documents[""].reported == {"speed": 5} == thing.in_force
    assert twin.documents[""].desired == {"speed": 10}


def test_what_nothing_handles_is_refused_and_the_rest_goes_on() -> None:
    twin, thing = attached()
    effects = twin.delta("", delta(1, colour="red", speed=2))
    assert ("colour", "refused", "this device has nothing that handles it", 1) in progress(effects)
    assert thing.in_force == {"speed": 2}
    assert reports(effects) == [{"speed": 2}]


def test_a_value_that_was_put_in_force_otherwise_is_applied_not_verified() -> None:
    twin = Twin({})
    twin.handle("", "speed", lambda value: min(value, 9))
    effects = twin.delta("", delta(1, speed=12))
    assert [state for _, state, _, _ in progress(effects)] == ["received", "applied"]
    assert reports(effects) == [{"speed": 9}]


def test_a_kept_wish_is_put_in_force_at_boot_without_network() -> None:
    kept = LocalDocument(version=7, desired={"speed": 4, "colour": "red"}, reported={"speed": 4})
    twin, thing = attached(**{"": kept})
    assert thing.in_force == {"speed": 4}
    assert twin.delta("", delta(6, speed=1)) == [], "the version was kept too"


def test_a_kept_wish_that_is_now_refused_does_not_stop_the_boot() -> None:
    twin, thing = attached(**{"": LocalDocument(version=7, desired={"speed": 99}, reported={})})
    assert thing.in_force == {}
    effects = twin.fetched("", document(7, {"speed": 99}, {}))
    assert progress(effects)[-1][1] == "refused"


def test_what_is_not_in_force_after_a_boot_is_not_reported_any_more() -> None:
    kept = LocalDocument(version=7, desired={"speed": 99}, reported={"speed": 4, "list": [1], "temp": 3})
    twin, thing = attached(**{"": kept})
    assert twin.documents[""].reported == {"temp": 3}
    twin.delta("", delta(8, speed=4))
    assert thing.in_force == {"speed": 4}, "the same wish as long ago is carried out again"


def test_what_the_device_itself_put_in_force_before_is_still_reported() -> None:
    twin = Twin({"": LocalDocument(version=7, desired={"speed": 99}, reported={"speed": 4})})
    twin.report("", {"speed": 2})
    Thing("speed").attach(twin)
    assert twin.documents[""].reported == {"speed": 2}


def test_a_gap_heals_because_a_delta_holds_every_difference() -> None:
    twin, thing = attached()
    stored, _ = rules.update(rules.Document(), b'{"state":{"desired":{"speed":1}}}', 1)
    stored, _ = rules.update(stored, b'{"state":{"desired":{"list":[1,2]}}}', 2)  # this delta and the last are lost
    stored, replies = rules.update(stored, b'{"state":{"desired":{"nest":{"a":3}}}}', 3)
    twin.delta("", next(reply.body for reply in replies if reply.verb == "update/delta"))
    assert thing.in_force == {"speed": 1, "list": [1, 2], "nest": {"a": 3}}


def test_arrays_are_whole_and_objects_are_merged() -> None:
    twin, thing = attached()
    twin.delta("", delta(1, list=[1, 2, 3], nest={"a": 1, "b": {"c": 2}}))
    effects = twin.delta("", delta(2, list=[3], nest={"b": {"c": 5}}))
    assert thing.in_force == {"list": [3], "nest": {"a": 1, "b": {"c": 5}}}
    assert reports(effects) == [{"list": [3], "nest": {"b": {"c": 5}}}]


def test_fetched_reports_what_the_hub_holds_otherwise() -> None:
    twin, _ = attached()
    twin.report("", {"temp": 3, "state": {"x": 1, "y": 2}})
    assert reports(twin.fetched("", document(4, {}, {"temp": 9, "state": {"x": 1}}))) == [
        {"temp": 3, "state": {"y": 2}}
    ]


def test_what_is_no_longer_so_is_reported_as_gone() -> None:
    twin, _ = attached()
    twin.report("", {"missing": {"gpu": "inference", "rtc": "time"}, "temp": 1})
    assert reports(twin.report("", {"missing": {"rtc": "time"}})) == [{"missing": {"gpu": None}}]
    twin.delta("", delta(1, nest={"a": 1, "b": 2}))
    effects = twin.fetched("", document(2, {"nest": 5}, {"nest": {"a": 1, "b": 2}, "temp": 1, "left over": 1}))
    assert reports(effects)[0] == {"nest": 5}
    assert reports(effects)[-1] == {"nest": 5, "missing": {"rtc": "time"}, "left over": None}


def test_a_document_that_the_hub_lacks_is_reported_whole() -> None:
    twin, _ = attached()
    assert twin.missing("") == []
    twin.report("", {"temp": 3})
    assert twin.missing("") == [Report(name="", reported={"temp": 3})]


def test_only_what_really_changed_is_reported_and_it_is_remembered_first() -> None:
    twin, _ = attached()
    assert twin.report("", {"temp": 3, "name": "x"}) == [
        Remember(name=""),
        Report(name="", reported={"temp": 3, "name": "x"}),
    ]
    assert reports(twin.report("", {"temp": 4, "name": "x"})) == [{"temp": 4}]
    assert twin.report("", {"temp": 4.0}) == []


def test_documents_do_not_touch_one_another() -> None:
    twin, thing = attached("speed")
    gates = Thing("speed")
    gates.attach(twin, "gates")
    twin.delta("gates", delta(9, speed=2))
    assert (thing.in_force, gates.in_force) == ({}, {"speed": 2})
    assert twin.documents[""].version == 0


# -- device and hub ------------------------------------------------------------------------------------


class World:
    """One document, `shared.twin` as the hub, and a channel that drops, doubles and reorders. One seed is one run."""

    def __init__(self, seed: int, kind: type[Twin]) -> None:
        self.random, self.kind = random.Random(seed), kind
        self.hub = rules.Document()
        self.backups = [self.hub]
        self.told: dict[str, Applied] = {}
        self.disk: dict[str, Json] = {}
        self.to_hub: list[bytes] = []
        self.to_device: list[tuple[str, dict[str, Json]]] = []
        self.seen, self.absent = 0, False
        self.boot()

    # the device

    def boot(self) -> None:
        self.twin = self.kind({"": msgspec.convert(self.disk, LocalDocument)} if self.disk else {})
        self.thing = Thing("a", "b", "c")
        self.thing.attach(self.twin)

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Remember):
                self.disk = msgspec.json.decode(msgspec.json.encode(self.twin.documents[""]))
            elif isinstance(effect, Report):
                stored = self.disk.get("reported", {})
                assert rules.merge(stored, effect.reported) == stored, "reported before it was remembered"
                self.to_hub.append(json.dumps({"state": {"reported": effect.reported}}).encode())
            else:
                self.told[effect.path] = effect

    def deliver_to_device(self, verb: str, body: dict[str, Json]) -> None:
        before = len(self.thing.calls)
        take = {"get/accepted": self.twin.fetched, "update/delta": self.twin.delta}.get(verb)
        self.absent = verb == "get/rejected" or (self.absent and verb != "get/accepted")
        if verb == "get/rejected":
            self.carry_out(self.twin.missing(""))
        elif take is not None:
            effects = take("", body)
            acted = len(self.thing.calls) > before
            assert not acted or body["version"] >= self.seen, "acted on a message older than one already seen (T6)"
            self.seen = max(self.seen, body["version"])
            self.carry_out(effects)

    def fetch(self) -> None:
        for reply in rules.get(self.hub, "", b"", 1):
            self.to_device.append((reply.verb, reply.body))

    # the hub

    def update(self, request: dict[str, Json] | bytes) -> None:
        payload = request if isinstance(request, bytes) else json.dumps(request).encode()
        self.hub, replies = rules.update(self.hub, payload, 1)
        self.to_device += [(reply.verb, json.loads(json.dumps(reply.body))) for reply in replies]

    def wish(self) -> None:
        value = self.random.choice([
            None, self.random.randint(0, 12), [self.random.randint(0, 12)] * self.random.randint(0, 3),
            {"x": self.random.randint(0, 10), "y": {"z": self.random.randint(0, 10)}}, {"x": self.random.randint(0, 9)},
        ])  # fmt: skip
        self.update({"state": {"desired": {self.random.choice("abc"): value}}})

    def backup(self) -> None:
        self.backups.append(self.hub)

    def restore(self) -> None:
        """An old backup is put back: another life. The broker delivers in order, so nothing old comes after it."""
        self.hub = self.random.choice(self.backups)
        self.to_device = []
        self.seen = 0
        self.carry_out(self.twin.hub_changed())
        self.fetch()

    # the channel

    def carry(self) -> None:
        """One message, from anywhere in the queue, perhaps lost and perhaps not for the last time."""
        luck = self.random.random()
        queue: list[Any] = self.random.choice([self.to_hub, self.to_device])
        if not queue:
            return
        message = queue[self.random.randrange(len(queue))]
        if luck > 0.2:
            queue.remove(message)
        if luck > 0.4:
            self.hand_over(queue, message)

    def hand_over(self, queue: list[Any], message: Any) -> None:
        if queue is self.to_hub:
            self.update(message)
        else:
            self.deliver_to_device(*message)

    def drain(self) -> None:
        """Everything left, in order, until it is quiet."""
        for _ in range(1000):
            queue: list[Any] = self.to_hub or self.to_device
            if not queue:
                return
            self.hand_over(queue, queue.pop(0))
        raise AssertionError("device and hub never come to rest")

    # a run

    def storm(self, steps: int = 60) -> None:
        change = lambda: self.carry_out(self.twin.report("", {"temp": self.random.randint(0, 3)}))  # noqa: E731
        things: list[tuple[Callable[[], None], int]] = [
            (self.carry, 40), (self.wish, 20), (change, 6), (self.boot, 2), (self.fetch, 3), (self.backup, 1),
            (self.restore, 1),
        ]  # fmt: skip
        acts, weights = zip(*things, strict=True)
        for act in self.random.choices(acts, weights, k=steps):
            act()

    def settled(self) -> None:
        """After healing and one get, both sides agree, and every wish is in force or refused with a reason."""
        mine = self.twin.documents.get("", LocalDocument())
        desired, reported = self.hub.state.get("desired", {}), self.hub.state.get("reported", {})
        if not self.absent:  # a hub without the document wishes nothing: the last good wishes stay (P6)
            assert mine.desired == desired, "device and hub disagree on what is desired (T1)"
        assert mine.reported == reported, "the hub does not know what the device reported (T1)"
        for key, wish in desired.items():
            word = self.told.get(key)
            if rules.difference({key: wish}, reported):
                assert word is not None, f"{key} is not in force and nothing was said (T8)"
                assert word.state == "refused", f"{key} is not in force and not refused (T8)"
                assert word.reason
            else:
                assert not rules.difference({key: wish}, self.thing.in_force), f"{key} is reported and not in force"


def play(seed: int, kind: type[Twin] = Twin) -> World:
    world = World(seed, kind)
    try:
        world.storm()
        world.drain()
        world.fetch()
        world.drain()
        world.settled()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    return world


def test_after_healing_and_one_get_every_wish_is_in_force_or_refused() -> None:
    worlds = [play(seed) for seed in range(300)]
    assert sum(any(word.state == "refused" for word in world.told.values()) for world in worlds) > 50
    assert sum(bool(world.thing.in_force) for world in worlds) > 200


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_after_healing_and_one_get_every_wish_is_in_force_or_refused_in_many_worlds() -> None:
    for seed in range(20_000):
        play(seed)


# -- seeded bugs ---------------------------------------------------------------------------------------


class IgnoresVersions(Twin):
    @staticmethod
    def _newer(document: LocalDocument, body: rules.State) -> bool:
        document.version = body["version"]
        return True


class HubNeverChanges(Twin):
    def hub_changed(self) -> list[Effect]:
        return []


class HubChangesUntilACrash(Twin):
    def hub_changed(self) -> list[Effect]:
        super().hub_changed()
        return []


class OnlyDeltas(Twin):
    def fetched(self, name: str, body: rules.State) -> list[Effect]:
        return [effect for effect in super().fetched(name, {**body, "state": {}}) if isinstance(effect, Remember)]


class NeverReportsAgain(Twin):
    """Does not compare what the hub holds as reported with what is."""

    def fetched(self, name: str, body: rules.State) -> list[Effect]:
        mine = self.documents.setdefault(name, LocalDocument()).reported
        return super().fetched(name, {**body, "state": {**(body.get("state") or {}), "reported": mine}})


class SaysYes(Twin):
    def _act(self, name: str, document: LocalDocument, key: str, value: Any) -> Applied:
        word = super()._act(name, document, key, value)
        document.reported = rules.merge(document.reported, {key: value})
        return word


class KeepsOldFields(Twin):
    """Fields that went out of force stay reported, so that the same wish again is never carried out."""

    def _act(self, name: str, document: LocalDocument, key: str, value: Any) -> Applied:
        before = document.reported
        word = super()._act(name, document, key, value)
        document.reported = rules.merge(before, document.reported)
        return word


class ForgetsAtBoot(Twin):
    def handle(self, name: str, key: str, handler: Callable[[Any], Any]) -> None:
        self._handlers[name, key] = handler
        self.documents.setdefault(name, LocalDocument())


class ReportsFirst(Twin):
    def _apply(self, name: str, document: LocalDocument, wanted: rules.State) -> list[Effect]:
        return sorted(super()._apply(name, document, wanted), key=lambda effect: isinstance(effect, Remember))


class MergesArrays(Twin):
    def delta(self, name: str, body: rules.State) -> list[Effect]:
        old = self.documents.setdefault(name, LocalDocument()).desired
        state = {
            key: old[key] + value if isinstance(value, list) and isinstance(old.get(key), list) else value
            for key, value in body["state"].items()
        }
        return super().delta(name, {**body, "state": state})


@pytest.mark.parametrize(
    ("bug", "shows"),
    [
        (IgnoresVersions, "older than one already seen"),
        (HubNeverChanges, "disagree on what is desired"),
        (HubChangesUntilACrash, "disagree on what is desired"),
        (OnlyDeltas, "disagree on what is desired"),
        (NeverReportsAgain, "the hub does not know"),
        (SaysYes, "reported and not in force|is not in force and not refused"),
        (KeepsOldFields, "reported and not in force"),
        (ForgetsAtBoot, "reported and not in force"),
        (ReportsFirst, "reported before it was remembered"),
        (MergesArrays, "never come to rest|not in force"),
    ],
)
def test_the_world_catches_a_seeded_bug(bug: type[Twin], shows: str) -> None:
    def run() -> None:
        for seed in range(300):
            play(seed, bug)

    with pytest.raises(AssertionError, match=shows):
        run()
