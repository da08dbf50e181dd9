"""Device and hub in worlds where everything goes wrong (T1 to T8), a month offline, and what a hostile hub may send."""

from __future__ import annotations

import json
import logging
import random
from dataclasses import replace
from typing import Any

import pytest
from simulators.twin_parts import Disk, Hub, Thing
from simulators.twins import World, play

import edge_agent.twin.core.document
from edge_agent.twin.core.document import Document
from edge_agent.twin.core.twin import DeviceTwin, Effect, Remember, Report, RequestDesired
from edge_agent.twin.sync import TwinSync
from shared.errors import WireError
from shared.protocol.messages import Applied
from shared.transport.mqtt import Inbound
from shared.twin import shadow
from shared.twin.shadow import State, merge

Json = Any


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of lines that nobody reads."""
    caplog.set_level(logging.CRITICAL)


def test_the_invariants_hold_in_many_worlds() -> None:
    worlds = [play(seed) for seed in range(300)]
    states = [word["state"] for world in worlds for word in world.hub.progress.values()]
    reasons = [word["reason"] for world in worlds for word in world.hub.progress.values()]
    assert states.count("refused") > 100
    assert states.count("verified") > 100
    assert sum("the hub's value counts" in reason for reason in reasons) > 10, "conflicts do happen"
    assert sum(bool(world.hub.life) for world in worlds) > 50, "and restored backups"
    assert sum(any(world.hub.tomb.values()) for world in worlds) > 50, "and deletions"
    assert sum(len(world.disk.answers) for world in worlds) > 300
    assert sum(bool(world.too_large) for world in worlds) < 30, "few worlds end with a report that is too large"


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_the_invariants_hold_in_ten_thousand_worlds() -> None:
    for seed in range(10_000):
        play(seed, steps=80 + seed % 160)


# -- seeded bugs in the device ---------------------------------------------------------------------------


def with_documents(kind: type[Document]) -> type[DeviceTwin]:
    """A twin whose documents are of another kind."""

    class Other(DeviceTwin):
        def __init__(self, kept: dict[str, State]) -> None:
            super().__init__({})
            self.documents = {name: kind(name, value) for name, value in kept.items()}

        def _document(self, name: str) -> Document:
            return self.documents.setdefault(name, kind(name, {}))

    Other.__name__ = kind.__name__
    return Other


class IgnoresVersions(DeviceTwin):
    def _heard(self, name: str, version: int) -> Document | None:
        return self.documents.get(name)


class HubNeverChanges(DeviceTwin):
    def hub_changed(self) -> list[Effect]:
        return []


class HubChangesUntilACrash(DeviceTwin):
    def hub_changed(self) -> list[Effect]:
        super().hub_changed()
        return []


class OnlyDeltas(DeviceTwin):
    def fetched(self, name: str, version: int, desired: State, reported: State) -> list[Effect]:
        return []


class NeverReportsAgain(DeviceTwin):
    """Does not compare what the hub holds as reported with what is."""

    def fetched(self, name: str, version: int, desired: State, reported: State) -> list[Effect]:
        return super().fetched(name, version, desired, self.documents[name].reported)


class RunsAhead(DeviceTwin):
    def deleted(self, name: str, version: int) -> list[Effect]:
        return super().deleted(name, version + 1)


class ForgetsDeletion(DeviceTwin):
    """A deleted document wishes on."""

    def deleted(self, name: str, version: int) -> list[Effect]:
        document = self.documents[name]
        document.version = max(document.version, version + 1)
        return []


class ClaimsAll(DeviceTwin):
    """Takes every field at the hub for its own."""

    def fetched(self, name: str, version: int, desired: State, reported: State) -> list[Effect]:
        effects = super().fetched(name, version, desired, reported)
        foreign = {key: None for key in reported if key not in self.documents[name].reported}
        return [*effects, Report(name=name, reported=foreign)] if effects and foreign else effects


class Overrides(DeviceTwin):
    """Wishes made on the device go up without the version they know."""

    @staticmethod
    def _pending(document: Document) -> list[Effect]:
        return [replace(one, version=None) for one in DeviceTwin._pending(document) if isinstance(one, RequestDesired)]


class ReportsFirst(DeviceTwin):
    def _effects(self, *arguments: Any) -> list[Effect]:
        return sorted(super()._effects(*arguments), key=lambda effect: isinstance(effect, Remember))


class SaysNothing(DeviceTwin):
    def _effects(self, *arguments: Any) -> list[Effect]:
        return [effect for effect in super()._effects(*arguments) if not isinstance(effect, Applied)]


class NoReason(DeviceTwin):
    def _effects(self, *arguments: Any) -> list[Effect]:
        effects = super()._effects(*arguments)
        return [replace(effect, reason="") if isinstance(effect, Applied) else effect for effect in effects]


class NoLimits(DeviceTwin):
    def want(self, name: str, wanted: State) -> list[Effect]:
        document = self.documents[name]
        return self._publish_changes(document, document.reported, self._pending(document), [*document.want(wanted)])


class SaysYes(Document):
    """Reports what is wanted as if it were so."""

    def _act(self, path: Any, touched: Any) -> list[Applied]:
        words = super()._act(path, touched)
        self.reported = merge(self.reported, self.desired)
        return words


class ForgetsAtBoot(Document):
    """Believes after a boot that all is still in force."""

    def begin(self) -> None:
        self.reported = merge({}, self.desired)


class LocalWins(Document):
    def apply_desired(self, desired: State, version: int) -> list[Applied]:
        mine = self.pending()
        words = super().apply_desired(desired, version)
        self.desired = merge(self.desired, mine)
        return words


DEVICE_BUGS: list[tuple[str, type[DeviceTwin], str]] = [
    ("T1", HubNeverChanges, "desire otherwise|ahead of the hub"),
    ("T1", HubChangesUntilACrash, "desire otherwise|ahead of the hub|fell"),
    ("T1", OnlyDeltas, "desire otherwise|does not know"),
    ("T1", NeverReportsAgain, "the hub does not know"),
    ("T2", IgnoresVersions, r"fell \(T2\)|already seen \(T6\)|T5"),
    ("T3", RunsAhead, "ahead of the hub"),
    ("T5", ForgetsDeletion, "deleted|desire otherwise"),
    ("T7", NoLimits, "too large|too deep"),
    ("T8", SaysNothing, "nothing was said"),
    ("T8", NoReason, "without a reason"),
    ("T8", with_documents(SaysYes), "T8|never come to rest"),
    ("T8", with_documents(ForgetsAtBoot), "T8"),
    ("two writers", ClaimsAll, "field of another client"),
    ("two writers", Overrides, "overridden unseen"),
    ("two writers", with_documents(LocalWins), "the hub did not win"),
    ("order", ReportsFirst, "reported before it was remembered"),
]


@pytest.mark.parametrize(
    ("invariant", "bug", "shows"), DEVICE_BUGS, ids=[f"{t}-{bug.__name__}" for t, bug, _ in DEVICE_BUGS]
)
def test_the_worlds_catch_a_bug_of_the_device(invariant: str, bug: type[DeviceTwin], shows: str) -> None:
    with pytest.raises(AssertionError, match=shows) as caught:
        [play(seed, bug) for seed in range(400)]
    assert str(caught.value).startswith("seed "), "the failing seed is told"


class ActsOnOldDeltas(DeviceTwin):
    def delta(self, name: str, version: int, state: State) -> list[Effect]:
        now = self.documents[name].version
        effects = super().delta(name, max(version, now), state)
        self.documents[name].version = now if version < now else self.documents[name].version
        return effects


def test_the_worlds_catch_an_old_delta_that_is_acted_upon() -> None:
    with pytest.raises(AssertionError, match=r"older than one already seen \(T6\)|deleted \(T5\)"):
        [play(seed, ActsOnOldDeltas) for seed in range(400)]


# -- seeded bugs in the hub ------------------------------------------------------------------------------


class IgnoresCas(Hub):
    def update(self, name: str, payload: bytes) -> list[shadow.Reply]:
        request = json.loads(payload)
        request.pop("version", None)
        return super().update(name, json.dumps(request).encode())


class Resurrects(Hub):
    def delete(self, name: str) -> list[shadow.Reply]:
        before = self.documents[name]
        replies = super().delete(name)
        self.documents[name] = replace(self.documents[name], state=before.state, deleted=False)
        return replies


class CountsAnew(Hub):
    def delete(self, name: str) -> list[shadow.Reply]:
        replies = super().delete(name)
        self.documents[name] = shadow.Document()
        return replies


class SameLife(Hub):
    """A restored backup that does not say so."""

    def restore(self) -> None:
        life = self.life
        super().restore()
        self.life = life


class NoBound(Hub):
    def update(self, name: str, payload: bytes) -> list[shadow.Reply]:
        self.documents[name], replies = shadow.update(self.documents[name], payload, 1, 1 << 20)
        return replies


class Loses(Hub):
    """Accepts reports and does not keep them."""

    def update(self, name: str, payload: bytes) -> list[shadow.Reply]:
        before = self.documents[name]
        replies = super().update(name, payload)
        if b'"desired"' not in payload and replies[0].verb == "update/accepted":
            self.documents[name] = replace(self.documents[name], state=before.state, metadata=before.metadata)
        return replies


@pytest.mark.parametrize(
    ("bug", "shows"),
    [(IgnoresCas, "T4|overridden unseen"), (Resurrects, "deleted|T1|unseen"), (CountsAnew, "T5|T3|T2"),
     (SameLife, "T3|T2|T1"), (NoBound, "T7"), (Loses, r"T1|T8|come to rest")],
)  # fmt: skip
def test_the_worlds_catch_a_bug_of_the_hub(bug: type[Hub], shows: str) -> None:
    with pytest.raises(AssertionError, match=shows):
        [play(seed, hub_kind=bug) for seed in range(400)]


def test_the_worlds_catch_a_merge_without_a_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_agent.twin.core.document, "merge3", lambda base, mine, theirs, owner: merge(theirs, mine))
    with pytest.raises(AssertionError, match=r"\(T1\)|\(T5\)|did not win|field of another"):
        [play(seed) for seed in range(400)]


# -- a month away ----------------------------------------------------------------------------------------


def settled_world() -> World:
    world = World(1)
    world.connect()
    world.drain()
    return world


def changes_at_hub(world: World, **desired: Json) -> None:
    world.hub_update("", json.dumps({"state": {"desired": desired}}).encode())


def test_a_month_offline_is_over_with_one_round_trip() -> None:
    world = settled_world()
    changes_at_hub(world, a=10, b={"x": 20, "y": 30})
    world.heal()
    world.cut()
    for day in range(30):
        world.now += 86_400
        changes_at_hub(world, b={"y": 40 + 10 * day, "x": None if day == 20 else 20})
        world.disk.asked[len(world.disk.asked)] = ("", {"a": 500 + 10 * day, "d": {"e": [10 * day]}})
        world.local |= {repr(500 + 10 * day), repr([10 * day])}
        world.tick()
        world.edge(lambda day=day: world.link.report("", {"temp": day, "mix": {f"day-{day}": 1}}))  # type: ignore[misc, union-attr]
        if day % 7 == 0:
            world.crash()
            world.boot()
    world.sent = world.heard = 0
    world.report()
    world.connect()
    up = [(rest, json.loads(payload)) for rest, payload, _ in world.up]
    assert [rest for rest, _ in up] == ["shadow/get", "shadow/name/cam/get"], "nothing is sent before it is known"
    world.drain()
    world.settled()
    assert world.hub.documents[""].state["desired"] == {"a": 790, "b": {"x": 20, "y": 330}, "d": {"e": [290]}}
    # get; wish, report; a word for the one leaf that the hub changed. And an empty get for the other document.
    assert world.sent == 2 + 2 + 1
    # Down: the answers to both gets; accepted for wish and report, and deltas where a difference is left.
    assert world.heard <= 2 + 2 + 2


def test_nothing_is_sent_while_nothing_changes() -> None:
    """A full resync every second was a known failure elsewhere."""
    world = settled_world()
    changes_at_hub(world, a=19)  # refused: the difference stays
    world.heal()
    world.sent = 0
    for _ in range(3600):
        world.tick()
    assert world.sent == 0


# -- hostile documents -----------------------------------------------------------------------------------

VERBS = ["get/accepted", "get/rejected", "update/accepted", "update/rejected", "update/delta", "delete/accepted",
         "delete/rejected"]  # fmt: skip
ANYTHING: list[Json] = [None, True, -1, 0, 1 << 70, 1.5, "", "x", [], [None], {}, {"a": None}, {"": {}}]


def device() -> tuple[TwinSync, Disk, Thing]:
    world = settled_world()
    world.hub_update("", b'{"state":{"desired":{"a":10}}}')
    world.heal()
    assert world.link is not None
    return world.link, world.disk, world.thing


def send(link: TwinSync, rest: str, payload: bytes) -> bool:
    """Whether the agent took it; a refusal is a WireError, which the agent logs."""
    try:
        link.received(rest, Inbound(topic=rest, payload=payload, traceparent="", acknowledge=lambda: None))
    except WireError:
        return False
    return True


def body(**changes: Json) -> Json:
    return {"version": 90, "timestamp": 1, "state": {"desired": {"a": 20}, "reported": {}}} | changes


def around(inner: bytes) -> bytes:
    return b'{"version":90,"state":{"desired":{"a":' + inner + b"}}}"


HOSTILE: dict[str, bytes] = {
    "nothing": b"", "no JSON": b"hello", "half": b'{"state":{"desired":{"a":1}', "a list": b"[]", "null": b"null",
    "wrong UTF-8": b'{"version":90,"state":{"desired":{"a":"\xff"}}}', "UTF-16": '{"state":{}}'.encode("utf-16"),
    "NaN": around(b"NaN"), "Infinity": around(b"-Infinity"), "1e999": around(b"1e999"), "digits": around(b"9" * 5000),
    "a name twice": b'{"version":90,"state":{"desired":{"a":1,"a":2}}}', "surrogate": around(b'"\\ud800"'),
    "5,000 arrays": around(b"[" * 5000 + b"]" * 5000), "200,000 open arrays": around(b"[" * 200_000),
    "7 levels": around(b'{"a":' * 7 + b"1" + b"}" * 7), "900 levels": around(b'{"a":' * 900 + b"1" + b"}" * 900),
    "null in an array": around(b"[null]"), "2 MB": around(b'"' + b"x" * 2_000_000 + b'"'),
    "unknown section": b'{"version":90,"state":{"wanted":{}}}',
    "text for a section": b'{"version":90,"state":{"desired":"x"}}',
    "text for a state": b'{"version":90,"state":"x"}', "true for a version": b'{"version":true,"state":{}}',
    "below zero": b'{"version":-1,"state":{}}', "huge": b'{"version":' + b"9" * 40 + b',"state":{}}',
    "text for a version": b'{"version":"9","state":{}}', "no version": b'{"state":{"desired":{"a":20}}}',
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_document_is_refused_and_leaves_no_trace(name: str) -> None:
    link, disk, thing = device()
    before, calls = dict(disk.rows), thing.calls
    for rest in ("shadow", "shadow/name/cam"):
        for verb in ("get/accepted", "update/accepted"):
            assert not send(link, f"{rest}/{verb}", HOSTILE[name]), verb
    assert (disk.rows, thing.calls) == (before, calls)


def test_anything_at_any_place_of_a_message_is_survived() -> None:
    draw = random.Random(7)
    for verb in VERBS:
        link, disk, _ = device()
        for value in ANYTHING:
            for place in ("state", "version", "metadata", "timestamp", "clientToken", "code", "message", "previous"):
                send(link, f"shadow/{verb}", json.dumps(body(**{place: value})).encode())
            for section in ("desired", "reported", "delta", "other"):
                send(link, f"shadow/{verb}", json.dumps(body(state={section: value})).encode())
                send(link, f"shadow/{verb}", json.dumps(body(state={section: {"a": value, "b": value}})).encode())
            send(link, f"shadow/{verb}", json.dumps(value).encode())
            send(link, f"shadow/{verb}", draw.randbytes(draw.randint(0, 60)))
        for kept in disk.below("twin:").values():  # put() has checked the rest: no null, no depth, no size
            assert isinstance(kept["version"], int)
            assert 0 <= kept["version"] < 1 << 53
        link.begin()


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "..", "水", "a+b", "#"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    link, disk, _ = device()
    before = dict(disk.rows)
    for verb in VERBS:
        send(link, f"shadow/name/{name}/{verb}", b'{"version":1,"code":404,"state":{"desired":{"a":1}}}')
    assert disk.rows == before


def test_a_hundred_thousand_names_fill_nothing() -> None:
    link, disk, _ = device()
    before = dict(disk.rows)
    many = json.dumps({"version": 91, "state": {f"k{n}": n for n in range(50_000)}}).encode()
    assert send(link, "shadow/name/other/update/delta", many)
    for n in range(1000):
        assert send(link, f"shadow/name/doc-{n}/update/delta", b'{"version":1,"state":{"a":1}}')
        assert send(link, f"shadow/name/doc-{n}/get/accepted", b'{"version":1,"state":{"desired":{"a":1}}}')
    assert disk.rows == before
