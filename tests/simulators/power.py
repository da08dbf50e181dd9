"""Cuts: a writer that says what it accepted, stopped at a random moment, and what a copy of its disk then holds.

`crash` copies the files: what the kernel has counts as written, so it proves a killed process only. `power` copies the
device below an ext4 file system: what was not handed to the device is lost, as when the power goes. What a disk keeps
in a cache of its own, against its word, neither can show.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent.store.outbox import Outbox
from shared.protocol.codec import decode
from shared.protocol.messages import Batch

WRITER = """
import sys
from pathlib import Path
from edge_agent.store.outbox import Outbox, RowBatch
from shared.protocol.messages import Event
outbox = Outbox(Path(sys.argv[1]) / "outbox.sqlite", 20_000_000, "e1")
outbox._db.execute(f"PRAGMA synchronous={sys.argv[2]}")
while True:
    first = outbox.last["event"] + 1
    numbers = range(first, first + 1 + first % 5)
    items = [Event(t_us=1, source="cut", text=f"{n} " + "x" * (n % 7 * 300)) for n in numbers]
    outbox.accept([RowBatch(stream="event", items=items)], "synced")
    sys.stdout.write(f"{outbox.last['event']}\\n")
    sys.stdout.flush()
"""


def cut(folder: Path, rng: random.Random, copy: Path, synchronous: str, device: Path | None = None) -> tuple[int, int]:
    """One cut: (accepted, lost). Copies `device` when it is given, else the files, to `copy`."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", WRITER, str(folder), synchronous]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(rng.uniform(0, 0.4))
        writer.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
        if device is None:
            shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*-shm"))
        else:
            subprocess.run(["cp", "--sparse=always", str(device), str(copy)], check=True)
        os.set_blocking(writer.stdout.fileno(), False)
        said = writer.stdout.read() or b""
        writer.kill()
    accepted = int(said.split(b"\n")[-2]) if said.count(b"\n") else 0
    if device is None:
        return accepted, lost(copy, accepted)
    with mounted(copy, copy.with_suffix(".d")) as found:
        return accepted, lost(found / folder.name, accepted)


def lost(folder: Path, accepted: int) -> int:
    """How many of the numbers 1..accepted an agent that starts here does not have, or has wrong."""
    folder.mkdir(exist_ok=True)  # not even that need be there
    outbox = Outbox(folder / "outbox.sqlite", 20_000_000, "e2")
    held, seq = set(), 0
    while (row := outbox.after("event", seq)) is not None:
        batch = decode(Batch, row.payload)
        held |= {n for n, item in enumerate(batch.items, batch.first) if item["text"].split(" ")[0] == str(n)}
        seq = row.last
    outbox.close()
    return len(set(range(1, accepted + 1)) - held)


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """An ext4 image, mounted: its journal is replayed, as after a power cut."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def device(folder: Path) -> Iterator[tuple[Path, Path]]:
    """(image, mounted folder) of a new ext4 file system; skips where loop devices cannot be had."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("not allowed here: a power cut needs root, loop devices and mkfs.ext4")
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    try:
        with mounted(image, folder / "disk") as place:
            yield image, place
    except subprocess.CalledProcessError as error:
        pytest.skip(f"not allowed here: loop devices ({error})")
