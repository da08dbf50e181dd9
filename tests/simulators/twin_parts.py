"""The parts of a world for the twin: a hub with the real rules, a device, and a disk that fails."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from shared.protocol.codec import encode
from shared.twin import shadow
from shared.twin.merge import Path, leaves

if TYPE_CHECKING:
    from simulators.twins import World

NAMES = ("", "cam")
HUB_BYTES = 1200
FOREIGN: tuple[Path, ...] = (("app",), ("mix", "app"))
"""Where another client of the same device reports."""
HANDLED: dict[str, tuple[Path, ...]] = {"": (("a",), ("b",), ("b", "x"), ("d", "e")), "cam": (("gate",),)}
OWN = {("a",): 0}
WISHES: tuple[Path, ...] = (("a",), ("b",), ("b", "x"), ("b", "y"), ("d", "e"), ("d", "e", "z"), ("gate",), ("zz", "q"))


class PowerCut(Exception):
    """The device has lost its power."""


class Disk:
    """`Keep` in memory: what was put is there for good. `cut_after` more writes the power fails, at the next."""

    def __init__(self, world: World) -> None:
        self.world, self.rows = world, dict[str, bytes]()
        self.asked: dict[int, tuple[str, Any]] = {}
        self.answers: dict[int, Any] = {}
        self.cut_after: int | None = None

    def get(self, key: str, default: Any) -> Any:
        """As Keep."""
        return json.loads(self.rows[key]) if key in self.rows else default

    def below(self, prefix: str) -> dict[str, Any]:
        """As Keep."""
        return {key[len(prefix) :]: json.loads(row) for key, row in self.rows.items() if key.startswith(prefix)}

    def put(self, key: str, value: Any) -> None:
        """As Keep, but for the power."""
        cut = self.cut_after is not None and self.cut_after <= 0
        if self.cut_after is not None:
            self.cut_after -= 1
        if not cut or self.world.random.random() < 0.5:
            if key.startswith("twin:"):
                self.world.check_kept(key[5:], self.below("twin:").get(key[5:], {}), value)
            self.rows[key] = encode(value)
        if cut:
            self.cut_after = None
            raise PowerCut

    def changed(self) -> bool:
        """As Keep."""
        return True

    def requests(self) -> list[tuple[int, str, Any]]:
        """As Keep."""
        return [(number, *asked) for number, asked in self.asked.items() if number not in self.answers]

    def answer(self, number: int, answer: Any) -> None:
        """As Keep."""
        self.answers[number] = answer
        self.world.remember_base(number)


class Thing:
    """What handlers set. The last digit of a number decides: 8 and 9 are refused, 7 is put in force as 6."""

    def __init__(self) -> None:
        self.in_force: dict[tuple[str, Path], Any] = {}
        self.calls = 0

    def act(self, name: str, path: Path, value: Any) -> Any:
        """The handler of one path."""
        self.calls += 1
        if any(digit(leaf) >= 8 for _, leaf in leaves({"": value})):
            raise ValueError("too much")
        self.in_force[name, path] = lowered(value)
        return self.in_force[name, path]


def digit(value: Any) -> int:
    numbers = value if isinstance(value, list) else [value]
    return max((n % 10 for n in numbers if isinstance(n, int)), default=0)


def lowered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: lowered(inner) for key, inner in value.items()}
    return value - 1 if isinstance(value, int) and value % 10 == 7 else value


class Hub:
    """The real rules on stored documents. A subclass may be a seeded bug."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.documents = dict.fromkeys(NAMES, shadow.Document())
        self.life, self.mute = 0, False
        self.progress: dict[tuple[str, str], dict[str, Any]] = {}
        self.set_at: dict[tuple[str, Path], int] = {}
        self.tomb: dict[str, int] = dict.fromkeys(NAMES, 0)
        self.backups: list[Any] = []

    def update(self, name: str, payload: bytes) -> list[shadow.Reply]:
        """One update."""
        self.documents[name], replies = shadow.update(self.documents[name], payload, self.world.now, HUB_BYTES)
        return replies

    def delete(self, name: str) -> list[shadow.Reply]:
        """One delete."""
        self.documents[name], replies = shadow.delete(self.documents[name], name, b"", self.world.now)
        return replies

    def get(self, name: str, payload: bytes) -> list[shadow.Reply]:
        """One get."""
        return shadow.get(self.documents[name], name, payload, self.world.now)

    def restore(self) -> None:
        """An older copy of everything is put back: another life."""
        self.documents, self.set_at, self.tomb = (dict(one) for one in self.world.random.choice(self.backups))
        self.life += 1

    def backup(self) -> None:
        """A copy of everything."""
        self.backups.append((dict(self.documents), dict(self.set_at), dict(self.tomb)))
