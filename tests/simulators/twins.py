"""A world for the twin in virtual time: a hub with the real rules, a device with the real core and a disk that fails.

One seed is one run. Between the two a network that drops and doubles, and overtakes on the way down (on the way up a
broker keeps one client's order). Everything that must hold at every moment is asserted where it could break, by the
names of the invariants T1 to T8; `settled` asserts the rest after healing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from simulators.twin_parts import (
    FOREIGN,
    HANDLED,
    HUB_BYTES,
    NAMES,
    OWN,
    WISHES,
    Disk,
    Hub,
    PowerCut,
    Thing,
    lowered,
)

from edge_agent.twin.core.document import Document
from edge_agent.twin.core.twin import MAX_BYTES, DeviceTwin
from edge_agent.twin.sync import TwinSync
from shared.protocol.codec import encode
from shared.protocol.topics import split_shadow
from shared.transport.mqtt import Inbound
from shared.twin import shadow
from shared.twin.merge import ABSENT, Path, format_path, leaves, value_at, with_value
from shared.twin.shadow import MAX_LEVELS, SECTIONS, State


class World:
    """`make_twin(kept)` and `hub_kind` may be seeded bugs."""

    def __init__(
        self, seed: int, make_twin: Callable[[dict[str, State]], DeviceTwin] = DeviceTwin, hub_kind: type[Hub] = Hub
    ) -> None:
        self.random, self.make_twin, self.now = random.Random(seed), make_twin, 1
        self.hub, self.disk = hub_kind(self), Disk(self)
        self.hub.backup()
        self.serial, self.local = 0, set[str]()
        self.up: list[tuple[str, bytes, int]] = []
        self.down: list[tuple[str, bytes]] = []
        self.sent = self.heard = 0
        self.connected = False
        self.link: TwinSync | None = None
        self.floor: dict[str, int] = {}
        self.too_large = set[str]()
        self.bases: dict[tuple[str, Path], Any] = {}
        self.life_told = 0
        self.at_device = 0
        self.boot()

    # -- the device --------------------------------------------------------------------------------

    def boot(self) -> None:
        """Power comes back; the handlers are there, and what they say of themselves."""
        if self.link is not None:
            return
        self.connected, self.disk.cut_after = False, None
        self.thing = Thing()
        self.link = TwinSync(self.disk, self.publish)  # type: ignore[arg-type]
        self.link._twin = self.make_twin(self.disk.below("twin:"))
        for name, paths in HANDLED.items():
            for path in paths:
                handler = lambda value, name=name, path=path: self.thing.act(name, path, value)  # noqa: E731
                self.link.handle(name, path, handler, OWN.get(path))
        self.floor = {name: kept.get("version", 0) for name, kept in self.disk.below("twin:").items()}
        self.life_told = self.disk.get("hub_epoch", 0)
        self.edge(self.link.begin)
        self.report()

    @property
    def twin(self) -> DeviceTwin:
        """The core in the device."""
        assert self.link is not None
        return self.link._twin

    def edge(self, act: Callable[[], object]) -> None:
        """The device does something, if its power lasts."""
        if self.link is None:
            return
        before = {name: document.version for name, document in self.twin.documents.items()}
        try:
            act()
        except PowerCut:
            self.crash()
            return
        self.check_device(before)

    def publish(self, rest: str, message: Any, trace: str = "") -> bool:
        """The agent's door to the network."""
        remembered = self.disk.get(f"twin:{(split_shadow(rest) or ('',))[0]}", {}).get("reported_paths", [])
        for leaf, value in leaves(message["state"].get("reported", {})) if rest.endswith("update") else ():
            assert value is None or list(leaf) in remembered, "reported before it was remembered"
        if self.connected:
            self.sent += 1
            self.up.append((rest, encode(message), self.life_told))
        return self.connected

    def crash(self) -> None:
        """Only the disk survives."""
        self.link = None
        self.cut()

    def report(self) -> None:
        """Something about the device changed by itself; a field comes, another goes."""
        state = {"temp": self.random.randint(0, 3), "mix": {self.random.choice(["own", "other"]): self.serial}}
        self.edge(lambda: self.link and self.link.report("", state))

    def tick(self) -> None:
        """A second has passed."""
        self.edge(lambda: self.link and self.link.tick())

    def on_site(self) -> None:
        """A person at the device wants something; the agent may be off."""
        name, patch = self.wish("local")
        self.disk.asked[len(self.disk.asked)] = (name, patch)

    def remember_base(self, number: int) -> None:
        """What the device believed to be desired when a person wanted something else."""
        name, patch = self.disk.asked[number]
        for leaf, _ in leaves(patch):
            for n in range(1, len(leaf) + 1):  # what stood above, if it was no object, is replaced as well
                self.bases[name, leaf[:n]] = value_at(self.twin.documents[name].base, leaf[:n])

    def believed(self, name: str, path: Path, value: Any) -> bool:
        """Whether the device believed `value` to be desired when a person wanted something else there."""
        above = [
            (self.bases[name, path[:n]], path[n:]) for n in range(1, len(path) + 1) if (name, path[:n]) in self.bases
        ]
        return any(shadow.json_equal(value_at({"": base}, ("", *rest)), value) for base, rest in above)

    # -- the network -------------------------------------------------------------------------------

    def connect(self) -> None:
        """A new connection, and the hub's answer to the birth."""
        if self.link is not None and not self.connected:
            self.up, self.down, self.connected = [], [], True
            self.session()
            self.report()

    def session(self) -> None:
        """The hub tells its epoch; the agent fetches, and then remembers the epoch."""
        if self.link is None or not self.connected:
            return
        known = self.disk.get("hub_epoch", 0)
        restart = known != self.hub.life
        if restart:
            self.floor = {}
        self.life_told = self.hub.life

        def welcomed() -> None:
            assert self.link is not None
            self.link.fetch(restart)
            self.disk.put("hub_epoch", self.hub.life)

        self.edge(welcomed)

    def cut(self) -> None:
        """The connection goes, and what was under way on it."""
        for message in self.up[: self.random.randint(0, len(self.up))]:
            self.hub_gets(message)
        self.up, self.down, self.connected = [], [], False

    def carry(self) -> None:
        """One message, perhaps lost and perhaps not for the last time."""
        luck = self.random.random()
        if self.up and self.random.random() < 0.5:
            message = self.up[0] if luck < 0.15 else self.up.pop(0)
            if luck < 0.9:
                self.hub_gets(message)
        elif self.down:
            index = 0 if luck < 0.6 else self.random.randrange(len(self.down))
            word = self.down[index] if luck < 0.1 or 0.6 < luck < 0.65 else self.down.pop(index)
            if luck < 0.9:
                self.device_gets(*word)

    def drain(self, most: int = 400) -> None:
        """Everything left, in order, until it is quiet."""
        for _ in range(most):
            if self.up:
                self.hub_gets(self.up.pop(0))
            elif self.down:
                self.device_gets(*self.down.pop(0))
            else:
                return
        raise AssertionError("device and hub never come to rest")

    def device_gets(self, rest: str, payload: bytes) -> None:
        """A message of the hub arrives; what it may do is checked."""
        if self.link is None or not self.connected:
            return
        self.heard += 1
        name, verb = split_shadow(rest) or ("", "")
        version = json.loads(payload).get("version", 0)
        calls, before = self.thing.calls, dict(self.twin.documents[name].desired)
        inbound = Inbound(topic=f"t/{rest}", payload=payload, traceparent="", acknowledge=lambda: None)
        self.edge(lambda: self.link and self.link.received(rest, inbound))
        if self.link is None:
            return
        if version and version < self.floor.get(name, 0) and verb != "update/rejected":
            same = self.thing.calls == calls and self.twin.documents[name].desired == before
            assert same, "acted on a message older than one already seen (T6)"
        if verb in {"get/accepted", "update/delta"}:
            self.floor[name] = max(version, self.floor.get(name, 0))

    def hub_gets(self, message: tuple[str, bytes, int]) -> None:
        """A message of the device arrives."""
        rest, payload, life = message
        if rest == "applied":
            word = json.loads(payload)
            old = self.hub.progress.get((word["shadow"], word["path"]), word)
            if old["version"] <= word["version"] or life > old.get("life", 0):
                self.hub.progress[word["shadow"], word["path"]] = word | {"life": life}
            return
        name, verb = split_shadow(rest) or ("", "")
        replies = self.hub.get(name, payload) if verb == "get" else self.hub_update(name, payload, device=life)
        if verb == "update" and "reported" in json.loads(payload)["state"]:
            (self.too_large.add if replies[0].body.get("code") == 413 else self.too_large.discard)(name)
        self.answer(name, replies)

    def answer(self, name: str, replies: list[shadow.Reply]) -> None:
        """Replies on their way to the device."""
        if self.hub.mute:
            self.hub.mute = False
            return
        head = f"shadow/name/{name}" if name else "shadow"
        if self.connected:
            self.down += [(f"{head}/{r.verb}", encode(r.body)) for r in replies if r.verb != "update/documents"]

    # -- the hub -----------------------------------------------------------------------------------

    def wish(self, actor: str) -> tuple[str, State]:
        """Something to be desired, unlike anything before it."""
        self.serial += 1
        luck, number = self.random.random(), self.serial * 10 + self.random.choice([0, 1, 2, 3, 7, 9])
        value: Any = number
        if luck < 0.25:
            value = None
        elif luck < 0.35:
            value = [number, 1]
        elif luck < 0.45:
            value = {self.random.choice("xyz"): number}
        elif luck < 0.48:
            value = f"{number}" * self.random.choice([1, 200, 20_000])
        elif luck < 0.50:
            value = with_value({}, ("a",) * self.random.randint(4, 9), number)
        if actor == "local":
            self.local |= {repr(leaf) for _, leaf in leaves({"": value})}
        path = self.random.choice(WISHES)
        return ("cam" if path == ("gate",) else ""), with_value({}, path, value)

    def hub_update(self, name: str, payload: bytes, device: int | None = None) -> list[shadow.Reply]:
        """An update by anybody; `device` is the hub's life that its sender knew."""
        old = self.hub.documents[name]
        replies = self.hub.update(name, payload)
        new = self.hub.documents[name]
        assert new.version >= old.version, "the hub's version fell (T2)"
        assert shadow.size(new.state) <= HUB_BYTES, "too large at the hub (T7)"
        assert all(shadow.nesting_depth(new.state.get(section)) <= MAX_LEVELS for section in SECTIONS), "too deep (T7)"
        if replies[0].verb != "update/accepted":
            return replies
        request = json.loads(payload)
        changed = [leaf for leaf, _ in leaves(request["state"].get("desired") or {})]
        if device == self.hub.life:
            self.check_device_update(name, old, new, request, changed)
        for leaf in changed:
            self.hub.set_at[name, leaf] = new.version
        self.check_no_resurrection(name, new.state.get("desired", {}), "the hub")
        return replies

    def hub_set(self) -> None:
        """Somebody desires something at the hub, sometimes only if nothing has changed meanwhile."""
        name, patch = self.wish("hub")
        old = self.hub.documents[name]
        kind = self.random.choice(["", "", "right", "stale"])
        version = {"": {}, "right": {"version": old.version}, "stale": {"version": max(0, old.version - 1)}}[kind]
        replies = self.hub_update(name, encode({"state": {"desired": patch}} | version))
        if version and version["version"] != old.version:
            assert replies[0].body.get("code") in {400, 409, 413}, "a stale version was accepted (T4)"
            assert self.hub.documents[name] is old, "a refused change changed something (T4)"
        self.answer(name, replies)

    def foreign(self) -> None:
        """Another client of the device reports a field of its own."""
        patch = with_value({}, self.random.choice(FOREIGN), self.random.choice([None, self.serial]))
        self.answer("", self.hub_update("", encode({"state": {"reported": patch}})))

    def hub_delete(self) -> None:
        """Somebody deletes a document."""
        name = self.random.choice(NAMES)
        before = self.hub.documents[name].version
        replies = self.hub.delete(name)
        if replies[0].verb == "delete/accepted":
            self.hub.tomb[name] = before + 1
            assert self.hub.documents[name].version > before, "the number must count on over a delete (T5)"
        self.answer(name, replies)

    def hub_crash(self) -> None:
        """The next commit is its last word for now; then it is there again, and answers the retained birth."""
        self.hub.mute = True
        self.session()

    def restore(self) -> None:
        """Brokers deliver in order, so nothing of the old life comes after the new one's session."""
        self.hub.restore()
        self.down = []
        self.session()

    # -- what must hold at every moment ------------------------------------------------------------

    def check_device(self, before: dict[str, int]) -> None:
        """After everything that the device does."""
        for name, document in self.twin.documents.items():
            if name not in NAMES or self.life_told != self.hub.life:
                continue
            assert document.version <= self.hub.documents[name].version, "the device is ahead of the hub (T3)"
            if name in self.twin._following:  # else it knows that it does not know everything
                self.check_no_resurrection(name, document.base, "the device", document.version)

    def check_kept(self, name: str, old: State, new: State) -> None:
        """What is about to be on disk. T2 holds within one life of the hub; forgetting (0) begins another."""
        assert new["version"] >= old.get("version", 0) or new["version"] == 0 or self.floor == {}, (
            "the device's version fell (T2)"
        )
        for section in ("desired", "base", "reported"):
            assert not any(value is None for _, value in leaves(new[section])), f"null in {section} (T7)"
            assert shadow.nesting_depth(new[section]) <= MAX_LEVELS, f"{section} is too deep (T7)"
        assert shadow.size({"desired": new["desired"], "reported": new["reported"]}) <= MAX_BYTES, "too large (T7)"

    def check_no_resurrection(self, name: str, desired: State, where: str, version: int | None = None) -> None:
        """Nothing is desired that was set before a delete which this side knows of."""
        tomb = self.hub.tomb[name]
        if tomb and (version is None or version >= tomb):
            for leaf, _ in leaves(desired):
                set_at = max((at_ for (of, path), at_ in self.hub.set_at.items()
                              if of == name and (leaf[: len(path)] == path)), default=tomb)  # fmt: skip
                assert set_at >= tomb, f"{where} desires {format_path(leaf)} again, which was deleted (T5)"

    def check_device_update(
        self, name: str, old: shadow.Document, new: shadow.Document, request: State, changed: list[Path]
    ) -> None:
        """The device spoils nobody's fields and overrides no wish that it has not seen."""
        for path in FOREIGN if not old.deleted and name == "" else ():
            had, has = (one.state.get("reported", {}) for one in (old, new))
            assert value_at(had, path) == value_at(has, path), "the field of another client was destroyed"
        for _, value in leaves(request["state"].get("desired") or {}):
            assert value is None or repr(value) in self.local, "the device desires what nobody on it asked for (T5)"
        for leaf in changed:
            now = value_at(old.state.get("desired", {}), leaf)
            for path, value in leaves(with_value({}, leaf, now)) if now is not ABSENT else ():
                fair = value == {} or repr(value) in self.local or self.believed(name, path, value)
                assert fair, f"both had changed {format_path(path)}, and the hub did not win"
        if changed and not old.deleted:
            assert request.get("version") == old.version, "a wish of the hub was overridden unseen"

    # -- a run -------------------------------------------------------------------------------------

    def storm(self, steps: int = 80) -> None:
        """Anything may happen."""
        arm = lambda: setattr(self.disk, "cut_after", self.random.randint(0, 3))  # noqa: E731
        chances: list[tuple[Callable[[], None], int]] = [
            (self.carry, 60), (self.hub_set, 14), (self.report, 5), (self.on_site, 5), (self.tick, 5),
            (self.foreign, 4), (self.boot, 6), (self.connect, 8), (self.cut, 2), (self.crash, 1), (arm, 1),
            (self.hub_delete, 2), (self.hub_crash, 1), (self.hub.backup, 1), (self.restore, 1), (self.session, 1),
        ]  # fmt: skip
        acts, weights = zip(*chances, strict=True)
        for act in self.random.choices(acts, weights, k=steps):
            self.now += 1
            act()

    def heal(self) -> None:
        """Nothing goes wrong any more: power, a fresh connection, everything delivered."""
        self.cut()
        self.hub.mute, self.disk.cut_after = False, None
        self.boot()
        self.tick()
        self.connect()
        self.drain()

    def settled(self) -> None:
        """Both sides agree; every wish is in force, or the hub knows why not; every person was answered."""
        for name in NAMES:
            if name in self.too_large:  # the hub has no room for what the device is, and has said so
                continue
            mine, theirs = self.twin.documents[name], self.hub.documents[name].state
            desired, reported = theirs.get("desired", {}), theirs.get("reported", {})
            assert shadow.json_equal(mine.desired, desired), f"device and hub desire otherwise in '{name}' (T1)"
            for path in FOREIGN:
                reported = with_value(reported, path, ABSENT)
            own = with_value(mine.reported, ("mix", "none"), ABSENT) if "mix" in mine.reported else mine.reported
            assert shadow.json_equal(own, reported), f"the hub does not know what the device is in '{name}' (T1)"
            for leaf, value in leaves(desired):
                self.check_wish(name, mine, leaf, value)
        assert self.disk.answers.keys() == self.disk.asked.keys(), "a person was not answered"

    def check_wish(self, name: str, mine: Document, leaf: Path, value: Any) -> None:
        """T8."""
        word = self.hub.progress.get((name, format_path(leaf)))
        paths = [path for path in HANDLED[name] if leaf[: len(path)] == path]
        path = max(paths, key=len, default=())
        in_force = (
            value_at(with_value({}, path, self.thing.in_force.get((name, path), ABSENT)), leaf) if path else ABSENT
        )
        if shadow.json_equal(in_force, value):
            assert shadow.json_equal(value_at(mine.reported, leaf), value), (
                f"{format_path(leaf)} is in force and not reported (T8)"
            )
            return
        if value == {} and isinstance(in_force, dict):
            return
        assert word is not None, f"{format_path(leaf)} is not in force and nothing was said (T8)"
        clamped = word["state"] == "applied" and shadow.json_equal(in_force, lowered(value))
        assert clamped or word["state"] == "refused", (
            f"{format_path(leaf)} is not in force, and told {word['state']} (T8)"
        )
        assert clamped or word["reason"], "refused without a reason (T8)"


def play(
    seed: int,
    make_twin: Callable[[dict[str, State]], DeviceTwin] = DeviceTwin,
    hub_kind: type[Hub] = Hub,
    steps: int = 80,
) -> World:
    """One whole run; an assertion that fails names the seed."""
    try:
        world = World(seed, make_twin, hub_kind)
        world.storm(steps)
        world.heal()
        world.settled()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    return world
