"""Where a log collector stands: through restarts and all that is done to log files, as a property that catches seeded
bugs. Every whole line is sent at least once and in order; twice only where a file was replaced by a changed copy."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from simulators.log_files import LogWorld

from edge_agent.collectors import log
from edge_agent.collectors.log import file_part, position_search, tail
from edge_agent.collectors.log.file_part import Part
from edge_agent.collectors.log.rotation import rotated
from edge_agent.collectors.log.tail import FileTail
from edge_agent.config import CollectorTable
from edge_agent.pipeline.core.limit_rules import LimitRules
from edge_agent.pipeline.pipeline import Pipeline
from edge_agent.pipeline.sampler import Sampler
from edge_agent.runtime.event_loop import EventLoop
from edge_agent.store.outbox import Outbox
from edge_agent.store.statestore import StateStore
from shared.protocol.codec import decode
from shared.protocol.messages import Batch

NOW_US = 1_800_000_000_000_000
ROUNDS, STEPS = 80, 40


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
            now_us = NOW_US + step * 10_000_000
            if act == "restart":
                for _ in range(chance.randint(0, 4)):
                    world.act()
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
    monkeypatch.setattr(tail, "find_position", lambda files, position, path: None)


def by_inode_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_part, "holds", lambda source, position: True)
    monkeypatch.setattr(position_search, "holds", lambda source, position: True)


def without_rotated_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(position_search, "rotated", lambda name, found: [])


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


# -- one by one ----------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "app.log"
    path.write_text("before the first start\n")
    return path


def add(path: Path, text: str) -> None:
    with path.open("a") as stream:
        stream.write(text)


def follow(path: Path, place: bytes | None = None) -> FileTail:
    return restarted(None, path, place)


def place_of(path: Path) -> bytes:
    """Where an agent stands that has read all there is and then stops."""
    follower = follow(path)
    add(path, "read before the stop, with more than sixty-four bytes so that it is known again\n")
    assert len(follower.lines(NOW_US)) == 1
    place = follower.checkpoint()
    follower.close()
    return place


def after(path: Path, place: bytes) -> list[str]:
    follower = follow(path, place)
    found = [line.decode() for _ in range(3) for line in follower.lines(NOW_US)]
    follower.close()
    return found


def test_lines_written_while_the_agent_is_down_are_sent(file: Path) -> None:
    place = place_of(file)
    add(file, "one\ntwo\nhal")
    assert after(file, place) == ["one", "two"]


@pytest.mark.parametrize(
    "name", ["app.log.1", "app.1.log", "app.log-20260131", "app.log.2026-01-31_10-00", "app.log.old"]
)
def test_what_was_rotated_away_is_read_to_its_end_under_any_usual_name(file: Path, name: str) -> None:
    place = place_of(file)
    add(file, "the last of the old file\n")
    file.rename(file.with_name(name))
    add(file, "the first of the new one\n")
    assert after(file, place) == ["the last of the old file", "the first of the new one"]


def test_what_was_copied_and_emptied_is_read_from_the_copy(file: Path) -> None:
    place = place_of(file)
    add(file, "the last before\n")
    file.with_name("app.log.1").write_bytes(file.read_bytes())
    os.truncate(file, 0)
    add(file, "longer than the file was before it was emptied " * 9 + "\n")
    found = after(file, place)
    assert (found[0], len(found)) == ("the last before", 2)


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz"])
def test_what_was_compressed_is_read_to_its_end(file: Path, ending: str) -> None:
    place = place_of(file)
    add(file, "the last before\n")
    library = {"gz": gzip, "bz2": bz2, "xz": lzma}[ending]
    packed = file.with_name(f"app.log.1.{ending}")
    packed.write_bytes(library.compress(file.read_bytes()))
    file.unlink()
    add(file, "new\n")
    assert after(file, place) == ["the last before", "new"]


def test_a_file_deleted_and_made_again_is_read_from_its_start_though_its_inode_is_the_same(file: Path) -> None:
    place = place_of(file)
    inode = file.stat().st_ino
    text = file.read_text().replace("read before", "READ BEFORE")
    os.truncate(file, 0)
    add(file, text)
    assert file.stat().st_ino == inode
    assert after(file, place) == text.splitlines()


def test_a_file_that_was_not_there_at_the_first_start_is_read_whole_after_a_restart(tmp_path: Path) -> None:
    follower = follow(tmp_path / "app.log")
    place = follower.checkpoint()
    add(tmp_path / "app.log", "first\n")
    assert after(tmp_path / "app.log", place) == ["first"]


def test_the_first_start_may_begin_at_the_beginning(file: Path) -> None:
    table = CollectorTable(kind="log", name="app", period_s=None, options={"path": str(file), "start": "beginning"})
    collector = log.open_collector(table)
    assert [event.text for event in collector.collect(NOW_US)] == ["before the first start"]
    collector.close()


def test_a_long_overlong_line_goes_on_after_a_restart(file: Path) -> None:
    follower = follow(file)
    add(file, "begins " + "x" * (tail.READ_BYTES + 10))
    assert follower.lines(NOW_US) == []
    place = follower.checkpoint()
    follower.close()
    add(file, " ends\nnext\n")
    first, second = after(file, place)
    assert (first[:12], second) == ("begins xxxxx", "next")


def test_a_poll_reads_no_more_than_its_bound(file: Path) -> None:
    place = place_of(file)
    for number in range(3):
        add(file, "".join(f"{number}{n:08}\n" for n in range(60_000)))
        file.rename(file.with_name(f"app.log.{3 - number}"))
    add(file, "now\n")
    follower = follow(file, place)
    took = [sum(len(line) + 1 for line in follower.lines(NOW_US)) for _ in range(4)]
    follower.close()
    assert max(took) <= tail.READ_BYTES
    assert sum(took) == 3 * 600_000 + 4


@pytest.mark.parametrize("value", [b"", b"\xff", b"\x93\x01\x02\x03"])
def test_a_checkpoint_that_cannot_be_read_is_none(file: Path, value: bytes) -> None:
    follower = follow(file, value)
    add(file, "new\n")
    assert follower.lines(NOW_US) == [b"new"]
    follower.close()


def test_a_checkpoint_of_another_path_is_none(file: Path, tmp_path: Path) -> None:
    place = place_of(file)
    other = tmp_path / "other.log"
    other.write_text("old\n")
    assert after(other, place) == []


def test_names_are_put_in_their_order() -> None:
    names = [
        "app.log.10",
        "app.log.2.gz",
        "app.log.1",
        "app.log",
        "app.log.2",
        "app.log.lock",
        "app.log2",
        "apple.log.1",
    ]
    assert rotated("app.log", names) == ["app.log.10", "app.log.2", "app.log.1"]
    dated = ["app.log-20260201.gz", "app.log-20260131", "app.log-20260201-1769904000"]
    assert rotated("app.log", dated) == ["app.log-20260131", "app.log-20260201.gz", "app.log-20260201-1769904000"]


# -- with the outbox -----------------------------------------------------------------------------------


class Device:
    """A collector, the intake and the stores of an agent that is killed at any time."""

    def __init__(self, folder: Path, table: CollectorTable) -> None:
        self.outbox, self.keep = Outbox(folder / "outbox.sqlite", 4_000_000, "e1"), StateStore(folder / "kept.sqlite")
        self.intake = Pipeline(LimitRules([], {}), self.outbox, self.keep, pump=lambda: None)
        self.sampling = Sampler(EventLoop(), [table], self.intake.add, {}, self.outbox.checkpoint)
        (self._collector,) = self.sampling._collectors

    def poll(self) -> None:
        self.sampling._collect(self._collector)

    def kill(self) -> None:
        self.sampling.close()
        self.outbox.close()
        self.keep.close()

    def sent(self) -> list[str]:
        found, seq = list[str](), 0
        while (row := self.outbox.after("event", seq)) is not None:
            found += [item["text"] for item in decode(Batch, row.payload).items]
            seq = row.last
        return found


def test_the_place_is_stored_in_the_commit_of_its_lines_and_with_no_other(file: Path, tmp_path: Path) -> None:
    table = CollectorTable(kind="log", name="app", period_s=None, options={"path": str(file)})
    device = Device(tmp_path, table)
    device.poll()
    assert device.intake.commit()
    add(file, "committed\n")
    device.poll()
    assert device.intake.commit()
    add(file, "read and not committed\n")
    device.poll()
    device.kill()
    add(file, "written while it was down\n")
    again = Device(tmp_path, table)
    again.poll()
    assert again.intake.commit()
    assert again.sent() == ["committed", "read and not committed", "written while it was down"]
    again.kill()


def test_the_place_outlives_a_store_that_had_to_be_given_up(file: Path, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite", 4_000_000, "e1")
    outbox.accept([], "synced", checkpoints={"app": b"here"})
    outbox._replace_file("harm")
    assert outbox.checkpoint("app") == b"here"
    outbox.close()
    again = Outbox(tmp_path / "outbox.sqlite", 4_000_000, "e2")
    assert (again.checkpoint("app"), again.checkpoint("other")) == (b"here", None)
    again._db.execute("UPDATE checkpoints SET value=X'00'")
    again.close()
    harmed = Outbox(tmp_path / "outbox.sqlite", 4_000_000, "e3")
    assert harmed.checkpoint("app") is None
    harmed.close()
