"""Where a log collector stands: through restarts and all that is done to log files, as a property that catches seeded
bugs. Every whole line is sent at least once and in order; twice only where a file was replaced by a changed copy."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from simulators.log_files import LogWorld

from edge_agent.collectors import finding, parts, tail
from edge_agent.collectors.parts import Part
from edge_agent.collectors.tail import FileTail

NOW_US = 1_800_000_000_000_000
ROUNDS, STEPS = 250, 40


def restarted(old: FileTail | None, path: Path, place: bytes | None) -> FileTail:
    if old is not None:
        old.close()
    fresh = FileTail(path, 1_600_000_000_000_000)
    if place is not None:
        fresh.resume(place)
    return fresh


def fault(seed: int) -> str:
    """What is wrong in one world, or ''."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        world = LogWorld(Path(name), chance)
        if chance.random() < 0.5:
            world.write()
            world.read |= set(world.written)
        first = len(world.written)
        follower = restarted(None, world.path, None)
        place, sent = follower.checkpoint(), list[str]()
        for step in range(STEPS):
            world.act()
            act = "poll" if step == STEPS - 1 else chance.choice(["poll", "poll", "nothing", "restart", "crash"])
            if act == "nothing":
                continue
            now_us = NOW_US + step * 20_000_000
            if act == "restart":
                world.down = True
                for _ in range(chance.randint(0, 4)):
                    world.act()
                world.down = False
                follower = restarted(follower, world.path, place)
            found = [line.decode() for _ in range(3) for line in follower.lines(now_us)]
            if act == "crash":  # before the commit: neither lines nor place are kept
                follower = restarted(follower, world.path, place)
                found = [line.decode() for _ in range(3) for line in follower.lines(now_us)]
            place = follower.checkpoint()
            sent += found
            world.read |= set(found)
        follower.close()
        return verdict(world, world.written[first:], sent)


def verdict(world: LogWorld, written: list[str], sent: list[str]) -> str:
    if missing := [line for line in written if line not in sent and line not in world.lost]:
        return f"never sent: {missing[:3]}"
    if not world.repeated and len(sent) != len(set(sent)):
        return f"sent twice: {[line for line in sent if sent.count(line) > 1][:3]}"
    known = [line for line in dict.fromkeys(sent) if line in written and not line.startswith("late")]
    if not world.repeated and known != sorted(known, key=written.index):
        return "out of order"
    if not world.repeated and (strange := set(sent) - set(written)):
        return f"never written: {strange}"
    return ""


def test_every_line_is_sent_in_order_whatever_is_done_to_the_files() -> None:
    assert [(seed, found) for seed in range(ROUNDS) if (found := fault(seed))] == []


def without_looking_for_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "placed", lambda files, position, path: None)


def by_inode_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "holds", lambda source, position: True)
    monkeypatch.setattr(finding, "holds", lambda source, position: True)


def without_rotated_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "rotated", lambda name, found: [])


def never_looking_at_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Part._advance

    def forgetful(part: Part, data: bytes, passed: int) -> None:
        original(part, data, passed)
        part.tail = b""

    monkeypatch.setattr(Part, "_advance", forgetful)


def remembering_the_end_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    original = FileTail.resume

    def resume(self: FileTail, value: bytes) -> None:
        original(self, value)
        for part in self._parts:
            part.offset, part.tail = part.source.status.st_size, b""

    monkeypatch.setattr(FileTail, "resume", resume)


def counting_half_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Part.lines
    monkeypatch.setattr(Part, "lines", lambda part, budget, last: original(part, budget, last=True))


def retiring_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "RETIRE_US", 0)


BUGS: list[Callable[[pytest.MonkeyPatch], None]] = [
    without_looking_for_copies, by_inode_alone, without_rotated_files, never_looking_at_what_was_read,
    remembering_the_end_of_the_file, counting_half_lines, retiring_at_once,
]  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_a_seeded_bug_is_caught(bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    assert any(fault(seed) for seed in range(ROUNDS))
